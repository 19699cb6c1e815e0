"""The controller's view of the router: enrolled nodes, whether they are connected, and how to reach them."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IStreamClientEndpoint

from edgectl.interfaces import EdgeNode
from kubebus.nodes import NodeState
from kubebus.router import RouterService


class RouterDirectory:
    """An :class:`edgectl.interfaces.NodeDirectory` over one router."""

    def __init__(self, router: RouterService) -> None:
        self._router = router

    def subscribe(self, changed: Callable[[str, EdgeNode | None], None]) -> None:
        def told(name: str, state: NodeState | None) -> None:
            changed(name, None if state is None else _edge_node(state))

        self._router.subscribe(told)

    def endpoint(self, node: str, service: str) -> IStreamClientEndpoint:
        return self._router.node_endpoint(node, service)


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
