"""Marks a store's history, so that a restored or replaced store is never taken for its own continuation."""

from __future__ import annotations

from secrets import token_hex

from metasync.cursor import Cursor, InvalidCursor, Mark, continues, newest_mark
from metasync.interfaces import Store, StoreError, Watch, WatchObserver
from metasync.keys import sync_prefix
from metasync.model import Delete, EventType, KeyRange, Put, WatchBatch

_KEEP = 64
"""Marks that are kept. A cursor older than them costs a comparison of digests."""


class Lineage(WatchObserver):
    """The history of one store, as the sync of one network sees it.

    :param name: who writes the mark, for people who read the store.
    """

    def __init__(self, store: Store, network: str, name: str) -> None:
        self._store = store
        self._keys = KeyRange.prefix(f"{sync_prefix(network)}nonces/".encode())
        self._name = name
        self._marks: list[Mark] = []
        self._watch: Watch | None = None

    @property
    def identity(self) -> str:
        """What the store says of itself; an etcd says it only once it has answered."""
        return getattr(self._store, "identity", "")

    @property
    def started(self) -> bool:
        return self._watch is not None

    def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def start(self) -> None:
        """Write a mark. To be called at every connection to the store, before any cursor is made.

        :raises StoreError: if that cannot be done now.
        """
        found = await self._store.range(self._keys)
        marks = sorted(found.kvs, key=lambda kv: kv.create_revision)
        old = [Delete.single(kv.key) for kv in marks[: 1 - _KEEP]]
        result = await self._store.txn((), [*old, Put(self._keys.start + token_hex(16).encode(), self._name.encode())])
        await self._load()
        # Other servers of the same store write marks too; a cursor must name the newest.
        self.stop()
        self._watch = self._store.watch(self._keys, result.revision + 1, self)

    async def _load(self) -> int:
        found = await self._store.range(self._keys, keys_only=True)
        self._marks = [
            Mark(kv.key[len(self._keys.start) :].decode("ascii", "replace"), kv.create_revision) for kv in found.kvs
        ]
        return found.revision

    def batch(self, batch: WatchBatch) -> None:
        for event in batch.events:
            if event.type is EventType.PUT:
                nonce = event.kv.key[len(self._keys.start) :].decode("ascii", "replace")
                self._marks.append(Mark(nonce, event.kv.create_revision))
        del self._marks[:-_KEEP]

    def progress(self, revision: int) -> None:
        pass

    def failed(self, error: StoreError) -> None:
        """The store may come back with another history: it needs a new mark (:attr:`started` tells)."""
        self._watch = None

    def token(self, revision: int) -> bytes:
        """The cursor of a place in this history, for a target to keep."""
        return Cursor(self.identity, newest_mark(self._marks, revision) or "", revision).token()

    def no_place(self) -> bytes:
        """A cursor for a target that holds a part of a difference. Who resumes with it compares everything."""
        return Cursor(self.identity, "", 0).token()

    async def place(self, token: bytes | None) -> int | None:
        """The revision of a cursor, or ``None`` if it is not in this store's history.

        :raises StoreError: if the store cannot tell now.
        """
        if token is None:
            return None
        try:
            cursor = Cursor.parse(token)
        except InvalidCursor:
            return None
        revision = await self._load()
        return cursor.revision if continues(cursor, self.identity, revision, self._marks) else None
