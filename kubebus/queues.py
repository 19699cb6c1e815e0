"""What waits to be sent on a link, bounded and counted. Pure.

Order of service: control, then streams, then packets as :mod:`kubebus.fairqueue` says. Streams are not queued here but
asked for their next frames, so that what they have to send stays with them, where windows bound it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from kubebus.fairqueue import FairQueue, QueueCounters
from kubebus.frames import HEADER_SIZE, PACKET

MAX_BULK: Final = 1024 * 1024
"""Bytes of packets that may wait. Above 1 MB a stopped receiver only makes everything late."""

BATCH: Final = 64 * 1024

_MAX_PASSING: Final = 1024
_PACKET = PACKET << 24

# A link whose peer always took what came has no fair queue of its own. Nor are there deques: an empty one takes 0.8 KB,
# and there may be thousands of links.
_NOTHING = FairQueue(0, QueueCounters())

__all__ = ["BATCH", "MAX_BULK", "Batch", "LinkQueues", "QueueCounters"]


class Batch(NamedTuple):
    """Frames, in pieces; whether any hold data; and whether there may be more after them."""

    parts: list[bytes]
    has_data: bool
    more: bool


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
        self._max_bulk = max_bulk
        self._control: list[bytes] = []
        self._waiting = _NOTHING
        # Packets on their way straight through, while the peer takes what comes.
        self._passing: list[bytes] = []
        self._blocked = False

    @property
    def packet_bytes(self) -> int:
        """Bytes of packets that wait for the peer."""
        return self._waiting.bytes

    @property
    def hold_any(self) -> bool:
        """Whether there is anything to send here."""
        return bool(self._passing or self._control or self._waiting.bytes)

    @property
    def control_frames(self) -> int:
        return len(self._control)

    def block(self) -> None:
        """The transport takes nothing for now: packets wait in turn."""
        self._blocked = True
        self._hold_passing()

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
        if self._blocked or self._waiting.bytes:
            return self._wait(payload)
        if len(self._passing) >= _MAX_PASSING:
            # Before this one: a flow stays in order.
            self._hold_passing()
            return self._wait(payload)
        self._passing.append(payload)
        return True

    def passed(self, packets: int, size: int) -> None:
        """Count PACKET frames, of ``size`` bytes with their headers, that needed no queue."""
        self.counters.sent += packets
        self.counters.sent_bytes += size - packets * HEADER_SIZE

    def _hold_passing(self) -> None:
        """What was on its way straight through waits in turn."""
        passing, self._passing = self._passing, []
        for payload in passing:
            self._wait(payload)

    def _wait(self, payload: bytes) -> bool:
        if self._waiting is _NOTHING:
            self._waiting = FairQueue(self._max_bulk, self.counters)
        return self._waiting.put(payload, self._clock())

    def clear(self) -> None:
        """Forget everything: the link is over."""
        self.block()
        self._waiting.clear()
        self._control.clear()

    def next_batch(self, size: int = BATCH) -> Batch:
        """What to write now.

        :param size: about how many bytes; a single packet may be longer.
        """
        parts: list[bytes] = []
        room = size
        if self._control:
            parts += self._control
            self._control.clear()
        controls = len(parts)
        passing, waiting, counters = self._passing, self._waiting, self.counters
        # While packets wait, streams leave a quarter of every batch to them: first is not only.
        streams = self._next_stream_frames(room * 3 // 4 if passing or waiting.bytes else room)
        if streams:
            parts += streams
            room -= sum(map(len, streams))
        packets = taken = 0
        while room > 0:
            if taken < len(passing):
                payload = passing[taken]
                taken += 1
            elif waiting.bytes and (next_waiting := waiting.take(self._clock())) is not None:
                payload = next_waiting
            else:
                break
            length = len(payload)
            room -= length
            packets += length
            counters.sent += 1
            parts.append((_PACKET | length).to_bytes(4, "big"))
            parts.append(payload)
        if taken:
            del passing[:taken]
        counters.sent_bytes += packets
        return Batch(parts, len(parts) > controls, bool(streams) or room <= 0)
