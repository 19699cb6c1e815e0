"""Which address and which subnets a node gets. Pure: what is taken is passed in."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from kubebus.interfaces import IPAddress, IPNetwork

NODE_POOL = IPv4Network("10.250.0.0/16")
POD_POOL = IPv4Network("10.192.0.0/12")
POD_PREFIX = 24


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
        return (*map(str, self.addresses), *map(claim_of, self.pod_subnets))


def claim_of(subnet: IPNetwork) -> str:
    """The name of a subnet's record. It has no slash, since names are parts of keys."""
    return f"{subnet.network_address}-{subnet.prefixlen}"


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

    def assign(self, taken: Collection[str]) -> Assignment:
        """The first free address and subnets, where ``taken`` holds the claims that are made.

        :raises PoolExhausted: if there is none.
        """
        address4 = next((a for a in self._addresses4() if str(a) not in taken), None)
        if address4 is None:
            raise _exhausted("node subnet", self.node_pool)
        address6 = next(a for a in self._addresses6() if str(a) not in taken)
        subnets = tuple(self.pod_subnet(version, taken) for version in (4, 6)) if self.assign_pods else ()
        return Assignment((address4, address6), subnets)

    def pod_subnet(self, version: int, taken: Collection[str]) -> IPNetwork:
        """The first free pod subnet of that IP version.

        :raises PoolExhausted: if there is none.
        """
        pool, candidates = (
            (("pod subnets' pool", self.pod_pool), self._subnets4())
            if version == 4
            else (("IPv6 range", self.ula), self._subnets6())
        )
        subnet = next((n for n in candidates if claim_of(n) not in taken), None)
        if subnet is None:
            raise _exhausted(*pool)
        return subnet

    def _addresses4(self) -> Iterator[IPv4Address]:
        last = self.node_pool.num_addresses - 1
        return (self.node_pool[index] for index in range(2, last))

    def _addresses6(self) -> Iterator[IPv6Address]:
        return (self.ula[index] for index in range(2, 1 << 32))

    def _subnets4(self) -> Iterator[IPNetwork]:
        return self.pod_pool.subnets(new_prefix=self.pod_prefix)

    def _subnets6(self) -> Iterator[IPNetwork]:
        base = int(self.ula.network_address)
        return (IPv6Network((base + (index << 64), 64)) for index in range(1, 1 << 16))


def _exhausted(what: str, pool: IPNetwork) -> PoolExhausted:
    return PoolExhausted(
        f"the {what} {pool} has no free entry left: remove nodes that are gone for good "
        "('kubebus node remove'), or configure a larger range"
    )
