# mypy: disallow-untyped-calls=False
"""The router makes rosters from the registry, and tells them; nodes tell where they are reached."""

from __future__ import annotations

from ipaddress import IPv6Network
from typing import Any

from cryptography import x509
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase

from kubebus.addresses import AddressPlan
from kubebus.ca import Authority
from kubebus.identity import PeerIdentity, Role
from kubebus.interfaces import StreamAddress
from kubebus.members import Members
from kubebus.roster import MAX_ROSTER, Roster, verify
from kubebus.rosters import ENDPOINTS_SECONDS, RETRY_SECONDS, ROSTERS, Rosters
from kubebus.rosterstream import MAX_QUESTION, SERVICE, RosterStream
from kubebus.testing import MemoryRegistry

FIRST = Authority.create("test", 1e9)
SECOND = FIRST.successor("test 2", 1e9)


class RostersTests(TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.registry = MemoryRegistry()
        self.authority = FIRST
        self.bundle: tuple[x509.Certificate, ...] = (FIRST.certificate,)
        self.time = 1000.0
        self.members = Members("default", self.registry, AddressPlan(IPv6Network("fd00:b::/48")), lambda: self.time)
        self.rosters = self.new_rosters()

    def new_rosters(self, authority: Authority | None = None) -> Rosters:
        rosters = Rosters(
            self.clock,
            self.registry,
            self.members,
            lambda: authority or self.authority,
            lambda: self.bundle,
            lambda: self.time,
        )
        rosters.startService()
        self.addCleanup(rosters.stopService)
        return rosters

    async def enrol(self, name: str, site: str | None = "hall") -> None:
        token, secret = await self.members.create_token(site=site)
        await self.members.enrol(token.id, secret, name, name * 64)

    async def roster(self, site: str = "hall") -> Roster:
        record = await self.registry.get(ROSTERS, site)
        assert record is not None
        return verify(record.value, self.bundle).roster

    def stream(self, name: str, role: Role = Role.NODE) -> tuple[Any, StringTransport]:
        peer = PeerIdentity("default", role, name)
        protocol = self.rosters.factory().buildProtocol(StreamAddress(peer, SERVICE))
        transport = StringTransport()
        if protocol is not None:
            protocol.makeConnection(transport)
        return protocol, transport

    def told(self, transport: StringTransport) -> list[int]:
        """The revisions that a node was told."""
        found: list[int] = []

        def roster(encoded: bytes) -> None:
            found.append(verify(encoded, self.bundle).roster.revision)

        reader = RosterStream("the router", roster=roster)
        reader.makeConnection(StringTransport())
        reader.dataReceived(transport.value())
        transport.clear()
        return found

    async def test_a_roster_for_each_site(self) -> None:
        for name, site in (("a", "hall"), ("b", "hall"), ("c", "yard"), ("d", None)):
            await self.enrol(name, site)
        self.assertEqual([each.name for each in (await self.roster()).members], ["a", "b"])
        self.assertEqual([each.name for each in (await self.roster("yard")).members], ["c"])
        self.assertEqual([record.name for record in await self.registry.list(ROSTERS)], ["hall", "yard"])
        node = await self.members.node("b")
        assert node is not None
        mine = (await self.roster()).members[1]
        self.assertEqual((mine.addresses, mine.pod_subnets), (node.addresses, node.pod_subnets))
        self.assertEqual(mine.public_key, node.public_key)

    async def test_revisions_grow(self) -> None:
        await self.enrol("a")
        first = (await self.roster()).revision
        self.assertEqual(first, 1000)
        await self.enrol("b")
        self.assertEqual((await self.roster()).revision, 1001)
        # A registry that was put back to an earlier state: time has gone on.
        self.time = 5000.0
        await self.enrol("c")
        self.assertEqual((await self.roster()).revision, 5000)

    async def test_revocation(self) -> None:
        await self.enrol("a")
        await self.enrol("b")
        await self.members.revoke("b")
        roster = await self.roster()
        self.assertEqual([each.name for each in roster.members], ["a"])
        self.assertEqual(roster.revoked, ("b" * 64,))
        await self.members.remove("b")
        self.assertEqual((await self.roster()).revoked, ())

    async def test_nothing_changes_without_need(self) -> None:
        await self.enrol("a")
        before = await self.registry.get(ROSTERS, "hall")
        await self.members.issued("a", "a" * 64, "some authority")
        self.new_rosters()
        self.assertEqual(await self.registry.get(ROSTERS, "hall"), before)

    async def test_moving(self) -> None:
        await self.enrol("a")
        token, secret = await self.members.create_token(site="yard")
        await self.members.enrol(token.id, secret, "a", "e" * 64)
        self.assertEqual((await self.roster()).members, ())
        self.assertEqual([each.name for each in (await self.roster("yard")).members], ["a"])

    async def test_who_is_told(self) -> None:
        await self.enrol("a")
        await self.enrol("c", "yard")
        _, a = self.stream("a")
        _, c = self.stream("c")
        self.assertEqual((self.told(a), self.told(c)), ([1000], [1000]))
        await self.enrol("b")
        self.assertEqual((self.told(a), self.told(c)), ([1001], []))
        self.assertIsNone(self.stream("r2", Role.ROUTER)[0])

    async def test_endpoints(self) -> None:
        await self.enrol("a")
        protocol, _ = self.stream("a")
        for number in (1, 2, 3):
            other, transport = RosterStream("the router", roster=lambda _: None), StringTransport()
            other.makeConnection(transport)
            other.send_endpoints((f"192.168.1.{number}:7443",))
            protocol.dataReceived(transport.value())
        # Each change is a new roster for everybody: not too often.
        self.assertEqual((await self.roster()).members[0].endpoints, ("192.168.1.1:7443",))
        self.clock.advance(ENDPOINTS_SECONDS)
        self.assertEqual((await self.roster()).members[0].endpoints, ("192.168.1.3:7443",))
        self.assertEqual((await self.roster()).revision, 1002)
        self.clock.advance(ENDPOINTS_SECONDS)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_the_registry_is_away(self) -> None:
        await self.enrol("a")
        self.registry.unavailable = True
        self.rosters.endpoints_told("a", ("192.168.1.1:7443",))
        self.rosters._node_changed("a", None)
        self.registry.unavailable = False
        self.clock.advance(RETRY_SECONDS)
        self.clock.advance(ENDPOINTS_SECONDS)
        self.assertEqual((await self.roster()).members[0].endpoints, ("192.168.1.1:7443",))

    async def test_another_router_is_first(self) -> None:
        """Two routers over one registry make one roster of one change."""
        self.new_rosters()
        await self.enrol("a")
        await self.enrol("b")
        self.assertEqual((await self.roster()).revision, 1001)

    async def test_a_new_authority(self) -> None:
        await self.enrol("a")
        self.authority, self.bundle = SECOND, (SECOND.certificate, FIRST.certificate)
        await self.members.issued("a", "a" * 64, SECOND.hash)
        record = await self.registry.get(ROSTERS, "hall")
        assert record is not None
        self.assertEqual(verify(record.value, [FIRST.certificate]).signer, SECOND.hash)
        # A router that still has the old one leaves it alone.
        self.new_rosters(FIRST)
        await self.members.issued("a", "a" * 64, "again")
        self.assertEqual(await self.registry.get(ROSTERS, "hall"), record)


class StreamTests(SynchronousTestCase):
    def refused(self, data: bytes, **takes: Any) -> bool:
        transport = StringTransport()
        transport.abortConnection = transport.loseConnection  # type: ignore[method-assign]
        stream = RosterStream("somebody", **takes)
        stream.makeConnection(transport)
        stream.dataReceived(data)
        return bool(transport.disconnecting)

    def test_hostile(self) -> None:
        def frame(body: bytes) -> bytes:
            return len(body).to_bytes(4, "big") + body

        endpoints: dict[str, Any] = {"endpoints": lambda _: None}
        for body in (b"", b"x", b"r{}", b"e", b"e{}", b'e["name:1"]', b"e" + b'["10.0.0.1:1"]' * 2,
                     b"e[" + b",".join([b'"10.0.0.1:1"'] * 9) + b"]", b"e" + b"[" * 3000):  # fmt: skip
            self.assertTrue(self.refused(frame(body), **endpoints), body)
        self.assertFalse(self.refused(frame(b'e["10.0.0.1:1"]'), **endpoints))
        self.assertTrue(self.refused((MAX_QUESTION + 1).to_bytes(4, "big"), **endpoints))
        self.assertTrue(self.refused((MAX_ROSTER + 2).to_bytes(4, "big"), roster=lambda _: None))
        self.assertTrue(self.refused(frame(b'e["10.0.0.1:1"]'), roster=lambda _: None))

    def test_nothing_twice(self) -> None:
        transport = StringTransport()
        stream = RosterStream("somebody", roster=lambda _: None)
        stream.makeConnection(transport)
        stream.send_roster(b"one")
        stream.send_roster(b"one")
        self.assertEqual(transport.value(), b"\0\0\0\4rone")
        transport.clear()
        stream.dataReceived(b"\0\0\0\4rtwo")
        stream.send_roster(b"two")
        self.assertEqual(transport.value(), b"")
