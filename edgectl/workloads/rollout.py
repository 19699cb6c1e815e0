"""How a Deployment moves from one pod template to the next. Pure: counts in, counts out.

The arithmetic is kube-controller-manager's (``pkg/controller/deployment/rolling.go``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgectl.workloads.pods import share

Obj = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Set:
    """One ReplicaSet: what it is asked for, and how many of its pods there are and serve."""

    name: str
    wanted: int
    existing: int
    available: int


@dataclass(frozen=True, slots=True)
class Limits:
    """``surge`` pods may be too many and ``unavailable`` too few while pods are replaced."""

    surge: int
    unavailable: int

    @classmethod
    def of(cls, spec: Obj) -> Limits:
        """Of a Deployment's spec. Both 0 would stand still, so one may then be unavailable."""
        rolling, wanted = spec["strategy"].get("rollingUpdate", {}), spec["replicas"]
        surge = share(rolling.get("maxSurge", "25%"), wanted, up=True)
        unavailable = share(rolling.get("maxUnavailable", "25%"), wanted, up=False)
        return cls(surge, unavailable if surge or unavailable else 1)


def next_step(wanted: int, new: Set, old: Sequence[Set], limits: Limits | None) -> dict[str, int]:
    """The sets whose number of pods is to change now, with their new number.

    :param limits: ``None`` for the strategy ``Recreate``: all old pods end before a new one begins.
    """
    if limits is None:
        after = _recreate(wanted, new, old)
    else:
        after = _roll(wanted, new, old, limits)
    before = {one.name: one.wanted for one in (new, *old)}
    return {one.name: one.wanted for one in after if before[one.name] != one.wanted}


def _recreate(wanted: int, new: Set, old: Sequence[Set]) -> list[Set]:
    stopped = [replace(one, wanted=0) for one in old]
    still = any(one.existing for one in old)
    return [new if still else replace(new, wanted=wanted), *stopped]


def _roll(wanted: int, new: Set, old: Sequence[Set], limits: Limits) -> list[Set]:
    total = new.wanted + sum(one.wanted for one in old)
    if new.wanted > wanted:
        return [replace(new, wanted=wanted), *old]
    room = wanted + limits.surge - total
    if new.wanted < wanted and room > 0:
        return [replace(new, wanted=min(wanted, new.wanted + room)), *old]
    return [new, *_shrink(wanted, new, old, limits)]


def _shrink(wanted: int, new: Set, old: Sequence[Set], limits: Limits) -> list[Set]:
    least = wanted - limits.unavailable
    total = new.wanted + sum(one.wanted for one in old)
    spare = total - least - max(new.wanted - new.available, 0)
    after = []
    for one in old:
        broken = min(max(one.wanted - one.available, 0), max(spare, 0))
        spare -= broken
        after.append(replace(one, wanted=one.wanted - broken))
    serving = new.available + sum(min(one.available, one.wanted) for one in after)
    spare = min(max(spare, 0), max(serving - least, 0))
    shrunk = []
    for one in after:
        fewer = min(one.wanted, spare)
        spare -= fewer
        shrunk.append(replace(one, wanted=one.wanted - fewer))
    return shrunk
