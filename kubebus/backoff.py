"""How long to wait before dialling again. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """Exponential waits from ``first`` to ``last`` seconds, each cut by up to half at random, so that nodes which
    lost their router together do not come back together. A link that was up for ``stable`` seconds begins anew.

    :param random: a number from 0 to 1, such as :func:`random.random`.
    """

    random: Callable[[], float]
    first: float = 1.0
    last: float = 60.0
    stable: float = 60.0
    _next: float = 0.0

    def wait(self, up_for: float) -> float:
        """How long to wait, after a link that was up for so many seconds (0: it never was)."""
        if up_for >= self.stable or not self._next:
            self._next = self.first
        wait, self._next = self._next, min(self._next * 2, self.last)
        return wait * (0.5 + 0.5 * self.random())
