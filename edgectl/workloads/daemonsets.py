"""Keeps one pod of each DaemonSet on each node that it is for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgectl.apiserver.resources import DAEMON_SET, NODE, POD, Resource
from edgectl.scheduler_fit import matches_node, untolerated
from edgectl.workloads.controller import Controller, Key, key_of
from edgectl.workloads.pods import (
    controller_of,
    from_template,
    is_active,
    is_available,
    is_ready,
    owned_by,
    share,
    template_hash,
)

Obj = dict[str, Any]

HASH = "controller-revision-hash"

TOLERATIONS: tuple[Obj, ...] = tuple(
    {"key": f"node.kubernetes.io/{name}", "operator": "Exists", "effect": effect}
    for name, effect in (
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("not-ready", "NoSchedule"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    )
)
"""What every daemon pod tolerates (as kube-controller-manager adds; a node that is not ready yet, besides)."""


def _pod_for(owner: Obj, node: str) -> Obj:
    """The pod for one node; the scheduler puts it there and nowhere else."""
    digest = template_hash(owner["spec"]["template"])
    pod = from_template(owner["spec"]["template"], owner, {HASH: digest})
    spec = pod["spec"]
    spec["tolerations"] = [*spec.get("tolerations", []), *(dict(one) for one in TOLERATIONS)]
    affinity = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    required = affinity.setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
    terms = required.get("nodeSelectorTerms") or [{}]
    required["nodeSelectorTerms"] = [{**one, "matchFields": [field]} for one in terms]
    return pod


def node_of(pod: Obj) -> str:
    """The node a daemon pod is on or for."""
    if pod["spec"].get("nodeName"):
        return str(pod["spec"]["nodeName"])
    required = (
        pod["spec"]
        .get("affinity", {})
        .get("nodeAffinity", {})
        .get("requiredDuringSchedulingIgnoredDuringExecution", {})
    )
    for term in required.get("nodeSelectorTerms", ()):
        for field in term.get("matchFields", ()):
            if field["key"] == "metadata.name" and field.get("values"):
                return str(field["values"][0])
    return ""


class DaemonSetController(Controller):
    follows = (DAEMON_SET, POD, NODE)

    def keys(self, resource: Resource, obj: Obj) -> Iterable[Key]:
        if resource == DAEMON_SET:
            return (key_of(obj),)
        if resource == NODE:
            return [key_of(one) for one in self.api.cache.current(DAEMON_SET)]
        owner = controller_of(obj)
        if owner is None or owner["kind"] != "DaemonSet":
            return ()
        return ((obj["metadata"]["namespace"], owner["name"]),)

    async def reconcile(self, key: Key) -> None:
        owner = self.api.cache.get(DAEMON_SET, *key)
        if owner is None or "deletionTimestamp" in owner["metadata"]:
            return
        nodes = self.api.cache.current(NODE)
        probe = _pod_for(owner, "")
        probe["spec"]["affinity"] = owner["spec"]["template"]["spec"].get("affinity", {})
        fits = {one["metadata"]["name"] for one in nodes if matches_node(probe["spec"], one)}
        start = {
            one["metadata"]["name"] for one in nodes if untolerated(probe, one, ("NoSchedule", "NoExecute")) is None
        }
        stay = {one["metadata"]["name"] for one in nodes if untolerated(probe, one, ("NoExecute",)) is None}
        await self._place(key, owner, fits & start, fits & stay)
        if owner["spec"]["updateStrategy"].get("type") == "RollingUpdate":
            await self._replace_old(key, owner, fits & start)
        await self._report(key, owner, fits & start)

    def _pods(self, key: Key, owner: Obj) -> dict[str, list[Obj]]:
        found: dict[str, list[Obj]] = {}
        for pod in self.api.cache.current(POD, key[0]):
            if owned_by(pod, owner):
                found.setdefault(node_of(pod), []).append(pod)
        return found

    async def _place(self, key: Key, owner: Obj, start: set[str], stay: set[str]) -> None:
        pods = self._pods(key, owner)
        for node, there in pods.items():
            active = [one for one in there if is_active(one)]
            surplus = active[1:] if node in stay else active
            ended = [one for one in there if not is_active(one) and "deletionTimestamp" not in one["metadata"]]
            for pod in (*surplus, *ended):
                await self.delete(POD, pod)
        for node in sorted(start):
            # One that is still ending keeps its place: two at once would fight for what they share.
            if not pods.get(node):
                await self.create(POD, key[0], _pod_for(owner, node))

    async def _replace_old(self, key: Key, owner: Obj, wanted: set[str]) -> None:
        """Delete pods of an older template, as many as may be missing at once."""
        digest, now = template_hash(owner["spec"]["template"]), self.reactor.seconds()
        rolling = owner["spec"]["updateStrategy"].get("rollingUpdate", {})
        allowed = max(share(rolling.get("maxUnavailable", 1), len(wanted), up=True), 1)
        pods = self._pods(key, owner)
        min_ready = owner["spec"].get("minReadySeconds", 0)
        serving = {
            node
            for node, there in pods.items()
            if any(is_active(one) and is_available(one, min_ready, now) for one in there)
        }
        missing = len(wanted - serving)
        for node in sorted(wanted, key=lambda one: one in serving):
            for pod in pods.get(node, ()):
                if not is_active(pod) or pod["metadata"].get("labels", {}).get(HASH) == digest:
                    continue
                if node in serving:
                    if missing >= allowed:
                        return
                    missing += 1
                await self.delete(POD, pod)

    async def _report(self, key: Key, owner: Obj, wanted: set[str]) -> None:
        now, min_ready = self.reactor.seconds(), owner["spec"].get("minReadySeconds", 0)
        digest = template_hash(owner["spec"]["template"])
        by_node = {node: [one for one in there if is_active(one)] for node, there in self._pods(key, owner).items()}
        there = [one for node, pods in by_node.items() if node in wanted for one in pods[:1]]
        available = sum(1 for one in there if is_available(one, min_ready, now))
        updated = sum(1 for one in there if one["metadata"].get("labels", {}).get(HASH) == digest)
        status: Obj = {
            "currentNumberScheduled": len(there),
            "numberMisscheduled": sum(1 for node, pods in by_node.items() if node not in wanted and pods),
            "desiredNumberScheduled": len(wanted),
            "numberReady": sum(1 for one in there if is_ready(one)),
            "observedGeneration": owner["metadata"]["generation"],
        }
        optional = {
            "updatedNumberScheduled": updated,
            "numberAvailable": available,
            "numberUnavailable": len(wanted) - available,
        }
        status |= {name: count for name, count in optional.items() if count}
        if owner.get("status") != status:
            await self.rewrite(DAEMON_SET, key, lambda found: {**found, "status": status})
