"""The routes that a router's host needs beside those of the pools: to pod subnets that a cluster has allocated."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from kubebus.control import AdvertisedRoute
from kubebus.interfaces import IPNetwork
from kubebus.nodes import NodeState


class MemberRoutes:
    """Knows, from what the node table tells, which nodes' pod subnets lie outside ``pools``.

    :param changed: called soon after that has changed, once for many nodes.
    """

    def __init__(self, clock: IReactorTime, pools: Sequence[IPNetwork], changed: Callable[[], None]) -> None:
        self._clock, self._pools, self._changed = clock, pools, changed
        self._subnets: dict[str, frozenset[IPNetwork]] = {}
        # Of each node, what was looked at last: links come and go much more often than subnets change.
        self._seen: dict[str, Sequence[IPNetwork]] = {}
        self._due: IDelayedCall | None = None

    @property
    def routes(self) -> list[AdvertisedRoute]:
        """In the same order every time."""
        subnets = {subnet for each in self._subnets.values() for subnet in each}
        return [AdvertisedRoute(subnet, member=True) for subnet in sorted(subnets, key=_order)]

    def node_changed(self, name: str, node: NodeState | None) -> None:
        """A :data:`~kubebus.nodes.NodeWatcher`."""
        if node is None:
            self._seen.pop(name, None)
        elif self._seen.get(name) is node.pod_subnets:
            return
        else:
            self._seen[name] = node.pod_subnets
        outside = frozenset(subnet for subnet in node.pod_subnets if self._is_outside(subnet)) if node else frozenset()
        if outside == self._subnets.get(name, frozenset()):
            return
        if outside:
            self._subnets[name] = outside
        else:
            del self._subnets[name]
        if self._due is None:
            self._due = self._clock.callLater(0, self._tell)

    def stop(self) -> None:
        """No call follows."""
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _tell(self) -> None:
        self._due = None
        self._changed()

    def _is_outside(self, subnet: IPNetwork) -> bool:
        return not any(subnet.version == pool.version and subnet.overlaps(pool) for pool in self._pools)


def _order(subnet: IPNetwork) -> tuple[int, int, int]:
    return subnet.version, int(subnet.network_address), subnet.prefixlen
