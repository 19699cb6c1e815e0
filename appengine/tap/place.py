"""What the engine and the sync see of the network: this node's place in it, and the way to the cloud."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

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


@implementer(IStreamClientEndpoint)
class PatientEndpoint:
    """A service of the router: connecting takes until there is a link, however long that is.

    So a client is there as soon as the link is, and does not try in vain meanwhile.
    """

    def __init__(self, link: EdgeLinkService, service: str) -> None:
        self._link = link
        self._endpoint = link.router_endpoint(service)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        def connected(_: None) -> Deferred[IProtocol]:
            return self._endpoint.connect(protocolFactory)

        return self._link.when_connected().addCallback(connected)
