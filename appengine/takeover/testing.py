"""Leases in memory, for tests of whoever runs pods: one arbiter that sees everything, in a test's own time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock

from appengine.takeover.interfaces import Holding, LeaseWatcher
from appengine.takeover.rank import ranked

LENGTH = 15.0
MARGIN = 1.0


@dataclass(slots=True)
class _Lease:
    holder: str
    until: float | None = None  # None: renewed all the time.
    asked_back: bool = False
    orphaned: bool = False  # Its node was killed.


class MemorySite:
    """All nodes of a site.

    :param clock: a test's; watchers are told in later turns of it (``clock.advance(0)`` is one).
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.nodes: dict[str, MemoryLeases] = {}
        self.leases: dict[str, _Lease] = {}
        self._away: set[str] = set()
        self._waiting: IDelayedCall | None = None

    def node(self, name: str) -> MemoryLeases:
        """The leases of a node, which is there from now on. Of one that was killed: new ones, that know nothing."""
        self._away.discard(name)
        self.nodes[name] = leases = MemoryLeases(self, name)
        self.soon()
        return leases

    def cut(self, name: str) -> None:
        """The node sees no majority any more: what it has ends."""
        self._away.add(name)
        for uid, lease in self.leases.items():
            if lease.holder == name and lease.until is None:
                self._ends(uid, lease)
                self.tell(name, lambda w, uid=uid, by=lease.until - MARGIN: w.lease_ending(uid, by))  # type: ignore[misc,operator]

    def heal(self, name: str) -> None:
        self._away.discard(name)
        self.soon()

    def kill(self, name: str) -> None:
        """The node dies without a word: its leases end in their time."""
        self._away.add(name)
        self.nodes.pop(name).dead = True
        for uid, lease in self.leases.items():
            if lease.holder == name and lease.until is None:
                self._ends(uid, lease)
                lease.orphaned = True

    def tell(self, name: str, what: Callable[[LeaseWatcher], None]) -> None:
        leases = self.nodes[name]

        def now() -> None:
            for watcher in () if leases.dead else list(leases.watchers):
                what(watcher)

        self.clock.callLater(0, now)

    def soon(self) -> None:
        if self._waiting is None or not self._waiting.active():
            self._waiting = self.clock.callLater(0, self._settle)

    def _ends(self, uid: str, lease: _Lease) -> None:
        lease.until = self.clock.seconds() + LENGTH
        self.clock.callLater(LENGTH, self._over, uid, lease)

    def _over(self, uid: str, lease: _Lease) -> None:
        if self.leases.get(uid) is lease:
            del self.leases[uid]
            self._settle()

    def _settle(self) -> None:
        present = {name: node for name, node in self.nodes.items() if name not in self._away}
        for uid, owner in {uid: owner for node in present.values() for uid, owner in node.claims.items()}.items():
            lease, back = self.leases.get(uid), owner in present and uid in present[owner].claims
            if lease is None:
                able = [owner] if owner in present else ranked(uid, [n for n in present if uid in present[n].claims])
                if able and uid in present[able[0]].claims:
                    self.leases[uid] = _Lease(able[0])
                    self.tell(able[0], lambda w, uid=uid: w.lease_gained(uid))  # type: ignore[misc]
            elif lease.orphaned and uid in (present[lease.holder].claims if lease.holder in present else ()):
                # The votes that a node has are no obstacle to itself, started anew.
                self.leases[uid] = _Lease(lease.holder)
                self.tell(lease.holder, lambda w, uid=uid: w.lease_gained(uid))  # type: ignore[misc]
            elif back and lease.holder != owner and lease.until is None and not lease.asked_back:
                lease.asked_back = True
                self.tell(lease.holder, lambda w, uid=uid: w.lease_wanted_back(uid))  # type: ignore[misc]


class MemoryLeases:
    """A :class:`~appengine.takeover.interfaces.Leases` of one node of a :class:`MemorySite`."""

    def __init__(self, site: MemorySite, name: str) -> None:
        self.name, self.dead = name, False
        self.claims: dict[str, str] = {}
        self.watchers: list[LeaseWatcher] = []
        self._site = site

    def now(self) -> float:
        return float(self._site.clock.seconds())

    def claim(self, uid: str, *, owner: str) -> None:
        self.claims[uid] = owner
        self._site.soon()

    def withdraw(self, uid: str) -> None:
        self.claims.pop(uid, None)

    def release(self, uid: str) -> None:
        lease = self._site.leases.get(uid)
        if lease is not None and lease.holder == self.name:
            del self._site.leases[uid]
            self._site.soon()

    def held_until(self, uid: str) -> float | None:
        lease = self._site.leases.get(uid)
        if lease is None or lease.holder != self.name:
            return None
        return self.now() + LENGTH if lease.until is None else lease.until

    def holdings(self) -> list[Holding]:
        known = self._site.leases
        return [
            Holding(uid, self.claims.get(uid), known[uid].holder, known[uid].until or self.now() + LENGTH)
            if uid in known
            else Holding(uid, self.claims[uid], None, None)
            for uid in sorted({*known, *self.claims})
        ]

    def waiting_for(self) -> str | None:
        return None

    def watch(self, watcher: LeaseWatcher) -> None:
        self.watchers.append(watcher)
