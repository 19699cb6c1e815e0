"""A bad path, packet by packet. Pure: time and chance are passed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PathSpec:
    """One direction of a path: what comes out of it is late, thinned out, and never faster than its rate.

    :ivar delay: seconds that each packet takes (half of the round trip).
    :ivar loss: share of the packets that are lost, before the bottleneck.
    :ivar rate: bits a second of IP packets; ``None`` for no limit.
    :ivar buffer: seconds of data which the bottleneck holds before it drops what comes last. A tenth of a second is
        little for a mobile network.
    """

    delay: float = 0.0
    loss: float = 0.0
    rate: float | None = None
    buffer: float = 0.2


class Path:
    """The packets on the way, in order."""

    def __init__(self, spec: PathSpec, chance: Callable[[], float]) -> None:
        """:param chance: gives a number in [0, 1) for each packet."""
        self.spec = spec
        self._chance = chance
        self._way: deque[tuple[float, bytes]] = deque()
        self._free_at = 0.0
        self._stalled_until = 0.0
        self.lost = 0
        self.dropped = 0
        self.carried = 0

    def send(self, packet: bytes, now: float) -> None:
        """A packet goes in."""
        if self.spec.loss and self._chance() < self.spec.loss:
            self.lost += 1
            return
        start = max(now, self._free_at, self._stalled_until)
        if self.spec.rate is not None:
            # At least one full packet fits, however slow the path.
            room = max(self.spec.buffer, 1500 * 8 / self.spec.rate)
            if start - max(now, self._stalled_until) > room:
                self.dropped += 1
                return
            start += len(packet) * 8 / self.spec.rate
        elif len(self._way) > 20_000:
            self.dropped += 1
            return
        self._free_at = start
        self._way.append((start + self.spec.delay, packet))

    def arrivals(self, now: float) -> list[bytes]:
        """The packets that come out by now."""
        out = []
        while self._way and self._way[0][0] <= now:
            out.append(self._way.popleft()[1])
        self.carried += len(out)
        return out

    def next_arrival(self) -> float | None:
        """When the next packet comes out, if one is on the way."""
        return self._way[0][0] if self._way else None

    def stall(self, now: float, seconds: float) -> None:
        """Nothing comes out for a while; then what was kept does."""
        self._stalled_until = now + seconds
        self._way = deque((max(at, self._stalled_until), packet) for at, packet in self._way)
