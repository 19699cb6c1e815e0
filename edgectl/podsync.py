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
from edgectl.takeover import Shown, annotations_for, may_be_taken_over, news, shown, takers, unready
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
    ) -> None:
        """:param tell: of a pod, by an Event with that reason and message."""
        self._reactor = reactor
        self._client = client
        self._directory = directory
        self._index = index
        self._mirror = mirror
        self._tell = tell
        self._idle = IdlePatches()
        self._pace = Pace(STATUS_RATE, STATUS_BURST)

    def forget(self, node: str) -> None:
        """The node is gone for good."""
        self._pace.forget(node)

    async def report(self, key: str) -> float:
        """Bring the status of the pod ``namespace/name`` in line with what its node, or who took it over, reports.

        :return: 0.0, or the seconds after which to try again, since the node has written too much of late.
        """
        pod = self._index.pods.get(key)
        owner = self._directory.get(node_name(pod)) if pod is not None else None
        if pod is None or SLIM in pod or owner is None:
            return 0.0
        metadata = pod["metadata"]
        namespace, name, uid = metadata["namespace"], metadata["name"], metadata["uid"]
        word, revision = self._word(pod)
        running = takers(pod, self._mirror(), self._directory)
        view = shown(pod, owner, word, revision, running, self._reactor.seconds())
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
