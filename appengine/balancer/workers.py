"""What is known of a worker and of the link to its place, from what was measured. Pure; time is passed in."""

from __future__ import annotations

from dataclasses import dataclass, field

_WEIGHT = 0.3
"""Of a new measurement against all before: after five, the past counts for a sixth."""

_HALF_LIFE = 1.0
"""Seconds in which an old queueing delay loses half its weight: a queue that nobody has looked at has drained."""

FAILURES = 2
"""So many failures in a row, and a worker counts as down."""


def blend(old: float | None, new: float) -> float:
    return new if old is None else (1 - _WEIGHT) * old + _WEIGHT * new


@dataclass
class Link:
    """The way to a place that is reached over an uplink: shared by all that is on its way there."""

    bytes_per_second: float | None = None
    ahead: int = 0
    """Bytes on their way or being worked on."""
    measured: float = 0.0
    """When it was last measured."""

    def transfer(self, size: int) -> float:
        """Seconds that ``size`` bytes more will take; none while nothing is known."""
        return 0.0 if self.bytes_per_second is None else (self.ahead + size) / self.bytes_per_second

    def carried(self, ahead: int, seconds: float, now: float) -> None:
        """An item arrived after ``seconds``, with ``ahead`` bytes (its own too) on the way when it was sent."""
        self.bytes_per_second = blend(self.bytes_per_second, ahead / max(seconds, 0.001))
        self.measured = now

    def stuck(self, ahead: int, seconds: float, now: float) -> None:
        """An item had not come through after ``seconds``: the link is no faster than that."""
        most = ahead / max(seconds, 0.001)
        self.bytes_per_second = min(most, self.bytes_per_second or most)
        self.measured = now


@dataclass
class Worker:
    """One address at which items are worked on."""

    place: str
    address: str
    limit: int
    in_flight: int = 0
    work: float | None = None
    """Seconds that an item takes, without waiting."""
    waited: float = 0.0
    """Seconds that items waited at the worker, when this was last told."""
    heard: float = 0.0
    failures: int = 0
    up: bool = True
    probing: bool = False
    probed: float = field(default=float("-inf"))

    @property
    def name(self) -> str:
        return f"{self.place} {self.address}"

    @property
    def free(self) -> bool:
        return self.up and self.in_flight < self.limit

    def expected(self, now: float) -> float:
        """Seconds from an item's arrival there to its answer. Unknown workers count as quick: they are tried."""
        if self.work is None:
            return 0.0
        others: float = self.waited * 0.5 ** (max(0.0, now - self.heard) / _HALF_LIFE)
        return max(others, self.in_flight * self.work) + self.work

    def answered(self, work: float, waited: float, now: float) -> None:
        self.work = blend(self.work, work)
        self.waited, self.heard = waited, now
        self.failures = 0
        self.up = True

    def failed(self, *, refused: bool, now: float) -> None:
        """:param refused: whether it is certain that nobody is there."""
        self.failures += 1
        if refused or self.failures >= FAILURES:
            self.up = False
            self.probed = now
