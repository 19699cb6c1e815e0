"""What the cloud wants of this node, mirrored from the local store into memory and kept up to date."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from appengine.podspec import MAX_POD_BYTES, Json
from appengine.waiting import sleep
from metasync.interfaces import Store, StoreError, Watch
from metasync.model import EventType, KeyRange, WatchBatch

_RETRY = 2.0

ObjectKey = tuple[str, str, str]
"""(plural, namespace, name)."""


class DesiredKeys(Protocol):
    """Where they stand: those of a node, or of a site."""

    @property
    def desired(self) -> str: ...


class Desired:
    """The objects under a ``desired`` prefix: the node's, or its site's.

    :param changed: called with the keys of what changed, after every revision; the first time with all there are.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, store: Store, keys: DesiredKeys, changed: Callable[[frozenset[ObjectKey]], None]
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._prefix = keys.desired.encode()
        self._changed = changed
        self._objects: dict[ObjectKey, bytes] = {}
        self._watch: Watch | None = None
        self._loop: Deferred[None] | None = None
        self._ended: Deferred[StoreError] | None = None
        self.loaded = False

    def start(self) -> None:
        self._loop = Deferred.fromCoroutine(self._run())

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._loop is not None:
            self._loop.cancel()
            with suppress(CancelledError):
                await self._loop

    def pods(self) -> dict[tuple[str, str], bytes]:
        """(namespace, name) → value."""
        return {(ns, name): value for (plural, ns, name), value in self._objects.items() if plural == "pods"}

    def config_map(self, namespace: str, name: str) -> Json | None:
        return self._json(("configmaps", namespace, name))

    def secret(self, namespace: str, name: str) -> Json | None:
        return self._json(("secrets", namespace, name))

    def services(self, namespace: str) -> list[Json]:
        keys = [key for key in self._objects if key[:2] == ("services", namespace)]
        return [document for key in keys if (document := self._json(key)) is not None]

    def _json(self, key: ObjectKey) -> Json | None:
        value = self._objects.get(key)
        if value is None or len(value) > MAX_POD_BYTES:
            return None
        try:
            document = json.loads(value)
        except (ValueError, RecursionError):
            self._log.warn("{key} in the store is not JSON; it counts as not there", key="/".join(key))
            return None
        return document if isinstance(document, dict) else None

    async def _run(self) -> None:
        said = ""
        while True:
            try:
                found = await self._store.range(KeyRange.prefix(self._prefix))
            except StoreError as error:
                if str(error) != said:
                    said = str(error)
                    self._log.error("the local store cannot be read; trying again: {error}", error=said)
                await sleep(self._reactor, _RETRY)
                continue
            said = ""
            self._replace({key: kv.value for kv in found.kvs if (key := self._key(kv.key)) is not None})
            self._ended = Deferred()
            self._watch = self._store.watch(KeyRange.prefix(self._prefix), found.revision + 1, self)
            ended = await self._ended
            self._watch = None
            self._log.info("the watch of the local store ended ({error}); reading it again", error=str(ended))

    def _key(self, key: bytes) -> ObjectKey | None:
        parts = key[len(self._prefix) :].decode("utf-8", "replace").split("/")
        return (parts[0], parts[1], parts[2]) if len(parts) == 3 and all(parts) else None

    def _replace(self, objects: dict[ObjectKey, bytes]) -> None:
        old, self._objects = self._objects, objects
        self.loaded = True
        self._changed(frozenset(key for key in old.keys() | objects.keys() if old.get(key) != objects.get(key)))

    # -- WatchObserver ---------------------------------------------------------------------------------------

    def batch(self, batch: WatchBatch) -> None:
        changed = set()
        for event in batch.events:
            key = self._key(event.kv.key)
            if key is None:
                continue
            changed.add(key)
            if event.type is EventType.PUT:
                self._objects[key] = event.kv.value
            else:
                self._objects.pop(key, None)
        if changed:
            self._changed(frozenset(changed))

    def progress(self, revision: int) -> None:
        return

    def failed(self, error: StoreError) -> None:
        if self._ended is not None and not self._ended.called:
            self._ended.callback(error)


class WithSite:
    """What the cloud wants of this node, and else what came with the pods of its site.

    :param site: the objects of its site, while it has one.
    """

    def __init__(self, own: Desired, site: Callable[[], Desired | None]) -> None:
        self._own, self._site = own, site

    def config_map(self, namespace: str, name: str) -> Json | None:
        found, site = self._own.config_map(namespace, name), self._site()
        return found if found is not None or site is None else site.config_map(namespace, name)

    def secret(self, namespace: str, name: str) -> Json | None:
        found, site = self._own.secret(namespace, name), self._site()
        return found if found is not None or site is None else site.secret(namespace, name)

    def services(self, namespace: str) -> list[Json]:
        """Every node has all of them."""
        return self._own.services(namespace)
