# mypy: disallow-untyped-calls=False
"""A watch of the local API, as lines of JSON. Who reads slowly is told everything all the same, and later."""

from __future__ import annotations

import json
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from metasync.feeds import spawn
from metasync.gateway_json import Fields, Translator
from metasync.interfaces import Compacted, Store, StoreError, StoreUnavailable, Watch, WatchObserver
from metasync.model import Event, EventType, KeyRange, KeyValue, WatchBatch

if TYPE_CHECKING:
    from twisted.web.server import Request

PROGRESS_SECONDS = 600.0
"""So often a watch that asked for it (``progress_notify``) hears how far a store is that others write: etcd's own."""

MAX_WAITING = 128 << 10
"""So many bytes wait for a client that reads slowly, beside what is on its connection. Then its watch is given up, and
taken up again from there once it has read: the store's history waits, not memory.
"""

_FILTERS = {"NOPUT": EventType.PUT, "NODELETE": EventType.DELETE}
_EVENT_BYTES = 200


@implementer(IPushProducer)
class Watcher(WatchObserver):
    """One watch, from :meth:`start` until the client hangs up, or the store ends it.

    :param create: the ``create_request``.
    :ivar waiting_bytes: of events that the client has not read yet.
    :raises InvalidRequest: if it makes no sense.
    """

    def __init__(self, request: Request, translator: Translator, store: Store, create: Fields) -> None:
        self._request = request
        self._translator = translator
        self._store = store
        self._keys = translator.keys(create, default=b"\0")
        self._nothing = translator.is_empty(create)
        self._next = create.number("start_revision")
        self._without = {_FILTERS[name] for name in create.choices("filters", list(_FILTERS))}
        self._previous = create.flag("prev_kv")
        self._tells = create.flag("progress_notify")
        number = create.number("watch_id")
        self._id = {"watch_id": str(number)} if number else {}
        self._told_at = monotonic()
        self._waiting: deque[WatchBatch] = deque()
        self.waiting_bytes = 0
        self._watch: Watch | None = None
        self._error: StoreError | None = None
        self._working = False
        self._paused = False
        self._over = False

    def start(self) -> None:
        self._request.setHeader(b"content-type", b"application/json")
        self._request.registerProducer(self, True)
        keep_alive = getattr(getattr(self._request.channel, "transport", None), "setTcpKeepAlive", None)
        if keep_alive is not None:
            keep_alive(True)
        spawn(self._begin(), self._lost)

    async def _begin(self) -> None:
        revision = (await self._store.range(KeyRange.single(self._keys.start), limit=1)).revision
        if self._over:
            return
        head = {"header": header(revision), **self._id, "created": True}
        if self._nothing:
            self._line({**head, "watch_id": "-1", "canceled": True, "cancel_reason": "mvcc: watcher range is empty"})
            self._hang_up()
            return
        self._line(head)
        self._next = self._next or revision + 1
        self._go_on()

    # From the store (WatchObserver)

    def batch(self, batch: WatchBatch) -> None:
        self._next = batch.revision + 1
        events = tuple(event for event in batch.events if event.type not in self._without)
        if not events:
            self.progress(batch.revision)
            return
        self._waiting.append(WatchBatch(batch.revision, events))
        self.waiting_bytes += sum(map(_size, events))
        self._go_on()
        if self.waiting_bytes > MAX_WAITING:
            self._unwatch()

    def progress(self, revision: int) -> None:
        self._next = max(self._next, revision + 1)
        idle = not (self._waiting or self._working or self._paused)
        if self._tells and idle and monotonic() - self._told_at >= PROGRESS_SECONDS:
            self._told_at = monotonic()
            self._line({"header": header(revision), **self._id})

    def failed(self, error: StoreError) -> None:
        self._watch = None
        self._error = error
        self._go_on()

    # To the client

    def _go_on(self) -> None:
        if not (self._working or self._paused or self._over):
            self._working = True
            spawn(self._work(), self._lost)

    async def _work(self) -> None:
        """Tell what waits, in its order; then follow on, or end."""
        while self._waiting and not (self._paused or self._over):
            batch = self._waiting.popleft()
            self.waiting_bytes -= sum(map(_size, batch.events))
            await self._tell(batch)
        self._working = False
        if self._paused or self._over:
            return
        if self._error is not None:
            self._cancelled(self._error)
        elif self._watch is None:
            self._watch = self._store.watch(self._keys, self._next, self)

    async def _tell(self, batch: WatchBatch) -> None:
        before = [await self._before(event, batch.revision) for event in batch.events] if self._previous else None
        events = [
            self._translator.event(event, before[number] if before else None)
            for number, event in enumerate(batch.events)
        ]
        self._told_at = monotonic()
        self._line({"header": header(batch.revision), **self._id, "events": events})

    async def _before(self, event: Event, revision: int) -> KeyValue | None:
        try:
            found = await self._store.range(KeyRange.single(event.kv.key), revision=revision - 1)
        except Compacted:
            return None  # as in etcd: nobody knows any more
        return found.kvs[0] if found.kvs else None

    def _lost(self, error: Exception) -> None:
        self._cancelled(error if isinstance(error, StoreError) else StoreUnavailable(str(error)))

    def _cancelled(self, error: StoreError) -> None:
        compacted = {"compact_revision": str(error.compact_revision)} if isinstance(error, Compacted) else {}
        self._line({"header": {}, **self._id, "canceled": True, "cancel_reason": str(error), **compacted})
        self._hang_up()

    def _line(self, result: dict[str, Any]) -> None:
        if not self._over:
            self._request.write(json.dumps({"result": result}, separators=(",", ":")).encode() + b"\n")

    # IPushProducer: the connection says when its buffer is full

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._go_on()

    def stopProducing(self) -> None:
        self.stop()

    def stop(self) -> None:
        self._over = True
        self._waiting.clear()
        self._unwatch()

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _hang_up(self) -> None:
        if not self._over:
            self.stop()
            self._request.unregisterProducer()
            self._request.finish()


def header(revision: int) -> dict[str, str]:
    return {"revision": str(revision)} if revision else {}


def _size(event: Event) -> int:
    return len(event.kv.key) + len(event.kv.value) + _EVENT_BYTES
