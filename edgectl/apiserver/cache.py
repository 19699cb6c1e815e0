"""What watches are served from: the present objects, and for each kind a window of its latest changes.

One store watch feeds any number of API watches. A change carries the object before it, so that a selector can
tell an object that leaves it from one that changes inside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from edgectl.apiserver.errors import expired
from edgectl.apiserver.resources import RESOURCES, Resource
from edgectl.apiserver.storage import ObjectStore, decode
from edgectl.lasting import lasting
from metasync.interfaces import StoreError, Watch
from metasync.model import Event, EventType, WatchBatch

Obj = dict[str, Any]

WINDOW = 4096
"""Changes of each kind that a watch may resume behind."""

RETRY_SECONDS = 1.0
"""Pause before the store is read again after its watch failed."""


@dataclass(frozen=True, slots=True)
class Change:
    """One object changed. ``current`` is ``None`` for a deletion, ``previous`` for a creation."""

    revision: int
    current: Obj | None
    previous: Obj | None

    @property
    def deleted(self) -> Obj:
        """The last state of a deleted object, at the version of its deletion."""
        assert self.previous is not None
        meta = {**self.previous["metadata"], "resourceVersion": str(self.revision)}
        return {**self.previous, "metadata": meta}


@dataclass(eq=False)
class Subscriber:
    """Who is told. ``closed`` is called once when the cache cannot go on; nothing follows."""

    changed: Callable[[Change], None]
    closed: Callable[[], None]


@dataclass
class _Kind:
    objects: dict[bytes, Obj] = field(default_factory=dict)
    window: deque[Change] = field(default_factory=deque)
    oldest: int = 0
    subscribers: list[Subscriber] = field(default_factory=list)


class WatchCache:
    """Follows all objects of a store. All calls on the reactor thread."""

    log = Logger()

    def __init__(self, reactor: IReactorTime, objects: ObjectStore) -> None:
        self._reactor = reactor
        self._objects = objects
        self._kinds: dict[Resource, _Kind] = {one: _Kind() for one in RESOURCES}
        self._watch: Watch | None = None
        self._stopped = False
        self._waiting: list[tuple[int, Deferred[None]]] = []
        self.revision = 0

    async def start(self) -> None:
        """Read everything and follow it. Errors are the store's."""
        found = await self._objects.store.range(self._objects.root)
        # Those who came while there was nothing to follow come again.
        self._close_all()
        self.revision = found.revision
        self._kinds = {one: _Kind(oldest=found.revision) for one in RESOURCES}
        for kv in found.kvs:
            resource = self._objects.resource_of(kv.key)
            if resource is not None:
                self._kinds[resource].objects[kv.key] = lasting(decode(kv))
        self._advance(found.revision)
        if self._watch is not None:
            self._watch.cancel()
        if not self._stopped:
            self._watch = self._objects.store.watch(self._objects.root, found.revision + 1, self)

    def stop(self) -> None:
        self._stopped = True
        if self._watch is not None:
            self._watch.cancel()
        self._close_all()

    def current(self, resource: Resource, namespace: str = "") -> list[Obj]:
        """The objects of a kind as last seen. They are shared: do not change them."""
        objects = self._kinds[resource].objects
        if not namespace:
            return list(objects.values())
        return [one for one in objects.values() if one["metadata"].get("namespace") == namespace]

    def get(self, resource: Resource, namespace: str, name: str) -> Obj | None:
        """One object as last seen. It is shared: do not change it."""
        return self._kinds[resource].objects.get(self._objects.key(resource, namespace, name))

    def subscribe(self, resource: Resource, subscriber: Subscriber) -> Callable[[], None]:
        """Tell of every change of a kind from now on. Returns what ends it."""
        subscribers = self._kinds[resource].subscribers
        subscribers.append(subscriber)

        def cancel() -> None:
            if subscriber in subscribers:
                subscribers.remove(subscriber)

        return cancel

    def since(self, resource: Resource, revision: int) -> list[Change]:
        """The changes of a kind after ``revision``.

        :raises ApiError: (410) if some of them are forgotten.
        """
        kind = self._kinds[resource]
        if revision < kind.oldest:
            raise expired(f"too old resource version: {revision} ({kind.oldest})")
        return [change for change in kind.window if change.revision > revision]

    def batch(self, batch: WatchBatch) -> None:
        """From the store: one revision."""
        for event in batch.events:
            self._event(event)
        self._advance(batch.revision)

    def progress(self, revision: int) -> None:
        """From the store: everything up to ``revision`` was delivered."""
        self._advance(revision)

    def caught_up(self, revision: int) -> Deferred[None]:
        """Fires once everything up to ``revision`` has been seen here."""
        waiter: Deferred[None] = Deferred()
        if revision <= self.revision or self._stopped:
            waiter.callback(None)
        else:
            self._waiting.append((revision, waiter))
        return waiter

    def _advance(self, revision: int) -> None:
        self.revision = max(self.revision, revision)
        if self._waiting:
            due = [waiter for wanted, waiter in self._waiting if wanted <= self.revision]
            self._waiting = [(wanted, waiter) for wanted, waiter in self._waiting if wanted > self.revision]
            for waiter in due:
                if not waiter.called:
                    waiter.callback(None)

    def failed(self, error: StoreError) -> None:
        """From the store: the watch is over. Clients are sent away; they come back and read again."""
        self.log.warn("the API's watch of the store ended: {error}; it is read again", error=error)
        self._close_all()
        self._retry()

    def _retry(self) -> None:
        if not self._stopped:
            self._reactor.callLater(RETRY_SECONDS, self._restart)

    def _restart(self) -> None:
        Deferred.fromCoroutine(self.start()).addErrback(self._start_failed)

    def _start_failed(self, failure: Failure) -> None:
        self.log.error("the API cannot read the store: {error}; it tries again", error=failure.value)
        self._retry()

    def _close_all(self) -> None:
        for kind in self._kinds.values():
            subscribers, kind.subscribers = kind.subscribers, []
            for one in subscribers:
                one.closed()

    def _event(self, event: Event) -> None:
        key = event.kv.key
        resource = self._objects.resource_of(key)
        if resource is None:
            return
        kind = self._kinds[resource]
        previous = kind.objects.pop(key, None)
        current = None
        if event.type is EventType.PUT:
            current = kind.objects[key] = lasting(decode(event.kv))
        if current is None and previous is None:
            return
        change = Change(event.kv.mod_revision, current, previous)
        kind.window.append(change)
        if len(kind.window) > WINDOW:
            kind.oldest = kind.window.popleft().revision
        for one in tuple(kind.subscribers):
            one.changed(change)
