"""Removes what nobody else would: pods of nodes that are gone, and events that are old."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgectl.apiserver.errors import ApiError
from edgectl.apiserver.meta import seconds_of
from edgectl.apiserver.options import DeleteOptions
from edgectl.apiserver.resources import EVENT, NODE, POD, Resource
from edgectl.workloads.controller import Controller, Key, key_of

Obj = dict[str, Any]

QUARANTINE_SECONDS = 40.0
"""How long a node must be gone before its pods are (kube-controller-manager's own)."""

EVENT_SECONDS = 3600.0
"""How long an event is kept after it was last written (kube-apiserver's default)."""


class PodCollector(Controller):
    """Deletes the pods of nodes that do not exist: no one is left to say that their containers ended."""

    follows = (POD, NODE)

    def keys(self, resource: Resource, obj: Obj) -> Iterable[Key]:
        if resource == POD:
            return (key_of(obj),) if obj["spec"].get("nodeName") else ()
        name = obj["metadata"]["name"]
        return [key_of(one) for one in self.api.cache.current(POD) if one["spec"].get("nodeName") == name]

    def enqueue(self, key: Key, delay: float = 0.0) -> None:
        """Only pods whose node is not there are looked at, and not before the quarantine is over."""
        pod = self.api.cache.get(POD, *key)
        if pod is not None and self._lost(pod):
            super().enqueue(key, delay or QUARANTINE_SECONDS)

    def _due(self, key: Key) -> None:
        del self._delayed[key]
        super().enqueue(key)

    def _lost(self, pod: Obj) -> bool:
        node = pod["spec"].get("nodeName")
        return bool(node) and self.api.cache.get(NODE, "", node) is None

    async def reconcile(self, key: Key) -> None:
        pod = self.api.cache.get(POD, *key)
        if pod is None or not self._lost(pod):
            return
        self.log.info("pod {place} is deleted: its node is gone", place="/".join(key))
        try:
            await self.api.delete(POD, *key, DeleteOptions(grace=0, uid=pod["metadata"]["uid"]))
        except ApiError as error:
            if error.reason not in ("NotFound", "Conflict"):
                raise


class EventCollector(Controller):
    """Deletes events an hour after they were last written."""

    follows = (EVENT,)

    def enqueue(self, key: Key, delay: float = 0.0) -> None:
        event = self.api.cache.get(EVENT, *key)
        if event is not None:
            super().enqueue(key, max(self._left(event), delay, 1.0))

    def _due(self, key: Key) -> None:
        del self._delayed[key]
        super().enqueue(key)

    def _left(self, event: Obj) -> float:
        stamps = (event.get("lastTimestamp"), event.get("eventTime"), event["metadata"].get("creationTimestamp"))
        written = max((seconds_of(one) or 0.0 for one in stamps), default=0.0)
        return written + EVENT_SECONDS - self.reactor.seconds()

    async def reconcile(self, key: Key) -> None:
        event = self.api.cache.get(EVENT, *key)
        if event is None:
            return
        if self._left(event) > 0:
            self.enqueue(key)
        else:
            await self.delete(EVENT, event)
