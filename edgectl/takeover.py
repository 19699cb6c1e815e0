"""Pods that another node of their node's site may run when that dies: which, what is told of them, whose word counts.

The site decides who runs such a pod, by itself; here its members are told what they may run, and Kubernetes is shown
what has come of it. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edgectl.interfaces import EdgeNode
from edgectl.mirror import Mirror, PodKey
from edgectl.translate import TERMINAL, strip_pod
from edgectl.watch import Object
from metasync.keys import TAKEN_OVER_AS, TAKEN_OVER_BY, TAKEOVER, TAKEOVER_SITE, WAITING_FOR_SITE

NOT_POSSIBLE = "NotTakenOver"
TAKEN_OVER, GIVEN_BACK, REFUSED = "TakenOver", "GivenBack", "TakeoverRefused"
"""Reasons of Events at the pod."""

SETTLE_SECONDS = 15.0
"""So long after a link came up, what the node last said before may still be what is in the store."""

CONTRADICTED_SECONDS = 120.0
"""So long a taker's word counts though the pod's own node is connected, and runs it by its own word: that one may be
dead, and its link is not known to be for 78 s (``kubebus.session.Timing``)."""

_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,63}")

_MIRROR_POD = "kubernetes.io/config.mirror"
"""Annotation of what stands in the API for a static pod."""

_OF_THE_NODE = ("hostPath", "persistentVolumeClaim", "ephemeral")
"""Volumes whose content is one node's own."""


def asks_for_takeover(pod: Mapping[str, Any]) -> bool:
    """Whether the pod's annotation opts in."""
    return _annotations(pod).get(TAKEOVER) == TAKEOVER_SITE


def obstacle(pod: Mapping[str, Any]) -> str | None:
    """Why a pod that opts in runs on its own node only, as ever; ``None`` if it can be taken over."""
    if _MIRROR_POD in _annotations(pod):
        return "it is a static pod of its node"
    if any(owner.get("kind") == "DaemonSet" for owner in pod["metadata"].get("ownerReferences") or ()):
        return "it belongs to a DaemonSet, which has a pod of its own on every node"
    spec = pod["spec"]
    if spec.get("restartPolicy", "Always") != "Always":
        return f"its restartPolicy is {spec['restartPolicy']}: what has ended would run a second time"
    for volume in spec.get("volumes") or ():
        kind = next((kind for kind in _OF_THE_NODE if volume.get(kind) is not None), None)
        if kind is not None:
            return f"its volume {volume.get('name')!r} ({kind}) is on its node only"
    return None


def may_be_taken_over(pod: Mapping[str, Any]) -> bool:
    """What has ended is over for every node."""
    ended = (pod.get("status") or {}).get("phase") in TERMINAL
    return asks_for_takeover(pod) and obstacle(pod) is None and not ended


def for_nodes(pod: Mapping[str, Any]) -> Object:
    """The pod as its node is told it, and its site: opting in is told of those only that can be taken over.

    Those have what says which nodes may run them.
    """
    told = strip_pod(pod)
    if not asks_for_takeover(pod):
        return told
    if obstacle(pod) is not None:
        annotations = {name: value for name, value in told["metadata"]["annotations"].items() if name != TAKEOVER}
        return {**told, "metadata": {**told["metadata"], "annotations": annotations}}
    spec = pod["spec"]
    where: Object = {"nodeSelector": spec["nodeSelector"]} if spec.get("nodeSelector") else {}
    if affinity := (spec.get("affinity") or {}).get("nodeAffinity"):
        where["affinity"] = {"nodeAffinity": affinity}
    return {**told, "spec": {**told["spec"], **where}}


def concerns_site(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> bool:
    """Whether a change of a pod is one to its site. Most are of its status, and are none."""
    before, after = (for_nodes(pod) if pod is not None and may_be_taken_over(pod) else None for pod in (old, new))
    return before != after


class Sites:
    """Which nodes are where."""

    def __init__(self) -> None:
        self._members: dict[str, dict[str, None]] = {}
        self._site: dict[str, str] = {}

    def changed(self, name: str, edge: EdgeNode | None) -> set[str]:
        """A node has changed, or (``None``) was removed; the sites that this is about."""
        new = None if edge is None or edge.revoked else edge.site
        old = self._site.pop(name, None)
        if old is not None:
            self._members[old].pop(name)
            if not self._members[old]:
                del self._members[old]
        if new is not None:
            self._site[name] = new
            self._members.setdefault(new, {})[name] = None
        return {site for site in (old, new) if site is not None}

    def of(self, node: str) -> str | None:
        return self._site.get(node)

    def members(self, site: str) -> Collection[str]:
        return self._members.get(site, {}).keys()


@dataclass(frozen=True, slots=True)
class Taker:
    """A node that says that it runs another's pod, under ``uid``; ``revision`` is that of its word in the store."""

    node: EdgeNode
    uid: str
    report: Mapping[str, Any]
    revision: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A node's word on a pod that is not its to take over."""

    node: str
    why: str


def takers(
    pod: Mapping[str, Any], mirror: Mirror, directory: Mapping[str, EdgeNode]
) -> tuple[list[Taker], list[Refused]]:
    """Who runs the pod, or may have something of it left, beside its own node; and who says so though it must not.

    Only a node of its site may, only what opts in and can be taken over, and under a UID of its own.
    """
    found, refused = [], []
    for node, key in mirror.takeovers.get(pod["metadata"]["uid"], ()):
        taker = _taker(pod, node, key, mirror, directory)
        if isinstance(taker, Refused):
            refused.append(taker)
        elif taker is not None and taker.report.get("gone") is not True:
            found.append(taker)
    return found, refused


def stands_in(pod: Mapping[str, Any], node: str, uid: str, mirror: Mirror, directory: Mapping[str, EdgeNode]) -> bool:
    """Whether ``uid`` is the pod's own on ``node``, or that of a copy which the node has taken over."""
    if node == pod["spec"].get("nodeName"):
        return bool(uid == pod["metadata"]["uid"])
    key = (pod["metadata"]["namespace"], pod["metadata"]["name"], uid)
    known = (node, key) in mirror.takeovers.get(pod["metadata"]["uid"], ())
    return known and isinstance(_taker(pod, node, key, mirror, directory), Taker)


def _taker(
    pod: Mapping[str, Any], node: str, key: PodKey, mirror: Mirror, directory: Mapping[str, EdgeNode]
) -> Taker | Refused | None:
    """``None``: of nodes that are not there, or not any more."""
    owner, edge = directory.get(pod["spec"].get("nodeName", "")), directory.get(node)
    reports = mirror.nodes.get(node)
    if owner is None or edge is None or reports is None or edge.revoked:
        return None
    report = reports.pods[key]
    why = _not_to_take(pod, owner, edge, key, report)
    return Refused(node, why) if why else Taker(edge, key[2], report, reports.revisions.get(key, 0))


def _not_to_take(
    pod: Mapping[str, Any], owner: EdgeNode, edge: EdgeNode, key: PodKey, report: Mapping[str, Any]
) -> str | None:
    metadata, origin = pod["metadata"], report.get("takenOver")
    if edge.name == owner.name:
        return "it is its own"
    if edge.site is None or edge.site != owner.site:
        return f"it is not of the site of node {owner.name}"
    if key[:2] != (metadata["namespace"], metadata["name"]):
        return "it reports it under another name"
    if key[2] == metadata["uid"] or not _UID.fullmatch(key[2]):
        return "it reports it without a UID of its own"
    if not isinstance(origin, Mapping) or origin.get("node") != owner.name:
        return f"it says that it has it from another node than {owner.name}"
    # Who opts out again is still shown until nothing is left.
    if not asks_for_takeover(pod) and _annotations(pod).get(TAKEN_OVER_BY) != edge.name:
        return f"the pod has no annotation {TAKEOVER}: {TAKEOVER_SITE}"
    return obstacle(pod)


@dataclass(frozen=True, slots=True)
class Shown:
    """What Kubernetes is to show of a pod.

    :ivar edge: the node whose word counts. :ivar taker: that node, unless it is the pod's own.
    :ivar report: its word; ``None``: nobody runs it as far as is known, and it is not ready.
    :ivar again: seconds after which to look again, as it may then be another's word that counts.
    """

    edge: EdgeNode
    taker: Taker | None
    report: Mapping[str, Any] | None
    again: float = 0.0


def shown(
    pod: Mapping[str, Any],
    owner: EdgeNode,
    word: Mapping[str, Any] | None,
    revision: int,
    running: Iterable[Taker],
    now: float,
) -> Shown | None:
    """Whose word counts; ``None`` if nobody has said anything.

    A taker's does until it says that nothing is left, whatever the owner says: that may be from before. But a taker
    that is away cannot say so. Then the owner's counts, if that is newer and tells of a pod that runs. A copy that was
    stopped is not the pod's end: whoever takes the pod for over would replace it.

    :param word: what the owner reports of the pod, ``revision`` when it last changed.
    """
    running = [taker for taker in running if not _was_stopped(taker.report)]
    best = max(running, key=lambda taker: (taker.node.connected, taker.revision), default=None)
    if best is not None:
        settles = best.node.since + SETTLE_SECONDS - now
        there = best.node.connected and settles <= 0
        if there or not (word is not None and _runs(word) and revision > best.revision):
            return Shown(best.node, best, best.report)
        return Shown(owner, None, word, settles if best.node.connected else 0.0)
    if TAKEN_OVER_BY in _annotations(pod) and (word is None or not owner.connected):
        return Shown(owner, None, None)  # the owner's last word is from before
    return None if word is None else Shown(owner, None, word)


def is_contradicted(owner: EdgeNode, word: Mapping[str, Any] | None, now: float) -> bool:
    """Whether the pod's own node is there, and says of itself that it runs the pod: nobody else has the lease then."""
    return owner.connected and now - owner.since >= SETTLE_SECONDS and word is not None and _runs(word)


def annotations_for(pod: Mapping[str, Any], view: Shown) -> dict[str, str | None]:
    """The annotations to change (``None``: remove) so that the pod says who runs it."""
    if view.taker is None and view.report is None:
        return {}  # not given back yet
    by = view.taker.node.name if view.taker is not None else None
    wanted = {TAKEN_OVER_BY: by, TAKEN_OVER_AS: view.taker.uid if view.taker is not None else None}
    present = _annotations(pod)
    return {name: value for name, value in wanted.items() if present.get(name) != value}


def news(pod: Mapping[str, Any], view: Shown) -> tuple[str, str] | None:
    """Reason and message of the Event for what :func:`annotations_for` changes."""
    owner, present = pod["spec"]["nodeName"], _annotations(pod)
    if view.taker is not None:
        return TAKEN_OVER, f"node {view.taker.node.name} runs it in place of node {owner}, with UID {view.taker.uid}"
    if TAKEN_OVER_BY in present:
        copy = f"node {present[TAKEN_OVER_BY]} ran it with UID {present.get(TAKEN_OVER_AS, 'unknown')}"
        return GIVEN_BACK, f"node {owner} runs it again; {copy}"
    return None


def unready(status: Mapping[str, Any]) -> Object:
    """The status of a pod that nobody runs as far as is known: no traffic is led to it."""
    conditions = [
        {**condition, "status": "False", "reason": "TakeoverEnded"}
        if condition.get("type") in ("Ready", "ContainersReady") and condition.get("status") != "False"
        else condition
        for condition in status.get("conditions") or ()
    ]
    containers = [{**container, "ready": False} for container in status.get("containerStatuses") or ()]
    told: Object = {"conditions": conditions, "containerStatuses": containers}
    return {**status, **{name: value for name, value in told.items() if name in status}}


def _runs(report: Mapping[str, Any]) -> bool:
    """Whether the owner has the pod to run, by its own word: then it has the lease."""
    status = report.get("status")
    if not isinstance(status, Mapping) or status.get("phase") != "Running" or report.get("gone") is True:
        return False
    containers = status.get("containerStatuses")
    return not any(map(_is_held, containers if isinstance(containers, list) else ()))


def _was_stopped(report: Mapping[str, Any]) -> bool:
    """Whether a copy has ended by being stopped: what restarts for ever ends in no other way, but for an eviction."""
    status = report.get("status")
    return isinstance(status, Mapping) and status.get("phase") in TERMINAL and not status.get("reason")


def _is_held(container: Any) -> bool:
    """A node that has lost the lease still calls a pod Running whose containers ran before."""
    try:
        return bool(container["state"]["waiting"]["reason"] == WAITING_FOR_SITE)
    except (KeyError, TypeError):
        return False


def _annotations(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    annotations: Mapping[str, Any] = pod["metadata"].get("annotations") or {}
    return annotations
