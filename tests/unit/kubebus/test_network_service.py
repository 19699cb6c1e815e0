# mypy: disallow-untyped-calls=False
"""A router and edges over wires in memory: hello, routes, packets, streams, replacement, revocation, status."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv6Network, ip_address, ip_network
from pathlib import Path

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from kubebus.addresses import AddressPlan
from kubebus.backoff import Backoff
from kubebus.edge import EdgeLinkService, EdgeNetwork, EdgeOptions
from kubebus.hostnetwork import HostSubnet
from kubebus.identity import PeerIdentity, Role
from kubebus.interfaces import NodeAway, NodeRecord, StreamAddress
from kubebus.network import Network
from kubebus.nodes import NodeState
from kubebus.router import RouterOptions, RouterService
from kubebus.status import as_json
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

PLAN = AddressPlan(IPv6Network("fd00:b::/48"))
CLOUD = ip_network("10.10.0.0/24")
NETWORK = Network(plan=PLAN, advertise=(CLOUD,))
WALL = 1_700_000_000.0


class World:
    """One router, some edges, and the wires between them."""

    def __init__(self, *records: NodeRecord) -> None:
        self.clock = Clock()
        self.members = MemoryMembers(*records)
        self.tun, self.host = MemoryTun(), MemoryHostNetwork()
        self.up = True
        self.wires: list[MemoryWire] = []
        self.router = RouterService(
            self.clock,
            NETWORK,
            PeerIdentity("default", Role.ROUTER, "r1"),
            self.members,
            lambda name: self.tun,
            self.host,
            RouterOptions(wallclock=self.wall, routers=lambda: ["192.0.2.1:443"]),
        )

    def wall(self) -> float:
        return WALL + self.clock.seconds()

    def edge(self, name: str, state: Path, identity: str | None = None) -> Edge:
        return Edge(self, name, state, identity or name)

    def pump(self) -> None:
        for _ in range(50):
            for wire in self.wires:
                wire.pump()

    def advance(self, seconds: float) -> None:
        """Let time pass in small steps, and carry what is sent meanwhile."""
        for _ in range(int(seconds * 2)):
            self.clock.advance(0.5)
            self.pump()


class Edge:
    def __init__(self, world: World, name: str, state: Path, identity: str) -> None:
        self.world = world
        self.tun, self.host = MemoryTun(), MemoryHostNetwork()
        self.identity = PeerIdentity("default", Role.NODE, name)
        self.shown = PeerIdentity("default", Role.NODE, identity)
        self.dialled: list[tuple[str, float]] = []
        self.networks: list[EdgeNetwork] = []
        self.times: list[float] = []
        self.service = EdgeLinkService(
            world.clock,
            Network(),
            self.identity,
            self.dial,
            lambda: ["192.0.2.1:443"],
            lambda transport: world.router.identity,
            state,
            lambda name: self.tun,
            self.host,
            EdgeOptions(world.wall, self.times.append, backoff=Backoff(lambda: 1.0)),
        )
        self.service.subscribe(self.networks.append)

    def dial(self, address: str) -> IStreamClientEndpoint:
        self.dialled.append((address, self.world.clock.seconds()))
        return _WireEndpoint(self)

    @property
    def wire(self) -> MemoryWire:
        return self._wire

    @wire.setter
    def wire(self, wire: MemoryWire) -> None:
        self._wire = wire


@implementer(IStreamClientEndpoint)
class _WireEndpoint:
    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        world = self._edge.world
        if not world.up:
            return fail(ConnectionRefusedError())
        wire = self._edge.wire = MemoryWire(world.clock)
        world.wires.append(wire)
        address = IPv4Address("TCP", "198.51.100.21", 40000)
        protocol = protocolFactory.buildProtocol(address)
        assert protocol is not None
        wire.ends[1].connect(world.router.build_link(self._edge.shown, address))
        wire.ends[0].connect(protocol)
        return succeed(protocol)


class Recorder(Protocol):
    def __init__(self, address: IAddress | None) -> None:
        self.address = address
        self.received = b""
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


class Recorders(Factory):
    def __init__(self) -> None:
        self.made: list[Recorder] = []

    def buildProtocol(self, addr: IAddress | None) -> Recorder:
        self.made.append(Recorder(addr))
        return self.made[-1]


def members_answer(members: MemoryMembers) -> Deferred[NodeRecord | None]:
    """Make the next question about a node wait for this."""
    answer: Deferred[NodeRecord | None] = Deferred()

    async def node(name: str) -> NodeRecord | None:
        return await answer

    members.node = node  # type: ignore[method-assign]
    return answer


class NetworkServiceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(node_record("edge1", 2), node_record("edge2", 3))
        self.world.router.startService()
        self.edges: list[Edge] = []
        self.addCleanup(self.stop)

    def stop(self) -> None:
        for edge in self.edges:
            edge.service.stopService()
        self.world.router.stopService()
        self.world.pump()
        self.world.clock.advance(2)

    def start(self, name: str, **options: str) -> Edge:
        edge = self.world.edge(name, temporary_path(self), **options)
        self.edges.append(edge)
        edge.service.startService()
        self.world.pump()
        return edge

    def test_hello_sets_both_hosts_up(self) -> None:
        edge = self.start("edge1")
        self.assertTrue(edge.service.connected)
        self.assertTrue(self.world.router.is_live("edge1"))
        self.assertEqual(edge.host.addresses, list(node_record("edge1", 2).addresses))
        self.assertEqual(edge.host.routes, [*NETWORK.pools, CLOUD])
        self.assertEqual(edge.host.held, list(node_record("edge1", 2).pod_subnets))
        self.assertEqual(edge.host.mtu, {"kb0": 1500})
        self.assertTrue(edge.host.forwarding)
        self.assertEqual(edge.networks[-1].routes, (*NETWORK.pools, CLOUD))
        self.assertEqual(edge.times, [WALL])
        self.assertEqual(self.world.host.addresses, list(PLAN.router_addresses))
        self.assertEqual(self.world.host.routes, list(NETWORK.pools))

    def test_stopping_undoes_everything(self) -> None:
        edge = self.start("edge1")
        edge.service.stopService()
        self.world.pump()
        self.assertEqual((edge.host.addresses, edge.host.routes, edge.host.held), ([], [], []))
        self.assertFalse(edge.host.forwarding)
        self.assertTrue(edge.tun.closed)
        self.assertFalse(self.world.router.is_live("edge1"))
        self.world.advance(120)
        self.assertEqual(len(edge.dialled), 1)

    def test_stopping_and_starting_again(self) -> None:
        edge = self.start("edge1")
        for service in (edge.service, self.world.router):
            service.stopService()
            self.world.pump()
            self.world.tun.closed = edge.tun.closed = False
            service.startService()
            self.world.advance(3)
            self.assertTrue(edge.service.connected)

    def test_packets_everywhere(self) -> None:
        one, two = self.start("edge1"), self.start("edge2")
        for source, destination, sender, receiver in (
            ("10.250.0.2", "10.250.0.3", one, two),
            ("10.192.2.9", "10.192.3.9", one, two),
            ("fd00:b:0:2::9", "fd00:b:0:3::9", one, two),
            ("10.250.0.2", "10.10.0.5", one, self.world),
            ("10.10.0.5", "10.192.3.9", self.world, two),
            ("10.250.0.1", "10.250.0.2", self.world, one),
        ):
            for packet in (udp_packet(source, destination), tcp_gso_packet(source, destination)):
                sender.tun.route(packet)
                self.world.pump()
                self.assertEqual(receiver.tun.written, [packet])
                receiver.tun.written.clear()

    def test_a_node_that_gets_other_pod_subnets_is_told_and_routed_there(self) -> None:
        one, two = self.start("edge1"), self.start("edge2")
        fresh = ip_network("10.10.0.64/26")
        record = node_record("edge1", 2)
        self.world.members.put(replace(record, pod_subnets=(fresh, record.pod_subnets[1])))
        self.world.advance(1)
        self.assertEqual((fresh, record.pod_subnets[1]), one.networks[-1].config.pod_subnets)
        self.assertEqual([record.pod_subnets[1], fresh], one.host.held)
        self.assertIn(fresh, self.world.host.routes, "the router's host reaches it over the tunnel")
        packet = udp_packet("10.192.3.9", "10.10.0.65")
        two.tun.route(packet)
        self.world.pump()
        self.assertEqual([packet], one.tun.written)
        two.tun.route(udp_packet("10.192.3.9", "10.192.2.9"))
        self.world.pump()
        self.assertEqual(1, len(one.tun.written), "the old subnet is nobody's")
        self.world.members.remove("edge1")
        self.world.advance(1)
        self.assertNotIn(fresh, self.world.host.routes)

    def test_spoofed_packets_are_dropped_and_counted(self) -> None:
        one, two = self.start("edge1"), self.start("edge2")
        link = one.service._link
        assert link is not None
        for source in ("10.250.0.3", "10.192.3.1", "10.10.0.1", "8.8.8.8", "10.250.0.1", "fd00:b::3"):
            destination = "10.250.0.3" if "." in source else "fd00:b::3"
            link.send_packet(udp_packet(source, destination))
        link.send_packet(udp_packet("10.250.0.2", "10.250.0.3")[:-1])
        link.send_packet(udp_packet("10.250.0.2", "8.8.8.8"))
        link.flush()
        self.world.pump()
        self.assertEqual(two.tun.written + self.world.tun.written, [])
        status = self.world.router.status().nodes[0]
        self.assertEqual((status.spoofed, status.malformed, status.unroutable), (6, 1, 1))

    def test_the_edge_keeps_foreign_sources_to_itself(self) -> None:
        edge = self.start("edge1")
        edge.tun.route(udp_packet("192.168.1.11", "10.10.0.5"), udp_packet("fe80::1", "ff02::2"))
        self.world.pump()
        self.assertEqual(edge.service.status().foreign, 1)
        self.assertEqual(self.world.router.status().nodes[0].spoofed, 0)

    def test_a_known_node_that_is_away(self) -> None:
        edge = self.start("edge1")
        for source, destination in (("10.192.2.9", "10.192.3.9"), ("fd00:b:0:2::9", "fd00:b:0:3::9")):
            edge.tun.route(udp_packet(source, destination))
            self.world.pump()
            answer = edge.tun.written.pop()
            self.assertEqual(answer[10] >> 4, ip_address(source).version)
            self.assertIn(ip_address(destination).packed, answer[50:])
        self.world.tun.route(udp_packet("10.10.0.5", "10.250.0.3"))
        self.assertEqual(self.world.tun.written[0][10 + 20 : 10 + 22], b"\x03\x01")
        self.assertEqual(self.world.router.status().nodes[1].away, 3)

    def test_a_newer_session_replaces_the_older(self) -> None:
        old, new = self.start("edge1"), self.start("edge1")
        self.assertTrue(new.service.connected)
        self.assertFalse(old.service.connected)
        self.assertIn("replaced", str(old.service.status().error))
        self.world.tun.route(udp_packet("10.10.0.5", "10.250.0.2"))
        self.world.pump()
        self.assertEqual((len(old.tun.written), len(new.tun.written)), (0, 1))

    def test_an_old_session_that_closes_late_does_no_harm(self) -> None:
        old = self.start("edge1")
        for end in old.wire.ends:
            end.stalled = True
        old.service._linker.stop()
        new = self.start("edge1")
        self.assertTrue(new.service.connected)
        old.wire.ends[1].lose()
        self.world.pump()
        self.assertTrue(self.world.router.is_live("edge1"))

    def test_unknown_and_revoked_nodes_are_refused(self) -> None:
        stranger = self.start("edge9")
        self.assertIn("node 'edge9' is not enrolled here", str(stranger.service.status().error))
        self.world.members.put(node_record("edge1", 2, revoked_at=1.0))
        revoked = self.start("edge1")
        self.assertIn("was revoked", str(revoked.service.status().error))
        self.assertFalse(self.world.router.is_live("edge1"))

    def test_a_revoked_node_is_cut(self) -> None:
        edge = self.start("edge1")
        self.world.members.put(node_record("edge1", 2, revoked_at=1.0))
        self.assertFalse(self.world.router.is_live("edge1"))
        self.world.pump()
        self.assertIn("revoked", str(edge.service.status().error))
        self.world.advance(5)
        self.assertFalse(edge.service.connected)

    def test_a_node_of_another_network_is_refused(self) -> None:
        edge = self.world.edge("edge1", temporary_path(self))
        edge.shown = PeerIdentity("other", Role.NODE, "edge1")
        self.edges.append(edge)
        edge.service.startService()
        self.world.pump()
        self.assertFalse(edge.service.connected)
        self.assertIn("network 'default'", str(edge.service.status().error))

    def test_redialling(self) -> None:
        self.world.up = False
        edge = self.start("edge1")
        self.world.advance(140)
        self.assertEqual([when for _, when in edge.dialled], [0, 1, 3, 7, 15, 31, 63, 123])
        self.world.up = True
        self.world.advance(60)
        self.assertTrue(edge.service.connected)
        self.assertIsNone(edge.service.status().error)

    def test_the_directory_tells_of_coming_and_going(self) -> None:
        seen: list[tuple[str, bool | None]] = []

        def changed(name: str, node: NodeState | None) -> None:
            seen.append((name, None if node is None else node.connected))

        self.world.router.subscribe(changed)
        self.assertEqual(seen, [("edge1", False), ("edge2", False)])
        edge = self.start("edge1")
        self.assertEqual(seen[2:], [("edge1", True)])
        edge.wire.ends[0].lose()
        edge.wire.ends[1].lose()
        self.assertEqual(seen[3:], [("edge1", False)])
        self.world.members.remove("edge2")
        self.assertEqual(seen[4:], [("edge2", None)])

    def test_a_device_that_somebody_removes_is_made_anew(self) -> None:
        edge = self.start("edge1")
        for side in (edge, self.world):
            old = side.tun
            side.host.addresses.clear()
            side.host.routes.clear()
            side.tun = MemoryTun()
            old.vanish()
            self.assertNotEqual((side.host.addresses, side.host.routes), ([], []))
        edge.tun.route(udp_packet("10.250.0.2", "10.10.0.5"))
        self.world.pump()
        self.assertEqual(len(self.world.tun.written), 1)

    def test_a_watcher_that_fails_costs_nobody_a_link(self) -> None:
        def broken(*_: object) -> None:
            raise ZeroDivisionError

        self.world.router.subscribe(lambda name, node: broken() if node and node.connected else None)
        edge = self.world.edge("edge1", temporary_path(self))
        self.edges.append(edge)
        edge.service.subscribe(broken)
        edge.service.startService()
        self.world.pump()
        self.assertTrue(edge.service.connected)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_a_session_whose_node_is_revoked_while_it_is_let_in(self) -> None:
        edge = self.world.edge("edge1", temporary_path(self))
        self.edges.append(edge)
        members, asked = self.world.members, members_answer(self.world.members)
        edge.service.startService()
        self.world.pump()
        members.put(node_record("edge1", 2, revoked_at=1.0))
        asked.callback(node_record("edge1", 2))
        self.world.pump()
        self.assertFalse(edge.service.connected)
        self.assertFalse(self.world.router.is_live("edge1"))

    def test_the_saved_configuration_serves_without_a_cloud(self) -> None:
        edge = self.start("edge1")
        edge.service.stopService()
        self.world.up = False
        again = self.world.edge("edge1", edge.service._saved._path.parent)
        self.edges.append(again)
        again.service.startService()
        self.assertEqual(again.networks[0].config.pod_subnets, node_record("edge1", 2).pod_subnets)
        self.assertEqual(again.host.addresses, list(node_record("edge1", 2).addresses))
        again.tun.route(udp_packet("10.250.0.2", "10.10.0.5"))
        self.assertEqual(again.service.status().lost, 1)

    def test_an_overlapping_route_is_refused_and_the_rest_kept(self) -> None:
        edge = self.world.edge("edge1", temporary_path(self))
        edge.host.own = [
            HostSubnet(ip_network("10.10.0.0/16"), "eth0"),
            HostSubnet(ip_network("10.192.77.0/24"), "eth1"),
            HostSubnet(ip_network("10.192.2.0/24"), "docker0"),
        ]
        self.edges.append(edge)
        edge.service.startService()
        self.world.pump()
        self.assertEqual(edge.host.routes, list(NETWORK.pools))
        hole, why = edge.service.status().refused
        self.assertIn("10.192.77.0/24 of the pool", hole)
        self.assertIn("10.10.0.0/24 is not reached through the tunnel: it overlaps 10.10.0.0/16", why)
        self.assertIn("eth0", why)

    def test_streams_both_ways(self) -> None:
        edge = self.start("edge1")
        for serve, endpoint, peer in (
            (self.world.router.serve, edge.service.router_endpoint, edge.identity),
            (
                edge.service.serve,
                lambda service: self.world.router.node_endpoint("edge1", service),
                self.world.router.identity,
            ),
        ):
            servers, clients = Recorders(), Recorders()
            serve("echo", servers)
            connected = endpoint("echo").connect(clients)
            self.world.pump()
            self.successResultOf(connected)
            (server,), (client,) = servers.made, clients.made
            self.assertEqual(server.address, StreamAddress(peer, "echo"))
            assert server.transport is not None and client.transport is not None
            client.transport.write(b"x" * 1_000_000)
            server.transport.write(b"answer")
            self.world.pump()
            self.assertEqual(len(server.received), 1_000_000)
            self.assertEqual(clients.made[0].received, b"answer")
            client.transport.loseConnection()
            self.world.pump()
            self.assertIsNotNone(server.lost)
            self.assertIsNotNone(clients.made[0].lost)

    def test_a_service_that_is_not_there(self) -> None:
        edge = self.start("edge1")
        connected = edge.service.router_endpoint("nothing").connect(Recorders())
        self.world.pump()
        failure = self.failureResultOf(connected)
        self.assertIn("there is no service 'nothing'", str(failure.value))

    def test_no_link_no_stream(self) -> None:
        self.failureResultOf(self.world.router.node_endpoint("edge1", "echo").connect(Recorders()), NodeAway)
        edge = self.start("edge1")
        self.world.router.serve("echo", Recorders())
        clients = Recorders()
        connected = edge.service.router_endpoint("echo").connect(clients)
        self.world.pump()
        self.successResultOf(connected)
        edge.wire.ends[0].lose()
        edge.wire.ends[1].lose()
        self.assertIsNotNone(clients.made[0].lost)
        self.failureResultOf(edge.service.router_endpoint("echo").connect(Recorders()), NodeAway)

    def test_a_dead_link_in_use_is_noticed_within_15_seconds(self) -> None:
        edge = self.start("edge1")
        self.world.advance(20)
        for end in edge.wire.ends:
            end.stalled = True
        edge.tun.route(udp_packet("10.250.0.2", "10.10.0.5"))
        self.world.tun.route(udp_packet("10.10.0.5", "10.250.0.2"))
        self.world.up = False
        self.world.advance(12)
        self.assertTrue(self.world.router.is_live("edge1"))
        self.assertTrue(edge.service.connected)
        self.world.advance(3)
        self.assertFalse(self.world.router.is_live("edge1"))
        self.assertFalse(edge.service.connected)

    def test_an_idle_dead_link_is_noticed_within_90_seconds(self) -> None:
        edge = self.start("edge1")
        self.world.advance(20)
        for end in edge.wire.ends:
            end.stalled = True
        self.world.up = False
        self.world.advance(50)
        self.assertTrue(self.world.router.is_live("edge1"))
        self.world.advance(20)
        self.assertFalse(self.world.router.is_live("edge1"))
        self.assertFalse(edge.service.connected)

    def test_an_idle_link_stays_up(self) -> None:
        edge = self.start("edge1")
        self.world.advance(600)
        self.assertEqual(len(edge.dialled), 1)
        self.assertTrue(edge.service.connected)

    def test_a_peer_that_does_not_read_costs_a_bounded_queue(self) -> None:
        one, two = self.start("edge1"), self.start("edge2")
        link = self.world.router._table._nodes["edge1"].link
        assert link is not None
        link.pauseProducing()
        packet = tcp_gso_packet("10.10.0.5", "10.250.0.2", 60000)
        for _ in range(100):
            self.world.tun.route(packet, udp_packet("10.10.0.5", "10.250.0.3"))
        self.world.pump()
        status = self.world.router.status().nodes
        assert status[0].link is not None
        self.assertLess(status[0].link.backlog, 1_400_000)
        self.assertEqual(status[0].link.dropped, 100 - len(one.tun.written) - 17)
        self.assertEqual(len(two.tun.written), 100)

    def test_the_edge_pauses_its_host_when_the_link_is_slow(self) -> None:
        edge = self.start("edge1")
        link = edge.service._link
        assert link is not None
        link.pauseProducing()
        for _ in range(40):
            edge.tun.route(tcp_gso_packet("10.250.0.2", "10.10.0.5", 60000))
        self.assertTrue(edge.tun.paused)
        self.assertEqual(link.counters.dropped, 0)
        link.resumeProducing()
        self.assertFalse(edge.tun.paused)
        self.world.pump()
        self.assertEqual(len(self.world.tun.written), 40)

    def test_status_is_json(self) -> None:
        edge = self.start("edge1")
        self.world.advance(2)
        router = json.loads(json.dumps(as_json(self.world.router.status())))
        self.assertEqual(router["nodes"][0]["addresses"], ["10.250.0.2", "fd00:b::2"])
        self.assertEqual(router["nodes"][0]["link"]["address"], "198.51.100.21")
        self.assertEqual(router["nodes"][0]["link"]["rtt"], 0.0)
        self.assertIsNone(router["nodes"][1]["link"])
        status = json.loads(json.dumps(as_json(edge.service.status())))
        self.assertEqual((status["router"], status["connected"]), ("r1", True))

    def test_garbage_closes_the_link_with_a_reason(self) -> None:
        other = self.start("edge2")
        for garbage, why in (
            (b"\x07\0\0\x01x", "frame type 7"),
            (b"\x01\x7f\xff\xff", "CONTROL frame of 8388607 bytes"),
            (b"\x01\0\0\x02[]", "not a JSON object"),
            (b'\x01\0\0\x15{"type":"ping","id":"a"}'[:-3], None),
            (b"\x02\0\0\x01x", "stream frame"),
        ):
            edge = self.start("edge1")
            edge.wire.ends[0].write(garbage + (b"" if why else b"\x09\x09\x09\x09" * 8))
            self.world.pump()
            self.assertFalse(edge.service.connected)
            if why:
                self.assertIn(why, str(edge.service.status().error))
            edge.service.stopService()
        self.assertEqual(len(other.dialled), 1)
        self.assertTrue(other.service.connected)
