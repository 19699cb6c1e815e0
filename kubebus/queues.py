"""What waits to be sent on a link, bounded and counted. Pure.

Order of service: control, then streams, then packets as :mod:`kubebus.fairqueue` says. Streams are not queued here but
asked for their next frames, so that what they have to send stays with them, where windows bound it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from kubebus.fairqueue import FairQueue, QueueCounters
from kubebus.frames import PACKET

MAX_BULK: Final = 1024 * 1024
"""Bytes of packets that may wait. Above 1 MB a stopped receiver only makes everything late."""

BATCH: Final = 64 * 1024

_MAX_PASSING: Final = 1024
_PACKET = PACKET << 24

__all__ = ["BATCH", "MAX_BULK", "LinkQueues", "QueueCounters"]


class LinkQueues:
    """The queues of one link.

    :param next_stream_frames: gives encoded STREAM frames of at most about so many bytes in all, or ``[]``.
    :param clock: the time in seconds.
    """

    def __init__(
        self,
        next_stream_frames: Callable[[int], list[bytes]],
        clock: Callable[[], float],
        max_bulk: int = MAX_BULK,
    ) -> None:
        self.counters = QueueCounters()
        self._next_stream_frames, self._clock = next_stream_frames, clock
        self._control: deque[bytes] = deque()
        self._waiting = FairQueue(max_bulk, self.counters)
        # Packets on their way straight through, while the peer takes what comes.
        self._passing: deque[bytes] = deque()
        self._blocked = False

    @property
    def packet_bytes(self) -> int:
        """Bytes of packets that wait for the peer."""
        return self._waiting.bytes

    @property
    def control_frames(self) -> int:
        return len(self._control)

    def block(self) -> None:
        """The transport takes nothing for now: packets wait in turn."""
        self._blocked = True
        if self._passing:
            now = self._clock()
            for payload in self._passing:
                self._waiting.put(payload, now)
            self._passing.clear()

    def unblock(self) -> None:
        self._blocked = False

    def put_control(self, frame: bytes) -> None:
        self._control.append(frame)

    def take_control(self) -> bytes:
        """All control frames that wait: the last words of a link that ends."""
        frames = b"".join(self._control)
        self._control.clear()
        return frames

    def put_packet(self, payload: bytes) -> bool:
        """Queue the payload of a PACKET frame, or drop it and count it. Whether it was queued."""
        if self._blocked or self._waiting.bytes or len(self._passing) >= _MAX_PASSING:
            return self._waiting.put(payload, self._clock())
        self._passing.append(payload)
        return True

    def clear(self) -> None:
        """Forget everything: the link is over."""
        self.block()
        self._waiting.clear()
        self._control.clear()

    def next_batch(self, size: int = BATCH) -> tuple[bytes, bool, bool]:
        """Frames to write now, whether any hold data, and whether more may wait.

        :param size: about how many bytes; a single packet may be longer.
        """
        parts: list[bytes] = []
        while self._control:
            parts.append(self._control.popleft())
        controls = len(parts)
        # While packets wait, streams leave a quarter of every batch to them: first is not only.
        budget = size * 3 // 4 if self._passing or self._waiting.bytes else size
        streams = self._next_stream_frames(budget)
        if streams:
            parts += streams
            size -= sum(map(len, streams))
        more = bool(streams)
        counters, passing = self.counters, self._passing
        while size > 0:
            if passing:
                payload = passing.popleft()
            elif self._waiting.bytes and (waiting := self._waiting.take(self._clock())) is not None:
                payload = waiting
            else:
                break
            length = len(payload)
            size -= length
            counters.sent += 1
            counters.sent_bytes += length
            parts.append((_PACKET | length).to_bytes(4, "big"))
            parts.append(payload)
        else:
            more = True
        return b"".join(parts), len(parts) > controls, more
