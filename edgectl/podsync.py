"""The pods of the cluster, by node and by what they use; and their status, as their nodes report it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from edgectl.errors import StatusError
from edgectl.idlepatches import IdlePatches
from edgectl.interfaces import EdgeNode
from edgectl.kubernetes import PODS, KubernetesClient
from edgectl.mirror import Mirror
from edgectl.pace import STATUS_BURST, STATUS_RATE, Pace
from edgectl.takeover import (
    CONTRADICTED_SECONDS,
    REFUSED,
    Refused,
    Shown,
    Taker,
    annotations_for,
    is_contradicted,
    may_be_taken_over,
    news,
    shown,
    takers,
    unready,
)
from edgectl.translate import (
    Reference,
    merge_patch,
    pod_status,
    references,
    with_own_addresses,
)
from edgectl.watch import Object

SLIM = "kubebus.io/slim"
"""Marks what is kept of a pod that is not on an edge node: in a large cluster that is most of them."""

MAX_REFUSALS = 256
"""Of one node's words, that are told of: one that was broken into cannot fill the log, or the cluster with Events."""


def slim(pod: Mapping[str, Any]) -> Object:
    metadata = {name: pod["metadata"][name] for name in ("namespace", "name", "uid", "resourceVersion")}
    return {"metadata": metadata, "spec": {"nodeName": node_name(pod)}, SLIM: True}


class PodIndex:
    """Which pods are bound to which node, and which pods use which object. Pure."""

    def __init__(self) -> None:
        self.pods: dict[str, Object] = {}
        self._by_node: dict[str, dict[str, None]] = {}
        self._candidates: dict[str, dict[str, None]] = {}
        self._users: dict[Reference, dict[str, None]] = {}
        self._references: dict[str, frozenset[Reference]] = {}

    def changed(self, key: str, old: Object | None, new: Object | None) -> None:
        """A pod of the cluster has changed."""
        if old is not None:
            self.pods.pop(key, None)
            _remove(self._by_node, node_name(old), key)
            _remove(self._candidates, node_name(old), key)
            for reference in self._references.pop(key, ()):
                _remove(self._users, reference, key)
        if new is not None and (node := node_name(new)):
            self.pods[key] = new
            self._by_node.setdefault(node, {})[key] = None
            if may_be_taken_over(new):
                self._candidates.setdefault(node, {})[key] = None
            self._references[key] = found = references(new)
            for reference in found:
                self._users.setdefault(reference, {})[key] = None

    def on_node(self, node: str) -> Iterator[tuple[str, Object]]:
        return ((key, self.pods[key]) for key in self._by_node.get(node, ()))

    def slim_on(self, node: str) -> list[str]:
        """The pods of a node of which too little is kept."""
        return [key for key, pod in self.on_node(node) if SLIM in pod]

    def has_pods(self, node: str) -> bool:
        return node in self._by_node

    def has_candidates(self, node: str) -> bool:
        """Whether a pod of the node may be taken over when that dies."""
        return node in self._candidates

    def used_by(self, key: str) -> frozenset[Reference]:
        return self._references.get(key, frozenset())

    def users_of(self, reference: Reference) -> set[str]:
        """The nodes that have a pod which uses the object."""
        return {node_name(self.pods[key]) for key in self._users.get(reference, ())}


def node_name(pod: Mapping[str, Any]) -> str:
    return str((pod.get("spec") or {}).get("nodeName") or "")


def _owns(edge: EdgeNode, text: str) -> bool:
    """Whether an address is one of the node's own, or of its pods."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return address in edge.addresses or any(address in subnet for subnet in edge.pod_subnets)


def _foreign(edge: EdgeNode, status: Mapping[str, Any]) -> str | None:
    """The first address in a pod's status that is none of that node."""
    listed = status.get("podIPs")
    further = [each.get("ip") for each in listed if isinstance(each, Mapping)] if isinstance(listed, list) else []
    texts = [text for text in (status.get("podIP"), *further) if isinstance(text, str) and text]
    return next((text[:64] for text in texts if not _owns(edge, text)), None)


def _remove(index: dict[Any, dict[str, None]], name: Any, key: str) -> None:
    keys = index.get(name)
    if keys is not None:
        keys.pop(key, None)
        if not keys:
            del index[name]


class PodSync:
    """A handler of work by pod, which brings its status in line with what is reported of it; callable at any time."""

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        client: KubernetesClient,
        directory: Mapping[str, EdgeNode],
        index: PodIndex,
        mirror: Callable[[], Mirror],
        tell: Callable[[Mapping[str, Any], str, str], None],
        warn: Callable[[Mapping[str, Any], str, str], None],
        look: Callable[[str, float], None],
    ) -> None:
        """:param tell: of a pod, by an Event with that reason and message; ``warn``: by a warning.
        :param look: has a pod reported on once more after some seconds, though nothing is left to do until then.
        """
        self._reactor = reactor
        self._client = client
        self._directory = directory
        self._index = index
        self._mirror = mirror
        self._tell, self._warn, self._look = tell, warn, look
        # By pod: since when the words of other nodes and of its own contradict each other.
        self._contradicted: dict[str, dict[tuple[str, str], float]] = {}
        self._refused: dict[str, set[tuple[str, str]]] = {}
        self._idle = IdlePatches()
        self._pace = Pace(STATUS_RATE, STATUS_BURST)

    def forget(self, node: str) -> None:
        """The node is gone for good."""
        self._pace.forget(node)
        self._refused.pop(node, None)

    async def report(self, key: str) -> float:
        """Bring the status of the pod ``namespace/name`` in line with what its node, or who took it over, reports.

        :return: 0.0, or the seconds after which to try again, since the node has written too much of late.
        """
        pod = self._index.pods.get(key)
        owner = self._directory.get(node_name(pod)) if pod is not None else None
        if pod is None or SLIM in pod or owner is None:
            self._contradicted.pop(key, None)
            return 0.0
        metadata = pod["metadata"]
        namespace, name, uid = metadata["namespace"], metadata["name"], metadata["uid"]
        word, revision = self._word(pod)
        running, refused = takers(pod, self._mirror(), self._directory)
        believed = self._believed(key, owner, word, running, refused)
        for each in refused:
            self._refuse(pod, each)
        view = shown(pod, owner, word, revision, believed, self._reactor.seconds())
        if view is None:
            return 0.0
        try:
            if patch := self._patch(pod, view):
                if wait := self._pace.take(view.edge.name, self._reactor.seconds()):
                    return wait
                after = await self._client.patch(PODS, namespace, name, patch, subresource="status")
                self._idle.sent(uid, patch, pod, after)
                if "annotations" in patch["metadata"] and (told := news(pod, view)) is not None:
                    self._log.info("pod {pod}: {news}", pod=key, news=told[1])
                    self._tell(pod, *told)
            if word is not None and word.get("gone") is True and metadata.get("deletionTimestamp") and not running:
                await self._client.delete(PODS, namespace, name, uid=uid, grace=0)
                self._idle.forget(uid)
                self._log.info("pod {pod}: its containers are gone, deletion confirmed", pod=key)
        except StatusError as error:
            if not error.not_found:
                raise
        return view.again

    def _believed(
        self, key: str, owner: EdgeNode, word: Object | None, running: list[Taker], refused: list[Refused]
    ) -> list[Taker]:
        """Those whom the pod's own node does not belie for long."""
        now = self._reactor.seconds()
        if not running or not is_contradicted(owner, word, now):
            self._contradicted.pop(key, None)
            return running
        before = self._contradicted.get(key, {})
        since = {(each.node.name, each.uid): before.get((each.node.name, each.uid), now) for each in running}
        self._contradicted[key] = since
        left = {name: first + CONTRADICTED_SECONDS - now for name, first in since.items()}
        why = f"node {owner.name}, to which it is bound, is connected and runs it"
        refused += [Refused(each.node.name, why) for each in running if left[each.node.name, each.uid] <= 0]
        if soon := min((seconds for seconds in left.values() if seconds > 0), default=0.0):
            self._look(key, soon)
        return [each for each in running if left[each.node.name, each.uid] > 0]

    def _refuse(self, pod: Mapping[str, Any], refused: Refused) -> None:
        """Tell once."""
        metadata, known = pod["metadata"], self._refused.setdefault(refused.node, set())
        if (metadata["uid"], refused.why) in known or len(known) >= MAX_REFUSALS:
            return
        known.add((metadata["uid"], refused.why))
        message = f"node {refused.node} says that it has taken it over, which does not count: {refused.why}"
        self._log.warn("pod {ns}/{name}: {news}", ns=metadata["namespace"], name=metadata["name"], news=message)
        self._warn(pod, REFUSED, message)

    def _word(self, pod: Mapping[str, Any]) -> tuple[Object | None, int]:
        """The report on this very pod (its UID) from the node it is bound to, and when it last changed."""
        metadata = pod["metadata"]
        reports = self._mirror().nodes.get(node_name(pod))
        if reports is None:
            return None, 0
        key = (metadata["namespace"], metadata["name"], metadata["uid"])
        return reports.pods.get(key), reports.revisions.get(key, 0)

    def _patch(self, pod: Mapping[str, Any], view: Shown) -> Object:
        reported = view.report.get("status") if view.report is not None else {}
        if not isinstance(reported, Mapping):
            return {}
        current = pod.get("status") or {}
        if view.report is None:
            status = unready(current)
        else:
            if view.taker is not None and (foreign := _foreign(view.edge, reported)):
                why = f"address {foreign} is none of its own; no traffic is led there"
                self._refuse(pod, Refused(view.edge.name, why))
            status = pod_status(current, with_own_addresses(reported, lambda text: _owns(view.edge, text)))
        metadata = pod["metadata"]
        guards: Object = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        if annotations := annotations_for(pod, view):
            guards["annotations"] = annotations
        patch = merge_patch(current, status)
        if not patch and not annotations:
            return {}
        whole = {"metadata": guards, "status": patch}
        return {} if not annotations and self._idle.repeats(metadata["uid"], whole, pod) else whole
