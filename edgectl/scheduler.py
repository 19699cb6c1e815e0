"""Binds pods to nodes: of those that fit, the one with most room.

What fits and what is better is in :mod:`edgectl.scheduler_fit`, which knows no API.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgectl.apiserver.errors import ApiError
from edgectl.apiserver.meta import timestamp
from edgectl.apiserver.resources import NODE, POD, Resource
from edgectl.apiserver.subresources import assigned
from edgectl.scheduler_fit import Placement, place
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
        and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    )


class Scheduler(Controller):
    """The default scheduler."""

    follows = (POD, NODE)

    def keys(self, resource: Resource, obj: Obj) -> Iterable[Key]:
        if resource == POD and _waiting(obj):
            return (key_of(obj),)
        # Room may have come free, or a node appeared: all that wait are looked at again.
        if resource == NODE or "deletionTimestamp" in obj["metadata"]:
            return [key_of(one) for one in self.api.cache.current(POD) if _waiting(one)]
        return ()

    async def reconcile(self, key: Key) -> None:
        pod = self.api.cache.get(POD, *key)
        if pod is None or not _waiting(pod):
            return
        chosen = place(pod, self.api.cache.current(NODE), self.api.cache.current(POD))
        if chosen.node is None:
            await self._refuse(key, chosen)
        else:
            await self._bind(key, pod, chosen.node)

    async def _bind(self, key: Key, pod: Obj, node: str) -> None:
        now, uid = self.reactor.seconds(), pod["metadata"]["uid"]
        try:
            await self.api.rewrite(POD, *key, lambda found: assigned(found, node, now, uid))
        except ApiError as error:
            if error.code not in (404, 409):
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

        try:
            await self.api.rewrite(POD, *key, unschedulable)
        except ApiError as error:
            if error.code != 404:
                raise
