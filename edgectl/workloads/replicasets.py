"""Keeps the number of pods of each ReplicaSet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgectl.apiserver.resources import POD, REPLICA_SET, Resource
from edgectl.apiserver.selectors import selects
from edgectl.workloads.controller import Controller, Key, key_of
from edgectl.workloads.pods import (
    controller_of,
    first_to_go,
    from_template,
    is_active,
    is_available,
    is_ready,
    owned_by,
    reference_to,
)

Obj = dict[str, Any]

BURST = 500
"""The most pods made or deleted at one look (kube-controller-manager's own)."""


class ReplicaSetController(Controller):
    follows = (REPLICA_SET, POD)

    def keys(self, resource: Resource, obj: Obj) -> Iterable[Key]:
        if resource == REPLICA_SET:
            return (key_of(obj),)
        owner = controller_of(obj)
        namespace = obj["metadata"]["namespace"]
        if owner is not None:
            return ((namespace, owner["name"]),) if owner["kind"] == "ReplicaSet" else ()
        return [
            key_of(one)
            for one in self.api.cache.current(REPLICA_SET, namespace)
            if selects(one["spec"].get("selector"), obj["metadata"].get("labels"))
        ]

    async def reconcile(self, key: Key) -> None:
        owner = self.api.cache.get(REPLICA_SET, *key)
        if owner is None or "deletionTimestamp" in owner["metadata"]:
            return
        await self._adopt(owner)
        pods = [one for one in self.api.cache.current(POD, key[0]) if owned_by(one, owner) and is_active(one)]
        wanted = owner["spec"].get("replicas", 1)
        for _ in range(min(wanted - len(pods), BURST)):
            await self.create(POD, key[0], from_template(owner["spec"]["template"], owner))
        for pod in first_to_go(pods)[: min(max(len(pods) - wanted, 0), BURST)]:
            await self.delete(POD, pod)
        await self._report(key, owner)

    async def _adopt(self, owner: Obj) -> None:
        """Take in the pods that the selector selects and nobody manages."""
        for pod in self.api.cache.current(POD, owner["metadata"]["namespace"]):
            fits = selects(owner["spec"].get("selector"), pod["metadata"].get("labels"))
            if fits and is_active(pod) and controller_of(pod) is None:
                await self.rewrite(POD, key_of(pod), lambda found: _adopted(found, owner))

    async def _report(self, key: Key, owner: Obj) -> None:
        now, min_ready = self.reactor.seconds(), owner["spec"].get("minReadySeconds", 0)
        pods = [one for one in self.api.cache.current(POD, key[0]) if owned_by(one, owner) and is_active(one)]
        labels = owner["spec"]["template"].get("metadata", {}).get("labels", {})
        ready = [one for one in pods if is_ready(one)]
        available = [one for one in ready if is_available(one, min_ready, now)]
        counts = {
            "replicas": len(pods),
            "fullyLabeledReplicas": sum(
                1 for one in pods if labels.items() <= one["metadata"].get("labels", {}).items()
            ),
            "readyReplicas": len(ready),
            "availableReplicas": len(available),
        }
        status = {name: count for name, count in counts.items() if count or name == "replicas"}
        status["observedGeneration"] = owner["metadata"]["generation"]
        if owner.get("status") != status:
            await self.rewrite(REPLICA_SET, key, lambda found: {**found, "status": status})
        if len(available) < len(ready):
            self.enqueue(key, max(min_ready, 1))


def _adopted(pod: Obj, owner: Obj) -> Obj:
    if controller_of(pod) is None:
        pod["metadata"].setdefault("ownerReferences", []).append(reference_to(owner))
    return pod
