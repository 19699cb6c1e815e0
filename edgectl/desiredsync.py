"""Pods down to the nodes and to their sites, with what they use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from edgectl.desired import Stored, purge, write
from edgectl.interfaces import EdgeNode
from edgectl.mirror import Mirror
from edgectl.podsync import PodIndex
from edgectl.takeover import Sites, for_nodes, may_be_taken_over
from edgectl.tokens import with_secrets
from edgectl.translate import Reference, encode, strip_configmap, strip_secret
from edgectl.watch import Object
from metasync.interfaces import Store
from metasync.keys import NodeKeys, SiteKeys
from metasync.model import Compare

_STRIP: Mapping[str, Callable[[Mapping[str, Any]], Object]] = {
    "configmaps": strip_configmap,
    "secrets": strip_secret,
}


class DesiredSync:
    """Handlers of work by node and by site; each may be called at any time.

    :param objects: finds a ConfigMap or Secret by reference.
    :param tokens: the Secrets with a pod's tokens, and whether a new pod can go down with them.
    :param around: what a node that is to run pods is told beside them, by the rest of the key under ``desired``.
    :param guards: compares that every write to the store must hold to as well.
    """

    def __init__(
        self,
        store: Store,
        network: str,
        directory: Mapping[str, EdgeNode],
        sites: Sites,
        index: PodIndex,
        objects: Callable[[Reference], Object | None],
        tokens: Callable[[Mapping[str, Any]], tuple[Sequence[Object], bool]],
        around: Callable[[str], Mapping[str, bytes]],
        mirror: Callable[[], Mirror],
        guards: Callable[[], Sequence[Compare]] = tuple,
    ) -> None:
        self._store = store
        self._network = network
        self._directory = directory
        self._sites = sites
        self._index = index
        self._objects = objects
        self._tokens = tokens
        self._around = around
        self._mirror = mirror
        self._guards = guards

    def is_told(self, node: str) -> bool:
        """Whether the node has pods to run, or may have: then it is told what is around them."""
        site = self._sites.of(node)
        return self._index.has_pods(node) or (site is not None and self.has_candidates(site))

    def has_candidates(self, site: str) -> bool:
        """Whether nodes of the site have pods that may be taken over."""
        return any(self._index.has_candidates(node) for node in self._sites.members(site))

    async def push(self, node: str) -> None:
        """Write what the node is to run, where that has changed."""
        edge = self._directory.get(node)
        if edge is None or self._index.slim_on(node):
            return  # not one of ours, or its pods are being read
        keys = NodeKeys(self._network, node)
        wanted = {} if edge.revoked else self._wanted(keys)
        stored = self._mirror().node(node).desired
        self._mirror().wrote(stored, await write(self._store, keys, wanted, stored, self._guards()))

    async def push_site(self, site: str) -> None:
        """Write what the members of the site may run for each other, where that has changed."""
        members = list(self._sites.members(site))
        if any(self._index.slim_on(node) for node in members):
            return  # their pods are being read
        stored = self._mirror().site(site)
        if not stored and not self.has_candidates(site):
            return
        keys = SiteKeys(self._network, site)
        pods = ((key, pod) for node in members for key, pod in self._index.on_node(node) if may_be_taken_over(pod))
        wanted = self._with_uses(keys, pods, stored)
        self._mirror().wrote(stored, await write(self._store, keys, wanted, stored, self._guards()))

    async def forget(self, node: str) -> None:
        """Remove everything of a node that is gone for good from the store."""
        await purge(self._store, NodeKeys(self._network, node))

    def _wanted(self, keys: NodeKeys) -> dict[bytes, bytes]:
        """All keys of the node's ``desired``: its pods, what these use, and the cluster's Services."""
        wanted = self._with_uses(keys, self._index.on_node(keys.node), self._mirror().node(keys.node).desired)
        if wanted or self.is_told(keys.node):
            wanted.update((f"{keys.desired}{rest}".encode(), value) for rest, value in self._around(keys.node).items())
        return wanted

    def _with_uses(
        self, keys: NodeKeys | SiteKeys, pods: Iterable[tuple[str, Object]], stored: Mapping[bytes, Stored]
    ) -> dict[bytes, bytes]:
        wanted: dict[bytes, bytes] = {}
        used: set[Reference] = set()
        for key, pod in pods:
            tokens, complete = self._tokens(pod)
            if not complete and _key(keys, "pods", pod) not in stored:
                continue
            used |= self._index.used_by(key)
            wanted[_key(keys, "pods", pod)] = encode(with_secrets(for_nodes(pod)))
            wanted.update({_key(keys, "secrets", token): encode(token) for token in tokens})
        for plural, namespace, name in used:
            item = self._objects((plural, namespace, name))
            if item is not None:
                wanted[keys.desired_object(plural, namespace, name)] = encode(_STRIP[plural](item))
        return wanted


def _key(keys: NodeKeys | SiteKeys, plural: str, item: Mapping[str, Any]) -> bytes:
    return keys.desired_object(plural, item["metadata"]["namespace"], item["metadata"]["name"])
