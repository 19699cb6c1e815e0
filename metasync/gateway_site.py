# mypy: disallow-untyped-calls=False
"""The local API's web site. Applications are not trusted: what one may send before anybody judges it is bounded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

MAX_BODY: Final = 3 << 20
"""Of a request: etcd's largest one (1.5 MiB) in base64, and as much again for its own words."""

MAX_TOGETHER: Final = 12 << 20
"""Of all bodies that are under way or being worked on."""

MAX_CONNECTIONS: Final = 500
MAX_OF_ADDRESS: Final = 100
"""Connections together, and from one IP address: a container has one of its own."""

_log = Logger()


class GatewaySite(Site):
    """
    :param knows: whether somebody may call at all who sends that ``Authorization`` header (``None``: no such header).
        It is asked before a body is taken.
    """

    def __init__(self, resource: Resource, knows: Callable[[bytes | None], bool]) -> None:
        super().__init__(resource, requestFactory=_Request)
        self.knows = knows
        self.receiving = 0
        self._open: Counter[str] = Counter()
        self._refusals = 0

    def buildProtocol(self, addr: IAddress | None) -> Any:
        address = addr.host if isinstance(addr, IPv4Address | IPv6Address) else ""
        if self._open.total() >= MAX_CONNECTIONS or (address and self._open[address] >= MAX_OF_ADDRESS):
            self._refusals += 1
            if self._refusals & (self._refusals - 1) == 0:  # the 1st, 2nd, 4th, 8th…
                _log.warn(
                    "{address} has too many connections to the local API; {count} were refused so far",
                    address=address or "this host",
                    count=self._refusals,
                )
            return None
        protocol: Any = super().buildProtocol(addr)
        lost = protocol.connectionLost
        self._open[address] += 1

        def connection_lost(reason: Failure) -> None:
            self._open[address] -= 1
            self._open += Counter()  # forget who has none
            lost(reason)

        protocol.connectionLost = connection_lost
        return protocol


class _Request(Request):
    """Its body is kept in memory, and no more of it than is allowed."""

    _refused = False
    _counted = 0

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()
        site: Any = self.channel.factory
        self._site: GatewaySite = site
        self.notifyFinish().addBoth(self._uncount)
        if not site.knows(token_of(self)):
            self._refuse(401, 16, "etcdserver: invalid auth token")
        elif length is not None and length > MAX_BODY:
            self._too_large()

    def handleContentChunk(self, data: bytes) -> None:
        if self._refused:
            return
        assert self.content is not None
        self._counted += len(data)
        self._site.receiving += len(data)
        if self._counted > MAX_BODY:
            self._too_large()
        elif self._site.receiving > MAX_TOGETHER:
            self._refuse(503, 14, "too many requests at once")
        else:
            self.content.write(data)

    def process(self) -> None:
        if not self._refused:
            super().process()

    def _uncount(self, _: object) -> None:
        self._site.receiving -= self._counted
        self._counted = 0

    def _too_large(self) -> None:
        self._refuse(400, 3, "etcdserver: request is too large")

    def _refuse(self, status: int, code: int, message: str) -> None:
        """Answer at once, and hang up: whatever is still to come is not read."""
        self._refused = True
        self._uncount(None)
        body = json.dumps({"error": message, "code": code, "message": message}).encode()
        head = f"HTTP/1.1 {status} Refused\r\nConnection: close\r\nContent-Type: application/json\r\n"
        channel: Any = self.channel
        channel.transport.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        channel.loseConnection()


def token_of(request: Request) -> bytes | None:
    """What its ``Authorization`` header says; ``None`` if it has none."""
    tokens = request.requestHeaders.getRawHeaders(b"authorization")
    return tokens[0] if tokens else None
