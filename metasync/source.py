"""The end of a feed that has the changes: follows its store and sends deltas, one at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from metasync.delta import Change, Delta, DoesNotFit, Limits, Pending, changes_of
from metasync.digest import ITEM, Digests, bucket_count, bucket_of, item_of, unpack_buckets
from metasync.feeds import FeedStatus, Outlet, spawn
from metasync.interfaces import Compacted, Store, StoreError, Watch, WatchObserver
from metasync.lineage import Lineage
from metasync.model import KeyRange, KeyValue, RangeResult, WatchBatch
from metasync.steps import Row, Step, cut, plan
from metasync.wire import PART, Ack, Changes, Entries, Held, ProtocolError, Reconcile, Subscribe

_PAGE = 500
_HIGH_WATER = 8 << 20
"""A target with so many bytes pending is followed no further until it has them."""

_GATHER = 0.02
_CATCH_UP = 1.0
"""Seconds that changes wait for more to fold with: live ones, and those of the past."""

_MAX_ITEMS = 16 << 20
"""Bytes of hashes of what the target has and the source has not: a million keys."""

_AT_A_TIME = 50
_FORGOTTEN = 256
"""Bytes in a transaction of the target that are reckoned for each key to be deleted, of which we know a hash only."""

_IDLE_REVISIONS = 100
"""An idle cursor is moved on only when the source is so far ahead: moving it costs the target a write."""


class SourceFeed(WatchObserver):
    """Sends one prefix to one target, for the life of one session.

    At most one delta is under way; what happens meanwhile is folded. ``store`` may be any store that is followed,
    also one that shares a single watch among many feeds.
    """

    log = Logger()

    def __init__(self, name: str, store: Store, prefix: bytes, lineage: Lineage, outlet: Outlet) -> None:
        self.status = FeedStatus(name, "sending")
        self._name = name
        self._store = store
        self._prefix = prefix
        self._keys = KeyRange.prefix(prefix)
        self._lineage = lineage
        self._outlet = outlet
        self._limits = Limits(0, 0)
        self._pending = Pending(0, self._limits)
        self._watch: Watch | None = None
        self._acked: int | None = None
        self._sent: tuple[int | None, bytes] | None = None
        self._steps: deque[Step] = deque()
        self._steps_to = 0
        self._oldest = 0
        self._comparison: Comparison | None = None
        self._timer: IDelayedCall | None = None
        self._caught_up = False
        self._subscribed = False
        self._busy = False
        self._lost = False
        self._large: tuple[int, list[Change]] | None = None
        self._stopped = False

    # From the session

    def received(self, message: Subscribe | Entries | Ack) -> None:
        """:raises ProtocolError: if the message makes no sense now."""
        match message:
            case Subscribe():
                self._subscribe(message)
            case Entries():
                self._entries(message)
            case Ack():
                self._ack(message)

    def tick(self) -> None:
        """Called now and then: move an idle cursor on, lest a compaction overtake it."""
        if self._acked is not None and self._pending.revision >= self._acked + _IDLE_REVISIONS:
            self._tell_place(self._pending.revision)

    def _tell_place(self, revision: int) -> None:
        """Move the target's cursor, if there is nothing else to send."""
        if self._subscribed and not self._sent and not self._busy and not self._pending.count:
            self._spawn_delta(Delta(revision))

    def stop(self) -> None:
        self._stopped = True
        self._unschedule()
        self._unwatch()

    # Subscription

    def _subscribe(self, message: Subscribe) -> None:
        if self._subscribed:
            raise ProtocolError(f"{self._name} is subscribed to twice")
        self._subscribed = True
        self._limits = Limits(message.max_ops, message.max_bytes)
        self.status.state, self.status.error = "starting", None
        self._spawn(self._begin(message))

    async def _begin(self, message: Subscribe) -> None:
        place = await self._lineage.place(message.cursor)
        if self._stopped:
            return
        if place is None:
            await self._reconcile(None, message.empty)
        else:
            self._acked = place
            self._follow(place)

    def _follow(self, revision: int) -> None:
        self._restart_pending(revision)
        self.status.state = "live"
        self._rewatch()

    def _restart_pending(self, revision: int) -> None:
        self._pending = Pending(revision, self._limits)

    def _rewatch(self) -> None:
        self._unwatch()
        if not self._stopped:
            self._caught_up = False
            self._watch = self._store.watch(self._keys, self._pending.revision + 1, self)

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    # From the store (WatchObserver)

    def batch(self, batch: WatchBatch) -> None:
        changes = self._changes(batch)
        try:
            self._pending.add(batch.revision, changes)
        except DoesNotFit:
            self._unwatch()
            self._large = (batch.revision, changes)
        if self._pending.size > _HIGH_WATER:
            self._unwatch()
        self._flush_soon(_GATHER if self._caught_up else _CATCH_UP)
        self._account()

    def _changes(self, batch: WatchBatch) -> list[Change]:
        return changes_of(batch, self._prefix)

    def progress(self, revision: int) -> None:
        self._pending.progress(revision)
        if not self._caught_up:
            self._caught_up = True
            self._flush()
        self._account()

    def failed(self, error: StoreError) -> None:
        self._watch = None
        if isinstance(error, Compacted):
            self._lost = True
            self._oldest = error.compact_revision
            self._flush()
        else:
            self._outlet.broken(error)

    # Deltas

    def _flush_soon(self, delay: float) -> None:
        """Let what comes close together fold: a burst, and above all the past."""
        if self._timer is None and not self._stopped:
            self._timer = self._outlet.later(delay, self._gathered)

    def _gathered(self) -> None:
        self._caught_up = True  # a store need not say so
        self._flush()

    def _unschedule(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _flush(self) -> None:
        self._unschedule()
        if self._sent or self._busy or self._stopped or not self._subscribed:
            return
        if self._lost:
            self._lost = False
            self._spawn(self._reconcile(self._acked, False))
            return
        delta = self._pending.take()
        if delta is not None:
            self._spawn_delta(delta)
        elif self._large is not None:
            self._send_large(*self._large)
        elif self._watch is None:
            self._rewatch()

    def _spawn_delta(self, delta: Delta) -> None:
        self._busy = True
        self._spawn(self._send(delta))

    async def _send(self, delta: Delta) -> None:
        for part in _parts(await self._load(list(delta.changes.values()))):
            self._outlet.send(Changes(self._name, part))
            await self._outlet.ready()
        if not self._stopped:
            self._finish(delta.revision)

    async def _load(self, changes: Sequence[Change]) -> Sequence[Change]:
        """What is sent for changes of the store."""
        return changes

    def _send_large(self, revision: int, changes: list[Change]) -> None:
        """A revision that is more than one transaction of the target."""
        self._large = None
        latest = {change.key: change for change in changes}
        try:
            self._steps.extend(cut(revision, latest.values(), self._limits))
        except DoesNotFit as error:
            self._hold(error)
            return
        self._busy = True
        self._spawn(self._send_step(revision))

    def _finish(self, revision: int) -> None:
        token = self._lineage.token(revision)
        self._busy = False
        self._sent = (revision, token)
        self._outlet.send(Changes(self._name, (), b"", token))
        self._account()

    def _ack(self, message: Ack) -> None:
        if self._sent is None or message.cursor != self._sent[1]:
            raise ProtocolError(f"{self._name}: an Ack of what was not sent")
        self._acked, self._sent = self._sent[0], None
        if self._steps:
            self._busy = True
            self._spawn(self._send_step(self._steps_to))
            return
        self.status.last_synced = self._outlet.seconds()
        self.status.pending_since = None
        if self.status.state == "reconciling":
            self.status.state = "live"
        self._flush()
        self._account()

    def _account(self) -> None:
        status, under_way = self.status, bool(self._sent) or self._busy
        status.synced_revision = self._acked
        status.source_revision = self._pending.revision
        status.pending = self._pending.count + under_way
        if not status.pending:
            status.pending_since = None
        elif status.pending_since is None:
            status.pending_since = self._outlet.seconds()

    def _hold(self, error: DoesNotFit) -> None:
        """This feed waits for a person; the others go on."""
        if (more := self._outlet.more("held up")) is not None:
            self.log.error(
                "sync of {prefix} is held up: {error}{more}", prefix=self._prefix.decode(), error=error, more=more
            )
        self._unwatch()
        self._subscribed = self._busy = False
        self._comparison = self._large = None
        self._steps.clear()
        self.status.state, self.status.error = "held", str(error)
        self._outlet.send(Held(self._name, str(error)))

    # Reconciliation

    async def _reconcile(self, base: int | None, empty: bool, at: int = 0, in_steps: bool = False) -> None:
        """Send what the target lacks, without the history that would tell.

        :param base: the revision whose state the target holds, or ``None`` if it may hold anything.
        :param at: the revision up to which (0: now).
        :param in_steps: whether it is to be cut where it may be, for it is more than one transaction.
        """
        self._busy = True
        self.status.state = "reconciling"
        self._comparison = comparison = Comparison(base, in_steps)
        comparison.revision = at or (await self._store.range(self._keys, limit=1, keys_only=True)).revision
        self._follow(comparison.revision)
        self.status.state = "reconciling"
        if empty:
            await self._send_difference(comparison, everything=True)
            return
        await self._digest(comparison)
        if not self._stopped:
            self._outlet.send(Reconcile(self._name, base is None, comparison.digests.pack()))

    async def _digest(self, comparison: Comparison) -> None:
        count = (await self._store.range(self._keys, limit=1, keys_only=True)).count
        comparison.digests = Digests(bucket_count(count))
        async for kv in self._rows(comparison.revision, keys_only=comparison.base is not None):
            comparison.add(self._key(kv), kv)

    def _entries(self, message: Entries) -> None:
        comparison = self._comparison
        if comparison is None or comparison.complete:
            raise ProtocolError(f"{self._name}: entries that were not asked for")
        if message.bitmap:
            comparison.differing = unpack_buckets(message.bitmap, comparison.digests.buckets)
        comparison.take(message.items)
        if len(comparison.forget) > _MAX_ITEMS:
            raise ProtocolError(f"{self._name}: more than {_MAX_ITEMS} bytes of entries")
        if message.last:
            comparison.complete = True
            self._spawn(self._send_difference(comparison))

    async def _send_difference(self, comparison: Comparison, everything: bool = False) -> None:
        if comparison.in_steps:
            await self._begin_steps(comparison)
            return
        total = Delta(comparison.revision)
        forget = bytes(comparison.forget)
        ops = len(forget) // ITEM
        size = ops * _FORGOTTEN
        part = Delta(comparison.revision)
        async for kv in self._rows(comparison.revision, min_mod_revision=(comparison.base or 0) + 1):
            key = self._key(kv)
            if not everything and not comparison.lacks(key, kv):
                continue
            change = Change(key, kv.value)
            ops, size = ops + 1, size + change.size
            if not self._limits.fits(ops, size):
                break
            part.fold(total.revision, {key: change})
            if part.size >= PART:
                self._outlet.send(Changes(self._name, tuple(part.changes.values())))
                part = Delta(comparison.revision)
                await self._outlet.ready()
        if self._stopped:
            return
        if not self._limits.fits(ops, size):
            await self._compare_again(comparison)
            return
        for offset in range(0, len(forget), PART):
            self._outlet.send(Changes(self._name, (), forget[offset : offset + PART]))
        self._outlet.send(Changes(self._name, tuple(part.changes.values())))
        self._comparison = None
        self._finish(comparison.revision)

    async def _compare_again(self, comparison: Comparison) -> None:
        """The difference is too large. Go as far as history must be skipped, or else in steps."""
        base, oldest = comparison.base, self._oldest
        nearer = oldest if (base or 0) < oldest < comparison.revision else 0
        at = nearer or (comparison.revision if comparison.revision == oldest else 0)
        await self._reconcile(base, False, at, in_steps=not nearer)

    async def _begin_steps(self, comparison: Comparison) -> None:
        rows = []
        async for kv in self._rows(comparison.revision, min_mod_revision=(comparison.base or 0) + 1):
            key = self._key(kv)
            if comparison.lacks(key, kv):
                rows.append(Row(kv.mod_revision, key, Change(key, kv.value).size))
        if self._stopped:
            return
        try:
            self._steps.extend(plan(rows, comparison.surplus(), self._limits))
        except DoesNotFit as error:
            self._hold(error)
            return
        self.log.info(
            "{prefix}: a difference of {count} keys comes in {steps} steps, and is applied as one",
            prefix=self._prefix.decode(),
            count=len(rows),
            steps=len(self._steps),
        )
        self._comparison = None
        await self._send_step(comparison.revision)

    async def _send_step(self, revision: int) -> None:
        """The next of the steps to ``revision``. Only with the last one the target is there."""
        self._steps_to = revision
        step = self._steps.popleft() if self._steps else Step()
        for part in _parts([*await self._load(step.changes), *await self._values(step.keys, revision)]):
            self._outlet.send(Changes(self._name, part))
            await self._outlet.ready()
        forget = b"".join(step.forget)
        for offset in range(0, len(forget), PART):
            self._outlet.send(Changes(self._name, (), forget[offset : offset + PART]))
        if self._stopped:
            return
        if not self._steps:
            self._pending.progress(revision)
            self._finish(revision)
            return
        self._busy = False
        self._sent = (self._acked, self._place_between())
        self._outlet.send(Changes(self._name, (), b"", self._sent[1]))

    def _place_between(self) -> bytes:
        """The cursor of a target that has a part of the steps."""
        return self._lineage.no_place()

    async def _values(self, keys: Sequence[bytes], revision: int) -> list[Change]:
        """The values of keys that are anywhere in the prefix, several questions at a time."""
        changes: list[Change] = []
        for at in range(0, len(keys), _AT_A_TIME):
            asked = [
                Deferred.fromCoroutine(self._store.range(KeyRange.single(self._prefix + key), revision=revision))
                for key in keys[at : at + _AT_A_TIME]
            ]
            for found in await gatherResults(asked, consumeErrors=True):
                changes += [Change(self._key(kv), kv.value) for kv in found.kvs]
        return changes

    async def _rows(self, revision: int, keys_only: bool = False, min_mod_revision: int = 0) -> AsyncIterator[KeyValue]:
        """All rows, page by page; the next page is read while one is worked on."""

        def ask(keys: KeyRange) -> Deferred[RangeResult]:
            page = self._store.range(
                keys, revision=revision, limit=_PAGE, keys_only=keys_only, min_mod_revision=min_mod_revision
            )
            return Deferred.fromCoroutine(page)

        next_page: Deferred[RangeResult] | None = ask(self._keys)
        try:
            while next_page is not None:
                page, next_page = await next_page, None
                if self._stopped:
                    return
                if page.more:
                    next_page = ask(KeyRange(page.kvs[-1].key + b"\0", self._keys.end))
                for kv in page.kvs:
                    yield kv
        finally:
            if next_page is not None:  # whoever asked has enough
                next_page.addErrback(lambda _: None)

    def _key(self, kv: KeyValue) -> bytes:
        return kv.key[len(self._prefix) :]

    def _spawn(self, work: object) -> None:
        spawn(work, self._broken)  # type: ignore[arg-type]

    def _broken(self, error: Exception) -> None:
        if not self._stopped:
            self._outlet.broken(error)


class Comparison:
    """A reconciliation under way.

    With a base the target is known to hold the source's state at that revision: what changed since is known by
    its revision, and items are keys. What the target has and the source has not was deleted since.
    """

    def __init__(self, base: int | None, in_steps: bool = False) -> None:
        self.base = base
        self.in_steps = in_steps
        self.revision = 0
        self.digests = Digests(1)
        self.differing: set[int] = set()
        self.ours: set[bytes] = set()
        self.common: set[bytes] = set()
        self.forget = bytearray()
        self.complete = False

    def add(self, key: bytes, kv: KeyValue) -> None:
        item = item_of(key, kv.value if self.base is None else None)
        self.ours.add(item)
        # A key made after the base is not at the target, or stands there under an earlier life.
        if self.base is None or kv.create_revision <= self.base:
            self.digests.add(key, item)

    def take(self, items: bytes) -> None:
        """What the target has. Of that, what the source has not is kept as bytes: it may be anything, and much."""
        for offset in range(0, len(items), ITEM):
            item = items[offset : offset + ITEM]
            if item in self.ours:
                self.common.add(item)
            else:
                self.forget += item

    def surplus(self) -> list[bytes]:
        """Items that the target is to delete."""
        return sorted({bytes(self.forget[at : at + ITEM]) for at in range(0, len(self.forget), ITEM)})

    def lacks(self, key: bytes, kv: KeyValue) -> bool:
        if self.base is not None:
            return kv.mod_revision > self.base
        in_doubt = bucket_of(key, self.digests.buckets) in self.differing
        return in_doubt and item_of(key, kv.value) not in self.common


def _parts(changes: Iterable[Change]) -> list[tuple[Change, ...]]:
    """Changes in messages of bounded size."""
    parts: list[tuple[Change, ...]] = []
    part: list[Change] = []
    size = 0
    for change in changes:
        part.append(change)
        size += change.size
        if size >= PART:
            parts.append(tuple(part))
            part, size = [], 0
    return [*parts, tuple(part)] if part else parts
