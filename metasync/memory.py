"""A store in memory: for tests, and the plainest statement of how a store behaves."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from secrets import token_hex
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall

from metasync.interfaces import Compacted, FutureRevision, StoreError, StoreUnavailable, Watch, WatchObserver
from metasync.leases import Lessor
from metasync.model import Compare, Delete, Event, EventType, KeyRange, KeyValue, Lease, Op, RangeResult, TxnResult
from metasync.mvcc import Outcome, batches_of, check_size, run_txn
from metasync.watching import History, Watches


class DelayedCalls(Protocol):
    """The part of ``IReactorTime`` that is needed here. A :class:`twisted.internet.task.Clock` will do."""

    def callLater(self, delay: float, callable: Callable[..., object], *args: object) -> IDelayedCall: ...

    def seconds(self) -> float: ...


class _Rows:
    """The newest live rows, with an undo log for the transaction under way."""

    def __init__(self, lessor: Lessor) -> None:
        self._lessor = lessor
        self._rows: dict[bytes, KeyValue] = {}
        self._order: list[bytes] = []
        self._undo: list[tuple[bytes, KeyValue | None]] = []

    def get(self, key: bytes) -> KeyValue | None:
        return self._rows.get(key)

    def scan(self, keys: KeyRange, limit: int = 0) -> Sequence[KeyValue]:
        names = self._names(keys)
        return [self._rows[name] for name in (names[:limit] if limit else names)]

    def count(self, keys: KeyRange) -> int:
        return len(self._names(keys))

    def _names(self, keys: KeyRange) -> list[bytes]:
        if keys.end is None:
            return [keys.start] if keys.start in self._rows else []
        start = bisect_left(self._order, keys.start)
        end = len(self._order) if keys.end == b"\0" else bisect_left(self._order, keys.end)
        return self._order[start:end]

    def put(self, kv: KeyValue) -> None:
        self._undo.append((kv.key, self._rows.get(kv.key)))
        self._set(kv.key, kv)

    def remove(self, key: bytes, revision: int) -> None:
        self._undo.append((key, self._rows.get(key)))
        self._set(key, None)

    def has_lease(self, lease: int) -> bool:
        return lease in self._lessor

    def of_lease(self, lease: int) -> tuple[bytes, ...]:
        return tuple(key for key in self._order if self._rows[key].lease == lease)

    def _set(self, key: bytes, kv: KeyValue | None) -> None:
        if kv is not None:
            if key not in self._rows:
                insort(self._order, key)
            self._rows[key] = kv
        elif self._rows.pop(key, None) is not None:
            del self._order[bisect_left(self._order, key)]

    def commit(self) -> None:
        self._undo.clear()

    def roll_back(self) -> None:
        while self._undo:
            self._set(*self._undo.pop())


class MemoryStore:
    """A :class:`metasync.interfaces.Store` that forgets everything.

    Calls finish at once; watchers are called from ``clock.callLater(0)``, so a test with a ``Clock`` advances it.
    """

    def __init__(
        self,
        clock: DelayedCalls,
        *,
        max_txn_ops: int = 128,
        max_request_bytes: int = 1_572_864,
        identity: str | None = None,
    ) -> None:
        self.max_txn_ops = max_txn_ops
        self.max_request_bytes = max_request_bytes
        self.identity = identity or token_hex(16)
        self.revision = 1
        self._clock = clock
        self._lessor = Lessor()
        self._lease_timer: IDelayedCall | None = None
        self._rows = _Rows(self._lessor)
        self._events: list[Event] = []
        self._compacted = 0
        self._closed = False
        self._watches = Watches(self.revision, self._read_history)

    async def range(
        self,
        keys: KeyRange,
        *,
        revision: int = 0,
        limit: int = 0,
        min_mod_revision: int = 0,
        keys_only: bool = False,
    ) -> RangeResult:
        self._check_open()
        self._check_revision(revision)
        kvs = list(self._rows.scan(keys)) if revision in (0, self.revision) else self._at(keys, revision)
        count = len(kvs)
        kvs = [kv for kv in kvs if kv.mod_revision >= min_mod_revision]
        more = bool(limit) and len(kvs) > limit
        kvs = kvs[:limit] if limit else kvs
        if keys_only:
            kvs = [without_value(kv) for kv in kvs]
        return RangeResult(self.revision, tuple(kvs), count, more)

    def _at(self, keys: KeyRange, revision: int) -> list[KeyValue]:
        rows: dict[bytes, KeyValue] = {}
        for event in self._events:
            if event.kv.mod_revision > revision:
                break
            if event.type is EventType.PUT:
                rows[event.kv.key] = event.kv
            else:
                rows.pop(event.kv.key, None)
        return [rows[key] for key in sorted(rows) if keys.contains(key)]

    def _check_revision(self, revision: int) -> None:
        if revision > self.revision:
            raise FutureRevision(f"revision {revision} has not happened yet; the store is at {self.revision}")
        if revision and revision < self._compacted:
            raise Compacted(self._compacted)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    async def txn(self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        self._check_open()
        for ops in (success, failure):
            check_size(compares, ops, self.max_txn_ops, self.max_request_bytes)
        try:
            outcome = run_txn(self._rows, self.revision, compares, success, failure)
        except StoreError:
            self._rows.roll_back()
            raise
        self._rows.commit()
        self._committed(outcome)
        return outcome.result

    def _committed(self, outcome: Outcome) -> None:
        if not outcome.events:
            return
        self.revision = outcome.result.revision
        self._events.extend(outcome.events)
        self._clock.callLater(0, self._publish, self.revision, outcome.events)

    def _publish(self, revision: int, events: tuple[Event, ...]) -> None:
        self._watches.committed(revision, events)

    def watch(self, keys: KeyRange, start_revision: int, observer: WatchObserver) -> Watch:
        return self._watches.add(keys, start_revision or self.revision + 1, observer)

    def _read_history(self, keys: KeyRange, start_revision: int, done: Callable[[History | StoreError], None]) -> None:
        def read() -> None:
            if self._closed:
                done(StoreUnavailable("the store is closed"))
            elif start_revision < self._compacted:
                done(Compacted(self._compacted))
            else:
                # What is committed and not yet published belongs to the past already.
                past = (event for event in self._events if event.kv.mod_revision >= start_revision)
                done(History(tuple(batches_of(past, keys)), self.revision + 1, True))

        self._clock.callLater(0, read)

    # Leases

    async def lease_grant(self, ttl: int, lease: int = 0) -> Lease:
        self._check_open()
        lease, held = self._lessor.grant(ttl, lease, self._clock.seconds())
        self._await_expiry()
        return Lease(lease, held.ttl, held.ttl, self.revision)

    async def lease_keep_alive(self, lease: int) -> Lease:
        self._check_open()
        held = self._lessor.renew(lease, self._clock.seconds())
        self._await_expiry()
        return Lease(lease, held.ttl, held.ttl, self.revision)

    async def lease_revoke(self, lease: int) -> int:
        self._check_open()
        self._revoke(lease)
        self._await_expiry()
        return self.revision

    def _revoke(self, lease: int) -> None:
        self._lessor.find(lease)
        deletions = [Delete.single(key) for key in self._rows.of_lease(lease)]
        outcome = run_txn(self._rows, self.revision, (), deletions, ())
        self._lessor.remove(lease)
        self._rows.commit()
        self._committed(outcome)

    async def lease_time_to_live(self, lease: int) -> Lease:
        self._check_open()
        held = self._lessor.find(lease)
        left = int(held.left(self._clock.seconds()))
        return Lease(lease, left, held.ttl, self.revision, self._rows.of_lease(lease))

    async def leases(self) -> tuple[int, ...]:
        self._check_open()
        return tuple(sorted(self._lessor.all))

    def _await_expiry(self) -> None:
        self._lessor.commit()
        self._cancel_expiry()
        end = self._lessor.next_end()
        if end is not None and not self._closed:
            self._lease_timer = self._clock.callLater(max(0.0, end - self._clock.seconds()), self._expire)

    def _cancel_expiry(self) -> None:
        if self._lease_timer is not None and self._lease_timer.active():
            self._lease_timer.cancel()
        self._lease_timer = None

    def _expire(self) -> None:
        for lease in self._lessor.due(self._clock.seconds()):
            self._revoke(lease)
        self._await_expiry()

    async def compact(self, revision: int) -> None:
        self._check_open()
        if revision > self.revision:
            raise FutureRevision(f"cannot compact at {revision}; the store is at {self.revision}")
        if revision <= self._compacted:
            raise Compacted(self._compacted)
        newest = {e.kv.key: e.kv.mod_revision for e in self._events if e.kv.mod_revision <= revision}
        self._events = [event for event in self._events if _survives(event, revision, newest)]
        self._compacted = revision

    async def close(self) -> None:
        self._closed = True
        self._cancel_expiry()
        self._watches.cancel_all()


def _survives(event: Event, revision: int, newest: dict[bytes, int]) -> bool:
    """Whether a compaction keeps an event: the last change of each key stays, but for old deletions."""
    if event.kv.mod_revision >= revision:
        return True
    return event.type is EventType.PUT and newest[event.kv.key] == event.kv.mod_revision


def without_value(kv: KeyValue) -> KeyValue:
    return KeyValue(kv.key, b"", kv.create_revision, kv.mod_revision, kv.version, kv.lease)
