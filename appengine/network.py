"""The Docker network of the node's pods: made from the pod subnets, and again when they change."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from appengine.interfaces import NodeNetwork
from appengine.node import NotYet
from appengine.runtime import EngineError, NetworkConfig, Runtime, RuntimeUnavailable

_MAX_INTERFACE = 15
"""IFNAMSIZ less the final zero."""


def bridge_name(place: NodeNetwork) -> str:
    """The interface of the pods' bridge on the node."""
    return f"{place.interface}-pods"[:_MAX_INTERFACE]


class PodNetworks:
    """Keeps one network as it should be.

    :param remade: called when the network is a new one, whose addresses pods do not have yet.
    """

    _log = Logger()

    def __init__(self, runtime: Runtime, remade: Callable[[], None]) -> None:
        self._runtime = runtime
        self._remade = remade
        self._place: NodeNetwork | None = None
        self._made: NetworkConfig | None = None
        self._making: Deferred[None] | None = None

    def place(self, place: NodeNetwork) -> None:
        """The node's place in the network, as it is now."""
        self._place = place

    def forget(self) -> None:
        """Look again before the next use: the engine was away."""
        self._made = None

    def config(self) -> NetworkConfig | None:
        place = self._place
        if place is None or not place.pod_subnets:
            return None
        return NetworkConfig(
            name=f"kubebus-{place.network}",
            subnets=place.pod_subnets,
            mtu=place.mtu,
            bridge=bridge_name(place),
        )

    def holds(self, address: str) -> bool:
        if self._place is None or not self._place.pod_subnets:
            return True
        own = ip_address(address)
        subnets = [subnet for subnet in self._place.pod_subnets if subnet.version == own.version]
        return not subnets or any(own in subnet for subnet in subnets)

    async def ready(self) -> str:
        while True:
            config = self.config()
            if config is None:
                raise NotYet("the node has no pod subnet yet: it has never reached a router of its network")
            if self._made == config:
                return config.name
            if self._making is not None:
                waiter: Deferred[None] = Deferred()
                self._making.chainDeferred(waiter)
                await waiter
                continue
            self._making = Deferred()
            try:
                await self._make(config)
            finally:
                making, self._making = self._making, None
                making.callback(None)

    async def _make(self, config: NetworkConfig) -> None:
        try:
            fresh = await self._runtime.ensure_network(config)
        except RuntimeUnavailable:
            raise
        except EngineError as error:
            ipv4 = tuple(subnet for subnet in config.subnets if subnet.version == 4)
            if ipv4 == config.subnets or not ipv4:
                raise
            self._log.warn("pods get no IPv6 addresses on this node: {error}", error=str(error))
            fresh = await self._runtime.ensure_network(NetworkConfig(config.name, ipv4, config.mtu, config.bridge))
        self._made = config
        if fresh:
            subnets = ", ".join(str(subnet) for subnet in config.subnets)
            self._log.info("made the pod network {name} ({subnets})", name=config.name, subnets=subnets)
            self._remade()
