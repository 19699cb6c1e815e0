"""Changes on their way from a source to a target: folded per key, cut only between revisions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from metasync.model import EventType, WatchBatch

_OVERHEAD = 192
"""What a change costs in a request beside its value and its key below the prefix: a long prefix and the encoding."""


@dataclass(frozen=True, slots=True)
class Change:
    """A key (below the feed's prefix) and its new value; ``None``: it is deleted.

    ``extra`` are bytes that come with it when it is sent.
    """

    key: bytes
    value: bytes | None
    extra: int = 0

    @property
    def size(self) -> int:
        return len(self.key) + len(self.value or b"") + self.extra + _OVERHEAD


@dataclass(frozen=True, slots=True)
class Limits:
    """What one transaction of the target may hold, beside the cursor."""

    ops: int
    bytes: int

    def fits(self, ops: int, size: int) -> bool:
        return ops <= self.ops and size <= self.bytes


class DoesNotFit(Exception):
    """One revision of the source is more than a transaction of the target may hold. The message is for people."""

    def __init__(self, what: str, ops: int, size: int, limits: Limits) -> None:
        super().__init__(
            f"{what} has {ops} changes of {size} bytes together, and the target takes {limits.ops} of "
            f"{limits.bytes} bytes in one transaction; raise its --max-txn-ops or "
            "--max-request-bytes (for etcd: there and in the store's URL)"
        )


@dataclass(slots=True)
class Delta:
    """The changes of the source's revisions up to ``revision``, since whatever came before."""

    revision: int
    changes: dict[bytes, Change] = field(default_factory=dict)
    size: int = 0

    def grown(self, changes: Mapping[bytes, Change]) -> tuple[int, int]:
        """How many changes, and of how many bytes, this would be with later ones folded in."""
        ops, size = len(self.changes), self.size
        for key, change in changes.items():
            old = self.changes.get(key)
            ops += old is None
            size += change.size - (old.size if old else 0)
        return ops, size

    def fold(self, revision: int, changes: Mapping[bytes, Change]) -> None:
        """Add a later revision's changes: of each key only the last one counts."""
        self.size = self.grown(changes)[1]
        self.changes.update(changes)
        self.revision = revision


def changes_of(batch: WatchBatch, prefix: bytes) -> list[Change]:
    return [
        Change(event.kv.key[len(prefix) :], event.kv.value if event.type is EventType.PUT else None)
        for event in batch.events
    ]


class Pending:
    """What a target has yet to get, in as few deltas as its limits allow.

    The last delta goes on folding until it is taken or full, so a key that changes often while the target is slow
    or away crosses the wire once.

    :ivar revision: everything up to it is in here, or was.
    """

    def __init__(self, revision: int, limits: Limits) -> None:
        self.revision = revision
        self._limits = limits
        self._deltas: deque[Delta] = deque()

    def add(self, revision: int, changes: Iterable[Change]) -> None:
        """The next revision's changes.

        :raises DoesNotFit: if they alone are more than the target takes. They are not added.
        """
        latest = {change.key: change for change in changes}
        alone = Delta(revision)
        if not self._deltas or not self._limits.fits(*self._deltas[-1].grown(latest)):
            if not self._limits.fits(*alone.grown(latest)):
                raise DoesNotFit(f"revision {revision}", *alone.grown(latest), self._limits)
            self._deltas.append(alone)
        self._deltas[-1].fold(revision, latest)
        self.revision = revision

    def progress(self, revision: int) -> None:
        """Nothing in the feed changed up to ``revision``."""
        self.revision = max(self.revision, revision)
        if self._deltas:
            self._deltas[-1].revision = self.revision

    def take(self) -> Delta | None:
        return self._deltas.popleft() if self._deltas else None

    @property
    def count(self) -> int:
        return sum(len(delta.changes) for delta in self._deltas)

    @property
    def size(self) -> int:
        return sum(delta.size for delta in self._deltas)
