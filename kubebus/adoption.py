"""Pod subnets that a cluster has allocated to a node, taken over in place of the network's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_network

from twisted.logger import Logger

from kubebus.addresses import AddressPlan, PoolExhausted, claim_of
from kubebus.interfaces import Change, IPNetwork, NodeRecord, Record, Registry, RegistryError
from kubebus.records import ADDRESSES, NODES, NodeEntry

_GUARD = "adoption"
"""The record that every adoption changes: two at once, of subnets that overlap, cannot both pass."""

_ROUNDS = 32

_MIN_HOST_BITS = 3
"""As many addresses as the smallest pod subnet of an :class:`~kubebus.addresses.AddressPlan` has."""


class CannotAdopt(Exception):
    """A node cannot have these pod subnets. The message says why, and what to do."""


def check_given(plan: AddressPlan, advertised: Sequence[IPNetwork], given: Sequence[IPNetwork]) -> None:
    """Whether ``given`` can be a node's pod subnets at all, whatever other nodes have.

    :param advertised: what the network leads to the cloud's side: the cluster's pod subnet must be among it, since by
        that route the nodes reach each other's pods as well.
    :raises CannotAdopt: if not.
    """
    if not given or len({subnet.version for subnet in given}) != len(given):
        raise CannotAdopt(f"pod subnets {_list(given)}: one of each IP version at most, and one at least")
    for subnet in given:
        if subnet.max_prefixlen - subnet.prefixlen < _MIN_HOST_BITS:
            raise CannotAdopt(f"pod subnet {subnet} is too small: pods and their gateway need at least 8 addresses")
        for pool in (plan.node_pool, plan.pod_pool, plan.ula):
            if _overlap(subnet, pool):
                raise CannotAdopt(
                    f"pod subnet {subnet} overlaps the network's own range {pool}: choose other ranges "
                    "(--node-subnet, --pod-subnet), or another cluster CIDR"
                )
        if not any(_within(subnet, other) for other in advertised):
            raise CannotAdopt(
                f"pod subnet {subnet} lies in no subnet that is advertised: give the cluster's pod subnet, which it "
                "comes from, to --advertise"
            )


class PodSubnets:
    """Gives nodes the pod subnets that somebody else allocates. Failures of the registry are ``RegistryError``.

    :param advertised: see :func:`check_given`.
    """

    log = Logger()

    def __init__(self, registry: Registry, plan: AddressPlan, advertised: Sequence[IPNetwork]) -> None:
        self._registry, self._plan, self._advertised = registry, plan, advertised

    async def adopt(self, name: str, given: Sequence[IPNetwork]) -> NodeRecord:
        """Let ``given`` be the node's pod subnets; of an IP version that is not given, it has one of the network's.

        One commit changes the node's record, claims the new subnets and frees the old ones. Done again, it changes
        nothing.

        :raises CannotAdopt: if that may not be; then nothing was changed.
        """
        check_given(self._plan, self._advertised, given)
        for _ in range(_ROUNDS):
            record = await self._registry.get(NODES, name)
            if record is None:
                raise CannotAdopt(f"there is no node {name!r}")
            entry = NodeEntry.decode(name, record.value)
            if entry.node.revoked_at is not None:
                raise CannotAdopt(f"node {name!r} is revoked")
            if _has(entry.node.pod_subnets, given):
                return entry.node
            node = await self._try(record, entry, given)
            if node is not None:
                self.log.info(
                    "Node {node} has the pod subnets {subnets} from now on, not {old}",
                    node=name,
                    subnets=_list(node.pod_subnets),
                    old=_list(entry.node.pod_subnets) or "none",
                )
                return node
        raise RegistryError(f"the pod subnets of node {name!r} could not be recorded: others were first; try again")

    async def _try(self, record: Record, entry: NodeEntry, given: Sequence[IPNetwork]) -> NodeRecord | None:
        claims = {claim.name: claim for claim in await self._registry.list(ADDRESSES)}
        guard = claims.pop(_GUARD, None)
        name, old = entry.node.name, entry.node.pod_subnets
        _check_free(name, given, claims.values())
        subnets = self._complete(given, old, claims)
        node = replace(entry.node, pod_subnets=subnets)
        changes = [
            Change(NODES, name, replace(entry, node=node).encode(), record.revision),
            Change(ADDRESSES, _GUARD, name.encode(), 0 if guard is None else guard.revision),
        ]
        # A claim that is there is this node's own: the check has passed.
        fresh = [claim_of(subnet) for subnet in subnets if claim_of(subnet) not in claims]
        changes += [Change(ADDRESSES, claim, name.encode(), 0) for claim in fresh]
        freed = [claims.get(claim_of(subnet)) for subnet in old if subnet not in subnets]
        changes += [Change(ADDRESSES, claim.name, None, claim.revision) for claim in freed if claim is not None]
        return node if await self._registry.commit(changes) else None

    def _complete(
        self, given: Sequence[IPNetwork], old: Sequence[IPNetwork], taken: Mapping[str, Record]
    ) -> tuple[IPNetwork, ...]:
        by_version = {subnet.version: subnet for subnet in (*old, *given)}
        try:
            for version in (4, 6):
                by_version.setdefault(version, self._plan.pod_subnet(version, taken))
        except PoolExhausted as error:
            raise CannotAdopt(str(error)) from error
        return by_version[4], by_version[6]


def _check_free(name: str, given: Sequence[IPNetwork], claims: Iterable[Record]) -> None:
    for claim in claims:
        if claim.value == name.encode():
            continue
        taken = _claimed(claim.name)
        for subnet in given:
            if _overlap(subnet, taken):
                owner = claim.value.decode("utf-8", "replace")
                raise CannotAdopt(f"pod subnet {subnet} overlaps {taken}, which node {owner!r} has")


@lru_cache(maxsize=16384)
def _claimed(claim: str) -> IPNetwork:
    """What a claim of :func:`kubebus.addresses.claim_of`, or of one address, takes."""
    return ip_network(claim.replace("-", "/"))


def _has(subnets: Sequence[IPNetwork], given: Sequence[IPNetwork]) -> bool:
    return set(given) <= set(subnets) and {4, 6} <= {subnet.version for subnet in subnets}


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


def _within(subnet: IPNetwork, other: IPNetwork) -> bool:
    return _overlap(subnet, other) and other.prefixlen <= subnet.prefixlen


def _list(subnets: Iterable[IPNetwork]) -> str:
    return ", ".join(map(str, subnets))
