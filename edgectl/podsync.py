"""Pods down to the nodes, with what they use; their status up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from edgectl.desired import purge, write
from edgectl.errors import StatusError
from edgectl.idlepatches import IdlePatches
from edgectl.interfaces import EdgeNode
from edgectl.kubernetes import PODS, KubernetesClient
from edgectl.mirror import Mirror
from edgectl.pace import STATUS_BURST, STATUS_RATE, Pace
from edgectl.tokens import with_secrets
from edgectl.translate import (
    Reference,
    encode,
    merge_patch,
    pod_status,
    references,
    strip_configmap,
    strip_pod,
    strip_secret,
    with_own_addresses,
)
from edgectl.watch import Object
from metasync.interfaces import Store
from metasync.keys import NodeKeys
from metasync.model import Compare

_STRIP: Mapping[str, Callable[[Mapping[str, Any]], Object]] = {
    "configmaps": strip_configmap,
    "secrets": strip_secret,
}


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
        self._users: dict[Reference, dict[str, None]] = {}
        self._references: dict[str, frozenset[Reference]] = {}

    def changed(self, key: str, old: Object | None, new: Object | None) -> None:
        """A pod of the cluster has changed."""
        if old is not None:
            self.pods.pop(key, None)
            _remove(self._by_node, node_name(old), key)
            for reference in self._references.pop(key, ()):
                _remove(self._users, reference, key)
        if new is not None and (node := node_name(new)):
            self.pods[key] = new
            self._by_node.setdefault(node, {})[key] = None
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


def _key(keys: NodeKeys, plural: str, item: Mapping[str, Any]) -> bytes:
    return keys.desired_object(plural, item["metadata"]["namespace"], item["metadata"]["name"])


def _remove(index: dict[Any, dict[str, None]], name: Any, key: str) -> None:
    keys = index.get(name)
    if keys is not None:
        keys.pop(key, None)
        if not keys:
            del index[name]


class PodSync:
    """Handlers of work by node (what it is to run) and by pod (its status); each may be called at any time.

    :param objects: finds a ConfigMap or Secret by reference.
    :param tokens: the Secrets with a pod's tokens, and whether a new pod can go down with them.
    :param around: what a node with pods is told beside them, by the rest of the key under ``desired``.
    :param guards: compares that every write to the store must hold to as well.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        client: KubernetesClient,
        store: Store,
        network: str,
        directory: Mapping[str, EdgeNode],
        index: PodIndex,
        objects: Callable[[Reference], Object | None],
        tokens: Callable[[Mapping[str, Any]], tuple[Sequence[Object], bool]],
        around: Callable[[str], Mapping[str, bytes]],
        mirror: Callable[[], Mirror],
        guards: Callable[[], Sequence[Compare]] = tuple,
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._store = store
        self._network = network
        self._directory = directory
        self._index = index
        self._objects = objects
        self._tokens = tokens
        self._around = around
        self._mirror = mirror
        self._guards = guards
        self._idle = IdlePatches()
        self._pace = Pace(STATUS_RATE, STATUS_BURST)

    async def push(self, node: str) -> None:
        """Write what the node is to run, where that has changed."""
        edge = self._directory.get(node)
        if edge is None or self._index.slim_on(node):
            return  # not one of ours, or its pods are being read
        keys = NodeKeys(self._network, node)
        wanted = {} if edge.revoked else self.wanted(keys)
        mirror = self._mirror()
        written = await write(self._store, keys, wanted, mirror.node(node).desired, self._guards())
        mirror.wrote(node, written)

    def wanted(self, keys: NodeKeys) -> dict[bytes, bytes]:
        """All keys of the node's ``desired``: its pods, what these use, and the cluster's Services."""
        wanted: dict[bytes, bytes] = {}
        used: set[Reference] = set()
        stored = self._mirror().node(keys.node).desired
        for key, pod in self._index.on_node(keys.node):
            tokens, complete = self._tokens(pod)
            if not complete and _key(keys, "pods", pod) not in stored:
                continue
            used |= self._index.used_by(key)
            wanted[_key(keys, "pods", pod)] = encode(with_secrets(strip_pod(pod)))
            wanted.update({_key(keys, "secrets", token): encode(token) for token in tokens})
        for plural, namespace, name in used:
            item = self._objects((plural, namespace, name))
            if item is not None:
                wanted[keys.desired_object(plural, namespace, name)] = encode(_STRIP[plural](item))
        if wanted:
            wanted.update((f"{keys.desired}{rest}".encode(), value) for rest, value in self._around(keys.node).items())
        return wanted

    async def forget(self, node: str) -> None:
        """Remove everything of a node that is gone for good from the store."""
        self._pace.forget(node)
        await purge(self._store, NodeKeys(self._network, node))

    async def report(self, key: str) -> float:
        """Bring the status of the pod ``namespace/name`` in line with what its node reports of it.

        :return: 0.0, or the seconds after which to try again, since the node has written too much of late.
        """
        pod = self._index.pods.get(key)
        if pod is None or SLIM in pod:
            return 0.0
        report = self._report(pod)
        if report is None:
            return 0.0
        metadata = pod["metadata"]
        namespace, name, uid = metadata["namespace"], metadata["name"], metadata["uid"]
        try:
            if patch := self._patch(pod, report):
                if wait := self._pace.take(node_name(pod), self._reactor.seconds()):
                    return wait
                after = await self._client.patch(PODS, namespace, name, patch, subresource="status")
                self._idle.sent(uid, patch, pod, after)
            if report.get("gone") is True and metadata.get("deletionTimestamp"):
                await self._client.delete(PODS, namespace, name, uid=uid, grace=0)
                self._idle.forget(uid)
                self._log.info("pod {pod}: its containers are gone, deletion confirmed", pod=key)
        except StatusError as error:
            if not error.not_found:
                raise
        return 0.0

    def _report(self, pod: Mapping[str, Any]) -> Object | None:
        """The report on this very pod (its UID) from the node it is bound to, and no other."""
        metadata, node = pod["metadata"], node_name(pod)
        reports = self._mirror().nodes.get(node)
        if reports is None or node not in self._directory:
            return None
        return reports.pods.get((metadata["namespace"], metadata["name"], metadata["uid"]))

    def _patch(self, pod: Mapping[str, Any], report: Mapping[str, Any]) -> Object:
        reported = report.get("status")
        if not isinstance(reported, Mapping):
            return {}
        edge = self._directory[node_name(pod)]
        reported = with_own_addresses(reported, lambda text: _owns(edge, text))
        current = pod.get("status") or {}
        patch = merge_patch(current, pod_status(current, reported))
        metadata = pod["metadata"]
        if not patch:
            return {}
        guards = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        whole = {"metadata": guards, "status": patch}
        return {} if self._idle.repeats(metadata["uid"], whole, pod) else whole
