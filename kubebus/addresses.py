"""Which address and which subnets a node gets. Pure: what is taken is passed in."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeVar

from kubebus.interfaces import IPAddress, IPNetwork

NODE_POOL = IPv4Network("10.250.0.0/16")
POD_POOL = IPv4Network("10.192.0.0/12")
POD_PREFIX = 24

Full = dict[str, int]
"""By pool, the index below which all its entries are taken."""

_Entry = TypeVar("_Entry", IPv4Address | IPv6Address, IPv4Network | IPv6Network)


class InvalidPlan(ValueError):
    """An address plan that cannot work. The message names the pools."""


class PoolExhausted(Exception):
    """A pool has nothing left to give. The message names it and says what to do."""


def random_ula() -> IPv6Network:
    """A unique local ``/48`` with a random global ID (RFC 4193, 3.2)."""
    return IPv6Network((b"\xfd" + secrets.token_bytes(5) + bytes(10), 48))


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one node gets: IPv4 first, then IPv6."""

    addresses: tuple[IPAddress, ...]
    pod_subnets: tuple[IPNetwork, ...]

    @property
    def claims(self) -> tuple[str, ...]:
        """The names under which the registry records that they are taken."""
        return tuple(map(claim_of, (*self.addresses, *self.pod_subnets)))


def claim_of(entry: IPAddress | IPNetwork) -> str:
    """The name of the record of an address or a subnet. It has no slash, since names are parts of keys."""
    if isinstance(entry, IPv4Network | IPv6Network):
        return f"{entry.network_address}-{entry.prefixlen}"
    return str(entry)


@dataclass(frozen=True, slots=True)
class AddressPlan:
    """The pools of one network.

    Node addresses come from ``node_pool``, whose first address is the routers', and from the first ``/64`` of
    ``ula``; pod subnets of ``/pod_prefix`` come from ``pod_pool``, and each node's IPv6 one is another ``/64`` of
    ``ula``.

    :ivar assign_pods: give nodes their pod subnets as they enrol. If not, they get them later: see
        :mod:`kubebus.adoption`.
    """

    ula: IPv6Network
    node_pool: IPv4Network = NODE_POOL
    pod_pool: IPv4Network = POD_POOL
    pod_prefix: int = POD_PREFIX
    assign_pods: bool = True

    def __post_init__(self) -> None:
        if self.node_pool.overlaps(self.pod_pool):
            raise InvalidPlan(
                f"the node subnet {self.node_pool} and the pod subnets' pool {self.pod_pool} overlap: "
                "choose ranges that do not"
            )
        if self.node_pool.prefixlen > 29:
            raise InvalidPlan(f"the node subnet {self.node_pool} is too small: use a /29 or larger")
        if not self.pod_pool.prefixlen <= self.pod_prefix <= 29:
            raise InvalidPlan(
                f"pod subnets of /{self.pod_prefix} do not fit the pool {self.pod_pool}: "
                f"use a prefix length from {self.pod_pool.prefixlen} to 29"
            )
        if self.ula.prefixlen != 48:
            raise InvalidPlan(f"the IPv6 range {self.ula} must be a /48")

    @property
    def router_addresses(self) -> tuple[IPv4Address, IPv6Address]:
        return self.node_pool[1], self.ula[1]

    @property
    def node_pools(self) -> tuple[IPv4Network, IPv6Network]:
        """The subnets that node addresses come from."""
        return self.node_pool, IPv6Network((int(self.ula.network_address), 64))

    @property
    def pod_pools(self) -> tuple[IPv4Network, IPv6Network]:
        return self.pod_pool, self.ula

    def assign(self, taken: Collection[str], full: Full | None = None) -> Assignment:
        """The first free address and subnets, where ``taken`` holds the claims that are made.

        :param full: is kept from call to call while ``taken`` only grows, so that each call need not search all of it.
        :raises PoolExhausted: if there is none.
        """
        full = {} if full is None else full
        node4, node6 = self.node_pool, self.ula
        addresses = (
            _first_free("node subnet", node4, range(2, node4.num_addresses - 1), node4.__getitem__, taken, full),
            _first_free("node IPv6 subnet", node6, range(2, 1 << 32), node6.__getitem__, taken, full),
        )
        subnets = tuple(self.pod_subnet(version, taken, full) for version in (4, 6)) if self.assign_pods else ()
        return Assignment(addresses, subnets)

    def pod_subnet(self, version: int, taken: Collection[str], full: Full | None = None) -> IPNetwork:
        """The first free pod subnet of that IP version.

        :param full: as of :meth:`assign`.
        :raises PoolExhausted: if there is none.
        """
        full = {} if full is None else full
        if version == 4:
            number = 1 << (self.pod_prefix - self.pod_pool.prefixlen)
            return _first_free("pod subnets' pool", self.pod_pool, range(number), self._subnet4, taken, full)
        return _first_free("IPv6 range", self.ula, range(1, 1 << 16), self._subnet6, taken, full)

    def _subnet4(self, index: int) -> IPNetwork:
        return IPv4Network((int(self.pod_pool.network_address) + (index << (32 - self.pod_prefix)), self.pod_prefix))

    def _subnet6(self, index: int) -> IPNetwork:
        return IPv6Network((int(self.ula.network_address) + (index << 64), 64))


def _first_free(
    what: str, pool: IPNetwork, indices: range, entry: Callable[[int], _Entry], taken: Collection[str], full: Full
) -> _Entry:
    """The first entry of a pool that is not taken."""
    for index in range(max(indices.start, full.get(what, 0)), indices.stop):
        candidate = entry(index)
        if claim_of(candidate) not in taken:
            full[what] = index
            return candidate
    raise _exhausted(what, pool)


def _exhausted(what: str, pool: IPNetwork) -> PoolExhausted:
    return PoolExhausted(
        f"the {what} {pool} has no free entry left: remove nodes that are gone for good "
        "('kubebus node remove'), or configure a larger range"
    )
