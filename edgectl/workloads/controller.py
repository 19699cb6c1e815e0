"""What all controllers share: a queue of keys, fed by changes, worked off one at a time and retried with back-off."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from edgectl.apiserver.cache import Change, Subscriber
from edgectl.apiserver.errors import ApiError
from edgectl.apiserver.options import DeleteOptions
from edgectl.apiserver.resources import Resource
from edgectl.apiserver.verbs import Api
from metasync.interfaces import StoreError

Obj = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name."""

FIRST_RETRY = 0.05
LAST_RETRY = 30.0
"""Seconds between tries of a key that fails: doubled from the first to the last."""


def key_of(obj: Obj) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


class Controller:
    """Calls :meth:`reconcile` for every key that changes, never twice at once.

    A subclass names the kinds it follows in ``follows`` and says in :meth:`keys` which keys a change concerns.
    """

    log = Logger()
    follows: tuple[Resource, ...] = ()

    def __init__(self, reactor: IReactorTime, api: Api) -> None:
        self.reactor = reactor
        self.api = api
        self._queue: dict[Key, None] = {}
        self._tries: dict[Key, int] = {}
        self._delayed: dict[Key, IDelayedCall] = {}
        self._cancels: list[Callable[[], None]] = []
        self._working: Deferred[None] | None = None
        self._busy = False
        self._started = False

    def start(self) -> None:
        """Take up everything there is, and follow it."""
        self._started = True
        self._subscribe()

    def stop(self) -> None:
        """Start nothing more; what is under way is cancelled."""
        self._started = False
        for cancel in self._cancels:
            cancel()
        self._cancels.clear()
        for call in self._delayed.values():
            call.cancel()
        self._delayed.clear()
        if self._working is not None:
            self._working.cancel()

    def keys(self, resource: Resource, obj: Obj) -> Iterable[Key]:
        """The keys to reconcile when an object changes; by default its own."""
        return (key_of(obj),)

    async def reconcile(self, key: Key) -> None:
        """Make one thing right. An ApiError or StoreError has it tried again later."""
        raise NotImplementedError

    # -- writing: each waits until the cache has seen it, so that the next look is not at the past.

    async def create(self, resource: Resource, namespace: str, obj: Obj) -> Obj:
        made = await self.api.create(resource, namespace, obj)
        await self._seen(made)
        return made

    async def rewrite(self, resource: Resource, key: Key, edit: Callable[[Obj], Obj]) -> Obj | None:
        """Change an object; ``None`` if it is gone."""
        try:
            made = await self.api.rewrite(resource, *key, edit)
        except ApiError as error:
            if error.reason == "NotFound":
                return None
            raise
        await self._seen(made)
        return made

    async def delete(self, resource: Resource, obj: Obj) -> None:
        """Delete just this object; that it is gone or replaced already is no error."""
        options = DeleteOptions(uid=obj["metadata"]["uid"])
        try:
            left, _ = await self.api.delete(resource, *key_of(obj), options)
        except ApiError as error:
            if error.reason not in ("NotFound", "Conflict"):
                raise
        else:
            await self._seen(left)

    async def _seen(self, obj: Obj) -> None:
        await self.api.cache.caught_up(int(obj["metadata"]["resourceVersion"]))

    # -- the queue

    def enqueue(self, key: Key, delay: float = 0.0) -> None:
        """Reconcile a key soon, or ``delay`` seconds later unless that is under way already."""
        if not self._started:
            return
        if delay <= 0:
            self._queue[key] = None
            self._wake()
        elif key not in self._delayed:
            self._delayed[key] = self.reactor.callLater(delay, self._due, key)

    def _wake(self) -> None:
        if self._queue and not self._busy:
            self._busy = True
            self._working = Deferred.fromCoroutine(self._work())
            self._working.addErrback(self._broken)

    def _due(self, key: Key) -> None:
        del self._delayed[key]
        self.enqueue(key)

    def _subscribe(self) -> None:
        # Nothing is worked off before everything is noted: an owner may be of a kind that comes after its dependents'.
        busy, self._busy = self._busy, True
        for resource in self.follows:
            changed = self._changed_of(resource)
            self._cancels.append(self.api.cache.subscribe(resource, Subscriber(changed, self._closed)))
            for obj in self.api.cache.current(resource):
                self._note(resource, obj)
        self._busy = busy
        self._wake()

    def _closed(self) -> None:
        """The cache reads the store anew; so do we, once it has."""
        for cancel in self._cancels:
            cancel()
        self._cancels.clear()
        if self._started:
            self.reactor.callLater(2.0, self._resubscribe)

    def _resubscribe(self) -> None:
        if self._started and not self._cancels:
            self._subscribe()

    def _changed_of(self, resource: Resource) -> Callable[[Change], None]:
        def changed(change: Change) -> None:
            for obj in (change.previous, change.current):
                if obj is not None:
                    self._note(resource, obj)

        return changed

    def _note(self, resource: Resource, obj: Obj) -> None:
        for key in self.keys(resource, obj):
            self.enqueue(key)

    async def _work(self) -> None:
        while self._queue:
            key = next(iter(self._queue))
            del self._queue[key]
            try:
                await self.reconcile(key)
            except (ApiError, StoreError) as error:
                self._retry(key, error)
            else:
                self._tries.pop(key, None)
        self._busy = False

    def _retry(self, key: Key, error: Exception) -> None:
        tries = self._tries[key] = self._tries.get(key, 0) + 1
        if tries > 3:
            place = "/".join(part for part in key if part)
            self.log.warn("{who} cannot settle {place}: {error}", who=type(self).__name__, place=place, error=error)
        self.enqueue(key, min(FIRST_RETRY * 2**tries, LAST_RETRY))

    def _broken(self, failure: Failure) -> None:
        self._busy = False
        if self._started:
            self.log.failure("{who} failed; it goes on with the next", failure, who=type(self).__name__)
            for key in tuple(self._queue)[:1]:
                self.enqueue(key)
