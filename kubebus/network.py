"""A network: what belongs together, and is apart from every other network in the same process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kubebus.addresses import AddressPlan
from kubebus.identity import check_name
from kubebus.interfaces import IPAddress, IPNetwork

DEFAULT_MTU: Final = 1500
"""The tunnel is a byte stream and can carry packets of any size: the MTU of the Ethernets at both its ends, so that
full-size packets with DF set pass without ever needing path MTU discovery."""

_MIN_MTU: Final = 1280
_MAX_MTU: Final = 65535


@dataclass(frozen=True, slots=True)
class Network:
    """A network's name and address plan, and how it looks on a host.

    :ivar plan: the address pools; only a router needs to know them, a node is told.
    :ivar advertise: subnets on the router's side that every edge node may reach: cloud VMs, cloud containers.
    :ivar interface: the name of the TUN device (at most 15 bytes, a limit of Linux).
    """

    name: str = "default"
    plan: AddressPlan | None = None
    advertise: tuple[IPNetwork, ...] = ()
    interface: str = "kb0"
    mtu: int = DEFAULT_MTU

    def __post_init__(self) -> None:
        check_name(self.name, "network name")
        if not 0 < len(self.interface.encode()) <= 15 or "/" in self.interface:
            raise ValueError(f"interface name {self.interface!r} is not valid: use 1 to 15 characters without '/'")
        if not _MIN_MTU <= self.mtu <= _MAX_MTU:
            raise ValueError(f"MTU {self.mtu} is not valid: it must be from {_MIN_MTU} to {_MAX_MTU}")
        for subnet in self.advertise:
            if subnet.prefixlen == 0:
                raise ValueError(f"{subnet} cannot be advertised: it is everything; name the subnets that are meant")
            for pool in self.pools:
                if subnet.version == pool.version and subnet.overlaps(pool):
                    raise ValueError(f"advertised subnet {subnet} overlaps the pool {pool} of edge addresses")

    @property
    def pools(self) -> tuple[IPNetwork, ...]:
        """The subnets from which edge nodes and pods have their addresses."""
        plan = self.plan
        return () if plan is None else (plan.node_pool, plan.pod_pool, plan.ula)

    @property
    def router_addresses(self) -> tuple[IPAddress, ...]:
        """The router's own: the first address of each node pool."""
        return () if self.plan is None else self.plan.router_addresses
