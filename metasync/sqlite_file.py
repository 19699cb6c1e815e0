"""The embedded store's database: tables, transactions, history. Synchronous; one thread uses it.

Every change of a key is a row of ``history``; ``live`` points to the newest row of each key that exists. The
file is in WAL mode and locked for this process alone.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from secrets import token_hex
from zlib import crc32

from metasync.interfaces import Compacted, FutureRevision, StoreError, StoreUnavailable
from metasync.leases import Clock, Lessor
from metasync.model import Compare, Delete, Event, EventType, KeyRange, KeyValue, Lease, Op, RangeResult
from metasync.mvcc import Outcome, batches_of, run_long, run_txn, tombstone
from metasync.watching import History

FORMAT = 2
"""Goes up when the tables change (``PRAGMA user_version``)."""

_APPLICATION_ID = 0x6B6D7331  # "kms1", shown by file(1)

_SCHEMA = f"""
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {FORMAT};
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE history (
    id INTEGER PRIMARY KEY, rev INTEGER NOT NULL, key BLOB NOT NULL, created INTEGER NOT NULL,
    version INTEGER NOT NULL, lease INTEGER NOT NULL, value BLOB NOT NULL, sum INTEGER NOT NULL
);
CREATE UNIQUE INDEX history_key ON history (key, rev);
CREATE INDEX history_rev ON history (rev);
CREATE TABLE live (key BLOB PRIMARY KEY, id INTEGER NOT NULL, rev INTEGER NOT NULL) WITHOUT ROWID;
"""

_LEASES = """
CREATE TABLE IF NOT EXISTS lease (id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL, left REAL NOT NULL);
CREATE INDEX IF NOT EXISTS history_lease ON history (lease) WHERE lease != 0;
"""
"""What format 2 has beside the tables of format 1. ``left`` is in seconds, as of the last time it was saved."""

_COLUMNS = "h.key, h.value, h.created, h.rev, h.version, h.lease"
_KEYS_ONLY = "h.key, x'', h.created, h.rev, h.version, h.lease"
_STRETCH_ROWS = 1000
_STRETCH_BYTES = 1 << 20
_SWEEP_ROWS = 2000
_VACUUM_PAGES = 256

_PAGE_BYTES = 1024
"""Of a new file. A write of a small object changes five pages, so that small ones spare the flash: 9 KB are handed to
the file system for it instead of 26 KB with SQLite's own 4096 (``benchmarks/metasync_flash.py``).
"""

_WAL_BYTES = 4 << 20
"""So much is written to the log before it is copied into the file; it then begins anew."""


class Damaged(StoreError):
    """The file is not a sound database."""


def _where(keys: KeyRange, column: str) -> tuple[str, list[bytes]]:
    if keys.end is None:
        return f"{column} = ?", [keys.start]
    if keys.end == b"\0":
        return f"{column} >= ?", [keys.start]
    return f"{column} >= ? AND {column} < ?", [keys.start, keys.end]


class _Rows:
    """The live rows of a transaction under way (:class:`metasync.mvcc.Rows`)."""

    def __init__(self, db: sqlite3.Connection, lessor: Lessor) -> None:
        self._db = db
        self._lessor = lessor

    def has_lease(self, lease: int) -> bool:
        return lease in self._lessor

    def get(self, key: bytes) -> KeyValue | None:
        found = self.scan(KeyRange.single(key))
        return found[0] if found else None

    def scan(self, keys: KeyRange, limit: int = 0) -> Sequence[KeyValue]:
        return select_live(self._db, keys, limit)

    def count(self, keys: KeyRange) -> int:
        return count_live(self._db, keys)

    def put(self, kv: KeyValue) -> None:
        row = self._append(kv)
        self._db.execute("INSERT OR REPLACE INTO live VALUES (?, ?, ?)", (kv.key, row, kv.mod_revision))

    def remove(self, key: bytes, revision: int) -> None:
        self._append(tombstone(key, revision))
        self._db.execute("DELETE FROM live WHERE key = ?", (key,))

    def _append(self, kv: KeyValue) -> int | None:
        return self._db.execute(
            "INSERT INTO history (rev, key, created, version, lease, value, sum) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (kv.mod_revision, kv.key, kv.create_revision, kv.version, kv.lease, kv.value, checksum(kv)),
        ).lastrowid


def checksum(kv: KeyValue) -> int:
    """Of everything in a row: SQLite checks its pages' structure, but not what they hold."""
    numbers = b"%d %d %d" % (kv.create_revision, kv.mod_revision, kv.version)
    if kv.lease:
        numbers += b" %d" % kv.lease
    return crc32(kv.value, crc32(kv.key, crc32(numbers)))


def select_live(
    db: sqlite3.Connection, keys: KeyRange, limit: int = 0, min_rev: int = 0, keys_only: bool = False
) -> list[KeyValue]:
    where, values = _where(keys, "l.key")
    rows = db.execute(
        f"SELECT {_KEYS_ONLY if keys_only else _COLUMNS} FROM live l JOIN history h ON h.id = l.id "
        f"WHERE {where} AND l.rev >= ? ORDER BY l.key LIMIT ?",
        [*values, min_rev, limit or -1],
    )
    return [KeyValue(*row) for row in rows]


def count_live(db: sqlite3.Connection, keys: KeyRange) -> int:
    where, values = _where(keys, "key")
    count: int = db.execute(f"SELECT count(*) FROM live WHERE {where}", values).fetchone()[0]
    return count


class SQLiteFile:
    """One open database.

    :param safe: every commit is on the disk when it returns (``synchronous=FULL``). Otherwise a power cut may lose
        the last seconds, but never damages the file.
    :raises Damaged: if the file is not a sound database of this format.
    :raises sqlite3.Error: if the file cannot be opened or written.
    """

    def __init__(self, path: Path, *, safe: bool = True, clock: Clock = time.monotonic) -> None:
        self.path = path
        self.clock = clock
        self.lessor = Lessor()
        new = not path.exists() or not path.stat().st_size
        if new:  # it will hold Secrets
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._db = sqlite3.connect(path, isolation_level=None, timeout=1, check_same_thread=False)
        try:
            self._prepare(new, safe)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, new: bool, safe: bool) -> None:
        db = self._db
        if new:
            db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if safe else 'NORMAL'}")
        (page,) = db.execute("PRAGMA page_size").fetchone()
        db.execute(f"PRAGMA wal_autocheckpoint = {_WAL_BYTES // page}")
        db.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        db.execute("PRAGMA cache_size = -2048")
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._create()
        self._check()
        self._upgrade()
        self._load_leases()
        self.identity = str(self._meta("identity"))
        self.revision = self._number("revision")
        self.compacted = self._number("compacted")
        self._rows = _Rows(db, self.lessor)
        self._opened = _place(self.path)

    def _create(self) -> None:
        statements = "".join(
            f"INSERT INTO meta VALUES ('{name}', {value!r});"
            for name, value in (("identity", token_hex(16)), ("revision", 1), ("compacted", 0))
        )
        self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {_LEASES} {statements} COMMIT;")

    def _upgrade(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version < FORMAT:
            self._db.executescript(f"BEGIN IMMEDIATE; {_LEASES} PRAGMA user_version = {FORMAT}; COMMIT;")

    def _check(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        if application != _APPLICATION_ID:
            raise StoreError(f"{self.path} is some other program's database; name another file for the store")
        if version > FORMAT:
            raise StoreError(f"{self.path} has format {version}, newer than this program's {FORMAT}; upgrade it")
        (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise Damaged(f"{self.path} is damaged: {verdict}")
        for *row, total in self._db.execute(f"SELECT {_COLUMNS}, h.sum FROM history h"):
            kv = KeyValue(*row)
            if checksum(kv) != total:
                raise Damaged(f"{self.path} is damaged: what it has of {kv.key!r:.200} is not what was written")

    def _meta(self, name: str) -> object:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise Damaged(f"{self.path} is damaged: it has no {name}")
        return row[0]

    def _number(self, name: str) -> int:
        value = self._meta(name)
        if not isinstance(value, int):
            raise Damaged(f"{self.path} is damaged: its {name} is {value!r}")
        return value

    # Transactions. The caller groups them: begin, any number of txn, commit.

    def begin(self) -> None:
        """:raises StoreUnavailable: if the file is not the one at its path any more: what is written would be lost."""
        self._before = self.revision
        if _place(self.path) != self._opened:
            raise StoreUnavailable(f"{self.path} was replaced or removed while it is in use; restart this process")
        self._db.execute("BEGIN IMMEDIATE")

    def txn(self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op]) -> Outcome:
        self._db.execute("SAVEPOINT one")
        try:
            outcome = run_txn(self._rows, self.revision, compares, success, failure)
        except BaseException:
            if self._db.in_transaction:  # a full disk may have ended it
                self._db.execute("ROLLBACK TO one")
                self._db.execute("RELEASE one")
            raise
        self._db.execute("RELEASE one")
        self.revision = outcome.result.revision
        return outcome

    def long_txn(self, compares: Sequence[Compare], ops: Iterable[Op], watched: Callable[[bytes], bool]) -> Outcome:
        """See :func:`metasync.mvcc.run_long`."""
        self._db.execute("SAVEPOINT one")
        try:
            outcome = run_long(self._rows, self.revision, compares, ops, watched)
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK TO one")
                self._db.execute("RELEASE one")
            if isinstance(error, sqlite3.IntegrityError):
                raise StoreError("a key is written twice in one transaction") from error
            raise
        self._db.execute("RELEASE one")
        self.revision = outcome.result.revision
        return outcome

    def commit(self) -> None:
        if self.revision != self._before:
            self._db.execute("UPDATE meta SET value = ? WHERE name = 'revision'", (self.revision,))
        self._db.execute("COMMIT")
        self.lessor.commit()

    def roll_back(self) -> None:
        self.lessor.roll_back()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self.revision = self._before

    # Leases. Those that change something stand between begin and commit, too.

    def grant(self, ttl: int, lease: int) -> Lease:
        lease, held = self.lessor.grant(ttl, lease, self.clock())
        self._db.execute("INSERT INTO lease VALUES (?, ?, ?)", (lease, held.ttl, held.ttl))
        return Lease(lease, held.ttl, held.ttl, self.revision)

    def keep_alive(self, lease: int) -> Lease:
        held = self.lessor.renew(lease, self.clock())
        # What was saved is less now than what is left: after a crash it would end early.
        self._db.execute("UPDATE lease SET left = ttl WHERE id = ? AND left < ttl", (lease,))
        return Lease(lease, held.ttl, held.ttl, self.revision)

    def revoke(self, lease: int) -> Outcome:
        self.lessor.find(lease)
        outcome = self.txn((), [Delete.single(key) for key in self._of_lease(lease)], ())
        self._db.execute("DELETE FROM lease WHERE id = ?", (lease,))
        self.lessor.remove(lease)
        return outcome

    def time_to_live(self, lease: int) -> Lease:
        held = self.lessor.find(lease)
        return Lease(lease, int(held.left(self.clock())), held.ttl, self.revision, self._of_lease(lease))

    def _of_lease(self, lease: int) -> tuple[bytes, ...]:
        rows = self._db.execute(
            "SELECT l.key FROM history h JOIN live l ON l.id = h.id WHERE h.lease = ? AND h.lease != 0 ORDER BY l.key",
            (lease,),
        )
        return tuple(key for (key,) in rows)

    def save_leases(self) -> None:
        """Keep what each has left now: it goes on from there after a restart."""
        now = self.clock()
        rows = [(held.left(now), lease) for lease, held in self.lessor.all.items()]
        self._db.executemany("UPDATE lease SET left = ? WHERE id = ?", rows)

    def _load_leases(self) -> None:
        now = self.clock()
        for lease, ttl, left in self._db.execute("SELECT id, ttl, left FROM lease"):
            self.lessor.restore(lease, ttl, left, now)

    def restore_lease(self, lease: int, ttl: int, left: float) -> None:
        """A lease that was rescued from a damaged file."""
        self._db.execute("INSERT OR REPLACE INTO lease VALUES (?, ?, ?)", (lease, ttl, left))
        self.lessor.restore(lease, ttl, left, self.clock())

    # Reads

    def range(self, keys: KeyRange, revision: int, limit: int, min_mod_revision: int, keys_only: bool) -> RangeResult:
        self._check_revision(revision)
        ask = limit + 1 if limit else 0
        if revision in (0, self.revision):
            count = count_live(self._db, keys)
            kvs = select_live(self._db, keys, ask, min_mod_revision, keys_only)
        else:
            count, kvs = self._range_at(keys, revision, ask, min_mod_revision, keys_only)
        more = bool(limit) and len(kvs) > limit
        return RangeResult(self.revision, tuple(kvs[:limit] if limit else kvs), count, more)

    def _check_revision(self, revision: int) -> None:
        if revision > self.revision:
            raise FutureRevision(f"revision {revision} has not happened yet; the store is at {self.revision}")
        if revision and revision < self.compacted:
            raise Compacted(self.compacted)

    def _range_at(
        self, keys: KeyRange, revision: int, limit: int, min_rev: int, keys_only: bool
    ) -> tuple[int, list[KeyValue]]:
        where, values = _where(keys, "key")
        newest = f"(SELECT key, max(rev) AS rev FROM history WHERE {where} AND rev <= ? GROUP BY key) n"
        source = f"FROM {newest} JOIN history h ON h.key = n.key AND h.rev = n.rev WHERE h.version > 0"
        (count,) = self._db.execute(f"SELECT count(*) {source}", [*values, revision]).fetchone()
        rows = self._db.execute(
            f"SELECT {_KEYS_ONLY if keys_only else _COLUMNS} {source} AND h.rev >= ? ORDER BY h.key LIMIT ?",
            [*values, revision, min_rev, limit or -1],
        )
        return count, [KeyValue(*row) for row in rows]

    def history(self, keys: KeyRange, start_revision: int) -> History:
        """:raises Compacted: if the stretch begins in what is forgotten."""
        if start_revision < self.compacted:
            raise Compacted(self.compacted)
        where, values = _where(keys, "h.key")
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM history h WHERE h.rev >= ? AND {where} ORDER BY h.rev, h.id",
            [start_revision, *values],
        )
        events, stopped_at = _stretch(KeyValue(*row) for row in rows)
        rows.close()
        return History(tuple(batches_of(events, keys)), stopped_at or self.revision + 1, not stopped_at)

    # Compaction

    def compact(self, revision: int) -> None:
        """Make everything before ``revision`` unreadable. :meth:`sweep` then frees it."""
        if revision > self.revision:
            raise FutureRevision(f"cannot compact at {revision}; the store is at {self.revision}")
        if revision <= self.compacted:
            raise Compacted(self.compacted)
        self._db.execute("UPDATE meta SET value = ? WHERE name = 'compacted'", (revision,))
        self.compacted = revision

    def sweep(self, first_id: int) -> int | None:
        """Free some superseded rows from ``first_id`` on. Returns where to go on, or ``None`` at the end."""
        end = first_id + _SWEEP_ROWS
        self._db.execute(
            "DELETE FROM history WHERE id >= ? AND id < ? AND rev < ? AND (version = 0 OR EXISTS ("
            "SELECT 1 FROM history n WHERE n.key = history.key AND n.rev > history.rev AND n.rev <= ?))",
            (first_id, end, self.compacted, self.compacted),
        )
        (last,) = self._db.execute("SELECT max(id) FROM history").fetchone()
        if last is not None and end <= last:
            return end
        self._db.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
        return None

    def oldest_after(self, keep: int) -> int:
        """The revision at which to compact so that about ``keep`` changes stay."""
        row = self._db.execute("SELECT rev FROM history ORDER BY id DESC LIMIT 1 OFFSET ?", (keep,)).fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        self._db.close()


def _place(path: Path) -> tuple[int, int] | None:
    """Which file stands there."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _stretch(rows: Iterator[KeyValue]) -> tuple[list[Event], int]:
    """Whole revisions of a bounded size, and the revision before which they end (0: that was all)."""
    events: list[Event] = []
    size = 0
    for kv in rows:
        full = len(events) >= _STRETCH_ROWS or size >= _STRETCH_BYTES
        if full and kv.mod_revision != events[-1].kv.mod_revision:
            return events, kv.mod_revision
        events.append(Event(EventType.PUT if kv.version else EventType.DELETE, kv))
        size += len(kv.key) + len(kv.value)
    return events, 0
