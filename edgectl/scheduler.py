"""Binds pods to nodes: of those that fit, the one with most room.

What fits and what is better is in :mod:`edgectl.scheduler_fit`, which knows no API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.interfaces import IReactorTime

from edgectl.apiserver.cache import Change
from edgectl.apiserver.errors import ApiError
from edgectl.apiserver.meta import timestamp
from edgectl.apiserver.resources import NODE, POD, Resource
from edgectl.apiserver.subresources import assigned
from edgectl.apiserver.verbs import Api
from edgectl.scheduler_fit import ENOUGH, Load, Placement, place
from edgectl.workloads.controller import Controller, Key, key_of

Obj = dict[str, Any]

NAME = "default-scheduler"


def _waiting(pod: Obj) -> bool:
    spec = pod.get("spec", {})
    return (
        not spec.get("nodeName")
        and spec.get("schedulerName", NAME) == NAME
        and "deletionTimestamp" not in pod["metadata"]
        and not spec.get("schedulingGates")
        and not _ended(pod)
    )


def _ended(pod: Obj) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _matters(node: Obj) -> tuple[Any, ...]:
    """What of a node decides which pods fit on it."""
    status, meta = node.get("status", {}), node["metadata"]
    ready = [(one["type"], one["status"]) for one in status.get("conditions", ())]
    return node.get("spec"), meta.get("labels"), status.get("allocatable"), status.get("capacity"), ready


class Scheduler(Controller):
    """The default scheduler."""

    follows = (POD, NODE)

    def __init__(self, reactor: IReactorTime, api: Api) -> None:
        super().__init__(reactor, api)
        self._load = Load()
        self._next = 0

    def _changed_of(self, resource: Resource) -> Callable[[Change], None]:
        queue = super()._changed_of(resource)

        def changed(change: Change) -> None:
            before, now = change.previous, change.current
            if resource == POD:
                if before is not None:
                    self._load.remove(before)
                if now is not None:
                    self._load.add(now)
                if before is not None and before["spec"].get("nodeName") and (now is None or _ended(now)):
                    self._look_again()
            elif before is not None and now is not None and _matters(before) == _matters(now):
                return  # A heartbeat makes no room.
            queue(change)

        return changed

    def _subscribe(self) -> None:
        self._load = Load(self.api.cache.current(POD))
        super()._subscribe()

    def keys(self, resource: Resource, obj: Obj) -> Iterable[Key]:
        if resource == POD and _waiting(obj):
            return (key_of(obj),)
        return self._all_waiting() if resource == NODE else ()

    def _all_waiting(self) -> list[Key]:
        return [key_of(one) for one in self.api.cache.current(POD) if _waiting(one)]

    def _look_again(self) -> None:
        """A pod left its node: there may be room for those that wait."""
        for key in self._all_waiting():
            self.enqueue(key)

    async def reconcile(self, key: Key) -> None:
        pod = self.api.cache.get(POD, *key)
        if pod is None or not _waiting(pod):
            return
        chosen = place(pod, self.api.cache.current(NODE), self._load, self._next)
        self._next += ENOUGH
        if chosen.node is None:
            await self._refuse(key, chosen)
        else:
            await self._bind(key, pod, chosen.node)

    async def _bind(self, key: Key, pod: Obj, node: str) -> None:
        now, uid = self.reactor.seconds(), pod["metadata"]["uid"]
        try:
            await self.rewrite(POD, key, lambda found: assigned(found, node, now, uid))
        except ApiError as error:
            if error.reason != "Conflict":
                raise

    async def _refuse(self, key: Key, chosen: Placement) -> None:
        def unschedulable(pod: Obj) -> Obj:
            conditions = pod["status"].get("conditions", [])
            others = [one for one in conditions if one["type"] != "PodScheduled"]
            before: Obj = next((one for one in conditions if one["type"] == "PodScheduled"), {})
            condition = {
                "type": "PodScheduled",
                "status": "False",
                "lastTransitionTime": before.get("lastTransitionTime") or timestamp(self.reactor.seconds()),
                "reason": "Unschedulable",
                "message": chosen.reason,
            }
            pod["status"]["conditions"] = [*others, condition]
            return pod

        await self.rewrite(POD, key, unschedulable)
