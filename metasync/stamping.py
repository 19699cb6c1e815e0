"""Gives the writes of applications their versions (:mod:`metasync.conflict`).

Applications write plain keys, with any client of the store. Beside each key stands its stamp, the packed version. A
key that was changed after its stamp has not been stamped yet; stamps are written only while their keys stand as they
were read. So it does not matter who writes, when, or how often this process dies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from twisted.logger import Logger

from metasync.conflict import Version, write
from metasync.feeds import spawn
from metasync.interfaces import Compacted, Store, StoreError, StoreUnavailable, Watch, WatchObserver
from metasync.keys import data_prefix, sync_prefix
from metasync.model import Compare, Get, KeyRange, KeyValue, Op, Put, RangeResult, WatchBatch

_log = Logger()
_PAGE = 500
ATTEMPTS = 50


@dataclass(frozen=True, slots=True)
class DataKeys:
    """Where the parts of application data stand. ``name`` is a key below the data prefix: ``SCOPE/…``."""

    network: str

    @property
    def data(self) -> bytes:
        return data_prefix(self.network).encode()

    @property
    def stamps(self) -> bytes:
        return f"{sync_prefix(self.network)}stamps/".encode()

    @property
    def floors(self) -> bytes:
        return f"{sync_prefix(self.network)}floors/".encode()

    @property
    def conflicts(self) -> bytes:
        return f"{sync_prefix(self.network)}conflicts/".encode()


@dataclass(frozen=True, slots=True)
class Entry:
    """A key as it stands, with its stamp."""

    name: bytes
    kv: KeyValue | None
    stamp: KeyValue | None

    @property
    def value(self) -> bytes | None:
        return self.kv.value if self.kv else None

    @property
    def version(self) -> Version | None:
        return Version.unpack(self.stamp.value) if self.stamp else None

    @property
    def dirty(self) -> bool:
        """Whether the key was written after its stamp."""
        if self.stamp is None:
            return self.kv is not None
        if self.kv is None:
            return not Version.unpack(self.stamp.value).deleted
        return self.kv.mod_revision > self.stamp.mod_revision

    def stands(self, keys: DataKeys) -> list[Compare]:
        """True in a transaction if nothing has changed since it was read."""
        return [
            Compare.unchanged(keys.data + self.name, self.kv.mod_revision if self.kv else 0),
            Compare.unchanged(keys.stamps + self.name, self.stamp.mod_revision if self.stamp else 0),
        ]


async def read_entries(store: Store, keys: DataKeys, names: Iterable[bytes]) -> list[Entry]:
    """The entries as of one moment (each chunk of them, where a store takes no more in one transaction)."""
    names = list(names)
    step = max(1, min(store.max_txn_ops, 2000) // 2)
    entries: list[Entry] = []
    for at in range(0, len(names), step):
        chunk = names[at : at + step]
        gets = [Get(KeyRange.single(prefix + name)) for name in chunk for prefix in (keys.data, keys.stamps)]
        found = [result for result in (await store.txn((), gets)).results if isinstance(result, RangeResult)]
        for number, name in enumerate(chunk):
            kv, stamp = found[2 * number].kvs, found[2 * number + 1].kvs
            entries.append(Entry(name, kv[0] if kv else None, stamp[0] if stamp else None))
    return entries


def compares_of(store: Store) -> int:
    """How many keys one transaction can guard: two compares each, and etcd counts compares as operations."""
    return max(1, min(int(getattr(store, "max_compares", store.max_txn_ops)), store.max_txn_ops) // 3)


class Stamper(WatchObserver):
    """Stamps all data of one network in one store, from :meth:`start` on.

    :param name: of the node or the cloud. With the store's identity it makes the origin of what is written here, so
        that a rebuilt store, which counts its writes anew, is another origin.
    """

    def __init__(self, store: Store, network: str, name: str) -> None:
        self.keys = DataKeys(network)
        self._name = name
        self._store = store
        self._dirty: set[bytes] = set()
        self._working = False
        self._watch: Watch | None = None
        self._floors: dict[bytes, int] = {}

    @property
    def origin(self) -> str:
        return f"{self._name}:{getattr(self._store, 'identity', '')[:8]}"

    @property
    def started(self) -> bool:
        return self._watch is not None

    async def start(self) -> None:
        """Stamp what was written meanwhile, and follow the store.

        :raises StoreError: if the store fails.
        """
        self.stop()
        revision = await self._scan()
        self._watch = self._store.watch(KeyRange.prefix(self.keys.data), revision + 1, self)
        await self.settle()

    def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def _scan(self) -> int:
        """Note every key that may be dirty. Returns a revision from which all later writes are news."""
        stamps, revision = await self._all(self.keys.stamps)
        data, _ = await self._all(self.keys.data)
        self._dirty |= {n for n, rev in data.items() if stamps.get(n, 0) < rev}
        self._dirty |= stamps.keys() - data.keys()
        return revision

    async def _all(self, prefix: bytes) -> tuple[dict[bytes, int], int]:
        found: dict[bytes, int] = {}
        rest, revision = KeyRange.prefix(prefix), 0
        while True:
            page = await self._store.range(rest, limit=_PAGE, keys_only=True)
            revision = revision or page.revision
            found.update((kv.key[len(prefix) :], kv.mod_revision) for kv in page.kvs)
            if not page.more:
                return found, revision
            rest = KeyRange(page.kvs[-1].key + b"\0", rest.end)

    def batch(self, batch: WatchBatch) -> None:
        self._dirty |= {event.kv.key[len(self.keys.data) :] for event in batch.events}
        self.progress(batch.revision)

    def progress(self, revision: int) -> None:
        """Also a moment to try again what failed, for want of space perhaps."""
        if self._dirty and not self._working:
            spawn(self.settle(), self._failed)

    def failed(self, error: StoreError) -> None:
        self._watch = None
        if isinstance(error, Compacted):
            spawn(self.start(), self._failed)
        else:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        _log.warn("application data cannot be stamped now: {error}", error=error)

    async def settle(self) -> None:
        """Stamp all that is dirty."""
        if self._working:
            return
        self._working = True
        try:
            while self._dirty:
                names, self._dirty = self._dirty, set()
                try:
                    await self._stamp(names)
                except BaseException:
                    self._dirty |= names
                    raise
        finally:
            self._working = False

    async def _stamp(self, names: set[bytes]) -> None:
        """Writes of one revision are stamped in one, so that they travel together."""
        for _ in range(ATTEMPTS):
            entries = [e for e in await read_entries(self._store, self.keys, sorted(names | self._dirty)) if e.dirty]
            await self.learn_floors(entries)
            if not entries or await self._write(entries):
                return
        raise StoreUnavailable("application data changes too fast to be stamped")

    async def _write(self, entries: Sequence[Entry]) -> bool:
        step = compares_of(self._store)
        for at in range(0, len(entries), step):
            chunk = entries[at : at + step]
            ops: list[Op] = [Put(self.keys.stamps + e.name, self.version_of(e).pack()) for e in chunk]
            compares = [compare for e in chunk for compare in e.stands(self.keys)]
            if not (await self._store.txn(compares, ops)).succeeded:
                return False
        return True

    async def learn_floors(self, entries: Iterable[Entry]) -> None:
        """To be called between reading entries and :meth:`version_of`: some may have had a stamp that is gone."""
        if any(entry.stamp is None for entry in entries):
            found = await self._store.range(KeyRange.prefix(self.keys.floors))
            self._floors = {kv.key[len(self.keys.floors) :]: int(kv.value) for kv in found.kvs}

    def version_of(self, entry: Entry) -> Version:
        """An entry's version; for a dirty one the version that it gets."""
        version = entry.version
        if version is None or entry.dirty:
            return write(version, self.origin, entry.value, self._floors.get(entry.name.partition(b"/")[0], 0))
        return version
