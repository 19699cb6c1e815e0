# mypy: disallow-untyped-calls=False
"""The kubelet API on the administration socket: ``/v1/kubelet/…`` is handed to it, connection and all."""

from __future__ import annotations

from typing import Any

from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from appengine.kubelet import KubeletFactory

_PREFIX_PARTS = 2
_HEADERS = (
    b"upgrade",
    b"x-stream-protocol-version",
    b"sec-websocket-protocol",
    b"sec-websocket-key",
    b"connection",
)


class KubeletResource(Resource):
    """Takes the connection away from the web server: a command's channels are no HTTP.

    :param factory: makes the protocol that goes on with it.
    """

    isLeaf = True

    def __init__(self, factory: KubeletFactory) -> None:
        super().__init__()
        self._factory = factory

    def render(self, request: Request) -> int | bytes:
        protocol = self._factory.buildProtocol(None)
        if protocol is None:
            request.setResponseCode(503)
            return b'{"error": "too many connections"}'
        path = b"/" + b"/".join(request.uri.split(b"/")[_PREFIX_PARTS + 1 :])
        lines = [b"%s %s HTTP/1.1" % (request.method, path)]
        lines += [
            b"%s: %s" % (name, value) for name in _HEADERS for value in request.requestHeaders.getRawHeaders(name) or ()
        ]
        channel: Any = request.channel
        transport, channel.transport = channel.transport, None
        transport.unregisterProducer()
        transport.protocol = protocol
        protocol.makeConnection(transport)
        # The web server has paused it while it serves a request.
        producer = getattr(transport, "_networkProducer", transport)
        producer.resumeProducing()
        protocol.dataReceived(b"\r\n".join(lines) + b"\r\n\r\n")
        return NOT_DONE_YET
