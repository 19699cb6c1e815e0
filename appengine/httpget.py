"""One small HTTP request of a probe or a hook: only the status line counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from appengine.podspec import Json

_MAX_HEAD = 65536


class HttpFailed(Exception):
    """No answer; the message says why."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class HttpTarget:
    host: str
    port: int
    path: str
    tls: bool
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, get: Json, ports: Sequence[Json], host: str) -> HttpTarget:
        """The target of a v1 HTTPGetAction; ``host`` is the pod's address.

        :raises HttpFailed: if the named port does not exist.
        """
        path = str(get.get("path") or "/")
        headers = tuple(
            (str(h.get("name")), str(h.get("value") or "")) for h in get.get("httpHeaders") or () if h.get("name")
        )
        return cls(
            str(get.get("host") or host),
            port_number(get.get("port"), ports),
            path if path.startswith("/") else "/" + path,
            get.get("scheme") == "HTTPS",
            headers,
        )

    def request(self) -> bytes:
        given = {name.lower() for name, _ in self.headers}
        lines = [f"GET {self.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        host = f"[{self.host}]" if ":" in self.host else self.host
        for name, value in (
            ("Host", f"{host}:{self.port}"),
            ("User-Agent", "kube-probe/1.29"),
            ("Accept", "*/*"),
            ("Connection", "close"),
        ):
            if name.lower() not in given:
                lines.append(f"{name}: {value}")
        text = "\r\n".join(line.replace("\r", " ").replace("\n", " ") for line in lines)
        return text.encode() + b"\r\n\r\n"


def port_number(port: Any, ports: Sequence[Json]) -> int:
    """The number of a port given by number or by name.

    :raises HttpFailed: if no port has that name.
    """
    if isinstance(port, int):
        return port
    if isinstance(port, str) and port.isascii() and port.isdigit():
        return int(port)
    for known in ports:
        if known.get("name") == port and known.get("containerPort"):
            return int(known["containerPort"])
    raise HttpFailed(f"there is no port named {str(port)[:40]!r}")


class _Get(Protocol):
    def __init__(self, request: bytes, done: Deferred[HttpAnswer]) -> None:
        self._request = request
        self._done = done
        self._head = bytearray()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        if self._done.called:
            return
        self._head += data
        end = self._head.find(b"\n")
        if end < 0 and len(self._head) < _MAX_HEAD:
            return
        words = bytes(self._head[: max(end, 0)]).decode("latin-1").split(" ", 2)
        try:
            answer = HttpAnswer(int(words[1]), words[2].strip() if len(words) > 2 else "")
        except (IndexError, ValueError):
            self._done.errback(HttpFailed("the answer is not HTTP"))
        else:
            self._done.callback(answer)
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self._done.called:
            self._done.errback(HttpFailed("the connection was closed without an answer"))


async def http_get(reactor: Any, target: HttpTarget, seconds: float) -> HttpAnswer:
    """Ask, without following redirects and without judging certificates (as the kubelet).

    :raises HttpFailed: without an answer.
    :raises TimeoutError: without an answer in time.
    """
    done: Deferred[HttpAnswer] = Deferred()
    endpoint: Any = HostnameEndpoint(reactor, target.host, target.port, timeout=seconds)
    if target.tls:
        endpoint = wrapClientTLS(_trusting(), endpoint)
    protocol = _Get(target.request(), done)
    late: list[bool] = []

    def give_up() -> None:
        late.append(True)
        if protocol.transport is not None:
            protocol.transport.abortConnection()  # type: ignore[attr-defined]
        if not done.called:
            done.errback(HttpFailed("timed out"))

    timer = reactor.callLater(seconds, give_up)
    try:
        await endpoint.connect(Factory.forProtocol(lambda: protocol))
        return await done
    except HttpFailed:
        if late:
            raise TimeoutError(f"no answer within {seconds:g}s") from None
        raise
    except Exception as error:
        raise HttpFailed(str(error) or type(error).__name__) from error
    finally:
        if timer.active():
            timer.cancel()


def _trusting() -> Any:
    """A client side of TLS that takes any certificate. Made when first needed."""
    from OpenSSL import SSL
    from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
    from zope.interface import implementer

    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_NONE, lambda *_: True)

    @implementer(IOpenSSLClientConnectionCreator)
    class Trusting:
        def clientConnectionForTLS(self, tlsProtocol: Any) -> Any:
            return SSL.Connection(context, None)

    return Trusting()
