"""All times of takeover, in one place. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """In seconds. All nodes of a site must have the same; a node refuses leases that are longer than its own.

    :ivar length: of a lease, counted from before it was asked for.
    :ivar drift: by which part of itself any clock may be too fast or too slow. Crystals keep to 0.0001, and NTP slews
        by 0.0005 at most.
    :ivar away: how long the link to a pod's owner must have been down before another node asks. A link in use is
        found dead after 3 s; a restarted agent is back within that much again.
    :ivar step: between the turns of two nodes that could take the same pod.
    :ivar retry: between attempts.
    :ivar margin: between when the last process must have ended, and the end of the lease.
    """

    length: float = 15.0
    drift: float = 0.01
    away: float = 5.0
    step: float = 1.0
    retry: float = 1.0
    margin: float = 1.0

    @property
    def hold(self) -> float:
        """For how long a node gives its vote: longer than the lease by any two clocks."""
        return self.length * (1 + self.drift) / (1 - self.drift)

    @property
    def renew(self) -> float:
        """Between renewals."""
        return self.length / 3

    @property
    def ending(self) -> float:
        """How long before its end a lease is given up: two renewals have failed then, and there is time to stop."""
        return self.length / 3
