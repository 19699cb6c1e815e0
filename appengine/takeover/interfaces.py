"""The seam between who decides which node runs a pod (leases) and who runs it (the engine)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Holding:
    """One lease, as a node knows of it.

    :ivar uid: the original UID of the pod.
    :ivar owner: the node that the pod is bound to; ``None`` where this node does not ask for it.
    :ivar holder: who has it as far as this node knows; ``None`` if nobody.
    :ivar until: on :meth:`Leases.now`'s clock, when that ends unless it is renewed; ``None`` without a holder.
    """

    uid: str
    owner: str | None
    holder: str | None
    until: float | None


class Leases(Protocol):
    """The leases of one node on pods, by their ORIGINAL UIDs: of all nodes of a site one at most has a pod's lease.

    All methods return at once and never call the watcher before they have returned.
    """

    def now(self) -> float:
        """The clock of all times here: CLOCK_BOOTTIME, in seconds. It goes on while the machine sleeps."""

    def claim(self, uid: str, *, owner: str) -> None:
        """Try to have and keep the lease on this pod, until :meth:`withdraw`. Idempotent.

        :param owner: the node that the pod is bound to (``spec.nodeName``). If it is this one, the lease is asked for
            at once, and asked back from whoever has it; if it is another one, only when that one is away, and after
            those that come before this node for this pod: whoever could run it claims it, and need not watch anybody.
        """

    def withdraw(self, uid: str) -> None:
        """Ask for it no more. What is held stays held (it is not renewed) until :meth:`release` or its end."""

    def release(self, uid: str) -> None:
        """The pod is stopped here and nothing is left: others may have it at once. Idempotent.

        A claim stands: the owner asks again, another node once the owner is away again.
        """

    def held_until(self, uid: str) -> float | None:
        """Until when (on :meth:`now`'s clock) this node surely has it; ``None`` if it has it not, or no more."""

    def holdings(self) -> Sequence[Holding]:
        """All leases that this node claims or knows of."""

    def waiting_for(self) -> str | None:
        """Why no lease can be had at all now, for people; ``None`` if nothing stands in the way."""

    def watch(self, watcher: LeaseWatcher) -> None:
        """Tell ``watcher``, too, from now on."""


class LeaseWatcher(Protocol):
    """Who is told what becomes of claims. Times are on the clock of :meth:`Leases.now`."""

    def lease_gained(self, uid: str) -> None:
        """This node has it: the pod may run here, as long as :meth:`Leases.held_until` says."""

    def leases_renewed(self) -> None:
        """:meth:`Leases.held_until` of some leases has moved on: a dead man's switch has new deadlines."""

    def lease_ending(self, uid: str, stop_by: float) -> None:
        """It could not be renewed, and will not be: everything must be stopped by then, which may have passed.

        Release it when nothing is left. A claim stands: :meth:`lease_gained` may follow once this lease is over.
        """

    def lease_wanted_back(self, uid: str) -> None:
        """The owner is there again, reaches a majority, and asks: stop the pod, then release. It is renewed until then.

        Told once for each lease, unless the owner goes away and comes again.
        """
