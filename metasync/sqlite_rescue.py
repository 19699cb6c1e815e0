"""What can still be read of a damaged store's file, into a new one. The damaged one is kept aside."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from metasync.leases import Clock
from metasync.model import KeyValue, Put
from metasync.sqlite_file import Damaged, SQLiteFile, checksum

_log = Logger()
_COMPANIONS = ("", "-wal", "-shm")
_PAGE = 100
_MOST_GAPS = 100_000
"""Unreadable rows in sequence after which the rest of the file is given up."""

_UNKNOWN_TTL = 3600
"""Seconds of a lease of which only its keys could be read: its owner keeps it alive, or it ends."""

_KEEP_ASIDE = 2
"""So many damaged files are kept."""

_CURSORS = b"/sync/cursors/"


def open_or_rescue(path: Path, *, safe: bool = True, clock: Clock = time.monotonic) -> SQLiteFile:
    """Open a store's file. One that is damaged is moved aside and replaced, with what can be read of it.

    What was rescued has no cursors: the sync compares all of it with the cloud, so that nothing stays wrong.

    :raises sqlite3.Error: if the file cannot be opened for another reason.
    """
    _finish(path)
    try:
        return SQLiteFile(path, safe=safe, clock=clock)
    except Damaged as error:
        reason = str(error)
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):
            raise
        reason = f"{path} is damaged: {error}"
    _log.critical("{reason}; reading what can be read of it", reason=reason)
    kept = _rescue(path, clock)
    aside = _move_aside(path)
    _finish(path)
    _log.critical(
        "{path} was damaged: {kept} keys could be read and are kept, the rest comes from the cloud; the damaged file "
        "is {aside}",
        path=path,
        kept=kept,
        aside=aside,
    )
    return SQLiteFile(path, safe=safe, clock=clock)


def _rescue(path: Path, clock: Clock) -> int:
    """Into a file beside it, which takes its place only when it is complete: this may be cut short, and begin again."""
    fresh = _rescued(path)
    _remove(fresh)
    try:
        file = SQLiteFile(fresh, clock=clock)
        try:
            return _fill(file, path)
        finally:
            file.close()
    except BaseException:
        _remove(fresh)
        raise


def _finish(path: Path) -> None:
    """If the damaged file is away, what was rescued takes its place."""
    fresh = _rescued(path)
    if fresh.exists() and not path.exists():
        for companion in _COMPANIONS[1:]:  # they belong to the damaged file
            path.with_name(path.name + companion).unlink(missing_ok=True)
        fresh.rename(path)


def _rescued(path: Path) -> Path:
    return path.with_name(path.name + ".rescued")


def _remove(path: Path) -> None:
    for companion in _COMPANIONS:
        path.with_name(path.name + companion).unlink(missing_ok=True)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    text = str(error)
    return "malformed" in text or "not a database" in text or "corrupt" in text


def _move_aside(path: Path) -> Path:
    """Under the next number. The oldest go: a device's flash is small, and whatever damages files may do so again."""
    asides = sorted((number, each) for each in path.parent.glob(f"{path.name}.damaged-*") if (number := _number(each)))
    aside = path.with_name(f"{path.name}.damaged-{asides[-1][0] + 1 if asides else 1}")
    for companion in _COMPANIONS:
        file = path.with_name(path.name + companion)
        if file.exists():
            file.rename(aside.with_name(aside.name + companion))
    for _, old in asides[: 1 - _KEEP_ASIDE]:
        _log.warn("{old} is deleted: newer damaged files are kept", old=old)
        _remove(old)
    return aside


def _number(aside: Path) -> int:
    number = aside.name.rpartition("-")[2]
    return int(number) if number.isdigit() else 0


def _fill(file: SQLiteFile, damaged: Path) -> int:
    latest: dict[bytes, KeyValue] = {}
    for kv in _readable(damaged):
        known = latest.get(kv.key)
        if known is None or kv.mod_revision >= known.mod_revision:
            latest[kv.key] = kv
    wanted = [kv for kv in latest.values() if kv.version and _CURSORS not in kv.key]
    leases = dict.fromkeys((kv.lease for kv in wanted if kv.lease), (_UNKNOWN_TTL, float(_UNKNOWN_TTL)))
    leases.update(_readable_leases(damaged))
    file.begin()
    for lease, (ttl, left) in leases.items():
        file.restore_lease(lease, ttl, left)
    for kv in wanted:
        file.txn((), [Put(kv.key, kv.value, kv.lease)], ())
    file.commit()
    return len(wanted)


def _readable_leases(path: Path) -> dict[int, tuple[int, float]]:
    db = sqlite3.connect(path, isolation_level=None)
    try:
        rows = db.execute("SELECT id, ttl, left FROM lease").fetchall()
    except sqlite3.Error:
        return {}
    finally:
        db.close()
    return {lease: (ttl, left) for lease, ttl, left in rows if type(ttl) is int and type(left) is float}


def _readable(path: Path) -> Iterator[KeyValue]:
    """Every row of the history that can be read, by way of the table alone (an index may be what is broken)."""
    try:
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("PRAGMA cell_size_check = ON")
        last, gaps, step = 0, 0, _PAGE
        while gaps < _MOST_GAPS:
            try:
                rows = db.execute(
                    "SELECT id, key, value, created, rev, version, lease, sum FROM history NOT INDEXED "
                    "WHERE id > ? ORDER BY id LIMIT ?",
                    (last, step),
                ).fetchall()
            except sqlite3.Error:
                # Row by row up to the damage, then past it.
                last, gaps, step = (last, gaps, 1) if step > 1 else (last + 1, gaps + 1, 1)
                continue
            if not rows:
                break
            for row in rows:
                kv = _sound(row[1:])
                if kv is not None:
                    yield kv
            last, gaps, step = rows[-1][0], 0, _PAGE
    except sqlite3.Error as error:
        _log.critical("{path}: nothing more can be read: {error}", path=path, error=error)
    finally:
        db.close()


def _sound(row: Sequence[Any]) -> KeyValue | None:
    """The row, if it is as it was written."""
    key, value, *numbers, total = row
    if not (isinstance(key, bytes) and isinstance(value, bytes) and all(isinstance(n, int) for n in numbers)):
        return None
    kv = KeyValue(key, value, *numbers)
    return kv if checksum(kv) == total else None
