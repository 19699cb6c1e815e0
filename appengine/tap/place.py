"""The engine's view of the network: where this node stands in it, as the link service knows."""

from __future__ import annotations

from collections.abc import Callable

from appengine.interfaces import NodeNetwork
from kubebus.edge import EdgeLinkService, EdgeNetwork


class LinkNetworkSource:
    """An :class:`appengine.interfaces.NetworkSource` over the link service; told only of what matters to pods."""

    def __init__(self, link: EdgeLinkService) -> None:
        self._link = link

    def subscribe(self, changed: Callable[[NodeNetwork], None]) -> None:
        last: NodeNetwork | None = None

        def told(network: EdgeNetwork) -> None:
            nonlocal last
            place = self._place(network)
            if place != last:
                last = place
                changed(place)

        self._link.subscribe(told)

    def _place(self, network: EdgeNetwork) -> NodeNetwork:
        config = network.config
        return NodeNetwork(
            config.network,
            config.node,
            config.addresses,
            config.pod_subnets,
            network.routes,
            self._link.network.interface,
            config.mtu,
        )
