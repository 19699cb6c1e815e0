"""The controller's view of the router: enrolled nodes, whether they are connected, and how to reach them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IStreamClientEndpoint

from edgectl.errors import ApiError
from edgectl.interfaces import CannotAdopt, EdgeNode
from kubebus.adoption import CannotAdopt as Refused
from kubebus.adoption import PodSubnets
from kubebus.interfaces import IPNetwork, RegistryError
from kubebus.nodes import NodeState
from kubebus.router import RouterService


class RouterDirectory:
    """An :class:`edgectl.interfaces.NodeDirectory` over one router, and the registry that it shares with others."""

    def __init__(self, router: RouterService, subnets: PodSubnets) -> None:
        self._router, self._subnets = router, subnets

    def subscribe(self, changed: Callable[[str, EdgeNode | None], None]) -> None:
        def told(name: str, state: NodeState | None) -> None:
            changed(name, None if state is None else _edge_node(state))

        self._router.subscribe(told)

    def endpoint(self, node: str, service: str) -> IStreamClientEndpoint:
        return self._router.node_endpoint(node, service)

    async def adopt(self, node: str, subnets: Sequence[IPNetwork]) -> None:
        try:
            await self._subnets.adopt(node, subnets)
        except Refused as error:
            raise CannotAdopt(str(error)) from error
        except RegistryError as error:
            raise ApiError(f"the pod subnets of node {node!r}: {error}") from error


def _edge_node(state: NodeState) -> EdgeNode:
    return EdgeNode(
        state.name,
        state.addresses,
        state.pod_subnets,
        state.connected,
        state.since,
        revoked=state.revoked,
        site=state.site,
    )
