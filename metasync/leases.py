"""Leases of an embedded store: how long each has left. Sans-IO; time is passed in and must never be set back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from secrets import randbits

from metasync.interfaces import LeaseExists, LeaseNotFound, LeaseTooLong, StoreError

MIN_TTL = 2
MAX_TTL = 9_000_000_000
"""Seconds; etcd's own (the former follows from its default election timeout)."""

MAX_LEASES = 10_000


@dataclass(frozen=True, slots=True)
class Held:
    """A lease that exists: the seconds it was granted for, and when it ends."""

    ttl: int
    end: float

    def left(self, now: float) -> float:
        return max(0.0, self.end - now)


class Lessor:
    """All leases of one store. Changes since the last :meth:`commit` can be rolled back."""

    def __init__(self) -> None:
        self._held: dict[int, Held] = {}
        self._undo: list[tuple[int, Held | None]] = []

    def __contains__(self, lease: int) -> bool:
        return lease in self._held

    def get(self, lease: int) -> Held | None:
        return self._held.get(lease)

    @property
    def all(self) -> dict[int, Held]:
        return dict(self._held)

    def restore(self, lease: int, ttl: int, left: float, now: float) -> None:
        """A lease of before a restart. It lasts :data:`MIN_TTL` at least, so that its owner can come back too."""
        self._held[lease] = Held(ttl, now + min(max(left, MIN_TTL), ttl))

    def grant(self, ttl: int, lease: int, now: float) -> tuple[int, Held]:
        """:raises StoreError: if it cannot be granted."""
        if lease in self._held:
            raise LeaseExists(f"lease {lease} exists already")
        if ttl > MAX_TTL:
            raise LeaseTooLong(f"a lease of {ttl} s is too long; the longest has {MAX_TTL}")
        if len(self._held) >= MAX_LEASES:
            raise StoreError(f"there are {MAX_LEASES} leases already; revoke some")
        while not lease or lease in self._held:
            lease = randbits(63)
        ttl = max(ttl, MIN_TTL)
        self._set(lease, held := Held(ttl, now + ttl))
        return lease, held

    def renew(self, lease: int, now: float) -> Held:
        """:raises LeaseNotFound: if it does not exist (any more)."""
        held = self.find(lease)
        self._set(lease, held := Held(held.ttl, now + held.ttl))
        return held

    def find(self, lease: int) -> Held:
        held = self._held.get(lease)
        if held is None:
            raise LeaseNotFound(f"lease {lease} does not exist")
        return held

    def remove(self, lease: int) -> None:
        self.find(lease)
        self._set(lease, None)

    def postpone(self, lease: int, end: float) -> None:
        """It could not be ended now (a full disk): try again later."""
        self._held[lease] = Held(self._held[lease].ttl, end)

    def due(self, now: float) -> list[int]:
        return [lease for lease, held in self._held.items() if held.end <= now]

    def next_end(self) -> float | None:
        return min((held.end for held in self._held.values()), default=None)

    def commit(self) -> None:
        self._undo.clear()

    def roll_back(self) -> None:
        while self._undo:
            self._put(*self._undo.pop())

    def _set(self, lease: int, held: Held | None) -> None:
        self._undo.append((lease, self._held.get(lease)))
        self._put(lease, held)

    def _put(self, lease: int, held: Held | None) -> None:
        if held is None:
            self._held.pop(lease, None)
        else:
            self._held[lease] = held


Clock = Callable[[], float]
"""Seconds that pass evenly, such as :func:`time.monotonic`."""
