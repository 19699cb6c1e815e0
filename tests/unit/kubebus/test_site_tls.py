# mypy: disallow-untyped-calls=False
"""Who gets through to whom within a site: real TLS on the loopback interface; and where a node is reached."""

from __future__ import annotations

import time
from ipaddress import ip_address, ip_network
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from kubebus.ca import Authority, Issued, issue_node, issue_router, key_hash, new_key
from kubebus.farewell import farewell
from kubebus.fastpath import wrap_client_tls
from kubebus.hostnetwork import HostAddress, lan_addresses
from kubebus.identity import PeerIdentity, Role
from kubebus.listenat import ListenAt
from kubebus.listener import Listener
from kubebus.roster import Member, Roster, sign
from kubebus.rosterkeeper import RosterKeeper
from kubebus.testing_net import node_record, temporary_path
from kubebus.tlsconfig import LINK, SITE, ClientIdentity, ClientTLS, ServerTLS, explain

NOW = time.time()
FIRST = Authority.create("test", NOW)
SECOND = FIRST.successor("test 2", NOW)


class Welcome(Protocol):
    transport: Any

    def connectionMade(self) -> None:
        self.transport.write(b"welcome")


class Caller(Protocol):
    transport: Any

    def __init__(self) -> None:
        self.heard = b""
        self.outcome: Deferred[str] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        if self.heard == b"welcome":
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.outcome.callback(self.heard.decode("latin-1") or explain(reason))


class SiteTLSTests(TestCase):
    """``a`` dials, ``b`` listens; both have the roster."""

    timeout = 20

    def setUp(self) -> None:
        self.keys = {name: new_key() for name in ("a", "b", "x")}
        self.keepers = {name: self.keeper(name) for name in "ab"}
        self.bundles = {"a": (FIRST.certificate,), "b": (FIRST.certificate,)}

    def keeper(self, name: str) -> RosterKeeper:
        keeper = RosterKeeper(
            PeerIdentity("default", Role.NODE, name), lambda: (FIRST.certificate,), temporary_path(self)
        )
        keeper.belong_to("hall")
        members = []
        for number, each in enumerate("ab", 2):
            record = node_record(each, number)
            key = key_hash(self.keys[each].public_key())
            members.append(Member(each, record.addresses, record.pod_subnets, key))
        keeper.offer(sign(Roster("default", "hall", 1, tuple(members)), FIRST).encoded, "the router")
        return keeper

    def issued(self, name: str, key: str = "", authority: Authority = FIRST, expires: float = NOW + 1000) -> Issued:
        identity = PeerIdentity("default", Role.NODE, name)
        private = self.keys[key or name]
        certificate = issue_node(authority, identity, private.public_key(), expires)
        return Issued(private, certificate, authority.chain)

    async def meet(self, a: Issued, b: Issued, alpn: bytes = SITE) -> str:
        """What ``a`` hears from ``b``, or why the connection ended."""
        from twisted.internet import reactor

        anything: Any = reactor

        def build(identity: PeerIdentity | None, address: IAddress) -> Protocol:
            return Welcome()

        async def check(identity: PeerIdentity, key: str) -> object:
            return self.keepers["b"].check(identity, key)

        tls = ServerTLS(b, self.bundles["b"], [SITE])
        listening = TCP4ServerEndpoint(anything, 0, interface="127.0.0.1")
        listener = Listener(anything, listening, tls, {SITE: build}, check, self.fail, farewells={SITE: farewell})
        listener.startService()
        self.addCleanup(listener.stopService)
        assert listener.port is not None
        identity = ClientIdentity("default", a.key, a.certificate, self.bundles["a"], a.chain)
        client = ClientTLS(identity, alpn, lambda: NOW, problem=self.keepers["a"].problem)
        port = listener.port.getHost().port  # type: ignore[attr-defined]
        endpoint = wrap_client_tls(anything, client, TCP4ClientEndpoint(anything, "127.0.0.1", port))
        caller = Caller()
        await connectProtocol(endpoint, caller)
        return await caller.outcome

    async def test_members(self) -> None:
        self.assertEqual(await self.meet(self.issued("a"), self.issued("b")), "welcome")

    async def test_certificates_that_expired_while_there_was_no_cloud(self) -> None:
        old = NOW - 1000
        a, b = self.issued("a", expires=old), self.issued("b", expires=old)
        self.assertEqual(await self.meet(a, b), "welcome")

    async def test_a_new_authority_that_the_other_has_not_met(self) -> None:
        new = self.issued("a", authority=SECOND), self.issued("b", authority=SECOND)
        self.assertEqual(await self.meet(*new), "welcome")

    async def test_whom_a_listener_refuses(self) -> None:
        for shown, why in (
            (self.issued("x"), "'x' of network 'default' is not in site 'hall'"),
            (self.issued("a", key="x"), "has another key in roster 1"),
            (self.issued("a", authority=Authority.create("test", NOW)), "authority that the router knows"),
        ):
            self.assertIn(why, await self.meet(shown, self.issued("b")))

    async def test_whom_a_dialler_refuses(self) -> None:
        router = issue_router(FIRST, PeerIdentity("default", Role.ROUTER, "b"), ["127.0.0.1"], NOW)
        for shown, why in (
            (self.issued("x"), "not whom we dialled: node 'x' of network 'default' is not in site 'hall'"),
            (self.issued("b", key="x"), "has another key in roster 1"),
            (router, "router 'b' of network 'default' is not in site"),
            (self.issued("b", authority=Authority.create("test", NOW)), "was not issued by a certificate authority"),
        ):
            self.assertIn(why, await self.meet(self.issued("a"), shown))

    async def test_another_protocol(self) -> None:
        """The port is no router's."""
        self.assertNotEqual(await self.meet(self.issued("a"), self.issued("b"), LINK), "welcome")


class WhereTests(SynchronousTestCase):
    def test_listen_at(self) -> None:
        for text, expected in (
            ("7443", ListenAt(None, 7443)),
            ("192.168.1.11:7443", ListenAt(ip_address("192.168.1.11"), 7443)),
            ("[fd00:1::11]:7443", ListenAt(ip_address("fd00:1::11"), 7443)),
        ):
            self.assertEqual(ListenAt.parse(text), expected)
        for wrong in ("", "0", "70000", "192.168.1.11", "name:7443", "²"):
            self.assertRaises(ValueError, ListenAt.parse, wrong)

    def test_addresses_on_the_lan(self) -> None:
        """Not those of the tunnel, of containers, or of this host alone."""
        host = [
            HostAddress(ip_address(address), device)
            for address, device in (
                ("169.254.20.10", "lo"),
                ("192.168.1.11", "eth0"),
                ("fd00:1::11", "eth0"),
                ("10.250.0.2", "kb0"),
                ("172.17.0.1", "docker0"),
                ("10.192.2.1", "pods"),
                ("172.18.0.1", "br-0123456789ab"),
                ("192.168.7.1", "br-lan"),
            )
        ]
        pools = [ip_network("10.192.0.0/12"), ip_network("10.250.0.0/16"), ip_network("fd00:b::/48")]
        found = lan_addresses(host, "kb0", pools)
        self.assertEqual([str(each) for each in found], ["192.168.1.11", "fd00:1::11", "192.168.7.1"])
