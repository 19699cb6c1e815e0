# mypy: disallow-untyped-calls=False
"""Two routers over one registry: claims, fencing, packets and streams from one to the other, routers that go away."""

from __future__ import annotations

from ipaddress import IPv6Network, ip_network

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint, ITransport
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from kubebus.addresses import AddressPlan
from kubebus.backoff import Backoff
from kubebus.edge import EdgeLinkService, EdgeOptions
from kubebus.identity import PeerIdentity, Role
from kubebus.interfaces import NodeAway, RegistryError
from kubebus.network import Network
from kubebus.nodes import NodeState
from kubebus.peers import PeerOptions
from kubebus.router import RouterOptions, RouterService
from kubebus.sharedlinks import LINKS, Claim, SharedLinks
from kubebus.testing import MemoryRegistry
from kubebus.testing_net import (
    MemoryHostNetwork,
    MemoryMembers,
    MemoryTun,
    MemoryWire,
    node_record,
    tcp_gso_packet,
    temporary_path,
    udp_packet,
)
from tests.unit.kubebus.test_network_service import Recorders

PLAN = AddressPlan(IPv6Network("fd00:b::/48"))
NETWORK = Network(plan=PLAN, advertise=(ip_network("10.10.0.0/24"),))


def settled(deferred: Deferred[object]) -> object:
    results: list[object] = []
    deferred.addBoth(results.append)
    return results[0]


class Router:
    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.up = True
        self.tun = MemoryTun()
        self.identity = PeerIdentity("default", Role.ROUTER, name)
        self.links = SharedLinks(world.registry, name)
        self.wires: list[MemoryWire] = []
        peers = PeerOptions(
            self.links,
            lambda address: Wired(world, address, self.identity, self.wires),
            world.identify,
            lambda: Backoff(lambda: 1.0),
        )
        options = RouterOptions(world.clock.seconds, lambda: [f"{name}:443"], peers=peers)
        self.service = RouterService(
            world.clock, NETWORK, self.identity, world.members, lambda _: self.tun, MemoryHostNetwork(), options
        )
        self.seen: list[tuple[str, bool]] = []
        self.service.subscribe(self.changed)

    def changed(self, name: str, node: NodeState | None) -> None:
        if node is not None:
            self.seen.append((name, node.connected))


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.registry = MemoryRegistry()
        self.members = MemoryMembers(node_record("edge1", 2), node_record("edge2", 3))
        self.wires: list[MemoryWire] = []
        self.names: dict[object, PeerIdentity] = {}
        self.routers = {name: Router(self, name) for name in ("r1", "r2")}

    def identify(self, transport: ITransport) -> PeerIdentity:
        return self.names[transport]

    def edge(self, name: str, routers: list[str], case: SynchronousTestCase) -> Edge:
        return Edge(self, name, routers, case)

    def pump(self) -> None:
        for _ in range(30):
            for wire in self.wires:
                wire.pump()

    def advance(self, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            self.clock.advance(0.5)
            self.pump()

    def kill(self, name: str) -> None:
        """The router's host loses its power."""
        router = self.routers[name]
        router.up = False
        for wire in self.wires:
            if router.identity in (self.names.get(wire.ends[0]), wire.ends[1]) or wire in router.wires:
                for end in wire.ends:
                    end.lose()


class Edge:
    def __init__(self, world: World, name: str, routers: list[str], case: SynchronousTestCase) -> None:
        self.tun = MemoryTun()
        self.wires: list[MemoryWire] = []
        identity = PeerIdentity("default", Role.NODE, name)
        self.service = EdgeLinkService(
            world.clock,
            Network(),
            identity,
            lambda address: Wired(world, address, identity, self.wires),
            lambda: routers,
            world.identify,
            temporary_path(case),
            lambda _: self.tun,
            MemoryHostNetwork(),
            EdgeOptions(world.clock.seconds, backoff=Backoff(lambda: 1.0)),
        )
        self.service.startService()
        world.pump()


@implementer(IStreamClientEndpoint)
class Wired:
    def __init__(self, world: World, address: str, identity: PeerIdentity, wires: list[MemoryWire]) -> None:
        self._world, self._identity, self._wires = world, identity, wires
        self._router = world.routers[address.partition(":")[0]]

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        world, router = self._world, self._router
        if not router.up:
            return fail(ConnectionRefusedError())
        wire = MemoryWire(world.clock)
        world.wires.append(wire)
        self._wires.append(wire)
        world.names[wire.ends[0]] = router.identity
        address = IPv4Address("TCP", "192.0.2.9", 4000)
        protocol = protocolFactory.buildProtocol(address)
        assert protocol is not None
        wire.ends[1].connect(router.service.build_link(self._identity, address))
        wire.ends[0].connect(protocol)
        return succeed(protocol)


class TwoRouterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.r1, self.r2 = self.world.routers.values()
        self.edges: list[Edge] = []
        for router in (self.r1, self.r2):
            router.service.startService()
        self.world.pump()
        self.addCleanup(self.stop)

    def stop(self) -> None:
        for edge in self.edges:
            edge.service.stopService()
        for router in (self.r1, self.r2):
            router.service.stopService()
        self.world.pump()
        self.world.clock.advance(2)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])

    def edge(self, name: str, *routers: str) -> Edge:
        edge = self.world.edge(name, [f"{router}:443" for router in routers], self)
        self.edges.append(edge)
        return edge

    def both_edges(self) -> tuple[Edge, Edge]:
        return self.edge("edge1", "r1"), self.edge("edge2", "r2")

    def test_edges_of_different_routers_reach_each_other(self) -> None:
        one, two = self.both_edges()
        for source, destination, sender, receiver in (
            ("10.192.2.9", "10.192.3.9", one, two),
            ("fd00:b:0:3::9", "fd00:b:0:2::9", two, one),
        ):
            for packet in (udp_packet(source, destination), tcp_gso_packet(source, destination)):
                sender.tun.route(packet)
                self.world.pump()
                self.assertEqual(receiver.tun.written, [packet])
                receiver.tun.written.clear()

    def test_the_cloud_reaches_every_edge_over_either_router(self) -> None:
        one, two = self.both_edges()
        for router in (self.r1, self.r2):
            router.tun.route(udp_packet("10.10.0.5", "10.250.0.2"), udp_packet("10.10.0.5", "10.250.0.3"))
            self.world.pump()
        self.assertEqual((len(one.tun.written), len(two.tun.written)), (2, 2))

    def test_each_routers_host_reaches_every_edge(self) -> None:
        one, two = self.both_edges()
        for router, own in ((self.r1, "10.250.0.1"), (self.r2, "10.250.255.254")):
            for edge, address in ((one, "10.250.0.2"), (two, "10.250.0.3")):
                router.tun.route(udp_packet(own, address))
                self.world.pump()
                self.assertEqual(edge.tun.written.pop(), udp_packet(own, address))
                edge.tun.route(udp_packet(address, own))
                self.world.pump()
                self.assertEqual(router.tun.written.pop(), udp_packet(address, own))

    def test_a_node_is_told_of_every_router(self) -> None:
        edge = self.edge("edge1", "r1")
        now = edge.service._now
        assert now is not None
        self.assertEqual(now.config.routers, ("r1:443", "r2:443"))

    def test_a_node_that_moves_is_fenced_on_the_first(self) -> None:
        old = self.edge("edge1", "r1")
        for wire in old.wires:
            for end in wire.ends:
                end.stalled = True
        old.service._linker.stop()
        new = self.edge("edge1", "r2")
        self.assertTrue(new.service.connected)
        self.assertTrue(self.r1.service.is_live("edge1"))
        status = {node.name: node for node in self.r1.service.status().nodes}["edge1"]
        self.assertEqual((status.router, status.link), ("r2", None))
        self.r1.tun.route(udp_packet("10.10.0.5", "10.250.0.2"))
        self.world.pump()
        self.assertEqual((len(old.tun.written), len(new.tun.written)), (0, 1))
        self.assertEqual(self.r2.seen[-1], ("edge1", True))

    def test_both_directories_tell_of_it(self) -> None:
        edge = self.edge("edge1", "r1")
        for router in (self.r1, self.r2):
            self.assertEqual(router.seen[-1], ("edge1", True))
        edge.service.stopService()
        self.world.pump()
        for router in (self.r1, self.r2):
            self.assertEqual(router.seen[-1], ("edge1", False))

    def test_an_edge_whose_router_dies_goes_to_the_next(self) -> None:
        edge = self.edge("edge1", "r1", "r2")
        other = self.edge("edge2", "r2")
        self.world.kill("r1")
        self.assertFalse(self.r2.service.is_live("edge1"))
        self.world.advance(3)
        self.assertTrue(edge.service.connected)
        self.assertTrue(self.r2.service.is_live("edge1"))
        other.tun.route(udp_packet("10.250.0.3", "10.250.0.2"))
        self.world.pump()
        self.assertEqual(len(edge.tun.written), 1)

    def test_the_link_between_routers_comes_back(self) -> None:
        one, two = self.both_edges()
        for wire in self.r1.wires:
            for end in wire.ends:
                end.lose()
        self.assertFalse(self.r1.service.is_live("edge2"))
        one.tun.route(udp_packet("10.192.2.9", "10.192.3.9"))
        self.world.pump()
        self.assertEqual(one.tun.written[0][10 + 20 : 10 + 22], b"\3\1")
        self.world.advance(2)
        one.tun.route(udp_packet("10.192.2.9", "10.192.3.9"))
        self.world.pump()
        self.assertEqual(len(two.tun.written), 1)

    def test_streams_are_passed_on(self) -> None:
        one, _ = self.both_edges()
        servers, clients = Recorders(), Recorders()
        one.service.serve("logs", servers)
        connected = self.r2.service.node_endpoint("edge1", "logs").connect(clients)
        self.world.pump()
        self.successResultOf(connected)
        (server,), (client,) = servers.made, clients.made
        assert server.transport is not None and client.transport is not None
        client.transport.write(b"q" * 500_000)
        server.transport.write(b"a" * 500_000)
        self.world.pump()
        self.assertEqual((len(server.received), len(client.received)), (500_000, 500_000))
        server.transport.write(b"the end")
        server.transport.loseConnection()
        self.world.pump()
        self.assertTrue(client.received.endswith(b"the end"))
        self.assertIsNotNone(client.lost)
        self.assertIsNotNone(server.lost)

    def test_streams_to_what_is_not_there(self) -> None:
        self.both_edges()
        clients = Recorders()
        connected = self.r2.service.node_endpoint("edge1", "nothing").connect(clients)
        self.world.pump()
        self.assertTrue(connected.called)
        if clients.made:
            self.assertIsNotNone(clients.made[0].lost)
        self.failureResultOf(self.r2.service.node_endpoint("edge9", "logs").connect(Recorders()), NodeAway)

    def test_a_node_may_not_ask_for_streams_to_others(self) -> None:
        one, two = self.both_edges()
        servers = Recorders()
        two.service.serve("logs", servers)
        connected = one.service.router_endpoint("node:edge2:logs").connect(Recorders())
        self.world.pump()
        self.failureResultOf(connected)
        self.assertEqual(servers.made, [])

    def test_revocation_is_seen_by_both(self) -> None:
        edge = self.edge("edge1", "r1", "r2")
        self.world.members.put(node_record("edge1", 2, revoked_at=1.0))
        self.world.pump()
        self.world.advance(10)
        self.assertFalse(edge.service.connected)
        self.assertEqual([router.service.is_live("edge1") for router in (self.r1, self.r2)], [False, False])

    def test_two_routers_of_one_name(self) -> None:
        third = Router(self.world, "r2")
        self.world.routers["r2"] = third
        third.identity = self.r1.identity
        for wire in self.r1.wires:
            for end in wire.ends:
                end.lose()
        self.world.advance(4)
        self.assertFalse(self.r1.service.is_live("edge2"))

    def test_a_router_without_a_registry_lets_nobody_in(self) -> None:
        self.world.registry.unavailable = True
        edge = self.edge("edge1", "r1")
        self.assertFalse(edge.service.connected)
        self.assertIn("registry", str(edge.service.status().error))
        self.world.registry.unavailable = False
        self.world.advance(3)
        self.assertTrue(edge.service.connected)


class SharedLinksTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.registry = MemoryRegistry()
        self.one, self.two = (SharedLinks(self.registry, name) for name in ("r1", "r2"))

    def claim_of(self, node: str) -> Claim:
        record = self.successResultOf(Deferred.fromCoroutine(self.registry.get(LINKS, node)))
        assert record is not None
        return Claim.decode(node, record.value)

    def run_now(self, coroutine: object) -> object:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))  # type: ignore[arg-type]

    def test_epochs_grow(self) -> None:
        epochs = [self.run_now(links.claim("edge1")) for links in (self.one, self.two, self.two, self.one)]
        self.assertEqual(epochs, [1, 2, 3, 4])
        self.assertEqual(self.claim_of("edge1"), Claim("r1", 4))

    def test_a_race_is_claimed_by_both_in_order(self) -> None:
        def first() -> None:
            self.run_now(self.two.claim("edge1"))

        self.registry.before_commit = first
        self.assertEqual(self.run_now(self.one.claim("edge1")), 2)

    def test_only_the_last_session_is_released(self) -> None:
        self.run_now(self.one.claim("edge1"))
        self.run_now(self.two.claim("edge1"))
        self.run_now(self.one.release("edge1", 1))
        self.assertEqual(self.claim_of("edge1"), Claim("r2", 2))
        self.run_now(self.two.release("edge1", 2))
        self.assertEqual(self.claim_of("edge1"), Claim(None, 2))
        self.assertEqual(self.run_now(self.one.claim("edge1")), 3)

    def test_what_a_killed_router_held(self) -> None:
        self.run_now(self.one.claim("edge1"))
        self.run_now(self.two.claim("edge2"))
        self.run_now(SharedLinks(self.registry, "r1").begin(["192.0.2.1:443"], PLAN))
        self.assertEqual(self.claim_of("edge1"), Claim(None, 1))
        self.assertEqual(self.claim_of("edge2"), Claim("r2", 1))

    def test_every_router_has_addresses_of_its_own(self) -> None:
        def own(links: SharedLinks) -> list[str]:
            return [str(address) for address in self.run_now(links.begin(["192.0.2.1:443"], PLAN))]  # type: ignore[attr-defined]

        first = ["10.250.0.1", "fd00:b::1"]
        second = ["10.250.255.254", "fd00:b::ffff:ffff:ffff:fffe"]
        third = ["10.250.255.253", "fd00:b::ffff:ffff:ffff:fffd"]
        self.assertEqual([own(self.one), own(self.two), own(self.one)], [first, second, first])
        late = SharedLinks(self.registry, "r3")
        self.registry.before_commit = lambda: None
        self.assertEqual(own(late), third)

    def test_damaged_records(self) -> None:
        for value in (b"", b"{", b"[]", b'{"router": 1}'):
            self.assertRaises(RegistryError, Claim.decode, "edge1", value)
