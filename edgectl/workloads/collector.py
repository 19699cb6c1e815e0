"""Deletes objects whose owners are gone, and settles deletions in the foreground and with orphans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime

from edgectl.apiserver.cache import Change
from edgectl.apiserver.resources import RESOURCES, Resource
from edgectl.apiserver.verbs import Api
from edgectl.workloads.controller import Controller, Key, key_of

Obj = dict[str, Any]
Place = tuple[Resource, Key]

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"


class Collector(Controller):
    """Its keys are uids: of owners, and of objects that name an owner."""

    follows = RESOURCES

    def __init__(self, reactor: IReactorTime, api: Api) -> None:
        super().__init__(reactor, api)
        self._places: dict[str, Place] = {}
        self._dependents: dict[str, set[str]] = {}

    def _changed_of(self, resource: Resource) -> Callable[[Change], None]:
        def changed(change: Change) -> None:
            if change.previous is not None:
                self._forget(change.previous)
            if change.current is not None:
                self._note(resource, change.current)
            elif change.previous is not None:
                self._gone(change.previous)

        return changed

    def _note(self, resource: Resource, obj: Obj) -> None:
        uid = obj["metadata"]["uid"]
        self._places[uid] = resource, key_of(obj)
        owners = obj["metadata"].get("ownerReferences", ())
        for owner in owners:
            self._dependents.setdefault(owner["uid"], set()).add(uid)
        finalizers = obj["metadata"].get("finalizers", ())
        if owners or FOREGROUND in finalizers or ORPHAN in finalizers:
            self.enqueue((uid, ""))

    def _forget(self, obj: Obj) -> None:
        uid = obj["metadata"]["uid"]
        self._places.pop(uid, None)
        for owner in obj["metadata"].get("ownerReferences", ()):
            dependents = self._dependents.get(owner["uid"], set())
            dependents.discard(uid)
            if not dependents:
                self._dependents.pop(owner["uid"], None)

    def _gone(self, obj: Obj) -> None:
        for uid in self._dependents.get(obj["metadata"]["uid"], ()):
            self.enqueue((uid, ""))
        for owner in obj["metadata"].get("ownerReferences", ()):
            self.enqueue((owner["uid"], ""))

    def _object(self, uid: str) -> tuple[Resource, Obj] | None:
        place = self._places.get(uid)
        if place is None:
            return None
        obj = self.api.cache.get(place[0], *place[1])
        return (place[0], obj) if obj is not None and obj["metadata"]["uid"] == uid else None

    async def reconcile(self, key: Key) -> None:
        found = self._object(key[0])
        if found is None:
            return
        resource, obj = found
        owners = obj["metadata"].get("ownerReferences", ())
        if owners and not any(self._object(owner["uid"]) for owner in owners):
            await self.delete(resource, obj)
        elif "deletionTimestamp" in obj["metadata"]:
            finalizers = obj["metadata"].get("finalizers", ())
            if ORPHAN in finalizers:
                await self._orphan(resource, obj)
            elif FOREGROUND in finalizers:
                await self._foreground(resource, obj)

    def _children(self, obj: Obj) -> list[tuple[Resource, Obj]]:
        uids = sorted(self._dependents.get(obj["metadata"]["uid"], ()))
        return [found for found in (self._object(uid) for uid in uids) if found is not None]

    async def _orphan(self, resource: Resource, obj: Obj) -> None:
        uid = obj["metadata"]["uid"]

        def freed(child: Obj) -> Obj:
            kept = [one for one in child["metadata"].get("ownerReferences", ()) if one["uid"] != uid]
            child["metadata"]["ownerReferences"] = kept
            return child

        for kind, child in self._children(obj):
            await self.rewrite(kind, key_of(child), freed)
        await self._release(resource, obj, ORPHAN)

    async def _foreground(self, resource: Resource, obj: Obj) -> None:
        children = self._children(obj)
        for kind, child in children:
            if "deletionTimestamp" not in child["metadata"]:
                await self.delete(kind, child)
        if not self._children(obj):
            await self._release(resource, obj, FOREGROUND)

    async def _release(self, resource: Resource, obj: Obj, finalizer: str) -> None:
        uid = obj["metadata"]["uid"]

        def released(found: Obj) -> Obj:
            if found["metadata"]["uid"] == uid:
                kept = [one for one in found["metadata"].get("finalizers", ()) if one != finalizer]
                found["metadata"]["finalizers"] = kept
            return found

        await self.rewrite(resource, key_of(obj), released)
