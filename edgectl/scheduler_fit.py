"""Which nodes a pod fits on, and which of them is best. Pure: objects in, a choice out.

The rules are kube-scheduler's filters (node name, unschedulable, taints, node affinity, resources, ports, pod
affinity) and, of its scores, preferred node affinity, untolerated PreferNoSchedule taints and least allocated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from edgectl.apiserver.quantity import parse
from edgectl.apiserver.selectors import Requirement, matches_labels
from edgectl.scheduler_affinity import PodRules, terms

Obj = Mapping[str, Any]

DEFAULT_MAX_PODS = 110
"""Pods of a node that says nothing of it (kubelet's default)."""


ENOUGH = 100
"""Nodes that fit among which to choose (kube-scheduler's ``minFeasibleNodesToFind``)."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The node chosen, or ``None`` and why none is."""

    node: str | None
    reason: str = ""


def tolerates(tolerations: Sequence[Obj], taint: Obj) -> bool:
    """Whether any toleration lets a pod pass a taint."""
    return any(_tolerates(one, taint) for one in tolerations)


def _tolerates(toleration: Obj, taint: Obj) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    if not toleration.get("key"):
        return False
    return str(toleration.get("value", "")) == str(taint.get("value", ""))


def untolerated(pod: Obj, node: Obj, effects: Sequence[str]) -> Obj | None:
    """The first taint of these effects that keeps the pod off the node."""
    tolerations = pod["spec"].get("tolerations", [])
    taints = [one for one in node.get("spec", {}).get("taints", ()) if one["effect"] in effects]
    return next((one for one in taints if not tolerates(tolerations, one)), None)


def _requirements(expressions: Sequence[Obj]) -> list[Requirement]:
    return [Requirement(one["key"], one["operator"], tuple(one.get("values", ()))) for one in expressions]


def _term_matches(term: Obj, node: Obj) -> bool:
    expressions, fields = term.get("matchExpressions", ()), term.get("matchFields", ())
    if not expressions and not fields:
        return False
    labels = node["metadata"].get("labels", {})
    names = {"metadata.name": node["metadata"]["name"]}
    return matches_labels(_requirements(expressions), labels) and matches_labels(_requirements(fields), names)


def matches_node(spec: Obj, node: Obj) -> bool:
    """Whether a pod's node selector and required node affinity allow the node."""
    labels = node["metadata"].get("labels", {})
    if any(labels.get(key) != value for key, value in spec.get("nodeSelector", {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return required is None or any(_term_matches(one, node) for one in required.get("nodeSelectorTerms", ()))


def requests(pod: Obj) -> dict[str, Decimal]:
    """What a pod asks for: the sum of its containers, or its largest init container if that is more."""
    total: dict[str, Decimal] = {}
    for container in pod["spec"].get("containers", ()):
        for name, amount in container.get("resources", {}).get("requests", {}).items():
            total[name] = total.get(name, Decimal(0)) + parse(amount)
    for container in pod["spec"].get("initContainers", ()):
        for name, amount in container.get("resources", {}).get("requests", {}).items():
            total[name] = max(total.get(name, Decimal(0)), parse(amount))
    for name, amount in pod["spec"].get("overhead", {}).items():
        total[name] = total.get(name, Decimal(0)) + parse(amount)
    return total


def _host_ports(pod: Obj) -> set[tuple[str, int]]:
    return {
        (port.get("protocol", "TCP"), port["hostPort"])
        for container in pod["spec"].get("containers", ())
        for port in container.get("ports", ())
        if port.get("hostPort")
    }


class Load:
    """The pods on each node and what they ask for, kept up as pods change."""

    def __init__(self, pods: Iterable[Obj] = ()) -> None:
        self._pods: dict[str, dict[str, Obj]] = {}
        self._apart: set[str] = set()
        self._used: dict[str, dict[str, Decimal]] = {}
        for pod in pods:
            self.add(pod)

    def add(self, pod: Obj) -> None:
        """Count a pod, if it is on a node and has not ended."""
        node = pod["spec"].get("nodeName")
        if not node or pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            return
        self.remove(pod)
        self._pods.setdefault(node, {})[pod["metadata"]["uid"]] = pod
        if terms(pod, "podAntiAffinity"):
            self._apart.add(pod["metadata"]["uid"])
        self._count(node, pod, 1)

    def remove(self, pod: Obj) -> None:
        """Count it no more, wherever it was."""
        node = pod["spec"].get("nodeName", "")
        there = self._pods.get(node, {}).pop(pod["metadata"]["uid"], None)
        if there is not None:
            self._apart.discard(there["metadata"]["uid"])
            self._count(node, there, -1)

    def _count(self, node: str, pod: Obj, sign: int) -> None:
        used = self._used.setdefault(node, {})
        for name, amount in requests(pod).items():
            used[name] = used.get(name, Decimal(0)) + sign * amount

    def on(self, node: Obj) -> Collection[Obj]:
        return self._pods.get(node["metadata"]["name"], {}).values()

    def concerned(self, pod: Obj, nodes: Iterable[Obj]) -> Iterator[tuple[Obj, Obj]]:
        """The pods on these nodes that rules between pods may be about, each with its node; mostly none."""
        own = terms(pod, "podAffinity") or terms(pod, "podAntiAffinity")
        if not own and not self._apart:
            return iter(())
        return ((one, node) for node in nodes for one in self.on(node))

    def used(self, node: Obj) -> Mapping[str, Decimal]:
        return self._used.get(node["metadata"]["name"], {})


def _allocatable(node: Obj) -> dict[str, Decimal]:
    status = node.get("status", {})
    return {name: parse(amount) for name, amount in (status.get("allocatable") or status.get("capacity", {})).items()}


def _lacking(pod: Obj, wanted_of: Mapping[str, Decimal], node: Obj, nodes: Load) -> str | None:
    room = _allocatable(node)
    if len(nodes.on(node)) >= room.get("pods", DEFAULT_MAX_PODS):
        return "Too many pods"
    used = nodes.used(node)
    for name, amount in wanted_of.items():
        if amount > 0 and used.get(name, Decimal(0)) + amount > room.get(name, Decimal(0)):
            return f"Insufficient {name}"
    wanted = _host_ports(pod)
    if wanted and any(wanted & _host_ports(one) for one in nodes.on(node)):
        return "node(s) didn't have free ports for the requested pod ports"
    return None


def _ready(node: Obj) -> bool:
    conditions = {one["type"]: one["status"] for one in node.get("status", {}).get("conditions", ())}
    return bool(conditions.get("Ready", "Unknown") == "True")


def unfit(pod: Obj, node: Obj) -> str | None:
    """Why the node itself is none for the pod, in kube-scheduler's words, or ``None`` if it is."""
    tolerations = pod["spec"].get("tolerations", [])
    cordoned = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    if node.get("spec", {}).get("unschedulable") and not tolerates(tolerations, cordoned):
        return "node(s) were unschedulable"
    taint = untolerated(pod, node, ("NoSchedule", "NoExecute"))
    if taint is not None:
        return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
    not_ready = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
    if not _ready(node) and not tolerates(tolerations, not_ready):
        return "node(s) had untolerated taint {node.kubernetes.io/not-ready: }"
    if not matches_node(pod["spec"], node):
        return "node(s) didn't match Pod's node affinity/selector"
    return None


def _score(pod: Obj, node: Obj, nodes: Load) -> tuple[int, int, Decimal]:
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity", {})
    preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution", ())
    weight = sum(one["weight"] for one in preferred if _term_matches(one["preference"], node))
    avoided = untolerated(pod, node, ("PreferNoSchedule",)) is not None
    room, used = _allocatable(node), nodes.used(node)
    free = [1 - used.get(name, Decimal(0)) / room[name] for name in ("cpu", "memory") if room.get(name)]
    count = Decimal(len(nodes.on(node)))
    return weight, -int(avoided), sum(free, Decimal(0)) / max(len(free), 1) - count


def place(pod: Obj, all_nodes: Sequence[Obj], nodes: Load, first: int = 0) -> Placement:
    """The best node for a pod, among the :data:`ENOUGH` that fit.

    :param first: which node to look at first; callers move it on, so that all nodes get their share.
    """
    fitting: list[Obj] = []
    reasons: Counter[str] = Counter()
    rules, wanted = PodRules(pod, nodes.concerned(pod, all_nodes)), requests(pod)
    for index in range(len(all_nodes)):
        node = all_nodes[(first + index) % len(all_nodes)]
        why = unfit(pod, node) or _lacking(pod, wanted, node, nodes) or rules.unfit(node)
        if why is None:
            fitting.append(node)
            if len(fitting) == ENOUGH:
                break
        else:
            reasons[why] += 1
    if fitting:
        best = max(sorted(fitting, key=lambda one: one["metadata"]["name"]), key=lambda one: _score(pod, one, nodes))
        return Placement(best["metadata"]["name"])
    listed = ", ".join(f"{count} {why}" for why, count in sorted(reasons.items()))
    return Placement(None, f"0/{len(all_nodes)} nodes are available" + (f": {listed}." if listed else "."))
