"""All times of takeover, in one place. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DRIFT: Final = 0.01
"""By which part of itself any clock may be too fast or too slow. Crystals keep to 0.0001, and NTP slews by 0.0005 at
most."""

SHORTEST: Final = 6.0
"""Seconds. Of a shorter lease the last third, in which a pod is stopped, would be less than what the margins take."""

LONGEST: Final = 60.0
"""Seconds. So long may a node be taken to have leases of which nothing is known."""

USUAL: Final = 15.0
"""Seconds; what agents have that do not tell of it."""


def hold(length: float) -> float:
    """For how long a vote for a lease must be kept: longer than the lease by any two clocks."""
    return length * (1 + DRIFT) / (1 - DRIFT)


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """In seconds. A node refuses leases that are longer than its own, so all nodes of a site should have the same.

    :ivar length: of a lease, counted from before it was asked for.
    :ivar away: how long the link to a pod's owner must have been down before another node asks. A link in use is
        found dead after 3 s; a restarted agent is back within that much again.
    :ivar step: between the turns of two nodes that could take the same pod.
    :ivar retry: between attempts.
    :ivar margin: between when the last process must have ended, and the end of the lease.
    """

    length: float = USUAL
    away: float = 5.0
    step: float = 1.0
    retry: float = 1.0
    margin: float = 1.0

    @classmethod
    def of(cls, length: float) -> LeaseTiming:
        """For a lease of that length, from :data:`SHORTEST` to :data:`LONGEST`."""
        # Who asks to have short leases wants short breaks; where links come and go, the owner gets longer, too.
        return cls(length=length, away=length / 3)

    @property
    def hold(self) -> float:
        """For how long a node gives its vote."""
        return hold(self.length)

    @property
    def renew(self) -> float:
        """Between renewals."""
        return self.length / 3

    @property
    def ending(self) -> float:
        """How long before its end a lease is given up: two renewals have failed then, and there is time to stop."""
        return self.length / 3
