"""Exec and attach of the kubelet API: a process's channels, joined to those of the caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from appengine.kubelethttp import HttpError, Request, switching
from appengine.node import Node
from appengine.podspec import Json
from appengine.remotecommand import (
    PLAIN,
    RESIZE,
    STATUS,
    STDERR,
    STDIN,
    STDOUT,
    Channels,
    Peer,
    PlainChannels,
    SpdyChannels,
    WebSocketChannels,
    failure,
    success,
)
from appengine.runtime import ContainerView, EngineError, Session
from appengine.websocket import accept_key

_SPDY_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io")
_WEBSOCKET_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_MAX_EARLY = 1 << 20

Make = Callable[[Callable[[bytes], None], Peer], Channels]


class Connection(Protocol):
    """The caller's connection, as far as it is needed here."""

    transport: Any

    def end(self, data: bytes = b"") -> None: ...


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was agreed with the caller: the answer's head, and how channels are carried from there on."""

    head: bytes
    make: Make
    tty: bool
    stdin: bool
    stdout: bool
    stderr: bool
    waits: bool
    """Whether the command starts only when the caller has opened its channels."""


def negotiate(request: Request) -> Chosen:
    """Agree on a protocol.

    :raises HttpError: if there is none that both sides speak.
    """
    tty = request.flag("tty")
    stdin = request.flag("input", "stdin")
    stdout = request.flag("output", "stdout")
    stderr = request.flag("error", "stderr") and not tty
    upgrade = request.header("upgrade")
    asked = (
        ({STDIN} if stdin else set())
        | ({STDOUT} if stdout else set())
        | ({STDERR} if stderr else set())
        | ({RESIZE} if tty else set())
    )
    wanted = frozenset(asked | {STATUS})
    if upgrade.upper() == "SPDY/3.1":
        offered = [p.strip() for v in request.headers.get("x-stream-protocol-version", []) for p in v.split(",")]
        protocol = next((known for known in _SPDY_PROTOCOLS[1:2] if known in offered), None)
        if protocol is None:
            raise HttpError(403, f"unable to upgrade: of {', '.join(offered)[:200]} none is spoken here")
        head = switching("SPDY/3.1", {"X-Stream-Protocol-Version": protocol})
        return Chosen(head, lambda w, p: SpdyChannels(w, p, wanted), tty, stdin, stdout, stderr, True)
    if upgrade.lower() == "websocket":
        offered = [p.strip() for v in request.headers.get("sec-websocket-protocol", []) for p in v.split(",")]
        protocol = next((known for known in _WEBSOCKET_PROTOCOLS if known in offered), None)
        key = request.header("sec-websocket-key")
        if protocol is None or not key:
            raise HttpError(400, f"of the protocols {', '.join(offered)[:200]!r} none is spoken here")
        accepted = {"Sec-WebSocket-Accept": accept_key(key.encode()).decode(), "Sec-WebSocket-Protocol": protocol}
        return Chosen(switching("websocket", accepted), WebSocketChannels, tty, stdin, stdout, stderr, False)
    if upgrade.encode() == PLAIN:
        return Chosen(switching(upgrade, {}), PlainChannels, tty, stdin, stdout, stderr, False)
    raise HttpError(400, "you must specify at least 1 of stdin, stdout, stderr, and upgrade to SPDY/3.1 or websocket")


class CommandRun:
    """One command (or, without one, the container's own process) and its caller."""

    _log = Logger()

    def __init__(
        self, node: Node, view: ContainerView, command: Sequence[str] | None, chosen: Chosen, connection: Connection
    ) -> None:
        self._node = node
        self._view = view
        self._command = command
        self._chosen = chosen
        self._connection = connection
        self._session: Session | None = None
        self._early: list[bytes] = []
        self._early_size = 0
        self._stdin_closed = self._over = self._started = False
        self._size: tuple[int, int] | None = None
        self._write(chosen.head)
        self._channels = chosen.make(self._write, self)

    def _write(self, data: bytes) -> None:
        if self._connection.transport is not None:
            self._connection.transport.write(data)

    def begin(self) -> None:
        if not self._chosen.waits:
            self.ready()

    # -- Handler ---------------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        self._channels.received(data)

    def lost(self) -> None:
        self._over = True
        if self._session is not None:
            self._session.close()

    # -- Peer ------------------------------------------------------------------------------------------------------

    def ready(self) -> None:
        if not self._started:
            self._started = True
            Deferred.fromCoroutine(self._start()).addErrback(self._failed)

    def stdin(self, data: bytes) -> None:
        if not self._chosen.stdin:
            return
        if self._session is not None:
            self._session.write(data)
            return
        self._early_size += len(data)
        if self._early_size > _MAX_EARLY:
            raise ValueError("too much input before the command has started")
        self._early.append(data)

    def stdin_closed(self) -> None:
        self._stdin_closed = True
        if self._session is not None and self._chosen.stdin:
            self._session.close_write()

    def resize(self, width: int, height: int) -> None:
        self._size = (width, height)
        if self._session is not None:
            self._resize(self._session)

    def closed(self) -> None:
        if self._connection.transport is not None:
            self._connection.transport.loseConnection()

    # -- Output ----------------------------------------------------------------------------------------------------

    def output(self, stream: int, data: bytes) -> None:
        channel = STDERR if stream == 2 else STDOUT
        if self._chosen.stderr if channel == STDERR else self._chosen.stdout:
            self._channels.output(channel, data)

    def ended(self, error: Exception | None) -> None:
        if not self._over:
            Deferred.fromCoroutine(self._finish(error)).addErrback(self._failed)

    # -- the process -----------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        runtime, chosen = self._node.runtime, self._chosen
        if self._command is not None:
            session = await runtime.exec_session(self._view.id, self._command, chosen.tty, chosen.stdin, self)
        else:
            session = await runtime.attach_session(self._view, chosen.stdin, self)
        if self._over:
            session.close()
            return
        self._session = session
        self._connection.transport.registerProducer(session, True)
        for data in self._early:
            session.write(data)
        self._early.clear()
        if self._stdin_closed and chosen.stdin:
            session.close_write()
        self._resize(session)

    def _resize(self, session: Session) -> None:
        if self._size is not None and self._chosen.tty:
            Deferred.fromCoroutine(session.resize(*self._size)).addErrback(
                lambda failed: self._log.info("the terminal's size: {error}", error=failed.getErrorMessage())
            )

    async def _finish(self, error: Exception | None) -> None:
        code: int | None = None
        if error is None and self._session is not None:
            code = await self._session.exit_code()
        if error is not None:
            self._end(failure(str(error)))
        elif code:
            self._end(failure(f"command terminated with non-zero exit code: exit status {code}", code))
        else:
            self._end(success())

    def _failed(self, failed: Any) -> None:
        if failed.check(EngineError) is None:
            self._log.failure("a command in container {name} failed", failed, name=self._view.name)
        self._end(failure(failed.getErrorMessage()))

    def _end(self, status: Json) -> None:
        if self._over:
            return
        self._over = True
        self._channels.finish(status)
        if self._session is not None:
            self._connection.transport.unregisterProducer()
            self._session.close()
        self._connection.end()
