"""Rolls Deployments out: one ReplicaSet for each pod template, scaled step by step."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from edgectl.apiserver.errors import ApiError
from edgectl.apiserver.meta import seconds_of, timestamp
from edgectl.apiserver.resources import DEPLOYMENT, POD, REPLICA_SET, Resource
from edgectl.workloads.controller import Controller, Key, key_of
from edgectl.workloads.pods import controller_of, owned_by, reference_to, set_condition, template_hash
from edgectl.workloads.rollout import Limits, Set, next_step

Obj = dict[str, Any]

HASH = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"


def _template_of(replica_set: Obj) -> Obj:
    """The template as the Deployment gave it."""
    template: Obj = copy.deepcopy(replica_set["spec"]["template"])
    template.get("metadata", {}).get("labels", {}).pop(HASH, None)
    return template


def _revision(replica_set: Obj) -> int:
    value = replica_set["metadata"].get("annotations", {}).get(REVISION, "0")
    return int(value) if value.isdigit() else 0


class DeploymentController(Controller):
    follows = (DEPLOYMENT, REPLICA_SET, POD)

    def keys(self, resource: Resource, obj: Obj) -> Iterable[Key]:
        if resource == DEPLOYMENT:
            return (key_of(obj),)
        namespace = obj["metadata"]["namespace"]
        if resource == POD:
            # Recreate waits for the old pods to be gone.
            owner = controller_of(obj)
            if owner is None or owner["kind"] != "ReplicaSet":
                return ()
            found = self.api.cache.get(REPLICA_SET, namespace, owner["name"])
            if found is None:
                return ()
            obj = found
        owner = controller_of(obj)
        return ((namespace, owner["name"]),) if owner is not None and owner["kind"] == "Deployment" else ()

    async def reconcile(self, key: Key) -> None:
        deployment = self.api.cache.get(DEPLOYMENT, *key)
        if deployment is None or "deletionTimestamp" in deployment["metadata"]:
            return
        sets = [one for one in self.api.cache.current(REPLICA_SET, key[0]) if owned_by(one, deployment)]
        spec = deployment["spec"]
        new = next((one for one in sets if _template_of(one) == spec["template"]), None)
        if spec.get("paused"):
            await self._report(key, deployment, new, sets)
            return
        if new is None:
            new = await self._new_set(key, deployment, sets)
        old = [one for one in sets if one["metadata"]["uid"] != new["metadata"]["uid"]]
        await self._number(key, deployment, new, old)
        limits = None if spec["strategy"]["type"] == "Recreate" else Limits.of(spec)
        steps = next_step(spec["replicas"], self._set(new), [self._set(one) for one in old], limits)
        for name, wanted in steps.items():
            await self._scale((key[0], name), wanted)
        if not steps:
            await self._forget(spec, old)
        await self._report(key, deployment, new, [*old, new])

    def _set(self, replica_set: Obj) -> Set:
        status, meta = replica_set.get("status", {}), replica_set["metadata"]
        existing = sum(1 for one in self.api.cache.current(POD, meta["namespace"]) if owned_by(one, replica_set))
        return Set(meta["name"], replica_set["spec"].get("replicas", 0), existing, status.get("availableReplicas", 0))

    async def _new_set(self, key: Key, deployment: Obj, sets: list[Obj]) -> Obj:
        template = copy.deepcopy(deployment["spec"]["template"])
        digest = template_hash(template)
        labels = {**template.get("metadata", {}).get("labels", {}), HASH: digest}
        template.setdefault("metadata", {})["labels"] = labels
        selector = copy.deepcopy(deployment["spec"]["selector"])
        selector.setdefault("matchLabels", {})[HASH] = digest
        revision = max((_revision(one) for one in sets), default=0) + 1
        made = {
            "metadata": {
                "name": f"{key[1]}-{digest}",
                "labels": labels,
                "annotations": {REVISION: str(revision)},
                "ownerReferences": [reference_to(deployment)],
            },
            "spec": {"replicas": 0, "selector": selector, "template": template},
        }
        if "minReadySeconds" in deployment["spec"]:
            made["spec"]["minReadySeconds"] = deployment["spec"]["minReadySeconds"]
        return await self.create(REPLICA_SET, key[0], made)

    async def _number(self, key: Key, deployment: Obj, new: Obj, old: list[Obj]) -> None:
        """A template that comes back (a rollback) gets the next revision number; the Deployment shows the number."""
        highest = max((_revision(one) for one in old), default=0)
        revision = _revision(new) if _revision(new) > highest else highest + 1

        def numbered(obj: Obj) -> Obj:
            obj["metadata"].setdefault("annotations", {})[REVISION] = str(revision)
            return obj

        if _revision(new) != revision:
            await self.rewrite(REPLICA_SET, key_of(new), numbered)
        if _revision(deployment) != revision:
            await self.rewrite(DEPLOYMENT, key, numbered)

    async def _scale(self, key: Key, wanted: int) -> None:
        def scaled(replica_set: Obj) -> Obj:
            replica_set["spec"]["replicas"] = wanted
            return replica_set

        await self.rewrite(REPLICA_SET, key, scaled)

    async def _forget(self, spec: Obj, old: list[Obj]) -> None:
        """Delete the oldest empty sets past the history that is kept."""
        empty = [one for one in old if not one["spec"].get("replicas") and not self._set(one).existing]
        surplus = len(empty) - spec.get("revisionHistoryLimit", 10)
        for one in sorted(empty, key=_revision)[: max(surplus, 0)]:
            await self.delete(REPLICA_SET, one)

    async def _report(self, key: Key, deployment: Obj, new: Obj | None, sets: list[Obj]) -> None:
        current = [self.api.cache.get(REPLICA_SET, *key_of(one)) or one for one in sets]
        fresh = self.api.cache.get(REPLICA_SET, *key_of(new)) if new is not None else None
        status = self._status(deployment, fresh, current)
        if deployment.get("status") == status:
            return
        try:
            await self.rewrite(DEPLOYMENT, key, lambda found: {**found, "status": status})
        except ApiError as error:
            if error.reason != "Conflict":
                raise

    def _status(self, deployment: Obj, new: Obj | None, sets: list[Obj]) -> Obj:
        wanted = deployment["spec"]["replicas"]

        def total(name: str) -> int:
            return sum(one.get("status", {}).get(name, 0) for one in sets)

        counts = {
            "replicas": total("replicas"),
            "updatedReplicas": (new or {}).get("status", {}).get("replicas", 0),
            "readyReplicas": total("readyReplicas"),
            "availableReplicas": total("availableReplicas"),
            "unavailableReplicas": max(max(wanted, total("replicas")) - total("availableReplicas"), 0),
        }
        status: Obj = {name: count for name, count in counts.items() if count}
        status["observedGeneration"] = deployment["metadata"]["generation"]
        status["conditions"] = self._conditions(deployment, counts)
        return status

    def _conditions(self, deployment: Obj, counts: dict[str, int]) -> list[Obj]:
        spec, before = deployment["spec"], deployment.get("status", {})
        now = timestamp(self.reactor.seconds())
        limits = Limits.of(spec) if spec["strategy"]["type"] == "RollingUpdate" else Limits(0, 0)
        enough = counts["availableReplicas"] >= spec["replicas"] - limits.unavailable
        available = _condition("Available", enough, "MinimumReplicasAvailable", "MinimumReplicasUnavailable")
        conditions = set_condition(before.get("conditions", []), available, now)
        done = counts["updatedReplicas"] == counts["replicas"] == counts["availableReplicas"] == spec["replicas"]
        progressing = _condition("Progressing", True, "NewReplicaSetAvailable" if done else "ReplicaSetUpdated", "")
        moved = any(before.get(name, 0) != counts[name] for name in ("updatedReplicas", "readyReplicas", "replicas"))
        last = next((one for one in conditions if one["type"] == "Progressing"), None)
        since = seconds_of(last.get("lastUpdateTime")) if last is not None else None
        deadline = spec.get("progressDeadlineSeconds", 600)
        late = since is not None and self.reactor.seconds() > since + deadline
        given_up = last is not None and last["status"] == "False"
        if not done and not moved and (late or given_up):
            progressing = _condition("Progressing", False, "", "ProgressDeadlineExceeded")
        elif not done:
            self.enqueue(key_of(deployment), deadline + 1)
            if moved and last is not None:
                conditions = [one for one in conditions if one["type"] != "Progressing"]
                conditions.append({**last, "reason": ""})
        return set_condition(conditions, progressing, now)


def _condition(type_: str, holds: bool, yes: str, no: str) -> Obj:
    reason = yes if holds else no
    words = {
        "MinimumReplicasAvailable": "Deployment has minimum availability.",
        "MinimumReplicasUnavailable": "Deployment does not have minimum availability.",
        "NewReplicaSetAvailable": "The new ReplicaSet has successfully progressed.",
        "ReplicaSetUpdated": "The ReplicaSet is progressing.",
        "ProgressDeadlineExceeded": "The ReplicaSet has timed out progressing.",
    }
    return {
        "type": type_,
        "status": "True" if holds else "False",
        "reason": reason,
        "message": words[reason],
        "lastUpdateTime": "",
    }
