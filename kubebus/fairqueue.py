"""Packets that wait for a slow peer: flow by flow in turn, and none for long. Pure: the time is passed in.

Deficit round robin over flows, new ones first, and CoDel on each (RFC 8290 and RFC 8289). A flow that sends little is
served before those that send much, so a ping or an acknowledgement never stands behind bulk, and the packets of one
flow stay in order. A flow whose packets wait too long loses some, which is how TCP learns to send less.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import sqrt
from typing import Final

from kubebus.packets import flow_of

QUANTUM: Final = 16 * 1024
"""Bytes that each flow may send in its turn. A GSO packet of 64 KB uses up four turns of its flow."""

TARGET: Final = 0.015
"""Seconds that packets may wait at all times. RFC 8289 proposes 5 ms for a queue right before a wire; behind this one
are a TCP connection and a process that share a processor with others."""

INTERVAL: Final = 0.15
"""Seconds that packets may wait longer before the first is dropped: a round trip of most paths (RFC 8289: 100 ms)."""

MIN_WAITING: Final = 3000
"""Bytes. A flow with no more than this keeps it: on a slow link two packets take longer than any target."""

FLOWS: Final = 512
"""Flows are told apart by a hash of so many values: their number is bounded whatever a peer sends."""

_Entry = tuple[bytes, float]


@dataclass(slots=True)
class QueueCounters:
    """Packets and bytes (of IP packets with their virtio-net header)."""

    sent: int = 0
    sent_bytes: int = 0
    dropped: int = 0
    dropped_bytes: int = 0


class Flow:
    """One flow's packets, and CoDel's state for them."""

    __slots__ = ("above_since", "bytes", "credit", "drop_count", "drop_next", "dropping", "key", "packets")

    def __init__(self, key: int) -> None:
        self.key = key
        self.packets: deque[_Entry] = deque()
        self.bytes = 0
        self.credit = QUANTUM
        self.above_since = 0.0
        self.dropping = False
        self.drop_next = 0.0
        self.drop_count = 0

    def take(self) -> bytes:
        payload, _ = self.packets.popleft()
        self.bytes -= len(payload)
        return payload

    def waits_too_long(self, now: float) -> bool:
        """Whether the first packet, and those before it for a whole interval, waited longer than the target."""
        if now - self.packets[0][1] < TARGET or self.bytes <= MIN_WAITING:
            self.above_since = 0.0
            return False
        if not self.above_since:
            self.above_since = now + INTERVAL
            return False
        return now >= self.above_since


class FairQueue:
    """At most ``limit`` bytes of packets.

    :param counters: where it counts what it drops.
    :ivar bytes: of the packets that wait.
    """

    __slots__ = ("_counters", "_flows", "_limit", "_new", "_old", "bytes")

    def __init__(self, limit: int, counters: QueueCounters) -> None:
        self.bytes = 0
        self._counters = counters
        self._limit = limit
        self._flows: dict[int, Flow] = {}
        self._new: deque[Flow] = deque()
        self._old: deque[Flow] = deque()

    def put(self, payload: bytes, now: float) -> bool:
        """Let the payload of a PACKET frame wait. Where there is no room, the flow with most loses its oldest ones.

        Whether this one waits now.
        """
        size = len(payload)
        if size > self._limit:
            self._count(size)
            return False
        # Python's hash of bytes is keyed with a secret, so nobody can aim at another's flow.
        key = hash(flow_of(payload)) % FLOWS
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = Flow(key)
            self._new.append(flow)
        flow.packets.append((payload, now))
        flow.bytes += size
        self.bytes += size
        if self.bytes > self._limit:
            self._make_room()
        return True

    def take(self, now: float) -> bytes | None:
        """The packet to send next; ``None`` if none waits."""
        while self._new or self._old:
            first = self._new or self._old
            flow = first[0]
            if flow.credit <= 0:
                flow.credit += QUANTUM
                first.popleft()
                self._old.append(flow)
                continue
            payload = self._next(flow, now)
            if payload is not None:
                flow.credit -= len(payload)
                return payload
            first.popleft()
            if first is self._new and self._old:
                # Empty, but it may not come back as new before the others had a turn.
                self._old.append(flow)
            else:
                del self._flows[flow.key]
        return None

    def clear(self) -> None:
        """Drop everything."""
        for flow in self._flows.values():
            while flow.packets:
                self._drop(flow)
        self._flows.clear()
        self._new.clear()
        self._old.clear()

    def __len__(self) -> int:
        """Flows with packets, or with a turn to come."""
        return len(self._flows)

    def _next(self, flow: Flow, now: float) -> bytes | None:
        """The flow's next packet, after CoDel has dropped what it must."""
        if not flow.packets:
            return None
        too_long = flow.waits_too_long(now)
        if not flow.dropping:
            if too_long:
                # A flow that was in trouble just before begins where it was: it has not learnt enough.
                recent = now - flow.drop_next < 8 * INTERVAL and flow.drop_count > 2
                flow.drop_count = flow.drop_count - 2 if recent else 1
                flow.dropping = True
                self._drop(flow)
                flow.drop_next = now + INTERVAL / sqrt(flow.drop_count)
        elif not too_long:
            flow.dropping = False
        else:
            while flow.dropping and now >= flow.drop_next:
                self._drop(flow)
                flow.drop_count += 1
                if not flow.packets or not flow.waits_too_long(now):
                    flow.dropping = False
                else:
                    flow.drop_next += INTERVAL / sqrt(flow.drop_count)
        if not flow.packets:
            return None
        payload = flow.take()
        self.bytes -= len(payload)
        return payload

    def _make_room(self) -> None:
        fattest = max(self._flows.values(), key=lambda flow: flow.bytes)
        # Half of it at once: finding it costs a look at every flow.
        enough = max(self._limit - fattest.bytes // 2, 0)
        while self.bytes > self._limit or (self.bytes > enough and len(fattest.packets) > 32):
            self._drop(fattest)

    def _drop(self, flow: Flow) -> None:
        size = len(flow.take())
        self.bytes -= size
        self._count(size)

    def _count(self, size: int) -> None:
        self._counters.dropped += 1
        self._counters.dropped_bytes += size
