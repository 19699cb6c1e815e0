"""Notices nodes whose lease is not renewed, and moves pods off nodes with a ``NoExecute`` taint.

A node that is merely disconnected keeps its lease, renewed by the edge controller, for as long as it may: then nothing
happens here. Rules and times: kube-controller-manager's node lifecycle and taint eviction controllers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime

from edgectl.apiserver.meta import seconds_of, timestamp
from edgectl.apiserver.resources import LEASE, NODE, POD, Resource
from edgectl.apiserver.verbs import Api
from edgectl.scheduler_fit import tolerates
from edgectl.workloads.controller import Controller, Key, key_of
from edgectl.workloads.pods import set_condition

Obj = dict[str, Any]

LEASES = "kube-node-lease"
UNREACHABLE = "node.kubernetes.io/unreachable"
NOT_READY = "node.kubernetes.io/not-ready"

SILENT_SECONDS = 40.0
"""How long a lease may stand still, as seen here, before its node counts as unreachable."""

EVICT_SECONDS = 300.0
"""How long pods that say nothing of it stay on an unreachable node."""

_EFFECTS = ("NoExecute", "NoSchedule")


class NodeLifeController(Controller):
    """Marks nodes unreachable, and reachable again. A node that never had a lease is left alone."""

    follows = (NODE, LEASE)

    def __init__(self, reactor: IReactorTime, api: Api) -> None:
        super().__init__(reactor, api)
        self._renewals: dict[str, tuple[str, float]] = {}

    def keys(self, resource: Resource, obj: Obj) -> Iterable[Key]:
        if resource == LEASE and obj["metadata"]["namespace"] != LEASES:
            return ()
        return (("", obj["metadata"]["name"]),)

    async def reconcile(self, key: Key) -> None:
        name, now = key[1], self.reactor.seconds()
        node, lease = self.api.cache.get(NODE, *key), self.api.cache.get(LEASE, LEASES, name)
        if node is None or lease is None:
            self._renewals.pop(name, None)
            return
        renewed = str(lease.get("spec", {}).get("renewTime", ""))
        # Only what is seen to stand still counts: the clocks of others do not, nor the time before our start.
        if name not in self._renewals or self._renewals[name][0] != renewed:
            self._renewals[name] = renewed, now
        left = self._renewals[name][1] + SILENT_SECONDS - now
        marked = any(one["key"] == UNREACHABLE for one in node.get("spec", {}).get("taints", ()))
        if left > 0:
            if marked:
                await self.rewrite(NODE, key, _reachable)
            self.enqueue(key, left + 0.1)
        elif not marked:
            self.log.warn("node {name} is unreachable: its lease was not renewed", name=name)
            stamp = timestamp(now)
            await self.rewrite(NODE, key, lambda found: _unreachable(found, stamp))


def _reachable(node: Obj) -> Obj:
    spec = node.get("spec", {})
    taints = [one for one in spec.get("taints", ()) if one["key"] != UNREACHABLE]
    node["spec"] = {key: value for key, value in spec.items() if key != "taints"}
    if taints:
        node["spec"]["taints"] = taints
    return node


def _unreachable(node: Obj, stamp: str) -> Obj:
    spec = node.setdefault("spec", {})
    own = [{"key": UNREACHABLE, "effect": effect, "timeAdded": stamp} for effect in _EFFECTS]
    spec["taints"] = [*(one for one in spec.get("taints", ()) if one["key"] != UNREACHABLE), *own]
    status = node.setdefault("status", {})
    condition = {
        "type": "Ready",
        "status": "Unknown",
        "reason": "NodeStatusUnknown",
        "message": "the node's lease was not renewed",
    }
    status["conditions"] = set_condition(status.get("conditions", []), condition, stamp)
    return node


def stays_for(pod: Obj, taint: Obj) -> float | None:
    """Seconds that a pod stays on a node from the time a ``NoExecute`` taint is there; ``None``: for ever."""
    tolerations = [one for one in pod["spec"].get("tolerations", ()) if tolerates([one], taint)]
    if not tolerations:
        return EVICT_SECONDS if taint["key"] in (UNREACHABLE, NOT_READY) else 0.0
    limits = [float(one["tolerationSeconds"]) for one in tolerations if "tolerationSeconds" in one]
    return max(min(limits), 0.0) if limits else None


def _executing(node: Obj | None) -> Sequence[Obj]:
    taints = node.get("spec", {}).get("taints", ()) if node is not None else ()
    return [one for one in taints if one["effect"] == "NoExecute"]


class EvictionController(Controller):
    """Deletes pods, gracefully, whose time on a tainted node is over."""

    follows = (POD, NODE)

    def __init__(self, reactor: IReactorTime, api: Api) -> None:
        super().__init__(reactor, api)
        self._since: dict[tuple[str, str], float] = {}

    def keys(self, resource: Resource, obj: Obj) -> Iterable[Key]:
        if resource == POD:
            node = obj["spec"].get("nodeName")
            return (key_of(obj),) if node and _executing(self.api.cache.get(NODE, "", node)) else ()
        name = obj["metadata"]["name"]
        if not _executing(obj):
            for place in [one for one in self._since if one[0] == name]:
                del self._since[place]
            return ()
        return [key_of(one) for one in self.api.cache.current(POD) if one["spec"].get("nodeName") == name]

    async def reconcile(self, key: Key) -> None:
        pod = self.api.cache.get(POD, *key)
        if pod is None or "deletionTimestamp" in pod["metadata"] or not pod["spec"].get("nodeName"):
            return
        node, now = pod["spec"]["nodeName"], self.reactor.seconds()
        left = []
        for taint in _executing(self.api.cache.get(NODE, "", node)):
            seconds = stays_for(pod, taint)
            if seconds is not None:
                left.append(self._added(node, taint, now) + seconds - now)
        if not left:
            return
        if min(left) > 0:
            self.enqueue(key, min(left) + 0.1)
        else:
            self.log.info("pod {place} is moved off node {node}", place="/".join(key), node=node)
            await self.delete(POD, pod)

    def _added(self, node: str, taint: Obj, now: float) -> float:
        """When a taint came: as it says, else as first seen here."""
        said = seconds_of(taint.get("timeAdded"))
        return said if said is not None else self._since.setdefault((node, taint["key"]), now)
