"""Keeps the Nodes, their status and their Leases in Kubernetes as the directory and the reports say."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from edgectl.errors import StatusError
from edgectl.idlepatches import IdlePatches
from edgectl.informer import Informer
from edgectl.interfaces import EdgeNode
from edgectl.kubernetes import LEASES, NODES, KubernetesClient
from edgectl.mirror import Mirror
from edgectl.nodes import (
    LEASE_NAMESPACE,
    NodeOptions,
    is_ours,
    keeps_lease,
    micro_time,
    new_lease,
    new_node,
    node_patch,
    status_patch,
)
from edgectl.podcidr import RETRY_SECONDS, PodCidrs
from edgectl.watch import Object


class NodeSync:
    """Two handlers of work by node name; both may be called at any time, any number of times.

    :param directory: the enrolled nodes, by name.
    :param nodes: the informer of the Nodes. It has synced before a handler is called.
    :param pod_cidrs: where the cluster allocates the nodes' pod subnets.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        client: KubernetesClient,
        network: str,
        directory: Mapping[str, EdgeNode],
        nodes: Informer,
        mirror: Callable[[], Mirror],
        options: NodeOptions,
        pod_cidrs: PodCidrs | None = None,
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._network = network
        self._directory = directory
        self._nodes = nodes
        self._mirror = mirror
        self._options = options
        self._pod_cidrs = pod_cidrs
        self._leases: dict[str, Object] = {}
        self._refused: set[str] = set()
        self._idle = IdlePatches()

    def node(self, name: str) -> Object | None:
        """The Node of that name, if it is ours."""
        node = self._nodes.items.get(name)
        return node if node is not None and is_ours(self._network, node) else None

    async def reconcile(self, name: str) -> float | None:
        """Register the Node, or bring it and its status in line; seconds after which to come again, if so."""
        edge = self._directory.get(name)
        if edge is None:
            return None
        current = self._nodes.items.get(name)
        if current is None:
            current = await self._register(edge)
        if current is None or self._foreign(name, current):
            return None
        network = await self._pod_cidrs.adopt(edge, current) if self._pod_cidrs and not edge.revoked else None
        # The directory may have told of other pod subnets meanwhile.
        edge = self._directory.get(name, edge)
        report = self._report(name)
        if patch := node_patch(self._network, edge, report, self._options, current):
            current = await self._client.patch(NODES, "", name, patch)
        now = self._reactor.seconds()
        patch = status_patch(edge, report, current, now, self._options.kubelet_port, network)
        if patch and not self._idle.repeats(name, patch, current):
            after = await self._client.patch(NODES, "", name, patch, subresource="status")
            self._idle.sent(name, patch, current, after)
        return RETRY_SECONDS if network is not None and network[0] == "True" else None

    async def remove(self, name: str) -> None:
        """Remove the Node of a node that is gone for good, with its Lease."""
        self._leases.pop(name, None)
        self._idle.forget(name)
        if self._pod_cidrs is not None:
            self._pod_cidrs.forget(name)
        node = self.node(name)
        if node is None:
            return
        try:
            await self._client.delete(NODES, "", name, uid=node["metadata"]["uid"])
            await self._client.delete(LEASES, LEASE_NAMESPACE, name)
        except StatusError as error:
            if not error.not_found:
                raise
        self._log.info("node {node}: removed from Kubernetes", node=name)

    async def renew(self, name: str) -> bool:
        """Renew the node's Lease if it is to count as alive. ``False`` if it is not, or there is no Node yet."""
        edge, node = self._directory.get(name), self.node(name)
        now = self._reactor.seconds()
        if edge is None or node is None or not keeps_lease(edge, node, now):
            return False
        lease = self._leases.pop(name, None) or await self._lease(edge, node, now)
        if (lease.get("spec") or {}).get("renewTime") == micro_time(now):
            self._leases[name] = lease  # made this very moment
            return True
        lease["spec"] = {**lease.get("spec", {}), **new_lease(edge, node, now)["spec"]}
        try:
            self._leases[name] = await self._client.update(LEASES, lease)
        except StatusError as error:
            if not (error.conflict or error.not_found):
                raise
            fresh = await self._lease(edge, node, now)
            fresh["spec"] = lease["spec"]
            self._leases[name] = await self._client.update(LEASES, fresh)
        return True

    async def _register(self, edge: EdgeNode) -> Object | None:
        if edge.revoked:
            return None
        report = self._report(edge.name)
        body = new_node(self._network, edge, report, self._options)
        now, port = self._reactor.seconds(), self._options.kubelet_port
        nothing: Object = {"metadata": {"uid": "", "resourceVersion": ""}}
        network = await self._pod_cidrs.adopt(edge, body) if self._pod_cidrs else None
        body["status"] = status_patch(edge, report, nothing, now, port, network)["status"]
        try:
            node = await self._client.create(NODES, "", body)
        except StatusError as error:
            if not error.already_exists:
                raise
            return await self._client.get(NODES, "", edge.name)
        self._log.info("node {node}: registered with Kubernetes", node=edge.name)
        return node

    def _foreign(self, name: str, node: Object) -> bool:
        """A Node of that name which somebody else runs is left alone, and said so once."""
        if is_ours(self._network, node):
            self._refused.discard(name)
            return False
        if name not in self._refused:
            self._refused.add(name)
            self._log.error(
                "node {node}: Kubernetes has a Node of this name that is not an edge node of network {network}; "
                "it is left alone. Enrol the edge node under another name, or delete that Node",
                node=name,
                network=self._network,
            )
        return True

    async def _lease(self, edge: EdgeNode, node: Object, now: float) -> Object:
        try:
            return await self._client.get(LEASES, LEASE_NAMESPACE, edge.name)
        except StatusError as error:
            if not error.not_found:
                raise
        return await self._client.create(LEASES, LEASE_NAMESPACE, new_lease(edge, node, now))

    def _report(self, name: str) -> Object | None:
        node = self._mirror().nodes.get(name)
        return node.report if node is not None else None
