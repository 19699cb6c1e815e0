"""All nodes of a network, as one router knows them: records, links, which router has whom, and who is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final

from twisted.logger import Logger

from kubebus.control import LinkConfig
from kubebus.forwarding import Forwarder, Port
from kubebus.interfaces import IPNetwork, NodeRecord
from kubebus.link import Link, link_status
from kubebus.linkerrors import LinkRefused, LinkReplaced, LinkRevoked
from kubebus.nodes import NodeState, NodeWatcher
from kubebus.sharedlinks import Claim
from kubebus.status import NodeStatus

REVOKED: Final = "node {name!r} was revoked: it can only be enrolled anew"


@dataclass(slots=True, eq=False)
class Node:
    """All that is known of one node.

    :ivar link: its live link to this router, of session ``epoch``.
    :ivar claim: where it is, as the routers' registry has it.
    """

    record: NodeRecord
    port: Port
    since: float
    link: Link | None = None
    epoch: int = 0
    claim: Claim | None = None
    last_seen: float | None = None
    address: str = ""

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def revoked(self) -> bool:
        return self.record.revoked_at is not None

    @property
    def subnets(self) -> tuple[IPNetwork, ...]:
        return (*map(ip_network, self.record.addresses), *self.record.pod_subnets)

    @property
    def connected(self) -> bool:
        """To this router or to another one that is reached."""
        return self.port.outlet is not None

    @property
    def state(self) -> NodeState:
        name, addresses, subnets = self.record.name, self.record.addresses, self.record.pod_subnets
        return NodeState(name, addresses, subnets, self.connected, self.since, self.revoked, self.record.site)


class NodeTable:
    """The nodes, and their ports in the virtual router.

    :param router: this router's name.
    :param outlet: the live link to the router of that name, if there is one.
    :param configuration: what a node with that record is told.
    :param wallclock: UNIX seconds; ``seconds`` the reactor's clock.
    """

    log = Logger()

    def __init__(
        self,
        router: str,
        forwarder: Forwarder,
        outlet: Callable[[str], Link | None],
        configuration: Callable[[NodeRecord], LinkConfig],
        wallclock: Callable[[], float],
        seconds: Callable[[], float],
    ) -> None:
        self._router, self._forwarder, self._outlet = router, forwarder, outlet
        self._configuration, self._wallclock, self._seconds = configuration, wallclock, seconds
        self._nodes: dict[str, Node] = {}
        self._watchers: list[NodeWatcher] = []
        # Of all nodes: their records may come later.
        self._claims: dict[str, Claim] = {}

    def get(self, name: str) -> Node | None:
        return self._nodes.get(name)

    def __iter__(self) -> Iterator[Node]:
        return iter(list(self._nodes.values()))

    def watch(self, changed: NodeWatcher) -> None:
        """Call ``changed(name, node)`` for every node now, then at every change (``None``: removed for good)."""
        self._watchers.append(changed)
        for node in self:
            changed(node.name, node.state)

    # -- What the registry tells

    def record_changed(self, name: str, record: NodeRecord | None) -> None:
        """A node was enrolled, enrolled anew, or revoked; or (``None``) removed."""
        node = self._nodes.get(name)
        if record is None:
            if node is not None:
                self._forget(node)
            return
        if node is None:
            node = self._nodes[name] = Node(record, Port(name), self._wallclock(), claim=self._claims.get(name))
            self._lead(node)
        elif record == node.record:
            return
        else:
            self._forwarder.remove(node.port, node.subnets)
            node.record = record
            if node.link is not None:
                node.link.configure(self._configuration(record))
        self._forwarder.add(node.port, node.subnets)
        if node.revoked and node.link is not None:
            node.link.close(LinkRevoked(REVOKED.format(name=name)))
        self._tell(node)

    def claim_changed(self, name: str, claim: Claim | None) -> None:
        """A node has a new session at some router, or has ended its last one."""
        if claim is None:
            self._claims.pop(name, None)
        else:
            self._claims[name] = claim
        node = self._nodes.get(name)
        if node is None:
            return
        node.claim = claim
        if node.link is None:
            self._lead_and_tell(node)
        elif claim is not None and claim.router not in (None, self._router) and claim.epoch > node.epoch:
            node.link.close(LinkReplaced(f"node {name!r} has a newer session at router {claim.router!r}"))

    def peer_changed(self, router: str) -> None:
        """The link to another router came up or went down."""
        for node in self:
            if node.claim is not None and node.claim.router == router:
                self._lead_and_tell(node)

    # -- What links tell

    def joined(self, node: Node, link: Link, epoch: int, address: str) -> None:
        """A link of the node is up. It replaces the one that it may have."""
        old, node.link = node.link, link
        node.epoch, node.address, node.since = epoch, address, self._wallclock()
        self._lead(node)
        if old is not None:
            old.close(LinkReplaced(f"a newer session of node {node.name!r} from {address} took over"))
        self._tell(node)

    def left(self, node: Node) -> None:
        """The node's link is over."""
        if node.link is not None:
            node.last_seen = self._last_seen(node.link)
        node.link = None
        self._lead(node)
        node.since = self._wallclock()
        self._tell(node)

    # -- What people see

    def status(self) -> tuple[NodeStatus, ...]:
        return tuple(self._status(node) for _, node in sorted(self._nodes.items()))

    def _status(self, node: Node) -> NodeStatus:
        record, counters, link = node.record, node.port.counters, node.link
        elsewhere = node.claim.router if node.claim is not None and node.connected else None
        return NodeStatus(
            record.name,
            record.addresses,
            record.pod_subnets,
            node.connected,
            node.revoked,
            self._router if link is not None else elsewhere,
            node.since,
            node.last_seen if link is None else self._last_seen(link),
            counters.spoofed,
            counters.malformed,
            counters.unroutable,
            counters.away,
            None if link is None else link_status(link, node.address, node.since, self._last_seen(link)),
        )

    # -- Within

    def _forget(self, node: Node) -> None:
        self._forwarder.remove(node.port, node.subnets)
        del self._nodes[node.name]
        if node.link is not None:
            node.link.close(LinkRefused(f"node {node.name!r} was removed"))
        self._tell_all(node.name, None)

    def _lead(self, node: Node) -> bool:
        """Let the node's subnets lead to its link, or to the router that has it; whether it came or went by that."""
        outlet = node.link
        if outlet is None and node.claim is not None and node.claim.router is not None:
            outlet = self._outlet(node.claim.router)
        before, node.port.outlet = node.port.outlet, outlet
        node.port.remote = outlet is not None and outlet is not node.link
        return (before is None) != (outlet is None)

    def _lead_and_tell(self, node: Node) -> None:
        if self._lead(node):
            node.since = self._wallclock()
            self._tell(node)

    def _tell(self, node: Node) -> None:
        self._tell_all(node.name, node.state)

    def _tell_all(self, name: str, state: NodeState | None) -> None:
        for watcher in list(self._watchers):
            try:
                watcher(name, state)
            except Exception:
                # Whoever watches must not cost the node its link.
                self.log.failure("Telling of node {node} failed", node=name)

    def _last_seen(self, link: Link) -> float:
        return self._wallclock() - (self._seconds() - link.session.last_received)
