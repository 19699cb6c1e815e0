"""What the tunnel asks of its host's network, and the rule for what it may. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kubebus.control import AdvertisedRoute
from kubebus.interfaces import IPAddress, IPNetwork


class HostNetworkError(Exception):
    """The host's network could not be set up. The message names what, and what to do."""


@dataclass(frozen=True, slots=True)
class HostSubnet:
    """A subnet that the host reaches by itself, over ``device``."""

    subnet: IPNetwork
    device: str


@dataclass(frozen=True, slots=True)
class HostAddress:
    """An address of the host, on ``device``."""

    address: IPAddress
    device: str


@dataclass(frozen=True, slots=True)
class RefusedRoute:
    """A route that was not taken over, and why, for people."""

    subnet: IPNetwork
    why: str


class HostNetwork(Protocol):
    """The network of the host (of this network namespace). Everything is undone in reverse; nothing else is changed.

    Adding what is there, and removing what is not, are harmless. Errors are :class:`HostNetworkError`.
    """

    def subnets(self, interface: str) -> Sequence[HostSubnet]:
        """The subnets that are reached without ``interface``, but for default routes."""

    def has_ipv6(self) -> bool: ...

    def bring_up(self, interface: str, mtu: int) -> None: ...

    def add_address(self, interface: str, address: IPAddress) -> None: ...

    def remove_address(self, interface: str, address: IPAddress) -> None: ...

    def add_route(self, interface: str, subnet: IPNetwork) -> None: ...

    def remove_route(self, interface: str, subnet: IPNetwork) -> None: ...

    def hold(self, subnet: IPNetwork) -> None:
        """Make ``subnet`` unreachable where no better route exists, so that nothing for it goes back to the tunnel."""

    def release(self, subnet: IPNetwork) -> None: ...

    def forward(self, interface: str, ipv6: bool) -> None:
        """Let the host forward packets between its interfaces, and a container engine's firewall let them pass from
        and to ``interface``; :meth:`restore_forwarding` puts back what was."""

    def restore_forwarding(self) -> None: ...


def refusal(route: AdvertisedRoute, host: Iterable[HostSubnet], reserved: Collection[IPAddress] = ()) -> str | None:
    """Why a route may not be taken over on a host with these subnets, or ``None`` if it may.

    A pool stays useful where the host has a subnet of its own inside it: the kernel prefers the longer prefix.

    :param reserved: addresses that must be reached outside the tunnel: the router's public one.
    """
    subnet = route.subnet
    for other in host:
        if other.subnet.version != subnet.version or not other.subnet.overlaps(subnet):
            continue
        inside, around = other.subnet.prefixlen > subnet.prefixlen, other.subnet.prefixlen < subnet.prefixlen
        if not ((route.pool and inside) or (route.member and around)):
            return (
                f"{subnet} is not reached through the tunnel: it overlaps {other.subnet} of this host's own "
                f"network ({other.device}). Renumber one of them, or advertise a smaller subnet"
            )
    for address in reserved:
        if address.version == subnet.version and address in subnet:
            return (
                f"{subnet} is not reached through the tunnel: it holds the router's own public address {address}, "
                "to which the tunnel itself is connected. Advertise a smaller subnet"
            )
    return None


def holes(route: AdvertisedRoute, host: Iterable[HostSubnet]) -> list[RefusedRoute]:
    """The parts of a pool that the host's own subnets hide."""
    subnet = route.subnet
    return [
        RefusedRoute(
            other.subnet,
            f"{other.subnet} of the pool {subnet} is not reached through the tunnel: it is this host's own network "
            f"({other.device}). Renumber it, or give the nodes a pool elsewhere",
        )
        for other in host
        if route.pool and other.subnet.version == subnet.version and other.subnet.overlaps(subnet)
        if other.subnet.prefixlen > subnet.prefixlen
    ]


_CONTAINERS = re.compile(r"docker\d+|br-[0-9a-f]{12}|podman\d+|cni\d+|virbr\d+|lo")


def lan_addresses(host: Iterable[HostAddress], interface: str, tunnelled: Iterable[IPNetwork]) -> tuple[IPAddress, ...]:
    """The addresses at which neighbours may reach a host: not over the tunnel, and not its containers' networks.

    :param tunnelled: the network's own subnets.
    """
    subnets = list(tunnelled)
    return tuple(
        each.address
        for each in host
        if each.device != interface and not _CONTAINERS.fullmatch(each.device)
        if not any(each.address.version == subnet.version and each.address in subnet for subnet in subnets)
    )


class TunnelInterface:
    """Keeps an interface as wanted: its addresses, the routes over it, and the host's subnets that are held."""

    def __init__(self, host: HostNetwork, interface: str) -> None:
        self.interface = interface
        self.refused: tuple[RefusedRoute, ...] = ()
        self._host = host
        self._addresses: tuple[IPAddress, ...] = ()
        self._routes: tuple[IPNetwork, ...] = ()
        self._held: tuple[IPNetwork, ...] = ()
        self._mtu = 0

    @property
    def routes(self) -> tuple[IPNetwork, ...]:
        """What is reached through the tunnel now."""
        return self._routes

    def apply(
        self,
        addresses: Sequence[IPAddress],
        routes: Sequence[AdvertisedRoute],
        held: Sequence[IPNetwork],
        mtu: int,
        reserved: Collection[IPAddress] = (),
    ) -> None:
        """Make it so. Only what differs from before is touched. ``refused`` tells which routes were not taken.

        :raises HostNetworkError: if the host does not let us.
        """
        host, ipv6 = self._host, self._host.has_ipv6()
        if mtu != self._mtu:
            host.bring_up(self.interface, mtu)
            self._mtu = mtu
        wanted_addresses = tuple(address for address in addresses if address.version == 4 or ipv6)
        for address in self._addresses:
            if address not in wanted_addresses:
                host.remove_address(self.interface, address)
        for address in wanted_addresses:
            if address not in self._addresses:
                host.add_address(self.interface, address)
        self._addresses = wanted_addresses
        self._apply_routes([route for route in routes if route.subnet.version == 4 or ipv6], held, reserved)
        self._apply_held(tuple(subnet for subnet in held if subnet.version == 4 or ipv6))

    def forget(self) -> None:
        """The interface is gone, and its addresses and routes with it."""
        self._routes, self._addresses, self._mtu = (), (), 0

    def undo(self) -> None:
        """Take everything back."""
        for subnet in self._routes:
            self._host.remove_route(self.interface, subnet)
        for address in self._addresses:
            self._host.remove_address(self.interface, address)
        self._apply_held(())
        self._routes, self._addresses, self._mtu = (), (), 0

    def _apply_routes(
        self, routes: Sequence[AdvertisedRoute], held: Sequence[IPNetwork], reserved: Collection[IPAddress]
    ) -> None:
        # The node's own pods are on this host; that is no overlap.
        subnets = [other for other in self._host.subnets(self.interface) if not _within(other.subnet, held)]
        wanted: list[IPNetwork] = []
        refused: list[RefusedRoute] = []
        for route in routes:
            why = refusal(route, subnets, reserved)
            if why is None:
                wanted.append(route.subnet)
                refused += holes(route, subnets)
            else:
                refused.append(RefusedRoute(route.subnet, why))
        # A router may have a route for each of its nodes.
        now, then = set(wanted), set(self._routes)
        for subnet in self._routes:
            if subnet not in now:
                self._host.remove_route(self.interface, subnet)
        for subnet in wanted:
            if subnet not in then:
                self._host.add_route(self.interface, subnet)
        self._routes, self.refused = tuple(wanted), tuple(refused)

    def _apply_held(self, held: tuple[IPNetwork, ...]) -> None:
        for subnet in self._held:
            if subnet not in held:
                self._host.release(subnet)
        for subnet in held:
            if subnet not in self._held:
                self._host.hold(subnet)
        self._held = held


def _within(subnet: IPNetwork, others: Iterable[IPNetwork]) -> bool:
    return any(
        subnet.version == other.version and subnet.prefixlen >= other.prefixlen and subnet.overlaps(other)
        for other in others
    )
