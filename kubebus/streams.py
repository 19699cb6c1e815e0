"""Many byte streams over one link: the protocol of STREAM frames. Sans-IO.

Payload of a STREAM frame: ``stream:u32 op:u8``, then by operation (numbers big-endian)

====== ======== ==================================================================
1      OPEN     ``window:u32`` and the service's name (UTF-8)
2      ACCEPT   ``window:u32``
3      REFUSE   why (UTF-8)
4      DATA     bytes, at most as many as the window has left
5      WINDOW   ``credit:u32``: so many bytes were consumed
6      END      no more data from this side
7      RESET    why (UTF-8): the stream is over at once, in both directions
====== ======== ==================================================================

The dialling side opens odd stream numbers, the other one even ones, each growing: a number is never used twice. A
stream is over when both sides have sent END, or either a REFUSE or RESET. Data may follow OPEN only after ACCEPT.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from kubebus.frames import HEADER_SIZE, MAX_STREAM_DATA, STREAM
from kubebus.linkerrors import LocalProtocolError, StreamViolation

OPEN: Final = 1
ACCEPT: Final = 2
REFUSE: Final = 3
DATA: Final = 4
WINDOW: Final = 5
END: Final = 6
RESET: Final = 7

WINDOW_SIZE: Final = 256 * 1024
"""How many bytes a stream's receiver takes that nobody has consumed: 10 Mbit/s at a round trip of 200 ms."""

FIRST_WINDOW: Final = 64 * 1024
"""The window that a stream begins with. It grows with the first bytes that are consumed, so that streams which are
opened and then stall cost a quarter of the memory."""

MAX_STREAMS: Final = 256
"""How many streams the peer may have open at a time."""

_MAX_TEXT: Final = 255
_PREFIX: Final = 5


class StreamEvents(Protocol):
    """Who uses a stream."""

    def accepted(self) -> None:
        """The peer took the stream that this side opened."""

    def data(self, data: bytes) -> None:
        """Bytes came. Call :meth:`Stream.consumed` when they are dealt with."""

    def ended(self) -> None:
        """No more data will come; this side may still send."""

    def write_ended(self) -> None:
        """The end of this side's data was sent."""

    def closed(self, reason: str | None) -> None:
        """The stream is over: in good order (``None``), or for a reason. Nothing follows."""

    def writable(self, queued: int) -> None:
        """Some of what was written has gone out; ``queued`` bytes still wait."""


Acceptor = Callable[[str, "Stream"], "StreamEvents | str"]
"""Asked for every stream that the peer opens: who will use it, or why it is refused."""


@dataclass(slots=True, eq=False)
class Stream:
    """One stream, seen from one side. Only :class:`Streams` makes them."""

    number: int
    owner: Streams
    events: StreamEvents | None = None
    send_window: int = 0
    # How much more the peer may send before it must hear of consumption.
    receive_window: int = FIRST_WINDOW
    window_size: int = FIRST_WINDOW
    consumed_bytes: int = 0
    outgoing: bytearray = field(default_factory=bytearray)
    open: bool = False
    end_wanted: bool = False
    end_sent: bool = False
    end_received: bool = False
    scheduled: bool = False
    over: bool = False

    @property
    def queued(self) -> int:
        return len(self.outgoing)

    def write(self, data: bytes) -> None:
        """Send, as the window and the link allow. Ignored after :meth:`end` and when the stream is over."""
        if self.over or self.end_wanted or not data:
            return
        self.outgoing += data
        self.owner.schedule(self)

    def end(self) -> None:
        """Send no more after what is queued."""
        if not self.over and not self.end_wanted:
            self.end_wanted = True
            self.owner.schedule(self)

    def reset(self, reason: str) -> None:
        """End the stream at once; what is queued is lost. ``closed`` is called before this returns."""
        self.owner.reset(self, reason)

    def consumed(self, size: int) -> None:
        """``size`` bytes handed over by ``data`` are dealt with: the peer may send as many more."""
        if self.over:
            return
        self.consumed_bytes += size
        if self.consumed_bytes >= self.window_size // 2 and not self.end_received:
            self.consumed_bytes += WINDOW_SIZE - self.window_size
            self.window_size = WINDOW_SIZE
            self.owner.credit(self)


class Streams:
    """All streams of one link, seen from one side.

    :param dialler: whether this side dialled the link: it decides who uses which stream numbers.
    :param accept: decides about streams that the peer opens.
    :param wake: called when there is something to send and there was nothing before.
    """

    def __init__(self, dialler: bool, accept: Acceptor, wake: Callable[[], None]) -> None:
        self._accept, self._wake = accept, wake
        self._streams: dict[int, Stream] = {}
        self._next = 1 if dialler else 2
        self._peer_parity = 0 if dialler else 1
        self._highest_peer = 0
        self._peer_open = 0
        # Frames that carry no data go first; how many there can be is bounded by the streams and their windows.
        # Lists, for they are short: an empty deque takes 0.8 KB, and there may be thousands of links.
        self._urgent: list[bytes] = []
        # Streams that have data (or an END) and window to send it: served in turn, a frame each.
        self._ready: list[Stream] = []

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def urgent_frames(self) -> int:
        """How many frames without data wait."""
        return len(self._urgent)

    def open(self, service: str, events: StreamEvents) -> Stream:
        """Ask the peer for a stream to ``service``; ``events.accepted`` or ``events.closed`` follows."""
        name = service.encode()
        if not 0 < len(name) <= _MAX_TEXT:
            raise LocalProtocolError(f"service name {service[:40]!r} must have 1 to {_MAX_TEXT} bytes")
        stream = Stream(self._next, self, events)
        self._next += 2
        self._streams[stream.number] = stream
        self._send(stream.number, OPEN, FIRST_WINDOW.to_bytes(4, "big") + name)
        return stream

    def frame_received(self, payload: bytes) -> None:
        """A STREAM frame came.

        :raises StreamViolation: if it cannot be.
        """
        if len(payload) < _PREFIX:
            raise StreamViolation("a stream frame without stream number and operation")
        number, operation = int.from_bytes(payload[:4], "big"), payload[4]
        if operation == OPEN:
            self._opened(number, payload)
            return
        stream = self._streams.get(number)
        if stream is None:
            self._check_past(number)
        elif operation == DATA:
            self._data(stream, payload)
        else:
            self._control(stream, operation, payload)

    @property
    def has_any(self) -> bool:
        """Whether :meth:`next_frames` would give any."""
        return bool(self._urgent or self._ready)

    def next_frames(self, budget: int) -> list[bytes]:
        """Encoded STREAM frames to send now, of about ``budget`` bytes in all; none when nothing waits."""
        frames: list[bytes] = []
        while self._urgent and budget > 0:
            frames.append(self._urgent.pop(0))
            budget -= len(frames[-1])
        while self._ready and budget > 0:
            stream = self._ready.pop(0)
            stream.scheduled = False
            frame = self._next_of(stream)
            if frame:
                frames.append(frame)
                budget -= len(frame)
        return frames

    def close(self, reason: str) -> None:
        """The link is over, and with it every stream."""
        self._urgent.clear()
        self._ready.clear()
        for stream in list(self._streams.values()):
            self._over(stream, reason)

    def schedule(self, stream: Stream) -> None:
        """See that ``stream`` gets its turn, if it has something that may be sent."""
        if stream.scheduled or not stream.open or stream.over:
            return
        if (stream.outgoing and stream.send_window) or (stream.end_wanted and not stream.outgoing):
            stream.scheduled = True
            self._ready.append(stream)
            self._wake()

    def credit(self, stream: Stream) -> None:
        credit, stream.consumed_bytes = stream.consumed_bytes, 0
        stream.receive_window += credit
        self._send(stream.number, WINDOW, credit.to_bytes(4, "big"))

    def reset(self, stream: Stream, reason: str) -> None:
        if not stream.over:
            self._send(stream.number, RESET, _text(reason))
            self._over(stream, reason)

    def _next_of(self, stream: Stream) -> bytes:
        """One frame of a stream whose turn it is. Its user may write, or end the stream, while this runs."""
        if stream.over:
            return b""
        outgoing = stream.outgoing
        size = min(len(outgoing), stream.send_window, MAX_STREAM_DATA)
        if size:
            frame = _frame(stream.number, DATA, bytes(memoryview(outgoing)[:size]))
            del outgoing[:size]
            stream.send_window -= size
            self.schedule(stream)
            if stream.events is not None:
                stream.events.writable(len(outgoing))
            return frame
        if stream.end_wanted and not stream.end_sent and not outgoing:
            stream.end_sent = True
            frame = _frame(stream.number, END, b"")
            if stream.events is not None:
                stream.events.write_ended()
            self._finish(stream)
            return frame
        return b""

    def _opened(self, number: int, payload: bytes) -> None:
        if number & 1 != self._peer_parity or number <= self._highest_peer:
            raise StreamViolation(f"stream {number} cannot be opened: the number is not the peer's next")
        if len(payload) < _PREFIX + 5:
            raise StreamViolation(f"stream {number} is opened without window and service")
        self._highest_peer = number
        service = _read_text(payload[_PREFIX + 4 :])
        if self._peer_open >= MAX_STREAMS:
            self._send(number, REFUSE, _text(f"more than {MAX_STREAMS} streams"))
            return
        stream = Stream(number, self, open=True, send_window=_read_number(payload))
        self._streams[number] = stream
        self._peer_open += 1
        answer = self._accept(service, stream)
        if isinstance(answer, str):
            self._send(number, REFUSE, _text(answer))
            self._over(stream, answer)
            return
        stream.events = answer
        if not stream.over:
            # Before anything that the service has written already.
            self._send(number, ACCEPT, FIRST_WINDOW.to_bytes(4, "big"))
            answer.accepted()

    def _check_past(self, number: int) -> None:
        """A frame for a stream that is over may have been under way; one for a stream that never was may not."""
        theirs = number & 1 == self._peer_parity
        if number == 0 or (number > self._highest_peer if theirs else number >= self._next):
            raise StreamViolation(f"stream {number} was never opened")

    def _data(self, stream: Stream, payload: bytes) -> None:
        size = len(payload) - _PREFIX
        if stream.end_received or not stream.open:
            raise StreamViolation(f"stream {stream.number}: data before it was accepted or after its end")
        if size > stream.receive_window:
            raise StreamViolation(f"stream {stream.number}: {size} bytes, its window has {stream.receive_window}")
        stream.receive_window -= size
        if stream.events is not None:
            stream.events.data(payload[_PREFIX:])

    def _control(self, stream: Stream, operation: int, payload: bytes) -> None:
        events = stream.events
        if operation == ACCEPT and not stream.open and events is not None:
            stream.open, stream.send_window = True, _read_number(payload)
            events.accepted()
            self.schedule(stream)
        elif operation == WINDOW and stream.open:
            stream.send_window = min(stream.send_window + _read_number(payload), 2**31)
            self.schedule(stream)
        elif operation == END and stream.open and not stream.end_received:
            stream.end_received = True
            if events is not None:
                events.ended()
            self._finish(stream)
        elif operation == RESET or (operation == REFUSE and not stream.open):
            self._over(stream, _read_text(payload[_PREFIX:]) or "reset by the peer")
        else:
            raise StreamViolation(f"stream {stream.number}: operation {operation} is unknown or out of order")

    def _finish(self, stream: Stream) -> None:
        if stream.end_sent and stream.end_received:
            self._over(stream, None)

    def _over(self, stream: Stream, reason: str | None) -> None:
        if stream.over:
            return
        stream.over = True
        stream.outgoing.clear()
        if self._streams.pop(stream.number, None) and stream.number & 1 == self._peer_parity:
            self._peer_open -= 1
        if stream.events is not None:
            stream.events.closed(reason)

    def _send(self, number: int, operation: int, body: bytes) -> None:
        self._urgent.append(_frame(number, operation, body))
        self._wake()


def _frame(number: int, operation: int, body: bytes) -> bytes:
    size = _PREFIX + len(body)
    return ((STREAM << 24 | size) << 40 | number << 8 | operation).to_bytes(HEADER_SIZE + _PREFIX, "big") + body


def _text(text: str) -> bytes:
    return text.encode()[:_MAX_TEXT]


def _read_text(raw: bytes) -> str:
    if len(raw) > _MAX_TEXT:
        raise StreamViolation(f"a text of {len(raw)} bytes in a stream frame; at most {_MAX_TEXT} are allowed")
    return raw.decode("utf-8", "replace")


def _read_number(payload: bytes) -> int:
    if len(payload) < _PREFIX + 4:
        raise StreamViolation("a stream frame without its number")
    return int.from_bytes(payload[_PREFIX : _PREFIX + 4], "big")
