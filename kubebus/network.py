"""A network: what belongs together, and is apart from every other network in the same process."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from kubebus.identity import check_name
from kubebus.interfaces import IPAddress, IPNetwork

DEFAULT_NODE_POOL: Final = IPv4Network("10.250.0.0/16")
DEFAULT_POD_POOL: Final = IPv4Network("10.192.0.0/12")
DEFAULT_MTU: Final = 1500
"""The tunnel is a byte stream and can carry packets of any size: the MTU of the Ethernets at both its ends, so that
full-size packets with DF set pass without ever needing path MTU discovery."""

_MIN_MTU: Final = 1280
_MAX_MTU: Final = 65535


@dataclass(frozen=True, slots=True)
class Network:
    """A network's name, its address pools, and how it looks on a host.

    :ivar ula: the IPv6 prefix (a ``/48``) of nodes and pods, or ``None`` for a network without IPv6.
    :ivar advertise: subnets on the router's side that every edge node may reach: cloud VMs, cloud containers.
    :ivar interface: the name of the TUN device (at most 15 characters, a limit of Linux).
    """

    name: str = "default"
    node_pool: IPv4Network = DEFAULT_NODE_POOL
    pod_pool: IPv4Network = DEFAULT_POD_POOL
    ula: IPv6Network | None = None
    advertise: tuple[IPNetwork, ...] = ()
    interface: str = "kb0"
    mtu: int = DEFAULT_MTU

    def __post_init__(self) -> None:
        check_name(self.name, "network name")
        if not 0 < len(self.interface.encode()) <= 15 or "/" in self.interface:
            raise ValueError(f"interface name {self.interface!r} is not valid: use 1 to 15 characters without '/'")
        if not _MIN_MTU <= self.mtu <= _MAX_MTU:
            raise ValueError(f"MTU {self.mtu} is not valid: it must be from {_MIN_MTU} to {_MAX_MTU}")
        if self.node_pool.overlaps(self.pod_pool):
            raise ValueError(f"node pool {self.node_pool} and pod pool {self.pod_pool} overlap")
        for subnet in self.advertise:
            for pool in self.pools:
                if subnet.version == pool.version and subnet.overlaps(pool):
                    raise ValueError(f"advertised subnet {subnet} overlaps the pool {pool} of edge addresses")

    @property
    def pools(self) -> tuple[IPNetwork, ...]:
        """The subnets from which edge nodes and pods have their addresses."""
        pools: tuple[IPNetwork, ...] = (self.node_pool, self.pod_pool)
        return pools if self.ula is None else (*pools, self.ula)

    @property
    def router_addresses(self) -> tuple[IPAddress, ...]:
        """The router's own: the first address of each node pool."""
        first: tuple[IPAddress, ...] = (self.node_pool[1],)
        return first if self.ula is None else (*first, ip_address(int(self.ula.network_address) + 1))
