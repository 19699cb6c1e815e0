# mypy: allow-untyped-calls
"""Carries ``kubectl logs``, ``exec``, ``attach`` and ``port-forward`` to the kubelet API of the pod's node.

The request is spelt anew for the node, as kube-apiserver does; then the bytes of both sides are passed on as they are,
be it plain HTTP, SPDY or a WebSocket. Nothing by which the user proved who they are goes to the node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from twisted.internet.interfaces import IProtocol, IPushProducer, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from edgectl.apiserver import errors
from edgectl.apiserver.channel import BoundedChannel
from edgectl.apiserver.identity import User
from metasync.keys import TAKEN_OVER_BY

Obj = dict[str, Any]

SERVICE = "kubelet/1"
"""The stream service of a node that speaks the kubelet API in plain HTTP/1.1."""

CONNECT_SECONDS = 15.0

_PASSED = ("connection", "upgrade", "x-stream-protocol-version", "sec-websocket-key", "sec-websocket-version")
_PASSED_PREFIX = "sec-websocket-"

_LOG_OPTIONS = ("follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes")
_STREAMS = {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"}
"""How the kubelet calls the options of the API (``k8s.io/kubelet/pkg/cri/streaming``)."""


class Kubelets(Protocol):
    """Reaches services of nodes; :class:`edgectl.interfaces.NodeDirectory` does."""

    def endpoint(self, node: str, service: str) -> IStreamClientEndpoint: ...


def container_of(pod: Obj, asked: str) -> str:
    """The container that is meant.

    :raises ApiError: (400) if the pod has no such one, or several and none is named.
    """
    spec, meta = pod["spec"], pod["metadata"]
    names = [one["name"] for key in ("containers", "initContainers") for one in spec.get(key, ())]
    marked = meta.get("annotations", {}).get("kubectl.kubernetes.io/default-container", "")
    chosen = asked or marked
    if not chosen and len(spec["containers"]) == 1:
        chosen = names[0]
    if not chosen:
        main = " ".join(one["name"] for one in spec["containers"])
        raise errors.bad_request(f"a container name must be specified for pod {meta['name']}, choose one of: [{main}]")
    if chosen not in names:
        raise errors.bad_request(f"container {chosen} is not valid for pod {meta['name']}")
    return str(chosen)


def node_path(subresource: str, pod: Obj, query: Sequence[tuple[str, str]]) -> str:
    """The path and query of the kubelet API for a subresource of a pod."""
    first: Mapping[str, str] = dict(reversed(query))
    meta = pod["metadata"]
    place = f"{quote(meta['namespace'], safe='')}/{quote(meta['name'], safe='')}"
    if subresource == "portforward":
        pairs = [(key, value) for key, value in query if key in ("ports", "port")]
        return _joined(f"/portForward/{place}", pairs)
    place = f"{place}/{quote(container_of(pod, first.get('container', '')), safe='')}"
    if subresource == "log":
        return _joined(f"/containerLogs/{place}", [(key, first[key]) for key in _LOG_OPTIONS if key in first])
    wanted = [(ours, "1") for theirs, ours in _STREAMS.items() if first.get(theirs, "").lower() in ("1", "true")]
    commands = [pair for pair in query if pair[0] == "command"]
    return _joined(f"/{subresource}/{place}", wanted + (commands if subresource == "exec" else []))


def _joined(path: str, pairs: Sequence[tuple[str, str]]) -> str:
    return f"{path}?{urlencode(pairs)}" if pairs else path


def request_head(method: str, path: str, node: str, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The head of the request to the node."""
    passed = []
    for name, value in headers:
        lowered = name.decode("latin-1").lower()
        if lowered in _PASSED or lowered.startswith(_PASSED_PREFIX):
            passed.append((name, value))
    if not any(name.lower() == b"upgrade" for name, _ in passed):
        passed = [(b"Connection", b"close")]
    lines = [f"{method} {path} HTTP/1.1".encode("ascii"), b"Host: " + node.encode("ascii")]
    lines += [name + b": " + value for name, value in passed]
    if method == "POST":
        lines.append(b"Content-Length: 0")
    return b"\r\n".join(lines) + b"\r\n\r\n"


class ApiChannel(BoundedChannel):
    """An HTTP connection that can be handed to another protocol after a request.

    :ivar certified: whose certificate it was opened with, once somebody has looked. Twisted renegotiates none.
    """

    certified: User | None = None
    _successor: IProtocol | None = None

    def take_over(self, successor: IProtocol) -> None:
        """Give all further bytes, and the end, to ``successor``. No HTTP follows on this connection."""
        self._successor = successor
        self.setTimeout(None)
        transport: Any = self.transport
        transport.unregisterProducer()
        successor.makeConnection(transport)
        waiting, self._dataBuffer = b"".join(self._dataBuffer), []
        if waiting:
            successor.dataReceived(waiting)

    def dataReceived(self, data: bytes) -> None:
        if self._successor is not None:
            self._successor.dataReceived(data)
        else:
            super().dataReceived(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        super().connectionLost(reason)
        if self._successor is not None:
            self._successor.connectionLost(reason)


@implementer(IPushProducer)
class Side(TwistedProtocol):
    """One side of a spliced pair: what it receives the other sends, at the pace of the other."""

    transport: Any = None
    peer: Side | None = None
    _early = b""

    def join(self, peer: Side) -> None:
        """Splice two connected sides."""
        self.peer, peer.peer = peer, self
        for one, other in ((self, peer), (peer, self)):
            one.transport.registerProducer(other, True)
        for one, other in ((self, peer), (peer, self)):
            early, one._early = one._early, b""
            if early and other.transport is not None:
                other.transport.write(early)

    def dataReceived(self, data: bytes) -> None:
        if self.peer is None:
            self._early += data
        elif self.peer.transport is not None:
            self.peer.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        peer, self.peer = self.peer, None
        if peer is not None and peer.transport is not None:
            peer.peer = None
            # It hangs while a producer is registered.
            peer.transport.unregisterProducer()
            peer.transport.loseConnection()

    def pauseProducing(self) -> None:
        if self.transport is not None:
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        if self.transport is not None:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


async def connect(kubelets: Kubelets | None, pod: Obj, reactor: Any) -> Side:
    """A connection to the kubelet API of a pod's node, or of the one that has taken it over.

    :raises ApiError: (400) if the pod is on no node yet; (503) if the node cannot be reached.
    """
    node, name = pod["spec"].get("nodeName"), pod["metadata"]["name"]
    if not node:
        raise errors.bad_request(f"pod {name} does not have a host assigned")
    if kubelets is None:
        raise errors.unavailable("this control plane has no way to its nodes")
    node = (pod["metadata"].get("annotations") or {}).get(TAKEN_OVER_BY, node)
    connecting = kubelets.endpoint(node, SERVICE).connect(Factory.forProtocol(Side))
    connecting.addTimeout(CONNECT_SECONDS, reactor)
    try:
        side = await connecting
    except Exception as error:
        why = str(error) or type(error).__name__
        raise errors.unavailable(f"node {node} cannot be reached: {why}") from error
    assert isinstance(side, Side)
    return side
