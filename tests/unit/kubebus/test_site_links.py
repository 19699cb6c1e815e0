# mypy: disallow-untyped-calls=False
"""Links within a site, over memory: who dials, packets, streams, revocation, rosters that are passed on."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint, ITransport
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from kubebus.backoff import Backoff
from kubebus.ca import Authority
from kubebus.edgepackets import EdgePackets, Neighbour
from kubebus.frames import PacketFrames
from kubebus.identity import PeerIdentity, Role
from kubebus.interfaces import NodeAway
from kubebus.link import Link
from kubebus.linkerrors import LinkError
from kubebus.roster import Member, Roster, SignedRoster, sign
from kubebus.rosterkeeper import RosterKeeper
from kubebus.sitelinks import SiteLinks, SiteOptions
from kubebus.testing_net import MemoryTun, MemoryWire, node_record, tcp_gso_packet, temporary_path, udp_packet
from kubebus.tokens import Refusal, Refused
from tests.unit.kubebus.test_network_service import Recorders

AUTHORITY = Authority.create("test", 1e9)
NUMBERS = {"a": 2, "b": 3, "c": 4}


def member(name: str, *, listens: bool = True, key: str = "") -> Member:
    record = node_record(name, NUMBERS[name])
    endpoints = (f"192.168.1.{NUMBERS[name]}:7443",) if listens else ()
    return Member(name, record.addresses, record.pod_subnets, key or f"{NUMBERS[name]:064x}", endpoints)


def roster(revision: int, *members: Member, revoked: tuple[str, ...] = (), site: str = "hall") -> SignedRoster:
    return sign(Roster("default", site, revision, members, revoked), AUTHORITY)


def identity(name: str) -> PeerIdentity:
    return PeerIdentity("default", Role.NODE, name)


class KeeperTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = temporary_path(self)
        self.keeper = self.new_keeper()
        self.keeper.belong_to("hall")
        self.both = roster(5, member("a"), member("b"))

    def new_keeper(self, name: str = "a", authority: Authority = AUTHORITY) -> RosterKeeper:
        return RosterKeeper(identity(name), lambda: (authority.certificate,), self.path)

    def test_newer_ones_only(self) -> None:
        changes: list[int] = []
        self.keeper.watch(lambda: changes.append(0 if self.keeper.roster is None else self.keeper.roster.revision))
        newer, older = roster(7, member("a")), roster(4, member("a"), member("b"), member("c"))
        other = roster(7, member("a"), member("c"))
        answers = [self.keeper.offer(each.encoded, "somebody") for each in (self.both, newer, older, newer, other)]
        self.assertEqual(answers, [True, True, False, False, False])
        self.assertEqual(changes, [5, 7])
        self.assertEqual(self.keeper.signed, newer)

    def test_what_does_not_concern_it(self) -> None:
        stranger = Authority.create("test", 1e9)
        for hostile in (
            sign(Roster("default", "hall", 9, (member("a"),)), stranger).encoded,
            sign(Roster("other", "hall", 9, (member("a"),)), AUTHORITY).encoded,
            roster(9, member("a"), site="yard").encoded,
            b"nonsense",
        ):
            self.assertFalse(self.keeper.offer(hostile, "somebody"))
        self.assertIsNone(self.keeper.signed)

    def test_a_boot_without_a_cloud(self) -> None:
        self.keeper.offer(self.both.encoded, "the router")
        again = self.new_keeper()
        again.belong_to("hall")
        self.assertEqual(again.signed, self.both)
        self.assertEqual((self.path / "roster.json").stat().st_mode & 0o777, 0o600)
        # Elsewhere it does not hold, nor where the authority is not trusted any more, nor when it is damaged.
        again.belong_to("yard")
        self.assertIsNone(again.signed)
        retired = self.new_keeper(authority=Authority.create("new", 1e9))
        retired.belong_to("hall")
        self.assertIsNone(retired.signed)
        (self.path / "roster.json").write_bytes(self.both.encoded[:-9])
        damaged = self.new_keeper()
        damaged.belong_to("hall")
        self.assertIsNone(damaged.signed)

    def test_what_was_before(self) -> None:
        """Of each change of members the first roster is kept, and shown to whoever was not there."""
        one, both, three = ((member("a"),), (member("a"), member("b")), (member("a"), member("b"), member("c")))
        rosters = [roster(number, *members) for number, members in ((2, one), (5, both), (6, both), (9, three))]
        for each in rosters:
            self.keeper.offer(each.encoded, "the router")
        self.assertEqual([each.roster.revision for each in self.keeper.history.entries], [2, 5, 9])
        knows = self.keeper.history.knows
        self.assertTrue(knows(2, "a") and knows(5, "ba") and knows(6, "ab") and knows(9, "abc"))
        self.assertFalse(knows(1, "a") or knows(5, "a") or knows(5, "abc") or knows(9, "abcd") or knows(2**51, "ab"))
        again = self.new_keeper()
        again.belong_to("hall")
        self.assertEqual(again.history.entries, self.keeper.history.entries)
        # Who came later learns it from others, in whatever order, if it is signed, and of this site.
        late = RosterKeeper(identity("c"), lambda: (AUTHORITY.certificate,), self.path / "late")
        late.belong_to("hall")
        stranger = Authority.create("test", 1e9)
        forged = sign(Roster("default", "hall", 4, (member("c"),)), stranger)
        for each in (rosters[3], rosters[1], forged, roster(3, member("c"), site="yard"), rosters[0], rosters[2]):
            late.offer(each.encoded, "node 'a'")
        self.assertEqual(late.history.entries, self.keeper.history.entries)
        self.assertEqual(late.signed, rosters[3])
        late.belong_to("yard")
        self.assertEqual(late.history.entries, ())

    def test_no_more_is_kept_than_nodes_go_by(self) -> None:
        names = [(member("a"),), (member("a"), member("b"))]
        for number in range(1, 30):
            self.keeper.offer(roster(number, *names[number % 2]).encoded, "the router")
        self.assertEqual([each.roster.revision for each in self.keeper.history.entries], list(range(22, 30)))

    def test_who_is_admitted(self) -> None:
        self.keeper.offer(roster(5, member("a"), member("b"), revoked=("f" * 64,)).encoded, "the router")
        self.assertEqual(self.keeper.check(identity("b"), f"{3:064x}"), member("b"))
        for who, key, refusal in (
            (identity("c"), f"{4:064x}", Refusal.UNKNOWN_NODE),
            (identity("b"), f"{4:064x}", Refusal.OTHER_KEY),
            (identity("b"), "f" * 64, Refusal.REVOKED),
            (PeerIdentity("other", Role.NODE, "b"), f"{3:064x}", Refusal.UNKNOWN_NODE),
            (PeerIdentity("default", Role.ROUTER, "b"), f"{3:064x}", Refusal.UNKNOWN_NODE),
        ):
            self.assertEqual(self.assertRaises(Refused, self.keeper.check, who, key).refusal, refusal)

    def test_who_left_admits_nobody(self) -> None:
        self.keeper.offer(roster(5, member("b")).encoded, "the router")
        self.assertEqual(self.keeper.others(), ())
        self.assertRaises(Refused, self.keeper.check, identity("b"), f"{3:064x}")

    def test_a_full_disk(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text("not a folder")
        self.assertTrue(self.keeper.offer(self.both.encoded, "the router"))
        self.assertEqual(self.keeper.signed, self.both)


class Host:
    """The part of the node that moves packets."""

    def __init__(self, name: str) -> None:
        record = node_record(name, NUMBERS[name])
        self.tun = MemoryTun()
        self.packets = EdgePackets(1500)
        self.packets.configure((*map(ip_network, record.addresses), *record.pod_subnets), 1500)
        self.tun.start(self.packets.from_host, lambda: None)

    def route_directly(self, direct: Any) -> None:
        self.packets.direct = direct

    def packets_from_neighbour(self, neighbour: Neighbour, frames: PacketFrames) -> None:
        self.packets.from_neighbour(neighbour, frames, self.tun)


class Node:
    def __init__(self, world: World, name: str, case: SynchronousTestCase, listens: bool) -> None:
        self.host, self.up = Host(name), True
        self.keeper = RosterKeeper(identity(name), lambda: (AUTHORITY.certificate,), temporary_path(case))
        self.keeper.belong_to("hall")
        self.dialled: list[str] = []
        options = SiteOptions(
            world.clock.seconds,
            lambda address: Dialled(world, self, address),
            world.identify,
            lambda: (f"192.168.1.{NUMBERS[name]}:7443",) if listens else (),
            backoff=lambda: Backoff(lambda: 1.0, last=10.0),
        )
        self.links = SiteLinks(world.clock, identity(name), self.keeper, self.host, options)
        self.links.startService()
        self.seen: list[tuple[str, bool]] = []
        self.links.watch(lambda other, up: self.seen.append((other, up)))

    @property
    def direct(self) -> set[str]:
        return {each.name for each in self.links.status().neighbours if each.connected}

    @property
    def arrived(self) -> list[bytes]:
        written, self.host.tun.written = self.host.tun.written, []
        return written


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.wires: list[MemoryWire] = []
        self.names: dict[object, PeerIdentity] = {}
        self.nodes: dict[str, Node] = {}

    def identify(self, transport: ITransport) -> PeerIdentity:
        return self.names[transport]

    def pump(self) -> None:
        for _ in range(10):
            for wire in self.wires:
                wire.pump()

    def advance(self, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            self.clock.advance(0.5)
            self.pump()


@implementer(IStreamClientEndpoint)
class Dialled:
    def __init__(self, world: World, by: Node, address: str) -> None:
        self._world, self._by = world, by
        number = int(address.partition(":")[0].rpartition(".")[2])
        self._name = {number: name for name, number in NUMBERS.items()}[number]

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        world, node = self._world, self._world.nodes[self._name]
        self._by.dialled.append(self._name)
        if not node.up:
            return fail(ConnectionRefusedError())
        wire = MemoryWire(world.clock)
        world.wires.append(wire)
        world.names[wire.ends[0]] = identity(self._name)
        address = IPv4Address("TCP", "192.168.1.9", 4000)
        protocol = protocolFactory.buildProtocol(address)
        assert protocol is not None
        wire.ends[1].connect(node.links.build_link(self._by.links.identity, address))
        wire.ends[0].connect(protocol)
        return succeed(protocol)


class SiteLinksTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.members = {"a": member("a"), "b": member("b"), "c": member("c", listens=False)}
        for name, each in self.members.items():
            self.world.nodes[name] = Node(self.world, name, self, bool(each.endpoints))
        self.a, self.b, self.c = self.world.nodes.values()
        self.addCleanup(self.stop)
        self.tell(roster(1, *self.members.values()))
        # Who is told later refuses who dials at once.
        self.world.advance(3)

    def stop(self) -> None:
        for node in self.world.nodes.values():
            node.links.stopService()
        self.world.pump()
        self.world.clock.advance(2)
        self.assertEqual(self.world.clock.getDelayedCalls(), [])

    def tell(self, signed: SignedRoster) -> None:
        for node in self.world.nodes.values():
            node.keeper.offer(signed.encoded, "the router")
        self.world.pump()

    def test_one_link_for_each_pair(self) -> None:
        """The lesser name dials; who does not listen dials itself."""
        self.assertEqual([set(node.dialled) for node in self.world.nodes.values()], [{"b"}, set(), {"a", "b"}])
        self.assertEqual([node.direct for node in self.world.nodes.values()], [{"b", "c"}, {"a", "c"}, {"a", "b"}])
        self.assertEqual(sorted(self.a.seen), [("b", True), ("c", True)])
        # Told the same again, they stay as they are.
        before = [neighbour.link for neighbour in self.a.links.neighbours.values()]
        self.tell(roster(2, *self.members.values()))
        self.assertEqual([neighbour.link for neighbour in self.a.links.neighbours.values()], before)

    def test_packets(self) -> None:
        small, large = udp_packet("10.192.2.9", "10.192.3.9"), tcp_gso_packet("fd00:b:0:2::9", "fd00:b::3")
        elsewhere = udp_packet("10.192.2.9", "10.10.0.5")
        self.a.host.tun.route(small, large, elsewhere)
        self.world.pump()
        self.assertEqual(self.b.arrived, [small, large])
        # What is for nobody of the site waits for no link here: there is no router.
        self.assertEqual(self.a.host.packets.lost, 1)
        status = {each.name: each for each in self.a.links.status().neighbours}["b"].link
        assert status is not None
        self.assertGreater(status.sent_bytes, len(small) + len(large))

    def test_sources_are_checked_at_both_ends(self) -> None:
        spoofed = udp_packet("10.192.4.9", "10.192.3.9")
        self.a.host.tun.route(spoofed)
        self.assertEqual((self.a.host.packets.foreign, self.b.arrived), (1, []))
        link = self.a.links.neighbours["b"].link
        assert link is not None
        for payload in (spoofed, udp_packet("10.192.2.9", "10.192.4.9"), b"x" * 40):
            link.send_packet(payload)
        link.flush()
        self.world.pump()
        counted = self.b.links.neighbours["a"].counted
        self.assertEqual((self.b.arrived, counted.spoofed, counted.malformed), ([], 1, 2))

    def test_a_neighbour_that_goes_and_comes(self) -> None:
        link = self.b.links.neighbours["a"].link
        assert link is not None
        self.b.up = False
        link.close(LinkError("gone"))
        self.world.pump()
        self.assertEqual(self.a.direct, {"c"})
        packet = udp_packet("10.192.2.9", "10.192.3.9")
        self.a.host.tun.route(packet)
        self.assertEqual(self.a.host.packets.lost, 1, "it is left to the router")
        self.world.advance(30)
        self.b.up = True
        self.world.advance(11)
        self.assertEqual(self.a.direct, {"b", "c"})
        self.assertEqual(self.a.seen[-2:], [("b", False), ("b", True)])

    def test_a_silent_neighbour(self) -> None:
        """A LAN that was split: data without an answer shows it within seconds."""
        for wire in self.world.wires:
            wire.ends[0].stalled = wire.ends[1].stalled = True
        self.a.host.tun.route(udp_packet("10.192.2.9", "10.192.3.9"))
        self.world.clock.advance(1.1)
        self.world.clock.advance(2.1)
        self.assertEqual(self.a.direct, {"c"})
        for _ in range(40):
            self.world.clock.advance(0.5)
        self.assertEqual(self.a.direct, set())
        for node in self.world.nodes.values():
            node.links.stopService()
        for wire in self.world.wires:
            wire.ends[0].stalled = wire.ends[1].stalled = False

    def test_streams(self) -> None:
        service = Recorders()
        self.b.links.serve("echo/1", service)
        client = Recorders()
        connecting = self.c.links.site_endpoint("b", "echo/1").connect(client)
        self.world.pump()
        self.successResultOf(connecting)
        client.made[0].transport.write(b"hello")  # type: ignore[union-attr]
        self.world.pump()
        self.assertEqual(service.made[0].received, b"hello")
        self.assertEqual(service.made[0].address.peer, identity("c"))  # type: ignore[union-attr]
        self.failureResultOf(self.c.links.site_endpoint("nobody", "echo/1").connect(client), NodeAway)
        refused = self.c.links.site_endpoint("a", "echo/1").connect(client)
        self.world.pump()
        self.failureResultOf(refused)

    def test_revocation(self) -> None:
        before = self.a.links.neighbours["b"].link
        assert before is not None
        self.tell(roster(2, self.members["a"], self.members["c"], revoked=(self.members["b"].public_key,)))
        self.assertTrue(before.session.has_ended)
        self.assertEqual([node.direct for node in self.world.nodes.values()], [{"c"}, set(), {"a"}])
        self.world.advance(30)
        self.assertEqual(self.a.direct, {"c"})

    def test_a_key_that_was_replaced(self) -> None:
        before = self.a.links.neighbours["b"].link
        self.tell(roster(2, self.members["a"], member("b", key="e" * 64), self.members["c"]))
        assert before is not None
        self.assertTrue(before.session.has_ended)

    def test_other_subnets(self) -> None:
        moved = replace(self.members["a"], pod_subnets=(ip_network("10.200.0.0/24"),))
        self.tell(roster(2, moved, self.members["b"], self.members["c"]))
        link = self.a.links.neighbours["b"].link
        assert link is not None
        for source in ("10.192.2.9", "10.200.0.9"):
            link.send_packet(udp_packet(source, "10.192.3.9"))
        link.flush()
        self.world.pump()
        self.assertEqual(self.b.arrived, [udp_packet("10.200.0.9", "10.192.3.9")])
        self.b.host.tun.route(udp_packet("10.192.3.9", "10.200.0.9"))
        self.assertEqual(self.b.host.packets.lost, 0)

    def test_somebody_else_answers(self) -> None:
        """The address of one member is that of another one now."""
        link = self.a.links.neighbours["b"].link
        assert link is not None
        original = self.world.nodes["b"]
        self.world.nodes["b"] = self.c
        self.world.names = {}
        identify, self.world.identify = self.world.identify, lambda _: identity("c")  # type: ignore[assignment]
        self.a.links._options.identify = self.world.identify
        link.close(LinkError("gone"))
        self.world.advance(3)
        self.assertEqual(self.a.direct, {"c"})
        self.assertIn("was expected", str(self.a.links.neighbours["b"].error))
        self.world.nodes["b"], self.world.identify = original, identify  # type: ignore[method-assign]

    def test_no_pause_for_the_router_while_there_are_neighbours(self) -> None:
        class Full:
            backlog = 10**9

        self.a.host.packets.link = Full()  # type: ignore[assignment]
        self.assertFalse(self.a.host.packets.congested)
        self.a.host.route_directly(None)
        self.assertTrue(self.a.host.packets.congested)

    def test_not_greeted_links_are_judged_by_the_newest_roster(self) -> None:
        address = IPv4Address("TCP", "192.168.1.9", 4000)
        link: Link = self.b.links.build_link(identity("a"), address)
        wire = MemoryWire(self.world.clock)
        wire.ends[1].connect(link)
        self.tell(roster(2, *self.members.values()))
        self.assertTrue(link.session.has_ended)
        wire.ends[1].lose()
