"""What a metadata store offers. Three implement it (memory, SQLite, etcd) and pass one contract suite.

All calls are made on the reactor thread. None blocks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from metasync.model import Compare, KeyRange, Lease, Op, RangeResult, TxnResult, WatchBatch


class StoreError(Exception):
    """The store could not do what it was asked. The message is for people: what failed, and what to do."""


class Compacted(StoreError):
    """The revision asked for is gone.

    :ivar compact_revision: the oldest revision that can still be read or watched from.
    """

    def __init__(self, compact_revision: int) -> None:
        super().__init__(f"revisions before {compact_revision} are compacted")
        self.compact_revision = compact_revision


class FutureRevision(StoreError):
    """The revision asked for has not happened yet."""


class TxnTooLarge(StoreError):
    """A transaction is over the store's limits on operations or bytes. Nothing of it was done."""


class StoreUnavailable(StoreError):
    """The store cannot be reached, is full or is damaged. A write that fails so may or may not have happened."""


class LeaseNotFound(StoreError):
    """There is no such lease, or no more."""


class LeaseExists(StoreError):
    """A lease with the wanted ID exists already."""


class LeaseTooLong(StoreError):
    """Nobody may hold a lease for so many seconds."""


class WatchObserver(Protocol):
    """Who watches. Calls come in revision order, on the reactor thread, never during :meth:`Store.watch`."""

    def batch(self, batch: WatchBatch) -> None:
        """All changes of one revision in the watched range."""

    def progress(self, revision: int) -> None:
        """Everything up to ``revision`` has been delivered."""

    def failed(self, error: StoreError) -> None:
        """The watch is over. After :class:`Compacted` read the range again and watch from there."""


class Watch(Protocol):
    def cancel(self) -> None:
        """Stop. No call of the observer follows. Cancelling twice is harmless."""


class Stage(Protocol):
    """A change that is gathered bit by bit, outside of memory, however large. Of puts and single deletions."""

    async def add(self, ops: Sequence[Op]) -> None:
        """The next operations: at most ``stage_ops`` of ``stage_bytes`` together. They need not have been waited for
        before the next call.
        """

    async def commit(self, compares: Sequence[Compare], last: Sequence[Op] = ()) -> TxnResult:
        """Do everything as one if every compare holds, else nothing. Results are not told.

        :param last: puts that are done with it, also of keys elsewhere. The result's revision is theirs.
        """

    def discard(self) -> None:
        """It will not be used."""


@runtime_checkable
class Stageable(Protocol):
    """A store that has stages too, and so is not limited in what one change of a prefix may have."""

    @property
    def stage_ops(self) -> int:
        """The most operations that are added at once."""

    @property
    def stage_bytes(self) -> int:
        """The most bytes that are added at once."""

    def stage(self, prefix: bytes) -> Stage:
        """:param prefix: under which all keys are that are added. A newer stage of a prefix ends an older one."""

    async def settle(self, prefix: bytes) -> None:
        """Finish what was committed of a stage of that prefix and is not done yet, and clear up what was not."""

    async def recover(self, network: str) -> None:
        """To be called at every start: finish what was committed of any stage of that network."""


class Leases(Protocol):
    """Leases: keys that were put with one are deleted, all in one revision, when it ends without being kept alive.

    Time counts only while the store runs, and no setting of a clock makes a lease end early. Errors are
    :class:`StoreError`; :class:`LeaseNotFound` where the lease does not exist (a ``put`` with it fails so too).
    """

    async def lease_grant(self, ttl: int, lease: int = 0) -> Lease:
        """Make a lease of ``ttl`` seconds (the store may raise it to its least), with that ID or one of the store's.

        :raises LeaseExists: if ``lease`` is taken.
        """

    async def lease_keep_alive(self, lease: int) -> Lease:
        """It has all its time again."""

    async def lease_revoke(self, lease: int) -> int:
        """End it now, with its keys. Returns the store's revision afterwards."""

    async def lease_time_to_live(self, lease: int) -> Lease:
        """How long it has left, and its keys."""

    async def leases(self) -> tuple[int, ...]:
        """The IDs of all leases."""


class Store(Leases, Protocol):
    """A revisioned key-value store. Errors are :class:`StoreError`."""

    @property
    def max_txn_ops(self) -> int:
        """The most operations a transaction may have (etcd's default: 128)."""

    @property
    def max_request_bytes(self) -> int:
        """The most bytes a transaction may have (etcd's default: 1.5 MiB)."""

    async def range(
        self,
        keys: KeyRange,
        *,
        revision: int = 0,
        limit: int = 0,
        min_mod_revision: int = 0,
        keys_only: bool = False,
    ) -> RangeResult:
        """Read the keys of a range in order, as they were at ``revision`` (0: now).

        :param limit: at most so many (0: all); ``more`` of the result says whether there were more.
        :param min_mod_revision: only keys last changed at or after it.
        """

    async def txn(self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        """Do all of ``success`` if every compare holds, else all of ``failure``: as one revision, or nothing.

        When it returns, the change is durable. One key may be written only once in a transaction.
        """

    def watch(self, keys: KeyRange, start_revision: int, observer: WatchObserver) -> Watch:
        """Deliver every change of the range from ``start_revision`` on (0: from the next one)."""

    async def compact(self, revision: int) -> None:
        """Forget what was superseded before ``revision``."""

    async def close(self) -> None:
        """Finish what is under way and let go of files and connections. Watches end without a call."""
