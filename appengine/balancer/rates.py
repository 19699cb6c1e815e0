"""How many items a second each source is told to send: as many as come through in good time, and a few to find out.

Additive increase, multiplicative decrease, like TCP's; but the sign of too much is delay first, and loss only second.
"""

from __future__ import annotations

from dataclasses import dataclass

_PERIOD = 1.0
_DECREASE = 0.85
_INCREASE = 0.06
"""Of what the source wants, each second: back from nothing in 17 s."""
_FORGET = 30.0
"""Seconds after which a source that sends nothing is forgotten."""


@dataclass
class _Source:
    wanted: float
    advised: float
    since: float
    last: float
    cut: float = float("-inf")
    """When it was told to send less, last."""
    answered: int = 0
    refused: int = 0
    fresh: int = 0
    slow: int = 0


class Rates:
    """Advice for the sources of one balancer."""

    def __init__(self, patience: float, least: float) -> None:
        self.patience, self.least = patience, least
        self._sources: dict[str, _Source] = {}

    def offered(self, source: str, wanted: float, now: float) -> None:
        """An item of ``source`` has come, which would like to send ``wanted`` a second."""
        found = self._sources.get(source)
        if found is None:
            self._forget(now)
            found = self._sources[source] = _Source(wanted, wanted, now, now)
        if found.advised >= found.wanted:
            # It was not held back, and is not because of what it wanted before.
            found.advised = wanted
        found.wanted, found.last = wanted, now

    def settled(self, source: str, came: float, now: float, *, answered: bool) -> None:
        """An item that had come at ``came`` was answered, or was refused."""
        found = self._sources.get(source)
        if found is None:
            return
        if answered:
            found.answered += 1
        else:
            found.refused += 1
        # The delay of what came before the last cut says nothing of the rate since: one jam would be cut for twice.
        if answered and came >= found.cut:
            found.fresh += 1
            found.slow += now - came > self.patience
        period = now - found.since
        if period >= _PERIOD:
            self._adapt(found, period, now)
            found.since, found.answered, found.refused, found.fresh, found.slow = now, 0, 0, 0, 0

    def _adapt(self, found: _Source, period: float, now: float) -> None:
        if found.refused or found.slow * 2 > found.fresh:
            through = found.answered / period
            # What came through is a floor to the cut only while nothing was lost: else it is the measure itself.
            target = min(found.advised * _DECREASE, through) if found.refused > 1 else found.advised * _DECREASE
            # One bad second cuts by a half at most.
            found.advised = max(self.least, target, found.advised / 2)
            found.cut = now
        elif found.fresh:
            found.advised += _INCREASE * found.wanted
        found.advised = max(self.least, min(found.advised, found.wanted))

    def advised(self, source: str) -> float | None:
        found = self._sources.get(source)
        return None if found is None else found.advised

    def all(self) -> dict[str, float]:
        return {name: round(found.advised, 2) for name, found in self._sources.items()}

    def _forget(self, now: float) -> None:
        for name in [name for name, found in self._sources.items() if now - found.last > _FORGET]:
            del self._sources[name]
