"""``--adopt-pod-cidr``: nodes get the pod subnets that the cluster allocates (``spec.podCIDRs``), none before that.

How it stands is said by the Node's condition ``NetworkUnavailable``, as a cloud's route controller would: while it is
true, Kubernetes taints the Node ``node.kubernetes.io/network-unavailable:NoSchedule``.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from twisted.logger import Logger

from edgectl.interfaces import CannotAdopt, EdgeNode, NodeDirectory

NETWORK_UNAVAILABLE = "NetworkUnavailable"
REASONS = ("PodCIDRMissing", "PodCIDRRefused", "PodCIDRAdopted")

Verdict = tuple[str, str, str]
"""Status, reason and message of the condition."""

SETTLED: Verdict = ("False", "PodCIDRAdopted", "the node's pods have addresses of spec.podCIDRs")
NOT_ADOPTING: Verdict = ("False", "PodSubnetAssigned", "the node's pod subnets are the router's to assign")
_MISSING: Verdict = (
    "True",
    "PodCIDRMissing",
    "the cluster has not allocated spec.podCIDR yet: kube-controller-manager does with --allocate-node-cidrs",
)

RETRY_SECONDS = 60.0
"""Between attempts at what was refused: another node may have given up what it had."""


def allocated(node: Mapping[str, Any]) -> tuple[IPv4Network | IPv6Network, ...]:
    """What the cluster has allocated to the Node, IPv4 first.

    :raises ValueError: if that is not subnets.
    """
    spec = node.get("spec") or {}
    cidrs = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    return tuple(sorted((ip_network(cidr) for cidr in cidrs), key=lambda subnet: subnet.version))


class PodCidrs:
    """Has each node take over what its Node was allocated."""

    _log = Logger()

    def __init__(self, directory: NodeDirectory) -> None:
        self._directory = directory
        self._told: dict[str, str] = {}

    async def adopt(self, edge: EdgeNode, node: Mapping[str, Any]) -> Verdict:
        """Bring the node's pod subnets in line, and say how it stands. May be called any number of times.

        :raises ApiError: if the router's registry cannot be asked now.
        """
        try:
            given = allocated(node)
            if not given:
                return _MISSING
            if not set(given) <= set(edge.pod_subnets):
                await self._directory.adopt(edge.name, given)
        except (CannotAdopt, ValueError) as error:
            return self._refused(edge.name, str(error))
        self._told.pop(edge.name, None)
        return SETTLED

    def forget(self, name: str) -> None:
        """The node is gone."""
        self._told.pop(name, None)

    def _refused(self, name: str, why: str) -> Verdict:
        if self._told.get(name) != why:
            self._told[name] = why
            self._log.error("node {node}: what the cluster allocated is not taken over: {why}", node=name, why=why)
        return "True", "PodCIDRRefused", why
