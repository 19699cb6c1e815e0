"""Works out what each disruption budget allows now.

The arithmetic is kube-controller-manager's (``pkg/controller/disruption/disruption.go``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from edgectl.apiserver.disruption import covers
from edgectl.apiserver.meta import seconds_of, timestamp
from edgectl.apiserver.resources import DEPLOYMENT, DISRUPTION_BUDGET, POD, REPLICA_SET, Resource
from edgectl.workloads.controller import Controller, Key, key_of
from edgectl.workloads.pods import controller_of, is_active, is_ready, set_condition, share

Obj = dict[str, Any]

DISRUPTED_SECONDS = 120.0
"""An eviction that was allowed and is not seen by then has failed (``DeletionTimeout``)."""


class CannotCount(Exception):
    """It is not known how many pods there should be. The message says why."""


class DisruptionController(Controller):
    follows = (DISRUPTION_BUDGET, POD, REPLICA_SET, DEPLOYMENT)

    def keys(self, resource: Resource, obj: Obj) -> Iterable[Key]:
        if resource == DISRUPTION_BUDGET:
            return (key_of(obj),)
        budgets = self.api.cache.current(DISRUPTION_BUDGET, obj["metadata"]["namespace"])
        return [key_of(one) for one in budgets if resource != POD or covers(one, obj)]

    async def reconcile(self, key: Key) -> None:
        budget = self.api.cache.get(DISRUPTION_BUDGET, *key)
        if budget is None:
            return
        pods = [pod for pod in self.api.cache.current(POD, key[0]) if covers(budget, pod)]
        waits: list[float] = []

        def edit(old: Obj) -> Obj:
            # From what the store has: an eviction may have been allowed since.
            status, wait = self._status(old, pods)
            waits[:] = [] if wait is None else [wait]
            return {**old, "status": status}

        await self.rewrite(DISRUPTION_BUDGET, key, edit)
        for wait in waits:
            self.enqueue(key, wait)

    def _status(self, budget: Obj, pods: Sequence[Obj]) -> tuple[Obj, float | None]:
        """The status, and seconds until it is to be looked at again."""
        now, generation = self.reactor.seconds(), budget["metadata"].get("generation", 1)
        before = budget.get("status", {})
        disrupted, wait = _still_disrupted(before.get("disruptedPods", {}), pods, now)
        counted = [pod for pod in pods if is_active(pod)]
        healthy = sum(is_ready(pod) and pod["metadata"]["name"] not in disrupted for pod in counted)
        try:
            expected, needed = _wanted(budget.get("spec", {}), counted, self._scale)
            allowed = max(0, healthy - needed) if expected > 0 else 0
            reason, message = ("SufficientPods" if allowed else "InsufficientPods"), ""
        except CannotCount as error:
            expected = needed = before.get("expectedPods", 0)
            allowed, reason, message = 0, "SyncFailed", str(error)
        condition = {
            "type": "DisruptionAllowed",
            "status": "True" if allowed else "False",
            "observedGeneration": generation,
            "reason": reason,
            "message": message,
        }
        status = {
            "observedGeneration": generation,
            "disruptionsAllowed": allowed,
            "currentHealthy": healthy,
            "desiredHealthy": needed,
            "expectedPods": expected,
            "conditions": set_condition(before.get("conditions", ()), condition, timestamp(now)),
        }
        return {**status, **({"disruptedPods": disrupted} if disrupted else {})}, wait

    def _scale(self, pod: Obj) -> tuple[str, int]:
        """What keeps the pod, and how many it is to keep.

        :raises CannotCount: if it has no such number.
        """
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        reference = controller_of(pod)
        if reference is None:
            raise CannotCount(f"found no controllers for pod {name!r}")
        found = self.api.cache.get(REPLICA_SET, namespace, reference["name"]) if _is_set(reference) else None
        if found is None or found["metadata"]["uid"] != reference["uid"]:
            raise CannotCount(f"{reference['kind']} {reference['name']!r} of pod {name!r} does not have a scale")
        above = controller_of(found)
        if above is not None and above["kind"] == "Deployment":
            found = self.api.cache.get(DEPLOYMENT, namespace, above["name"]) or found
        return str(found["metadata"]["uid"]), int(found["spec"].get("replicas", 1))


def _is_set(reference: Obj) -> bool:
    return bool(reference["kind"] == "ReplicaSet")


def _wanted(spec: Obj, pods: Sequence[Obj], scale: Any) -> tuple[int, int]:
    """How many pods are expected, and how many of them have to be healthy."""
    least, most_missing = spec.get("minAvailable"), spec.get("maxUnavailable")
    if isinstance(least, int):
        return len(pods), least
    expected = sum(dict(scale(pod) for pod in pods).values())
    if least is not None:
        return expected, share(least, expected, up=True)
    if most_missing is None:
        return len(pods), 0
    return expected, max(0, expected - share(most_missing, expected, up=True))


def _still_disrupted(disrupted: dict[str, str], pods: Sequence[Obj], now: float) -> tuple[dict[str, str], float | None]:
    """Those whose pod is there and not ending yet; and seconds until the next of them is given up."""
    there = {pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]}
    left = {
        name: (seconds_of(stamp) or 0.0) + DISRUPTED_SECONDS - now for name, stamp in disrupted.items() if name in there
    }
    kept = {name: disrupted[name] for name, seconds in left.items() if seconds > 0}
    return kept, min((left[name] for name in kept), default=None)
