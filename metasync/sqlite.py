"""The embedded store: SQLite on one thread of its own, with group commit."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from metasync.interfaces import StoreError, StoreUnavailable, Watch, WatchObserver
from metasync.leases import Clock
from metasync.model import Compare, KeyRange, Lease, Op, RangeResult, TxnResult
from metasync.mvcc import Outcome, check_size
from metasync.sqlite_file import SQLiteFile
from metasync.sqlite_rescue import open_or_rescue
from metasync.sqlite_stage import SQLiteStage
from metasync.watching import History, Watches

_T = TypeVar("_T")


class ThreadCalls(Protocol):
    """The part of ``IReactorFromThreads`` that is needed here."""

    def callFromThread(self, callable: Callable[..., object], *args: object) -> None: ...


_GROUP = 256
"""At most so many transactions share a commit, so that the first of them need not wait for ever."""

_SAVE_LEASES = 60.0
_EXPIRE_AGAIN = 5.0
"""Seconds: so often what leases have left is saved, so late one is tried again that could not be ended."""

DEFAULT_MAX_TXN_OPS = 1_000_000
DEFAULT_MAX_REQUEST_BYTES = 256 << 20
STAGE_OPS = 1 << 32
STAGE_BYTES = 8 << 30
"""The most that one stage may have: the disk's size is the limit, and whoever fills it gets an error."""


@dataclass(eq=False, slots=True)
class _Job(Generic[_T]):
    """A call for the thread, and who waits for it. Writes that stand together share a commit."""

    call: Callable[[SQLiteFile], _T]
    done: Callable[[_T | Failure], None]
    writes: bool = False
    outcome: _T | Failure | None = field(default=None)


class SQLiteStore:
    """A :class:`metasync.interfaces.Store` in one file. Make it with :meth:`open`."""

    log = Logger()

    def __init__(self, reactor: ThreadCalls, file: SQLiteFile, max_txn_ops: int, max_request_bytes: int) -> None:
        self.max_txn_ops = max_txn_ops
        self.max_request_bytes = max_request_bytes
        self.stage_ops, self.stage_bytes = STAGE_OPS, STAGE_BYTES
        self.identity = file.identity
        self.path = file.path
        self._reactor = reactor
        self._file = file
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._closing: Deferred[None] | None = None
        self._save_at = file.clock() + _SAVE_LEASES
        self._watches = Watches(file.revision, self._read_history)
        self._thread = threading.Thread(target=self._work, name=f"sqlite {file.path.name}", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        reactor: ThreadCalls,
        path: str | Path,
        *,
        safe: bool = True,
        max_txn_ops: int = DEFAULT_MAX_TXN_OPS,
        max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES,
        clock: Clock = time.monotonic,
    ) -> SQLiteStore:
        """Open the file, or make it. This blocks (it checks the file), so do it before the reactor is busy.

        A damaged file is moved aside, and a new one made with all that can still be read of it.

        :param safe: whether an acknowledged write must survive a power cut (it always survives a crash).
        :param clock: by which leases end: the system's steady one, which nobody can set.
        :raises StoreError: if it cannot be opened.
        """
        path = Path(path)
        try:
            return cls(reactor, open_or_rescue(path, safe=safe, clock=clock), max_txn_ops, max_request_bytes)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(_explain(path, error)) from error

    # The reactor's side

    async def range(
        self,
        keys: KeyRange,
        *,
        revision: int = 0,
        limit: int = 0,
        min_mod_revision: int = 0,
        keys_only: bool = False,
    ) -> RangeResult:
        return await self._ask(lambda file: file.range(keys, revision, limit, min_mod_revision, keys_only))

    async def txn(self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        for ops in (success, failure):
            check_size(compares, ops, self.max_txn_ops, self.max_request_bytes)
        outcome = await self._ask(lambda file: file.txn(compares, success, failure), writes=True)
        return outcome.result

    def stage(self, prefix: bytes = b"") -> SQLiteStage:
        return SQLiteStage(self.path.parent, self._ask, self._watches.watched)

    async def settle(self, prefix: bytes) -> None:
        """A stage is a transaction here: it has happened, or it has not."""

    async def recover(self, network: str) -> None:
        """See :meth:`settle`."""

    def watch(self, keys: KeyRange, start_revision: int, observer: WatchObserver) -> Watch:
        return self._watches.add(keys, start_revision, observer)

    async def compact(self, revision: int) -> None:
        await self._ask(lambda file: file.compact(revision))
        self._sweep(0)

    async def lease_grant(self, ttl: int, lease: int = 0) -> Lease:
        return await self._ask(lambda file: file.grant(ttl, lease), writes=True)

    async def lease_keep_alive(self, lease: int) -> Lease:
        return await self._ask(lambda file: file.keep_alive(lease), writes=True)

    async def lease_revoke(self, lease: int) -> int:
        return (await self._ask(lambda file: file.revoke(lease), writes=True)).result.revision

    async def lease_time_to_live(self, lease: int) -> Lease:
        return await self._ask(lambda file: file.time_to_live(lease))

    async def leases(self) -> tuple[int, ...]:
        return await self._ask(lambda file: tuple(sorted(file.lessor.all)))

    async def oldest_after(self, keep: int) -> int:
        """The revision at which to compact so that about ``keep`` changes stay (0: there are no more)."""
        return await self._ask(lambda file: file.oldest_after(keep))

    async def close(self) -> None:
        if self._closing is None:
            self._closing = Deferred()
            self._watches.cancel_all()
            self._jobs.put(None)
            await self._closing
            self._thread.join()

    def _sweep(self, first_id: int) -> None:
        """Free superseded rows, a little at a time: what waits in the queue comes between."""

        def swept(found: int | Failure | None) -> None:
            if isinstance(found, int) and self._closing is None:
                self._sweep(found)
            elif isinstance(found, Failure):
                self.log.warn("{path}: could not free compacted rows: {error}", path=self.path, error=found.value)

        self._jobs.put(_Job(lambda file: file.sweep(first_id), swept))

    def _ask(self, call: Callable[[SQLiteFile], _T], writes: bool = False) -> Deferred[_T]:
        done: Deferred[_T] = Deferred()
        if self._closing is not None:
            done.errback(StoreUnavailable("the store is closed"))
        else:
            self._jobs.put(_Job(call, lambda found: _fire(done, found), writes))
        return done

    def _read_history(self, keys: KeyRange, start_revision: int, done: Callable[[History | StoreError], None]) -> None:
        def read(found: History | Failure) -> None:
            if not isinstance(found, Failure):
                done(found)
            elif isinstance(found.value, StoreError):
                done(found.value)
            else:
                self.log.failure("reading the history of {keys} failed", failure=found, keys=keys)
                done(StoreUnavailable(f"reading the history failed: {found.value}"))

        self._jobs.put(_Job(lambda file: file.history(keys, start_revision), read))

    def _finished(self, jobs: list[_Job[Any]]) -> None:
        """On the reactor's thread: tell watchers of what was committed, then those who asked."""
        for job in jobs:
            if isinstance(job.outcome, Outcome) and (job.outcome.events or job.outcome.unwatched):
                self._watches.committed(job.outcome.result.revision, job.outcome.events)
        for job in jobs:
            job.done(job.outcome)

    # The thread's side

    def _work(self) -> None:
        waiting: _Job[Any] | None = None
        while True:
            self._mind_leases()
            try:
                job = waiting or self._jobs.get(timeout=self._until_expiry())
            except Empty:
                continue
            waiting = None
            if job is None:
                break
            if job.writes:
                group, waiting, last = self._gather(job)
                self._write(group)
            else:
                group, last = [job], False
                job.outcome = self._attempt(job)
            self._reactor.callFromThread(self._finished, group)
            if last:
                break
        self._save_leases()
        self._file.close()
        self._reactor.callFromThread(self._closed)

    def _until_expiry(self) -> float | None:
        """Seconds until a lease ends, or until what leases have left is to be saved; ``None``: there are none."""
        end = self._file.lessor.next_end()
        return None if end is None else max(0.0, min(end, self._save_at) - self._file.clock())

    def _mind_leases(self) -> None:
        now = self._file.clock()
        for lease in self._file.lessor.due(now):
            self._expire(lease, now)
        if now >= self._save_at:
            self._save_leases()

    def _expire(self, lease: int, now: float) -> None:
        job: _Job[Any] = _Job(lambda file: file.revoke(lease), _ignore)
        self._write([job])
        if isinstance(job.outcome, Failure):
            self.log.warn("lease {lease} could not be ended: {error}", lease=lease, error=job.outcome.value)
            self._file.lessor.postpone(lease, now + _EXPIRE_AGAIN)
        else:
            self._reactor.callFromThread(self._finished, [job])

    def _save_leases(self) -> None:
        self._save_at = self._file.clock() + _SAVE_LEASES
        if self._file.lessor.next_end() is not None:
            job: _Job[Any] = _Job(lambda file: file.save_leases(), _ignore)
            self._write([job])
            if isinstance(job.outcome, Failure):
                self.log.warn("what leases have left could not be saved: {error}", error=job.outcome.value)

    def _closed(self) -> None:
        assert self._closing is not None
        self._closing.callback(None)

    def _gather(self, first: _Job[Any]) -> tuple[list[_Job[Any]], _Job[Any] | None, bool]:
        """The writes that stand together in the queue; the read after them; whether the end came after them."""
        group = [first]
        while len(group) < _GROUP:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
            if job is None:
                return group, None, True
            if not job.writes:
                return group, job, False
            group.append(job)
        return group, None, False

    def _write(self, group: list[_Job[Any]]) -> None:
        try:
            self._file.begin()
            for job in group:
                try:
                    job.outcome = job.call(self._file)
                except sqlite3.Error:
                    raise
                except Exception as error:  # its own mistake, and its own changes are undone
                    job.outcome = self._failure(error)
            self._file.commit()
        except Exception as error:
            self._file.roll_back()
            for job in group:
                job.outcome = self._failure(error)

    def _attempt(self, job: _Job[Any]) -> Any:
        try:
            return job.call(self._file)
        except Exception as error:
            return self._failure(error)

    def _failure(self, error: Exception) -> Failure:
        if isinstance(error, StoreError):
            return Failure(error)  # type: ignore[no-untyped-call]
        if not isinstance(error, sqlite3.Error | OSError):
            self.log.failure("{path}: a call of the store failed", path=self.path)
        return Failure(StoreUnavailable(_explain(self.path, error)))  # type: ignore[no-untyped-call]


def _ignore(found: object) -> None:
    pass


def _fire(done: Deferred[_T], found: _T | Failure) -> None:
    if isinstance(found, Failure):
        done.errback(found)
    else:
        done.callback(found)


def _explain(path: Path, error: Exception) -> str:
    text = str(error)
    if "locked" in text:
        return f"{path} is in use by another process; stop it, or name another file"
    if "full" in text or "No space left" in text:
        return f"{path}: the disk is full; free some space"
    if "readonly" in text or "read-only" in text.lower() or _on_read_only_disk(path):
        return f"{path} cannot be written: the file or its disk is read-only"
    if "unable to open" in text:
        return f"{path} cannot be opened: check that its directory exists and can be written"
    return f"{path}: {text or type(error).__name__}"


def _on_read_only_disk(path: Path) -> bool:
    try:
        return bool(os.statvfs(path.parent).f_flag & os.ST_RDONLY)
    except OSError:
        return False
