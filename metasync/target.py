"""The end of a feed that applies the changes: whole deltas, each in one transaction with its cursor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from twisted.logger import Logger

from metasync.cursor import Cursor, InvalidCursor
from metasync.delta import Change
from metasync.digest import ITEM, Digests, bucket_of, item_of, pack_buckets
from metasync.feeds import FeedStatus, Outlet, Overtaken, spawn
from metasync.interfaces import Stage, Store, TxnTooLarge
from metasync.model import Compare, Delete, KeyRange, KeyValue, Op, Put
from metasync.opening import stageable
from metasync.wire import PART, Ack, Changes, Entries, Held, ProtocolError, Reconcile, Subscribe

_PAGE = 500
_CURSOR_BYTES = 4096
"""Room left in a transaction for the cursor."""

_RETRY_TICKS = 5
_IN_MEMORY = 1 << 20
"""So many bytes of a delta are held in memory; the rest is staged, where the store can do that bit by bit."""

_BIT_BY_BIT = 16 << 20
"""A store that stages so much and more at once keeps a spool; another puts each step aside as one."""

DEFAULT_MAX_BYTES = 256 << 20
DEFAULT_MAX_STAGED = 8 << 30
"""The largest delta that is held in memory until it is whole, and the largest one that is staged."""


class TargetFeed:
    """Takes one prefix from one source, for the life of one session.

    The cursor's own revision guards every transaction: of two sessions that overlap, one fails, and no delta is
    applied twice or in part. What is more than one transaction of the store comes in steps, which are staged, and is
    applied as one.
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
        max_staged: int = DEFAULT_MAX_STAGED,
    ) -> None:
        """:param max_bytes: the most to take at once (0: as much as the store and memory allow).
        :param max_staged: the most that is taken in steps, and applied as one.
        """
        self._staging = stageable(store) if self.stages else None
        self._wanted_bytes = max_bytes
        self._max_staged = max_staged
        self._stage: Stage | None = None
        self._staged = 0
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
        self._compared: frozenset[bytes] = frozenset()
        self._rewritten: set[bytes] = set()
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
        if self._staging is not None:
            await self._staging.settle(self._prefix)
        found = await self._store.range(KeyRange.single(self._cursor_key))
        token = found.kvs[0].value if found.kvs else None
        self._cursor_mod = found.kvs[0].mod_revision if found.kvs else 0
        empty = token is None and not (await self._store.range(self._keys, limit=1, keys_only=True)).kvs
        if self._stopped:
            return
        self._note(token)
        self.status.state = "live"
        self._busy = False
        size = self._max_bytes() - _CURSOR_BYTES
        self._outlet.send(Subscribe(self._name, token, empty, self._max_ops(), size))

    def _max_ops(self) -> int:
        """How many changes are taken at once, beside the cursor."""
        return self._staging.stage_ops if self._staging else self._store.max_txn_ops - 1

    def _max_bytes(self) -> int:
        """How many bytes are taken at once."""
        most = self._staging.stage_bytes if self._staging else min(DEFAULT_MAX_BYTES, self._store.max_request_bytes)
        return min(self._wanted_bytes or most, most)

    def _held(self, message: Held) -> None:
        if (more := self._outlet.more("held up")) is not None:
            prefix, reason = self._prefix.decode(), message.reason
            self.log.error("sync of {prefix} is held up: {reason}{more}", prefix=prefix, reason=reason, more=more)
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
            if change.key in self._compared:  # it is not to be forgotten then, here or in a step to come
                self._rewritten.add(change.key)
        self._count += len(message.changes)
        for offset in range(0, len(message.forget), ITEM):
            item = message.forget[offset : offset + ITEM]
            if item in self._items:
                self._forget.add(item)
        if self._bytes > self._max_bytes() or self._count > self._max_ops():
            raise ProtocolError(f"{self._name}: a delta is larger than this store takes")
        if message.cursor is not None:
            self._busy = True
            partial = self._staging is not None and _is_partial(message.cursor)
            self._spawn(self._put_step_aside(message.cursor) if partial else self._apply(message.cursor))
        elif self._staging is not None and self._max_bytes() >= _BIT_BY_BIT and self._unstaged > _IN_MEMORY:
            self._spawn(self._put_aside([self._op(change) for change in self._changes.values()]))

    async def _put_aside(self, ops: Sequence[Op]) -> None:
        """Write what has come. Nothing more is taken off the wire meanwhile: memory stays as it is."""
        assert self._staging is not None
        self._changes = {}
        self._staged += self._unstaged
        self._unstaged = 0
        if self._staged > max(self._max_staged, self._max_bytes()):
            raise ProtocolError(f"{self._name}: a difference is more than the {self._max_staged} bytes taken here")
        stage = self._stage = self._stage or self._staging.stage(self._prefix)
        self._outlet.hold()
        try:
            await stage.add(ops)
        finally:
            self._outlet.go_on()

    async def _put_step_aside(self, token: bytes) -> None:
        """A step is durable, but it is nothing yet: the last one makes all of them a fact."""
        await self._outlet.admit()
        if self._stopped:
            return
        ops, self._forget = self._ops(), set()
        await self._put_aside(ops)
        self._bytes = self._count = 0
        self._busy = False
        if not self._stopped:
            self._outlet.send(Ack(self._name, token))

    async def _apply(self, token: bytes) -> None:
        await self._outlet.admit()
        if self._stopped:
            return
        try:
            self._cursor_mod = await self._commit(token)
        except TxnTooLarge as error:
            raise ProtocolError(f"{self._name}: {error}") from error
        self._note(token)
        self._forget_items({})
        self.status.last_synced = self._outlet.seconds()
        self._busy = False
        if not self._stopped:
            self._outlet.send(Ack(self._name, token))

    async def _commit(self, token: bytes) -> int:
        """Write the delta and the cursor as one. Returns the revision."""
        guard, cursor = Compare.unchanged(self._cursor_key, self._cursor_mod), Put(self._cursor_key, token)
        ops = self._ops()
        stage, self._stage = self._stage, None
        self._forget_parts()
        if stage is not None:
            if ops:
                await stage.add(ops)
            result = await stage.commit([guard], [cursor])
        else:
            result = await self._store.txn([guard], [*ops, cursor])
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
        self._bytes = self._unstaged = self._staged = self._count = 0
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
        items: dict[bytes, bytes] = {}
        if differing:
            async for key, kv in self._rows(message.values):
                if bucket_of(key, message.buckets) in differing:
                    items[item_of(key, kv.value if message.values else None)] = key
        self._forget_items(items)
        if self._stopped:
            return
        self._busy = False
        await self._send_entries(pack_buckets(differing, message.buckets))

    def _forget_items(self, items: dict[bytes, bytes]) -> None:
        self._items, self._compared, self._rewritten = items, frozenset(items.values()), set()

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
