"""How much one node may ask of the API server, so that none crowds out the others. Pure."""

from __future__ import annotations

STATUS_RATE, STATUS_BURST = 10.0, 100.0
"""Status writes a second for the pods of one node, and at once: more than a full node (110 pods) needs to come up."""

EVENT_RATE, EVENT_BURST = 0.2, 25.0
"""The same of Events. client-go's correlator allows a burst of 25 about one object."""


class Pace:
    """A token bucket for each name: ``rate`` a second, ``burst`` at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, name: str, now: float) -> float:
        """0.0: go ahead. Otherwise the seconds after which to ask again."""
        left, since = self._buckets.get(name, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._rate)
        if left < 1.0:
            self._buckets[name] = (left, now)
            return (1.0 - left) / self._rate
        self._buckets[name] = (left - 1.0, now)
        return 0.0

    def forget(self, name: str) -> None:
        self._buckets.pop(name, None)
