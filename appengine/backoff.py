"""The kubelet's back-off for containers that die and images that cannot be pulled. Time is passed in.

Constants as in the kubelet: 10 s, doubling, to 5 minutes; forgotten after twice the longest wait without a failure
(``MaxContainerBackOff`` and ``backOffPeriod`` of pkg/kubelet/kubelet.go).
"""

from __future__ import annotations

from dataclasses import dataclass

INITIAL = 10.0
MAXIMUM = 300.0


@dataclass(slots=True)
class _Entry:
    wait: float
    updated: float


class Backoff:
    """One entry per key, made at the first failure. All times are in seconds of one clock."""

    def __init__(self, initial: float = INITIAL, maximum: float = MAXIMUM) -> None:
        self._initial = initial
        self._maximum = maximum
        self._entries: dict[str, _Entry] = {}

    def failed(self, key: str, event: float, now: float) -> None:
        """A new try is made at ``now``, after a failure that happened at ``event``: the next wait is longer."""
        entry = self._entries.get(key)
        if entry is None or event - entry.updated > 2 * self._maximum:
            self._entries[key] = _Entry(self._initial, now)
        else:
            entry.wait = min(entry.wait * 2, self._maximum)
            entry.updated = now

    def until(self, key: str, event: float, now: float) -> float | None:
        """When a new try may be made after the failure at ``event``; ``None`` for at once."""
        entry = self._entries.get(key)
        if entry is None or event - entry.updated > 2 * self._maximum:
            return None
        until = event + entry.wait
        return until if until > now else None

    def wait(self, key: str) -> float:
        """The wait in force, in seconds; 0 when there is none."""
        entry = self._entries.get(key)
        return entry.wait if entry else 0.0

    def reset(self, key: str) -> None:
        self._entries.pop(key, None)
