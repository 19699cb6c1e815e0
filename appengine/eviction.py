"""When a node is under pressure, and which pod goes first then (pkg/kubelet/eviction). Time is passed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appengine.nodestatus import Pressure
from appengine.podspec import Pod


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The kubelet's hard defaults for Linux. Fractions are of the whole; ``transition`` in seconds."""

    memory_available: int = 100 * 2**20
    disk_available: float = 0.10
    inodes_free: float = 0.05
    pids_available: float = 0.05
    image_gc_high: float = 0.85
    image_gc_low: float = 0.80
    transition: float = 300.0


class Pressures:
    """The node's pressure conditions. One ends only when it was not seen for the transition period."""

    def __init__(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self._seen: dict[str, float] = {}
        self.now: dict[str, bool] = {"MemoryPressure": False, "DiskPressure": False, "PIDPressure": False}
        self.signals: dict[str, bool] = dict(self.now)

    def measure(self, seen: Pressure, now: float) -> None:
        """Take a measurement: ``signals`` are of this moment, ``now`` are the conditions."""
        limits = self.thresholds
        self.signals = {
            "MemoryPressure": 0 < seen.memory_available < limits.memory_available,
            "DiskPressure": _below(seen.disk_available, seen.disk_size, limits.disk_available)
            or _below(seen.inodes_free, seen.inodes, limits.inodes_free),
            "PIDPressure": _below(seen.pids_max - seen.pids, seen.pids_max, limits.pids_available),
        }
        for name, true in self.signals.items():
            if true:
                self._seen[name] = now
            self.now[name] = name in self._seen and now - self._seen[name] < limits.transition

    def image_gc_wanted(self, seen: Pressure) -> bool:
        return seen.disk_size > 0 and 1 - seen.disk_available / seen.disk_size > self.thresholds.image_gc_high

    def image_gc_bytes(self, seen: Pressure) -> int:
        """How much is to be freed."""
        return max(0, int(seen.disk_size * (1 - self.thresholds.image_gc_low)) - seen.disk_available)


def _below(available: int, whole: int, fraction: float) -> bool:
    return whole > 0 and available < whole * fraction


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pod that could go: what it uses and asked for of the resource that is short."""

    pod: Pod
    used: int
    requested: int


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Who goes first: over its request, then of lower priority, then most over its request. Static pods stay."""
    return sorted(
        (candidate for candidate in candidates if not candidate.pod.static),
        key=lambda c: (c.used <= c.requested, c.pod.priority, c.requested - c.used),
    )


def eviction_message(resource: str) -> str:
    return f"The node was low on resource: {resource}. "
