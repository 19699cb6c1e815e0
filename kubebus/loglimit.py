"""Keeps strangers and broken peers from filling the log: so many lines of a kind, then only how many were left out."""

from __future__ import annotations

from collections.abc import Callable

BURST = 30
REFILL_SECONDS = 3.0
"""Of one kind, thirty lines at once, then one every three seconds: enough for people, at most 3 MB a day."""


class LogLimit:
    """A token bucket for each kind of line.

    :param seconds: the time in seconds, from any moment on.
    """

    def __init__(self, seconds: Callable[[], float], burst: int = BURST, refill: float = REFILL_SECONDS) -> None:
        self._seconds, self._burst, self._refill = seconds, float(burst), refill
        self._kinds: dict[str, tuple[float, float, int]] = {}

    def more(self, kind: str) -> str | None:
        """``None``: leave the line out. Else what to put behind it: how many like it were left out before, if any.

        :param kind: one of a few; never made from what a peer says.
        """
        now = self._seconds()
        left, since, dropped = self._kinds.get(kind, (self._burst, now, 0))
        left = min(self._burst, left + (now - since) / self._refill)
        if left < 1:
            self._kinds[kind] = (left, now, dropped + 1)
            return None
        self._kinds[kind] = (left - 1, now, 0)
        return f" ({dropped} more like this were left out)" if dropped else ""
