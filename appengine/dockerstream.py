"""Long answers of the Docker Engine API on the reactor: events, logs, pulls, attached processes.

The ``docker`` package reads such answers in a thread each; here each is one connection. One request per connection,
in HTTP/1.1; an upgraded one (``101``) is a plain byte stream both ways.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

from twisted.internet import endpoints
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure

from appengine.dockerjson import error_message
from appengine.runtime import EngineError, NoSuchContainer, RuntimeUnavailable

_MAX_HEADER = 65536
_MAX_ERROR = 65536
_MAX_LINE = 2**20


class Body(Protocol):
    """Who reads the answer. :meth:`ended` is the last call, and comes once."""

    def data(self, data: bytes) -> None: ...

    def ended(self, error: Exception | None) -> None: ...


class Chunks:
    """Decodes the chunked transfer coding (RFC 9112, section 7.1), without trailers."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0
        self._in_data = False
        self.finished = False

    def feed(self, data: bytes) -> bytes:
        """The payload in what has come.

        :raises ValueError: for what is not chunked.
        """
        self._buffer += data
        out: list[bytes] = []
        at = 0
        while not self.finished:
            if self._in_data:
                piece = self._buffer[at : at + self._left]
                out.append(bytes(piece))
                at += len(piece)
                self._left -= len(piece)
                if self._left or len(self._buffer) < at + 2:
                    break
                at += 2
                self._in_data = False
                continue
            end = self._buffer.find(b"\r\n", at)
            if end < 0:
                if len(self._buffer) - at > 1024:
                    raise ValueError("a chunk's size line is too long")
                break
            self._left = int(bytes(self._buffer[at:end]).split(b";")[0], 16)
            at = end + 2
            self._in_data = self._left > 0
            self.finished = not self._in_data
        del self._buffer[:at]
        return b"".join(out)


class HttpStream(TwistedProtocol):
    """One request and its answer. :ivar opened: fires when a good answer has begun."""

    def __init__(self, request: bytes, body: Body) -> None:
        self._request = request
        self._body = body
        self._head = bytearray()
        self._in_body = False
        self._chunks: Chunks | None = None
        self._left: int | None = None
        self._error: bytearray | None = None
        self._status = 0
        self._over = False
        self.opened: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        if self._in_body:
            self._deliver(data)
            return
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > _MAX_HEADER:
                self._fail(RuntimeUnavailable("the engine's answer has an endless header"))
            return
        rest = bytes(self._head[end + 4 :])
        try:
            self._begin(bytes(self._head[:end]))
        except ValueError as error:
            self._fail(RuntimeUnavailable(f"the engine's answer is not HTTP: {error}"))
            return
        if self._status in range(200, 300) or self._status in (101, 304):
            opened = self.opened
            opened.callback(None)
        else:
            self._error = bytearray()
        if rest or self._left == 0:
            self._deliver(rest)

    def _begin(self, head: bytes) -> None:
        lines = head.split(b"\r\n")
        self._status = int(lines[0].split(b" ")[1])
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        self._in_body = True
        if self._status == 101:
            return
        if self._status in (204, 304):
            # They have no body (RFC 9112, section 6.3).
            self._left = 0
            return
        if b"chunked" in headers.get(b"transfer-encoding", b"").lower():
            self._chunks = Chunks()
        elif b"content-length" in headers:
            self._left = int(headers[b"content-length"])

    def _deliver(self, data: bytes) -> None:
        try:
            payload = self._chunks.feed(data) if self._chunks is not None else data
        except ValueError as error:
            self._fail(RuntimeUnavailable(f"the engine's answer is damaged: {error}"))
            return
        if self._error is not None:
            self._error += payload[: _MAX_ERROR - len(self._error)]
        elif payload and not self._over:
            self._body.data(payload)
        if self._left is not None:
            self._left -= len(payload)
        if (self._chunks is not None and self._chunks.finished) or (self._left is not None and self._left <= 0):
            self._finish(None)

    def _finish(self, error: Exception | None) -> None:
        if self._over:
            return
        self._over = True
        if self.transport is not None:
            self.transport.loseConnection()
        if self._error is not None and error is None:
            error = _error_of(self._status, bytes(self._error))
        if not self.opened.called:
            self.opened.errback(error or RuntimeUnavailable("the engine closed the connection"))
        else:
            self._body.ended(error)

    def _fail(self, error: Exception) -> None:
        self._finish(error)
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        clean = isinstance(reason.value, ConnectionDone) and self._in_body
        if clean and self._chunks is None and not self._left:
            self._finish(None)
        else:
            self._finish(RuntimeUnavailable(f"the connection to the engine broke: {reason.getErrorMessage()}"))

    def write(self, data: bytes) -> None:
        """Send to an upgraded connection."""
        if self.transport is not None and not self._over:
            self.transport.write(data)

    def close_write(self) -> None:
        """No more will be sent: the process reads its end of file."""
        half = getattr(self.transport, "loseWriteConnection", None)
        if half is not None and not self._over:
            half()

    def close(self) -> None:
        """Let go at once. :meth:`Body.ended` follows if it has not been called."""
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    def abandon(self) -> None:
        """Let go at once; the body is not told, for nobody waits for it."""
        self._over = True
        self.close()


def _error_of(status: int, body: bytes) -> EngineError:
    try:
        message = error_message(json.loads(body))
    except ValueError:
        message = body.decode("utf-8", "replace")
    message = message.strip()[:2000] or f"the engine answered {status}"
    return NoSuchContainer(message) if status == 404 else EngineError(message)


class JsonLines:
    """A body of JSON objects, one after another."""

    def __init__(self, received: Callable[[Any], None], done: Callable[[Exception | None], None]) -> None:
        self._received = received
        self._done = done
        self._buffer = b""

    def data(self, data: bytes) -> None:
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        if len(self._buffer) > _MAX_LINE:
            self._buffer = b""
        for line in lines:
            if line.strip():
                try:
                    value = json.loads(line)
                except ValueError:
                    continue
                self._received(value)

    def ended(self, error: Exception | None) -> None:
        self._done(error)


class Demultiplexer:
    """Splits what Docker sends for a process without a terminal: frames of ``stream:u8 0:u24 length:u32``."""

    def __init__(self, received: Callable[[int, bytes], None]) -> None:
        self._received = received
        self._buffer = bytearray()
        self._stream = 0
        self._left = 0

    def feed(self, data: bytes) -> None:
        """Hand on (stream, bytes): 1 is the standard output, 2 the standard error."""
        self._buffer += data
        at = 0
        while True:
            if self._left == 0:
                if len(self._buffer) - at < 8:
                    break
                self._stream = self._buffer[at]
                self._left = int.from_bytes(self._buffer[at + 4 : at + 8], "big")
                at += 8
                continue
            piece = bytes(self._buffer[at : at + self._left])
            if not piece:
                break
            at += len(piece)
            self._left -= len(piece)
            self._received(self._stream, piece)
        del self._buffer[:at]


class EngineEndpoint:
    """Where the engine listens: ``unix:///path`` or ``tcp://host:port``."""

    def __init__(self, reactor: IReactorTime, url: str) -> None:
        self._reactor = reactor
        self._endpoint = _endpoint(reactor, url)

    async def open(
        self,
        method: str,
        path: str,
        body: Body,
        *,
        content: Any = None,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
        upgrade: bool = False,
        patience: float = 20.0,
    ) -> HttpStream:
        """Send a request; returns when a good answer has begun.

        :param content: to be sent as JSON.
        :param data: to be sent instead, as it is: an archive.
        :raises RuntimeUnavailable: if the engine does not answer within ``patience`` seconds.
        :raises EngineError: with the engine's words, if it answers with an error.
        """
        kind = "application/json" if data is None else "application/x-tar"
        if data is None:
            data = b"" if content is None else json.dumps(content).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: docker"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if upgrade:
            lines += ["Connection: Upgrade", "Upgrade: tcp"]
        else:
            lines += ["Connection: close"]
        if data or method == "POST":
            lines += [f"Content-Type: {kind}", f"Content-Length: {len(data)}"]
        request = "\r\n".join(lines).encode() + b"\r\n\r\n" + data
        stream = HttpStream(request, body)
        factory = Factory.forProtocol(lambda: stream)
        factory.noisy = False
        timer = self._reactor.callLater(patience, stream.close)
        try:
            await self._endpoint.connect(factory)
            await stream.opened
        except EngineError:
            raise
        except CancelledError:
            stream.abandon()
            raise
        except Exception as error:
            raise RuntimeUnavailable(f"the container engine cannot be reached: {error}") from error
        finally:
            if timer.active():
                timer.cancel()
        return stream


def _endpoint(reactor: Any, url: str) -> IStreamClientEndpoint:
    parts = urlsplit(url)
    if parts.scheme in ("unix", "http+unix"):
        endpoint: IStreamClientEndpoint = endpoints.UNIXClientEndpoint(reactor, parts.path, 5)  # type: ignore[no-untyped-call]
        return endpoint
    if parts.scheme in ("tcp", "http") and parts.hostname:
        return endpoints.HostnameEndpoint(reactor, parts.hostname, parts.port or 2375, timeout=5)
    raise ValueError(f"{url!r} is no address of a container engine (unix:///path or tcp://host:port)")
