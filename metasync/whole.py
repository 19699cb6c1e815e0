"""A store whose transactions are limited, with stages that are not: readers see all of a staged change, or nothing.

How that is done, and where it stands, is in :mod:`metasync.applying`. It holds for who reads and watches by way of
this class, in any process. Who reads the store beneath, with ``etcdctl`` say, can see a change while it is applied.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from metasync.applying import (
    Journal,
    Places,
    Whole,
    index_of,
    network_of,
    overlap,
    pack_chunk,
    unpack_chunk,
    widened,
)
from metasync.cursor import NO_PLACE
from metasync.feeds import Overtaken, spawn
from metasync.interfaces import Compacted, StoreError, Watch, WatchObserver
from metasync.model import Compare, Delete, KeyRange, KeyValue, Op, Put, RangeResult, TxnResult
from metasync.mvcc import check_size
from metasync.passing import PassingStore

_OVERHEAD = 64 << 10
"""Bytes of a transaction that are left for the journal and for the encoding."""

_READ_AGAIN = 10


class WholeStore(PassingStore):
    """:param store: one that is limited (etcd)."""

    log = Logger()

    # Reading

    async def range(
        self,
        keys: KeyRange,
        *,
        revision: int = 0,
        limit: int = 0,
        min_mod_revision: int = 0,
        keys_only: bool = False,
    ) -> RangeResult:
        """As ever; but while a change of the range is applied, as it was just before (the result says of when)."""

        async def read(at: int) -> RangeResult:
            return await self.beneath.range(
                keys, revision=at, limit=limit, min_mod_revision=min_mod_revision, keys_only=keys_only
            )

        for _ in range(_READ_AGAIN):
            found = await read(revision)
            under_way = await self._under_way(keys, revision or found.revision)
            if not under_way:
                return found
            before = min(entry.create_revision for entry in under_way) - 1
            try:
                past = await read(before)
                return RangeResult(before, past.kvs, past.count, past.more)
            except Compacted:
                if revision:
                    raise
                for entry in under_way:
                    await self.finish(Places.of_index(entry.key))
        raise StoreError(f"{keys}: one large change after the other; try again")

    async def _under_way(self, keys: KeyRange, revision: int) -> list[KeyValue]:
        """The index's entries of changes that are not finished at a revision."""
        network = network_of(keys)
        if network is None:
            return []
        index = await self.beneath.range(index_of(network), revision=revision)
        found = []
        for entry in index.kvs:
            places = Places.of_index(entry.key)
            if overlap(keys, KeyRange.prefix(places.prefix)):
                # Somebody may have deleted the whole node or site, and the journal with it.
                journal = await self.beneath.range(KeyRange.single(places.journal), revision=revision)
                found += [entry] if journal.kvs else []
        return found

    def watch(self, keys: KeyRange, start_revision: int, observer: WatchObserver) -> Watch:
        if network_of(keys) is None:
            return self.beneath.watch(keys, start_revision, observer)
        return self.beneath.watch(widened(keys), start_revision, Whole(keys, observer))

    # Stages

    @property
    def stage_ops(self) -> int:
        return self.max_txn_ops - 1  # and the journal

    @property
    def stage_bytes(self) -> int:
        return self.max_request_bytes - min(_OVERHEAD, self.max_request_bytes // 4)

    def stage(self, prefix: bytes) -> WholeStage:
        return WholeStage(self, Places.of(prefix))

    async def settle(self, prefix: bytes) -> None:
        places = Places.of(prefix)
        await self.finish(places)
        await self.clear(places, Compare.absent(places.journal))

    async def clear(self, places: Places, guard: Compare) -> None:
        """Delete what is staged while ``guard`` holds, key by key: what was deleted comes back with the answer."""
        found = await self.beneath.range(KeyRange.prefix(places.staged), keys_only=True)
        for kv in found.kvs:  # the owner is the last, and may be the guard
            if not (await self.beneath.txn([guard], [Delete.single(kv.key)])).succeeded:
                return

    async def recover(self, network: str) -> None:
        for entry in (await self.beneath.range(index_of(network))).kvs:
            places = Places.of_index(entry.key)
            self.log.info("{prefix}: a change that was not finished is", prefix=places.prefix.decode())
            await self.finish(places)

    async def finish(self, places: Places) -> int:
        """Apply what is left of a change that is a fact. Returns the revision that ended it, 0 if somebody else did.

        Any number of processes may do so at once: each step is done by one of them.
        """
        while (found := (await self.beneath.range(KeyRange.single(places.journal))).kvs) != ():
            journal, revision = Journal.unpack(found[0].value), found[0].mod_revision
            while journal.done < journal.chunks:
                ops = [*await self._chunk(places, journal.done), Put(places.journal, journal.advanced().pack())]
                done = await self.beneath.txn([Compare.unchanged(places.journal, revision)], ops)
                if not done.succeeded:
                    break
                journal, revision = journal.advanced(), done.revision
            else:
                ended = await self._end(places, journal, revision)
                if ended:
                    await self.clear(places, Compare.absent(places.owner))
                    return ended
        if (await self.beneath.range(KeyRange.single(places.index), keys_only=True)).kvs:
            await self.beneath.txn([Compare.absent(places.journal)], [Delete.single(places.index)])
        return 0

    async def _chunk(self, places: Places, number: int) -> list[Op]:
        found = (await self.beneath.range(KeyRange.single(places.chunk(number)))).kvs
        if found:
            return unpack_chunk(found[0].value)
        # Either somebody else has finished meanwhile, and the step will fail, or somebody has deleted it.
        if (await self.beneath.range(KeyRange.single(places.journal))).kvs:
            raise StoreError(
                f"{places.chunk(number).decode()} is missing: delete {places.journal.decode()} and its cursor"
            )
        return []

    async def _end(self, places: Places, journal: Journal, revision: int) -> int:
        ops: list[Op] = [*map(Delete.single, (places.journal, places.index, places.owner)), *journal.puts]
        done = await self.beneath.txn([Compare.unchanged(places.journal, revision)], ops)
        return done.revision if done.succeeded else 0


class WholeStage:
    """A :class:`metasync.interfaces.Stage`: chunks beside the keys, a journal that makes them a fact."""

    def __init__(self, store: WholeStore, places: Places) -> None:
        self._store = store
        self._beneath = store.beneath
        self._places = places
        self._one = DeferredLock()
        self._mine = 0
        self._chunks = 0

    async def add(self, ops: Sequence[Op]) -> None:
        check_size((), ops, self._store.stage_ops, self._store.stage_bytes)
        await self._one.acquire()
        try:
            if not self._mine:
                await self._begin()
            chunk = Put(self._places.chunk(self._chunks), pack_chunk(ops))
            if not (await self._beneath.txn([self._still_mine], [chunk])).succeeded:
                raise Overtaken(f"a newer change of {self._places.prefix.decode()} is being gathered")
            self._chunks += 1
        finally:
            self._one.release()

    async def _begin(self) -> None:
        """Nobody else gathers for this prefix from now on."""
        await self._store.settle(self._places.prefix)
        self._mine = (await self._beneath.txn((), [Put(self._places.owner, b"")])).revision

    @property
    def _still_mine(self) -> Compare:
        return Compare.unchanged(self._places.owner, self._mine)

    async def commit(self, compares: Sequence[Compare], last: Sequence[Op] = ()) -> TxnResult:
        puts = [op for op in last if isinstance(op, Put)]
        assert len(puts) == len(last)
        if not self._chunks:
            await self.add(())
        journal = Journal(self._chunks, 0, tuple((put.key, put.value) for put in puts))
        ops: list[Op] = [Put(self._places.journal, journal.pack()), Put(self._places.index, b"")]
        # Whoever stands in for the old state by these keys stands no more; and who looks at them sees it.
        ops += [Put(put.key, NO_PLACE) for put in puts]
        begun = await self._beneath.txn([self._still_mine, *compares], ops)
        if not begun.succeeded:
            self.discard()
            return begun
        ended = await self._store.finish(self._places)
        return TxnResult(True, ended) if ended else await self._ended_by_another(puts)

    async def _ended_by_another(self, puts: Sequence[Put]) -> TxnResult:
        for put in puts:
            found = (await self._beneath.range(KeyRange.single(put.key))).kvs
            if not found or found[0].value != put.value:
                raise Overtaken(f"{put.key.decode()} has been moved meanwhile")
            return TxnResult(True, found[0].mod_revision)
        return TxnResult(True, 0)

    def discard(self) -> None:
        spawn(self._discard(), lambda _: None)  # the next stage of the prefix clears up too

    async def _discard(self) -> None:
        if self._mine:
            await self._store.clear(self._places, self._still_mine)
