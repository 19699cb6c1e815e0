"""What waits to be sent on a link, bounded and counted. Pure.

Order of service: control, then streams, then small packets, then bulk. Streams are not queued here but asked for
their next frames, so that what they have to send stays with them, where windows bound it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kubebus.frames import PACKET
from kubebus.packets import flow_of

SMALL: Final = 512
"""Packets of up to so many bytes are small: acknowledgements, pings, name lookups, keystrokes."""

MAX_SMALL: Final = 256 * 1024
MAX_BULK: Final = 1024 * 1024
"""Bytes that may wait in each queue. Above 1 MB a stopped receiver only makes everything late."""

BATCH: Final = 64 * 1024

_PACKET = PACKET << 24


@dataclass(slots=True)
class QueueCounters:
    """Packets and bytes (of IP packets with their virtio-net header)."""

    sent: int = 0
    sent_bytes: int = 0
    dropped: int = 0
    dropped_bytes: int = 0


class LinkQueues:
    """The queues of one link.

    :param next_stream_frames: gives encoded STREAM frames of at most about so many bytes in all, or ``[]``.
    """

    def __init__(
        self,
        next_stream_frames: Callable[[int], list[bytes]],
        max_small: int = MAX_SMALL,
        max_bulk: int = MAX_BULK,
    ) -> None:
        self.counters = QueueCounters()
        self._next_stream_frames = next_stream_frames
        self._max_small, self._max_bulk = max_small, max_bulk
        self._control: deque[bytes] = deque()
        self._small: deque[bytes] = deque()
        self._bulk: deque[bytes] = deque()
        self._small_bytes = self._bulk_bytes = 0
        # How many packets of each flow wait in bulk: a small packet must not overtake its own flow.
        self._bulk_flows: dict[bytes, int] = {}

    @property
    def packet_bytes(self) -> int:
        """Bytes of packets that wait."""
        return self._small_bytes + self._bulk_bytes

    @property
    def control_frames(self) -> int:
        return len(self._control)

    def put_control(self, frame: bytes) -> None:
        self._control.append(frame)

    def take_control(self) -> bytes:
        """All control frames that wait: the last words of a link that ends."""
        frames = b"".join(self._control)
        self._control.clear()
        return frames

    def put_packet(self, payload: bytes) -> bool:
        """Queue the payload of a PACKET frame; or drop it, count it, and return ``False``."""
        size = len(payload)
        flow = flow_of(payload)
        if size <= SMALL and flow not in self._bulk_flows:
            if self._small_bytes + size > self._max_small:
                return self._drop(size)
            self._small_bytes += size
            self._small.append(payload)
            return True
        if self._bulk_bytes + size > self._max_bulk:
            return self._drop(size)
        self._bulk_bytes += size
        self._bulk.append(payload)
        self._bulk_flows[flow] = self._bulk_flows.get(flow, 0) + 1
        return True

    def clear(self) -> None:
        """Forget everything: the link is over."""
        for payload in (*self._small, *self._bulk):
            self._drop(len(payload))
        self._control.clear()
        self._small.clear()
        self._bulk.clear()
        self._bulk_flows.clear()
        self._small_bytes = self._bulk_bytes = 0

    def next_batch(self) -> tuple[bytes, bool]:
        """About :data:`BATCH` bytes of frames to write now (empty: nothing waits), and whether any hold data."""
        parts: list[bytes] = []
        while self._control:
            parts.append(self._control.popleft())
        controls = len(parts)
        # While packets wait, streams leave a quarter of every batch to them: first is not only.
        budget = BATCH * 3 // 4 if self.packet_bytes else BATCH
        streams = self._next_stream_frames(budget)
        parts += streams
        room = BATCH - sum(map(len, streams))
        counters = self.counters
        while room > 0 and (self._small or self._bulk):
            payload = self._take()
            size = len(payload)
            room -= size
            counters.sent += 1
            counters.sent_bytes += size
            parts.append((_PACKET | size).to_bytes(4, "big"))
            parts.append(payload)
        return b"".join(parts), len(parts) > controls

    def _take(self) -> bytes:
        if self._small:
            payload = self._small.popleft()
            self._small_bytes -= len(payload)
            return payload
        payload = self._bulk.popleft()
        self._bulk_bytes -= len(payload)
        flow = flow_of(payload)
        waiting = self._bulk_flows[flow] - 1
        if waiting:
            self._bulk_flows[flow] = waiting
        else:
            del self._bulk_flows[flow]
        return payload

    def _drop(self, size: int) -> bool:
        self.counters.dropped += 1
        self.counters.dropped_bytes += size
        return False
