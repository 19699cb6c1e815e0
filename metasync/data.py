"""Feeds of application data: both sides send, both sides merge (:mod:`metasync.conflict`).

What is followed are the stamps, and what is sent are stamps with their values. To merge is harmless when repeated, so
nothing here depends on being delivered once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from metasync.conflict import InvalidVersion, Version, digest_of, merge, pack_loser, pack_record, unpack_record
from metasync.delta import Change, DoesNotFit
from metasync.feeds import Outlet, Overtaken
from metasync.interfaces import Store, StoreUnavailable
from metasync.keys import cursor_key
from metasync.lineage import Lineage
from metasync.model import Compare, Delete, KeyRange, Op, Put, WatchBatch
from metasync.mvcc import txn_bytes
from metasync.session import Feeds
from metasync.source import Comparison, SourceFeed
from metasync.stamping import ATTEMPTS, Entry, Stamper, compares_of, read_entries
from metasync.target import DEFAULT_MAX_BYTES, TargetFeed
from metasync.wire import ProtocolError

_MAX_ECHOES = 10_000

ROOM = 16 << 10
"""Bytes of a transaction that are left for its cursor and for how it is written."""


FEED_PREFIX = "data/"


def feed_name(scope: str) -> str:
    return FEED_PREFIX + scope


def add_data_feeds(
    feeds: Feeds,
    scope: str,
    store: Store,
    stamper: Stamper,
    lineage: Lineage,
    node: str,
    outlet: Outlet,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> None:
    """Both directions of one scope."""
    echoes = Echoes()
    name = feed_name(scope)
    feeds.sources[name] = DataSource(scope, store, stamper, lineage, outlet, echoes)
    feeds.targets[name] = DataTarget(scope, store, stamper, node, outlet, echoes, max_bytes)


class Echoes:
    """What the other end has just told us, so that it is not told the same again. Forgetting costs bytes only."""

    def __init__(self) -> None:
        self._heard: dict[bytes, bytes] = {}

    def heard(self, name: bytes, stamp: bytes) -> None:
        if len(self._heard) >= _MAX_ECHOES:
            self._heard.clear()
        self._heard[name] = stamp

    def is_news(self, name: bytes, stamp: bytes) -> bool:
        return self._heard.get(name) != stamp


class DataSource(SourceFeed):
    """Sends the stamps of a scope, each with its value.

    A revision of more keys than the target merges as one comes in pieces, which are facts one by one. As merging is
    harmless when repeated, the cursor stays before the revision until the last of them.
    """

    def __init__(
        self, scope: str, store: Store, stamper: Stamper, lineage: Lineage, outlet: Outlet, echoes: Echoes
    ) -> None:
        self._scope = f"{scope}/".encode()
        super().__init__(feed_name(scope), store, stamper.keys.stamps + self._scope, lineage, outlet)
        self._stamper = stamper
        self._echoes = echoes

    def _changes(self, batch: WatchBatch) -> list[Change]:
        return [_weighed(change) for change in super()._changes(batch)]

    async def _load(self, changes: Sequence[Change]) -> list[Change]:
        """Stamps with their values. A key that was written again since has a newer stamp, or gets one."""
        news = [c.key for c in changes if c.value is not None and self._echoes.is_news(c.key, c.value)]
        entries = await read_entries(self._store, self._stamper.keys, [self._scope + name for name in news])
        return [
            Change(name, pack_record(entry.version, entry.value))
            for name, entry in zip(news, entries, strict=True)
            if entry.version is not None and not entry.dirty
        ]

    async def _send_difference(self, comparison: Comparison, everything: bool = False) -> None:
        """As ordinary deltas, in the order in which they were stamped: so that any number of them fits."""
        rows: list[tuple[int, Change]] = []
        async for kv in self._rows(comparison.revision, min_mod_revision=(comparison.base or 0) + 1):
            key = self._key(kv)
            if everything or comparison.lacks(key, kv):
                rows.append((kv.mod_revision, _weighed(Change(key, kv.value))))
        rows.sort(key=lambda row: row[0])
        self._comparison = None
        self._busy = False
        self._restart_pending(comparison.base or 0)
        self.status.state = "live"
        for revision, together in groupby(rows, key=lambda row: row[0]):
            changes = [change for _, change in together]
            try:
                self._pending.add(revision, changes)
            except DoesNotFit:  # what comes after it is looked for once it is there
                self._unwatch()
                self._large = (revision, changes)
                self._flush()
                return
        self._pending.progress(comparison.revision)
        self._rewatch()
        self._flush()
        self._tell_place(comparison.revision)

    def _place_between(self) -> bytes:
        return self._lineage.no_place() if self._acked is None else self._lineage.token(self._acked)


def _weighed(change: Change) -> Change:
    """A stamp that weighs as much as it will with its value."""
    return replace(change, extra=Version.unpack(change.value).size if change.value else 0)


class DataTarget(TargetFeed):
    """Merges what comes for a scope, and remembers who lost."""

    stages = False

    def __init__(
        self, scope: str, store: Store, stamper: Stamper, node: str, outlet: Outlet, echoes: Echoes, max_bytes: int
    ) -> None:
        self._scope = f"{scope}/".encode()
        name, keys = feed_name(scope), stamper.keys
        cursor = cursor_key(keys.network, node, name)
        super().__init__(name, store, keys.stamps + self._scope, cursor, outlet, max_bytes)
        self._stamper = stamper
        self._echoes = echoes

    def _max_ops(self) -> int:
        return compares_of(self._store)

    async def _commit(self, token: bytes) -> int:
        records = self._records()
        self._forget_parts()
        for _ in range(ATTEMPTS):
            entries = await read_entries(self._store, self._stamper.keys, [self._scope + name for name in records])
            await self._stamper.learn_floors(entries)
            ops: list[Op] = []
            losers: list[Op] = []
            compares = [Compare.unchanged(self._cursor_key, self._cursor_mod)]
            for entry, (version, value) in zip(entries, records.values(), strict=True):
                compares += entry.stands(self._stamper.keys)
                ops += self._merged(entry, version, value, losers)
            if txn_bytes([*ops, *losers]) + ROOM <= self._store.max_request_bytes:
                ops += losers
            else:
                await self._keep(losers)
            result = await self._store.txn(compares, [*ops, Put(self._cursor_key, token)])
            if result.succeeded:
                return result.revision
            await self._check_cursor()
        raise StoreUnavailable(f"{self._name}: the data changes too fast to be merged")

    async def _keep(self, losers: Sequence[Op]) -> None:
        """Losers that are too much to be written with those that won: before, each by itself."""
        for loser in losers:
            await self._store.txn((), [loser])

    def _records(self) -> dict[bytes, tuple[Version, bytes | None]]:
        try:
            return {name: unpack_record(change.value or b"") for name, change in self._changes.items()}
        except InvalidVersion as error:
            raise ProtocolError(f"{self._name}: {error}") from error

    async def _check_cursor(self) -> None:
        found = (await self._store.range(KeyRange.single(self._cursor_key), keys_only=True)).kvs
        if (found[0].mod_revision if found else 0) != self._cursor_mod:
            raise Overtaken(f"another session has moved the cursor of {self._name}")

    def _merged(self, entry: Entry, version: Version, value: bytes | None, losers: list[Op]) -> list[Op]:
        keys, name = self._stamper.keys, entry.name
        mine = self._stamper.version_of(entry) if entry.stamp or entry.kv else None
        if mine is None:
            packed, theirs_won, conflict = version.pack(), True, False
        else:
            merged = merge(mine, version)
            packed, theirs_won, conflict = merged.version.pack(), merged.theirs_won, merged.conflict
        if packed == version.pack():
            self._echoes.heard(name[len(self._scope) :], packed)
        ops: list[Op] = []
        if theirs_won and digest_of(entry.value) != digest_of(value):
            ops.append(Delete.single(keys.data + name) if value is None else Put(keys.data + name, value))
        if ops or entry.stamp is None or entry.stamp.value != packed or entry.dirty:
            ops.append(Put(keys.stamps + name, packed))
        if conflict and mine is not None:
            loser = (mine, entry.value) if theirs_won else (version, value)
            losers.append(Put(keys.conflicts + name, pack_loser(*loser, self._store.max_request_bytes - ROOM)))
        return ops
