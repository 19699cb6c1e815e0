"""What a transaction does, and what of a history survives: the rules every embedded store shares.

Pure: the rows may stand in a dictionary or in a database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from metasync.interfaces import LeaseNotFound, StoreError, TxnTooLarge
from metasync.model import (
    Compare,
    CompareOp,
    CompareTarget,
    Delete,
    DeleteResult,
    Event,
    EventType,
    Get,
    KeyRange,
    KeyValue,
    Op,
    OpResult,
    Put,
    PutResult,
    RangeResult,
    TxnResult,
    WatchBatch,
)


class Rows(Protocol):
    """The newest live rows, as a running transaction sees and changes them."""

    def get(self, key: bytes) -> KeyValue | None: ...

    def scan(self, keys: KeyRange, limit: int = 0) -> Sequence[KeyValue]:
        """The live rows of a range in key order (at most ``limit``; 0: all)."""

    def count(self, keys: KeyRange) -> int: ...

    def put(self, kv: KeyValue) -> None: ...

    def remove(self, key: bytes, revision: int) -> None: ...

    def has_lease(self, lease: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a transaction came to. Without events it took no revision."""

    result: TxnResult
    events: tuple[Event, ...] = ()
    unwatched: bool = False
    """Whether there were more events, which nobody watches."""


def holds(compare: Compare, row: KeyValue | None) -> bool:
    """Whether a condition is true of a key's row (``None``: the key does not exist)."""
    actual: int | bytes
    match compare.target:
        case CompareTarget.VALUE:
            if row is None:
                return False  # as in etcd: a value compare of an absent key never holds
            actual = row.value
        case CompareTarget.VERSION:
            actual = row.version if row else 0
        case CompareTarget.CREATE:
            actual = row.create_revision if row else 0
        case CompareTarget.MOD:
            actual = row.mod_revision if row else 0
        case CompareTarget.LEASE:
            actual = row.lease if row else 0
    if isinstance(actual, bytes) != isinstance(compare.value, bytes):
        raise StoreError(f"compare of {compare.key!r}: {compare.target.value} cannot be {compare.value!r}")
    match compare.op:
        case CompareOp.EQUAL:
            return actual == compare.value
        case CompareOp.NOT_EQUAL:
            return actual != compare.value
        case CompareOp.GREATER:
            return actual > compare.value  # type: ignore[operator]
        case CompareOp.LESS:
            return actual < compare.value  # type: ignore[operator]


def check_ops(ops: Sequence[Op]) -> None:
    """:raises StoreError: if a key would be written twice, which etcd refuses too."""
    puts: set[bytes] = set()
    for op in ops:
        if isinstance(op, Put):
            if not op.key:
                raise StoreError("a key must not be empty")
            if op.key in puts:
                raise StoreError(f"{op.key!r} is put twice in one transaction")
            puts.add(op.key)
    for op in ops:
        if isinstance(op, Delete):
            clash = _first_in(op.keys, puts)
            if clash is not None:
                raise StoreError(f"{clash!r} is both put and deleted in one transaction")


def _first_in(keys: KeyRange, names: set[bytes]) -> bytes | None:
    if keys.end is None:
        return keys.start if keys.start in names else None
    return next((name for name in names if keys.contains(name)), None)


def txn_bytes(ops: Iterable[Op]) -> int:
    """The bytes of keys and values that operations carry."""
    return sum(len(op.key) + len(op.value) if isinstance(op, Put) else len(op.keys.start) for op in ops)


def check_size(compares: Sequence[Compare], ops: Sequence[Op], max_ops: int, max_bytes: int) -> None:
    """:raises TxnTooLarge: if a transaction is over a store's limits."""
    if max(len(compares), len(ops)) > max_ops:
        raise TxnTooLarge(f"{max(len(compares), len(ops))} operations in one transaction; the store takes {max_ops}")
    size = txn_bytes(ops)
    if size > max_bytes:
        raise TxnTooLarge(f"{size} bytes in one transaction; the store takes {max_bytes}")


@dataclass(slots=True)
class _Run:
    """One branch of a transaction under way."""

    rows: Rows
    revision: int
    events: list[Event] = field(default_factory=list)

    def do(self, op: Op) -> OpResult:
        match op:
            case Put():
                return self._put(op)
            case Delete(keys):
                return self._delete(keys)
            case Get(keys, limit):
                kvs = tuple(self.rows.scan(keys, limit))
                count = self.rows.count(keys) if limit and len(kvs) >= limit else len(kvs)
                reached = self.revision if self.events else self.revision - 1
                return RangeResult(reached, kvs, count, count > len(kvs))

    def _put(self, op: Put) -> PutResult:
        if op.lease and not self.rows.has_lease(op.lease):
            raise LeaseNotFound(f"lease {op.lease} does not exist")
        old = self.rows.get(op.key)
        if old is None:
            new = KeyValue(op.key, op.value, self.revision, self.revision, 1, op.lease)
        else:
            new = KeyValue(op.key, op.value, old.create_revision, self.revision, old.version + 1, op.lease)
        self.rows.put(new)
        self.events.append(Event(EventType.PUT, new))
        return PutResult(old)

    def _delete(self, keys: KeyRange) -> DeleteResult:
        old = tuple(self.rows.scan(keys))
        for row in old:
            self.rows.remove(row.key, self.revision)
            self.events.append(Event(EventType.DELETE, tombstone(row.key, self.revision)))
        return DeleteResult(len(old), old)


def tombstone(key: bytes, revision: int) -> KeyValue:
    """How a deletion looks in an event."""
    return KeyValue(key, b"", 0, revision, 0)


def run_txn(
    rows: Rows, revision: int, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op]
) -> Outcome:
    """Do a transaction on ``rows``, which stand at ``revision``. The caller rolls the rows back if it raises.

    :raises StoreError: if the transaction makes no sense. Nothing of it counts.
    """
    check_ops(success)
    check_ops(failure)
    succeeded = all(holds(compare, rows.get(compare.key)) for compare in compares)
    run = _Run(rows, revision + 1)
    results = tuple(run.do(op) for op in (success if succeeded else failure))
    final = revision + 1 if run.events else revision
    return Outcome(TxnResult(succeeded, final, results), tuple(run.events))


def run_long(
    rows: Rows, revision: int, compares: Sequence[Compare], ops: Iterable[Op], watched: Callable[[bytes], bool]
) -> Outcome:
    """Like :func:`run_txn`, of operations that are read one by one, and nothing is kept but the events watched.

    That no key is written twice is left to the rows.
    """
    if not all(holds(compare, rows.get(compare.key)) for compare in compares):
        return Outcome(TxnResult(False, revision))
    run = _Run(rows, revision + 1)
    kept: list[Event] = []
    changed = False
    for op in ops:
        run.do(op)
        changed = changed or bool(run.events)
        kept += [event for event in run.events if watched(event.kv.key)]
        run.events.clear()
    return Outcome(TxnResult(True, revision + changed), tuple(kept), changed and not kept)


def batches_of(events: Iterable[Event], keys: KeyRange) -> list[WatchBatch]:
    """Events in revision order, as one batch a revision, of those in the range."""
    batches: list[WatchBatch] = []
    together: list[Event] = []
    for event in events:
        if not keys.contains(event.kv.key):
            continue
        if together and together[-1].kv.mod_revision != event.kv.mod_revision:
            batches.append(WatchBatch(together[-1].kv.mod_revision, tuple(together)))
            together = []
        together.append(event)
    if together:
        batches.append(WatchBatch(together[-1].kv.mod_revision, tuple(together)))
    return batches
