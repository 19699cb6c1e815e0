"""The end of a feed that applies the changes: whole deltas, each in one transaction with its cursor."""

from __future__ import annotations

from collections.abc import AsyncIterator

from twisted.logger import Logger

from metasync.cursor import Cursor, InvalidCursor
from metasync.delta import Change
from metasync.digest import ITEM, Digests, bucket_of, item_of, pack_buckets
from metasync.feeds import FeedStatus, Outlet, Overtaken, spawn
from metasync.interfaces import Stage, Stageable, Store, TxnTooLarge
from metasync.model import Compare, Delete, KeyRange, KeyValue, Op, Put
from metasync.wire import PART, Ack, Changes, Entries, Held, ProtocolError, Reconcile, Subscribe

_PAGE = 500
_CURSOR_BYTES = 4096
"""Room left in a transaction for the cursor."""

_RETRY_TICKS = 5
_IN_MEMORY = 1 << 20
"""So many bytes of a delta are held in memory; the rest is staged, where the store can do that."""

DEFAULT_MAX_BYTES = 256 << 20
STAGED_MAX_BYTES = 1 << 40
STAGED_MAX_OPS = 1 << 32
"""The largest delta: where all of it is held in memory until it is whole, and where it is staged."""


class TargetFeed:
    """Takes one prefix from one source, for the life of one session.

    The cursor's own revision guards every transaction: of two sessions that overlap, one fails, and no delta is
    applied twice or in part.
    """

    log = Logger()
    stages = True
    """Whether a large delta may be staged: it is written as it comes."""

    def __init__(
        self,
        name: str,
        store: Store,
        prefix: bytes,
        cursor_key: bytes,
        outlet: Outlet,
        max_bytes: int = 0,
    ) -> None:
        """:param max_bytes: the largest delta to take (0: as large as the store and memory allow)."""
        self._staging = store if self.stages and isinstance(store, Stageable) else None
        most = STAGED_MAX_BYTES if self._staging else min(DEFAULT_MAX_BYTES, store.max_request_bytes)
        self._max_bytes = min(max_bytes or most, most)
        self._stage: Stage | None = None
        self._rewritten: set[bytes] = set()
        self._count = 0
        self.status = FeedStatus(name, "receiving")
        self._name = name
        self._store = store
        self._prefix = prefix
        self._keys = KeyRange.prefix(prefix)
        self._cursor_key = cursor_key
        self._cursor_mod = 0
        self._outlet = outlet
        self._changes: dict[bytes, Change] = {}
        self._forget: set[bytes] = set()
        self._bytes = self._unstaged = 0
        self._items: dict[bytes, bytes] = {}
        self._busy = True
        self._held_ticks = 0
        self._stopped = False

    def start(self) -> None:
        self._spawn(self._subscribe())

    def stop(self) -> None:
        self._stopped = True
        self._forget_parts()

    def received(self, message: Reconcile | Changes | Held) -> None:
        """:raises ProtocolError: if the message makes no sense now."""
        if self._busy:
            raise ProtocolError(f"{self._name}: a {type(message).__name__} before the answer to what came before")
        match message:
            case Reconcile():
                self._busy = True
                self._spawn(self._compare(message))
            case Changes():
                self._part(message)
            case Held():
                self._held(message)

    def tick(self) -> None:
        """Called now and then: ask again for what was held up; its cause may be gone."""
        if self._held_ticks:
            self._held_ticks -= 1
            if not self._held_ticks:
                self._busy = True
                self.start()

    async def _subscribe(self) -> None:
        found = await self._store.range(KeyRange.single(self._cursor_key))
        token = found.kvs[0].value if found.kvs else None
        self._cursor_mod = found.kvs[0].mod_revision if found.kvs else 0
        empty = token is None and not (await self._store.range(self._keys, limit=1, keys_only=True)).kvs
        if self._stopped:
            return
        self._note(token)
        self.status.state = "live"
        self._busy = False
        size = self._max_bytes - _CURSOR_BYTES
        self._outlet.send(Subscribe(self._name, token, empty, self._max_ops(), size))

    def _max_ops(self) -> int:
        """How many changes one transaction holds beside the cursor."""
        return (STAGED_MAX_OPS if self._staging else self._store.max_txn_ops) - 1

    def _held(self, message: Held) -> None:
        self.log.error("sync of {prefix} is held up: {reason}", prefix=self._prefix.decode(), reason=message.reason)
        self._forget_parts()
        self.status.state, self.status.error = "held", message.reason
        self._held_ticks = _RETRY_TICKS

    # Deltas

    def _part(self, message: Changes) -> None:
        for change in message.changes:
            self._changes[change.key] = change
            size = len(change.key) + len(change.value or b"")
            self._bytes += size
            self._unstaged += size
            if self._items:  # what is to be forgotten may be written anew, in this transaction or in one before
                self._rewritten.add(change.key)
        self._count += len(message.changes)
        for offset in range(0, len(message.forget), ITEM):
            self._forget.add(message.forget[offset : offset + ITEM])
        if self._bytes > self._max_bytes or self._count > self._max_ops() + 1:
            raise ProtocolError(f"{self._name}: a delta is larger than this store takes")
        if self._staging is not None and self._unstaged > _IN_MEMORY:
            self._stage = self._stage or self._staging.stage()
            self._put_aside(self._stage)
        if message.cursor is not None:
            self._busy = True
            self._spawn(self._apply(message.cursor))

    def _put_aside(self, stage: Stage) -> None:
        ops = [self._op(change) for change in self._changes.values()]
        self._changes, self._unstaged = {}, 0
        self._spawn(stage.add(ops))

    async def _apply(self, token: bytes) -> None:
        await self._outlet.admit()
        if self._stopped:
            return
        try:
            self._cursor_mod = await self._commit(token)
        except TxnTooLarge as error:
            raise ProtocolError(f"{self._name}: {error}") from error
        self._note(token)
        if not _is_partial(token):
            self._items, self._rewritten = {}, set()
        self.status.last_synced = self._outlet.seconds()
        self._busy = False
        if not self._stopped:
            self._outlet.send(Ack(self._name, token))

    async def _commit(self, token: bytes) -> int:
        """Write the delta and the cursor as one. Returns the revision."""
        guard = Compare.unchanged(self._cursor_key, self._cursor_mod)
        ops = [*self._ops(), Put(self._cursor_key, token)]
        stage, self._stage = self._stage, None
        self._forget_parts()
        if stage is not None:
            self._spawn(stage.add(ops))
            result = await stage.commit([guard])
        else:
            result = await self._store.txn([guard], ops)
        if not result.succeeded:
            raise Overtaken(f"another session has moved the cursor of {self._prefix.decode()}")
        return result.revision

    def _ops(self) -> list[Op]:
        ops = [self._op(change) for change in self._changes.values()]
        for item in self._forget:
            forgotten = self._items.get(item)
            if forgotten is not None and forgotten not in self._rewritten:
                ops.append(Delete.single(self._prefix + forgotten))
        return ops

    def _op(self, change: Change) -> Op:
        key = self._prefix + change.key
        return Delete.single(key) if change.value is None else Put(key, change.value)

    def _forget_parts(self) -> None:
        self._changes, self._forget = {}, set()
        self._bytes = self._unstaged = self._count = 0
        if self._stage is not None:
            self._stage.discard()
            self._stage = None

    def _note(self, token: bytes | None) -> None:
        self.status.error = None
        try:
            self.status.synced_revision = Cursor.parse(token).revision if token else None
        except InvalidCursor:
            self.status.synced_revision = None
        self.status.source_revision = self.status.synced_revision

    # Reconciliation

    async def _compare(self, message: Reconcile) -> None:
        """Tell the source which buckets differ, and what is in them."""
        self._forget_parts()  # of a difference that was given up
        mine = Digests(message.buckets)
        async for key, kv in self._rows(message.values):
            mine.add(key, item_of(key, kv.value if message.values else None))
        differing = mine.differing(message.digests)
        self._items, self._rewritten = {}, set()
        if differing:
            async for key, kv in self._rows(message.values):
                if bucket_of(key, message.buckets) in differing:
                    self._items[item_of(key, kv.value if message.values else None)] = key
        if self._stopped:
            return
        self._busy = False
        await self._send_entries(pack_buckets(differing, message.buckets))

    async def _send_entries(self, bitmap: bytes) -> None:
        items = b"".join(self._items)
        step = PART // ITEM * ITEM
        for offset in range(0, len(items), step):
            self._outlet.send(Entries(self._name, bitmap, items[offset : offset + step], False))
            bitmap = b""
            await self._outlet.ready()
        self._outlet.send(Entries(self._name, bitmap, b"", True))

    async def _rows(self, values: bool) -> AsyncIterator[tuple[bytes, KeyValue]]:
        rest, revision = self._keys, 0
        while True:
            page = await self._store.range(rest, revision=revision, limit=_PAGE, keys_only=not values)
            for kv in page.kvs:
                yield kv.key[len(self._prefix) :], kv
            if not page.more or self._stopped:
                return
            rest = KeyRange(page.kvs[-1].key + b"\0", self._keys.end)

    def _spawn(self, work: object) -> None:
        spawn(work, self._broken)  # type: ignore[arg-type]

    def _broken(self, error: Exception) -> None:
        if not self._stopped:
            self._outlet.broken(error)


def _is_partial(token: bytes) -> bool:
    try:
        return Cursor.parse(token).partial
    except InvalidCursor:
        return False
