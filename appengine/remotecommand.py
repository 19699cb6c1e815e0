"""The channels of exec and attach, over SPDY, a WebSocket or our own plain framing: one interface for all.

https://pkg.go.dev/k8s.io/kubelet/pkg/cri/streaming/remotecommand. Channels 0 to 4 are standard input, output, error,
the status, and the terminal's size.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Protocol

from appengine.podspec import Json
from appengine.spdy import GoneAway, Opened, Pinged, Received, Reset, Spdy
from appengine.websocket import Closed, Message, Ping, WebSocket

STDIN, STDOUT, STDERR, STATUS, RESIZE = range(5)
_CLOSE = 255
_NAMES = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": STATUS, "resize": RESIZE}
_MAX_STATUS = 4096

PLAIN = b"kubebus-channels/1"
"""Frames of ``channel:u8 length:u32``; channel 255 with one byte closes that channel. For ``kubebus exec``."""


class Peer(Protocol):
    """What the other side of a command's channels wants of us. Calls come while data is fed in."""

    def ready(self) -> None:
        """All channels that were asked for are there."""

    def stdin(self, data: bytes) -> None: ...

    def stdin_closed(self) -> None: ...

    def resize(self, width: int, height: int) -> None: ...

    def closed(self) -> None:
        """The other side has gone."""


class Channels(Protocol):
    """Feed what has come to ``received``; everything to be sent goes to the ``write`` it was made with."""

    def received(self, data: bytes) -> None: ...

    def output(self, channel: int, data: bytes) -> None: ...

    def finish(self, status: Json) -> None: ...


def _sized(peer: Peer, data: bytes) -> None:
    try:
        size = json.loads(data)
        width, height = int(size["Width"]), int(size["Height"])
    except (ValueError, KeyError, TypeError):
        return
    if 0 < width < 65536 and 0 < height < 65536:
        peer.resize(width, height)


class SpdyChannels:
    """:param wanted: the channels that the request asked for; the command starts when they are open."""

    def __init__(self, write: Callable[[bytes], None], peer: Peer, wanted: frozenset[int]) -> None:
        self._write = write
        self._peer = peer
        self._missing = set(wanted | {STATUS})
        self._spdy = Spdy()
        self._streams: dict[int, int] = {}
        self._by_channel: dict[int, int] = {}
        self._sizes = bytearray()

    def received(self, data: bytes) -> None:
        for event in self._spdy.feed(data):
            if isinstance(event, Opened):
                self._opened(event)
            elif isinstance(event, Received):
                self._data(self._streams.get(event.stream), event.data, event.finished)
            elif isinstance(event, Reset):
                self._data(self._streams.get(event.stream), b"", True)
            elif isinstance(event, Pinged):
                self._write(self._spdy.pong(event))
            elif isinstance(event, GoneAway):
                self._peer.closed()

    def _opened(self, event: Opened) -> None:
        channel = _NAMES.get(event.headers.get("streamtype", ""))
        if channel is None or channel in self._by_channel:
            self._write(self._spdy.reset(event.stream))
            return
        self._streams[event.stream] = channel
        self._by_channel[channel] = event.stream
        self._write(self._spdy.reply(event.stream))
        if channel in self._missing:
            self._missing.discard(channel)
            if not self._missing:
                self._peer.ready()
        if event.finished:
            self._data(channel, b"", True)

    def _data(self, channel: int | None, data: bytes, finished: bool) -> None:
        if channel == STDIN:
            if data:
                self._peer.stdin(data)
            if finished:
                self._peer.stdin_closed()
        elif channel == RESIZE:
            # One JSON object after another, not aligned to frames.
            self._sizes += data
            while (end := self._sizes.find(b"}")) >= 0:
                _sized(self._peer, bytes(self._sizes[: end + 1]))
                del self._sizes[: end + 1]
            del self._sizes[:-256]

    def output(self, channel: int, data: bytes) -> None:
        stream = self._by_channel.get(channel)
        if stream is not None:
            self._write(self._spdy.data(stream, data))

    def finish(self, status: Json) -> None:
        for channel, stream in self._by_channel.items():
            if channel == STATUS:
                self._write(self._spdy.data(stream, json.dumps(status).encode(), True))
            else:
                self._write(self._spdy.data(stream, b"", True))


class _Framed:
    """What WebSocket and plain framing have in common: messages of one channel byte and data."""

    def __init__(self, write: Callable[[bytes], None], peer: Peer) -> None:
        self._write = write
        self._peer = peer

    def _message(self, channel: int, data: bytes) -> None:
        if channel == STDIN:
            self._peer.stdin(data)
        elif channel == RESIZE:
            _sized(self._peer, data)
        elif channel == _CLOSE and data == bytes([STDIN]):
            self._peer.stdin_closed()


class WebSocketChannels(_Framed):
    """``v4.channel.k8s.io`` and ``v5.channel.k8s.io`` (in which channels can be closed)."""

    def __init__(self, write: Callable[[bytes], None], peer: Peer) -> None:
        super().__init__(write, peer)
        self._socket = WebSocket()

    def received(self, data: bytes) -> None:
        for event in self._socket.feed(data):
            if isinstance(event, Message):
                if event.data:
                    self._message(event.data[0], event.data[1:])
            elif isinstance(event, Ping):
                self._write(self._socket.pong(event))
            elif isinstance(event, Closed):
                self._peer.closed()

    def output(self, channel: int, data: bytes) -> None:
        self._write(self._socket.message(bytes([channel]) + data))

    def finish(self, status: Json) -> None:
        self.output(STATUS, json.dumps(status).encode())
        self._write(self._socket.close())


class PlainChannels(_Framed):
    def __init__(self, write: Callable[[bytes], None], peer: Peer) -> None:
        super().__init__(write, peer)
        self._buffer = bytearray()

    def received(self, data: bytes) -> None:
        self._buffer += data
        for channel, payload in plain_frames(self._buffer):
            self._message(channel, payload)

    def output(self, channel: int, data: bytes) -> None:
        self._write(struct.pack(">BI", channel, len(data)) + data)

    def finish(self, status: Json) -> None:
        self.output(STATUS, json.dumps(status).encode())


def plain_frames(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Cut whole frames off a buffer.

    :raises ValueError: for a frame that is too long.
    """
    while len(buffer) >= 5:
        channel, length = struct.unpack_from(">BI", buffer)
        if length > 1 << 20:
            raise ValueError(f"a frame of {length} bytes is too long")
        if len(buffer) < 5 + length:
            return
        payload = bytes(buffer[5 : 5 + length])
        del buffer[: 5 + length]
        yield channel, payload


def success() -> Json:
    return {"metadata": {}, "status": "Success"}


def failure(message: str, exit_code: int | None = None) -> Json:
    """The status of a command that failed (metav1.Status), with its exit code where it ran."""
    status: Json = {"metadata": {}, "status": "Failure", "message": message[:_MAX_STATUS]}
    if exit_code is not None:
        status["reason"] = "NonZeroExitCode"
        status["details"] = {"causes": [{"reason": "ExitCode", "message": str(exit_code)}]}
    else:
        status["reason"] = "InternalError"
        status["code"] = 500
    return status
