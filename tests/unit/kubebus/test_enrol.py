# mypy: disallow-untyped-calls=False
"""Enrolment, renewal and admission over real TLS on the loopback interface."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    connectProtocol,
    wrapClientTLS,
)
from twisted.internet.interfaces import IAddress, IListeningPort, IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from kubebus.addresses import AddressPlan
from kubebus.ca import DAY, Authority, issue_node, issue_router, key_hash, new_key
from kubebus.credentials import Credentials, DamagedCredentials, Keyring
from kubebus.enrol import Issuer, join_handler, renew_farewell, renew_handler
from kubebus.identity import PeerIdentity, Role
from kubebus.join import EnrolmentFailed, join, renew
from kubebus.joinstring import HostPort, JoinString
from kubebus.listener import Listener
from kubebus.members import Members
from kubebus.testing import MemoryRegistry
from kubebus.tlsconfig import JOIN, LINK, RENEW, ClientIdentity, ClientTLS, ServerTLS, StrangerTLS, explain
from kubebus.tokens import Refusal, Refused

ULA = IPv6Network("fd00:1:2::/48")
NOW = 1_800_000_000.0


@implementer(ILogObserver)
class Logs:
    """The formatted log lines of a test."""

    def __init__(self, case: TestCase) -> None:
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self)
        case.addCleanup(globalLogPublisher.removeObserver, self)

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_format"):
            self.lines.append(event["log_format"].format(**{k: event.get(k) for k in event}))

    def grep(self, text: str) -> list[str]:
        return [line for line in self.lines if text in line]


class Link(Protocol):
    transport: Any
    """Says who it was built for; keeps what it hears."""

    def __init__(self, identity: PeerIdentity | None) -> None:
        self.identity = identity
        self.lost: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(f"hello {self.identity}".encode())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)


class Caller(Protocol):
    transport: Any
    """Collects until the connection ends."""

    def __init__(self, first: bytes = b"") -> None:
        self.first = first
        self.heard = b""
        self.said: Deferred[bytes] = Deferred()
        self.lost: Deferred[str] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self.first)

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        if not self.said.called:
            self.said.callback(self.heard)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(explain(reason))


def host_port(port: IListeningPort) -> HostPort:
    return HostPort("127.0.0.1", port.getHost().port)  # type: ignore[attr-defined]


class World(TestCase):
    """A router on the loopback interface, with all that enrolment needs."""

    timeout = 30

    def setUp(self) -> None:
        self.logs = Logs(self)
        self.now = NOW
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.registry = MemoryRegistry()
        self.authority = Authority.create("kubebus default", NOW)
        self.bundle = (self.authority.certificate,)
        self.members = Members("default", self.registry, AddressPlan(ULA), lambda: self.now)
        self.live: set[str] = set()
        self.issuer = Issuer(
            self.members,
            lambda: self.authority,
            lambda: self.bundle,
            lambda: self.now,
            is_live=self.live.__contains__,
        )
        self.links: list[Link] = []
        self.listener = self.listen()
        self.keyring = Keyring(self.directory, lambda: self.now, lambda: self.now)

    def listen(self, **options: Any) -> Listener:
        router = PeerIdentity("default", Role.ROUTER, "r1")
        issued = issue_router(self.authority, router, ["127.0.0.1"], self.now)
        self.tls = ServerTLS(issued, self.bundle, (LINK, JOIN, RENEW))
        handlers = {
            LINK: self.build_link,
            JOIN: join_handler(reactor, self.issuer),
            RENEW: renew_handler(reactor, self.issuer),
        }
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        options = {"farewells": {RENEW: renew_farewell}, **options}
        check = options.pop("check", self.members.check)
        listener = Listener(reactor, endpoint, self.tls, handlers, check, self.fail, **options)
        listener.startService()
        self.addCleanup(listener.stopService)
        return listener

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            turn: Deferred[None] = Deferred()
            reactor.callLater(0.01, turn.callback, None)
            await turn

    def renew_router(self) -> None:
        router = PeerIdentity("default", Role.ROUTER, "r1")
        self.tls.replace(issue_router(self.authority, router, ["127.0.0.1"], self.now), self.bundle)

    def build_link(self, identity: PeerIdentity | None, address: IAddress) -> Link:
        link = Link(identity)
        self.links.append(link)
        return link

    @property
    def address(self) -> HostPort:
        port = self.listener.port
        assert port is not None
        return host_port(port)

    async def join_string(self, lifetime: float = 3600, node: str | None = None) -> JoinString:
        token, secret = await self.members.create_token(lifetime, node)
        return JoinString("default", (self.address,), self.authority.hash, token.id, secret, token.expires_at, node)

    async def enrol(self, node: str = "edge-1") -> Credentials:
        return await join(reactor, self.keyring, await self.join_string(), node)

    async def dial(self, creator: IOpenSSLClientConnectionCreator, first: bytes = b"") -> Caller:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.address.port)
        caller = Caller(first)
        await connectProtocol(wrapClientTLS(creator, endpoint), caller)
        self.addCleanup(self.hang_up, caller)
        return caller

    async def hang_up(self, caller: Caller) -> None:
        if not caller.lost.called:
            caller.transport.abortConnection()
            await caller.lost

    async def assertRefused(self, refusal: Refusal, awaitable: Any, pattern: str = ".") -> None:
        try:
            await awaitable
        except Refused as error:
            self.assertEqual(error.refusal, refusal)
            self.assertRegex(str(error), pattern)
        else:
            self.fail("not refused")


class JoinTests(World):
    async def test_credentials(self) -> None:
        credentials = await self.enrol()
        self.assertEqual(credentials.identity, PeerIdentity("default", Role.NODE, "edge-1"))
        self.assertEqual(credentials.bundle, self.bundle)
        self.assertEqual(credentials.routers, (self.address,))
        node = await self.members.node("edge-1")
        assert node is not None
        self.assertEqual(node.public_key, key_hash(credentials.key.public_key()))
        path = self.directory / "credentials.json"
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        self.assertEqual(os.listdir(self.directory).count("joining.key"), 0)
        self.assertEqual(Keyring(self.directory).present.encode(), credentials.encode())
        self.assertEqual(len(self.logs.grep("Enrolled node 'edge-1' from 127.0.0.1:")), 1)

    async def test_lost_answer_is_asked_for_again(self) -> None:
        join_string = await self.join_string()
        key = self.keyring.joining_key()
        await self.members.enrol(join_string.token, join_string.secret, "edge-1", key_hash(key.public_key()))
        restarted = Keyring(self.directory, lambda: self.now)
        credentials = await join(reactor, restarted, join_string, "edge-1")
        self.assertEqual(key_hash(credentials.key.public_key()), key_hash(key.public_key()))

    async def test_token_refusals(self) -> None:
        other = Keyring(self.directory / "other", lambda: self.now)
        used = await self.join_string()
        await join(reactor, self.keyring, used, "edge-1")
        await self.assertRefused(Refusal.USED_TOKEN, join(reactor, other, used, "edge-2"), "was used already")
        expired = await self.join_string(60)
        bound = await self.join_string(node="edge-9")
        revoked = await self.join_string()
        await self.members.revoke_token(revoked.token)
        self.now += 60
        await self.assertRefused(Refusal.EXPIRED_TOKEN, join(reactor, other, expired, "edge-2"), "has expired")
        await self.assertRefused(Refusal.OTHER_NAME, join(reactor, other, bound, "edge-2"), "for node 'edge-9'")
        forged = replace(bound, node=None)
        await self.assertRefused(Refusal.OTHER_NAME, join(reactor, other, forged, "edge-2"), "for node 'edge-9'")
        await self.assertRefused(Refusal.UNKNOWN_TOKEN, join(reactor, other, revoked, "edge-2"), "not known")
        forged = replace(bound, network="blue")
        with self.assertRaisesRegex(EnrolmentFailed, "not of network 'blue'"):
            await join(reactor, other, forged, "edge-9")
        self.assertIsNone(other.credentials)
        self.assertEqual(len(self.logs.grep("Refused a certificate to 127.0.0.1:")), 4)

    async def test_live_name(self) -> None:
        await self.enrol()
        self.live.add("edge-1")
        other = Keyring(self.directory / "other", lambda: self.now)
        await self.assertRefused(
            Refusal.NAME_TAKEN, join(reactor, other, await self.join_string(), "edge-1"), "connected now"
        )

    async def test_ca_hash_mismatch_sends_nothing(self) -> None:
        join_string = replace(await self.join_string(), ca_hash="0" * 64)
        with self.assertRaisesRegex(EnrolmentFailed, "CA hash mismatch"):
            await join(reactor, self.keyring, join_string, "edge-1")
        self.assertEqual(self.logs.grep("Enrolled"), [])
        self.assertEqual(self.logs.grep("Refused"), [])

    async def test_a_node_cannot_pass_for_a_router(self) -> None:
        key = new_key()
        node = PeerIdentity("default", Role.NODE, "evil")
        certificate = issue_node(self.authority, node, key.public_key(), self.now + DAY)
        impostor = replace(self.authority.issue("x", self.now), key=key, certificate=certificate)
        self.tls.replace(impostor, self.bundle)
        with self.assertRaisesRegex(EnrolmentFailed, "it is node 'evil'"):
            await join(reactor, self.keyring, await self.join_string(), "edge-1")

    async def test_next_router_is_tried(self) -> None:
        closed = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        port: IListeningPort = await closed.listen(_NoFactory())
        dead = host_port(port)
        await (port.stopListening() or succeed(None))
        join_string = await self.join_string()
        await join(reactor, self.keyring, replace(join_string, routers=(dead, *join_string.routers)), "edge-1")
        with self.assertRaisesRegex(EnrolmentFailed, f"{dead}: Connection was refused"):
            await join(reactor, self.keyring, replace(join_string, routers=(dead,)), "edge-1")

    async def test_revoked_node_returns_with_a_new_key_only(self) -> None:
        first = await self.enrol()
        await self.members.revoke("edge-1")
        again = await self.enrol()
        self.assertNotEqual(key_hash(again.key.public_key()), key_hash(first.key.public_key()))

    async def test_registry_away(self) -> None:
        join_string = await self.join_string()
        self.registry.unavailable = True
        with self.assertRaisesRegex(EnrolmentFailed, "cannot decide now"):
            await join(reactor, self.keyring, join_string, "edge-1")
        self.registry.unavailable = False
        await join(reactor, self.keyring, join_string, "edge-1")

    async def test_rubbish_is_refused(self) -> None:
        for message in (b"", b"[]", b"{}", b'{"version":1}', b"\xff", b"[" * 5000):
            caller = await self.dial(StrangerTLS(), len(message).to_bytes(4, "big") + message)
            await caller.lost
            answer = json.loads(caller.heard[4:])
            self.assertEqual(answer["refused"], "bad-request")
        caller = await self.dial(StrangerTLS(), (1 << 30).to_bytes(4, "big"))
        await caller.lost
        self.assertIn("1073741824 bytes is too long", json.loads(caller.heard[4:])["message"])


class _NoFactory(Protocol):
    def doStart(self) -> None: ...

    def doStop(self) -> None: ...

    def buildProtocol(self, addr: IAddress) -> None: ...


class AdmissionTests(World):
    async def test_joining_peers_are_counted_until_they_are_done(self) -> None:
        await (self.listener.stopService() or succeed(None))
        self.listener = self.listen(max_pending=1)
        joining = await self.dial(StrangerTLS(), b"\0")
        await self.until(lambda: any(greeter._handler for greeter in self.listener.factory.strangers))
        await self.enrol()
        await joining.lost
        self.assertEqual(len(self.logs.grep("gave up the oldest 1, the last from 127.0.0.1:")), 1)

    async def test_member(self) -> None:
        await self.enrol()
        caller = await self.dial(self.keyring.client_connection_creator(LINK), b"early")
        self.assertEqual(await caller.said, b"hello node 'edge-1' of network 'default'")
        await self.hang_up(caller)
        await self.links[0].lost

    async def test_creator_is_made_once(self) -> None:
        await self.enrol()
        one = self.keyring.client_connection_creator(LINK)
        self.assertIs(self.keyring.client_connection_creator(LINK), one)
        self.assertIsNot(self.keyring.client_connection_creator(RENEW), one)

    async def assertTurnedAway(self, creator: IOpenSSLClientConnectionCreator, log: str) -> str:
        caller = await self.dial(creator)
        reason = await caller.lost
        self.assertEqual(caller.heard, b"")
        self.assertEqual(self.links, [])
        await self.listener_is_idle()
        self.assertEqual(len(self.logs.grep(log)), 1, self.logs.lines)
        return reason

    async def listener_is_idle(self) -> None:
        await self.until(lambda: not self.listener.factory.strangers)

    async def test_revoked(self) -> None:
        await self.enrol()
        await self.members.revoke("edge-1")
        await self.assertTurnedAway(
            self.keyring.client_connection_creator(LINK), "Refused node 'edge-1' of network 'default' (127.0.0.1:"
        )
        self.assertEqual(len(self.logs.grep("'edge-1' was revoked")), 1)

    async def test_superseded_key(self) -> None:
        await self.enrol()
        other = Keyring(self.directory / "other", lambda: self.now)
        await join(reactor, other, await self.join_string(), "edge-1")
        await self.assertTurnedAway(self.keyring.client_connection_creator(LINK), "enrolled again with another key")

    async def test_certificate_of_another_authority(self) -> None:
        credentials = await self.enrol()
        foreign = Authority.create("kubebus default", self.now)
        certificate = issue_node(foreign, credentials.identity, credentials.key.public_key(), self.now + DAY)
        mine = ClientIdentity("default", credentials.key, certificate, credentials.bundle)
        reason = await self.assertTurnedAway(
            ClientTLS(mine, LINK, lambda: self.now),
            "a certificate for node 'edge-1' of network 'default' was not issued by a certificate authority",
        )
        self.assertIn("was not issued by a certificate authority that the router knows", reason)

    async def test_router_of_another_authority(self) -> None:
        credentials = await self.enrol()
        foreign = Authority.create("kubebus default", self.now)
        mine = ClientIdentity("default", credentials.key, credentials.certificate, (foreign.certificate,))
        caller = await self.dial(ClientTLS(mine, LINK, lambda: self.now))
        self.assertRegex(await caller.lost, "this is no router of ours: its certificate was not issued by")
        self.assertEqual(self.links, [])

    async def test_a_node_is_no_router(self) -> None:
        credentials = await self.enrol()
        self.tls.replace(
            replace(self.authority.issue("x", 0), key=credentials.key, certificate=credentials.certificate), self.bundle
        )
        caller = await self.dial(self.keyring.client_connection_creator(LINK))
        self.assertIn("this is no router of ours: it is node 'edge-1'", await caller.lost)

    async def test_wrong_alpn(self) -> None:
        reason = await self.assertTurnedAway(StrangerTLS(b"http/1.1"), "none of our protocols but [b'http/1.1']")
        self.assertIn("closed", reason)

    async def test_no_certificate(self) -> None:
        await self.assertTurnedAway(StrangerTLS(LINK), "it showed no certificate")

    async def test_not_tls_at_all(self) -> None:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.address.port)
        caller = Caller(b"GET / HTTP/1.0\r\n\r\n")
        await connectProtocol(endpoint, caller)
        await caller.lost
        await self.listener_is_idle()
        self.assertEqual(len(self.logs.grep("No TLS connection with 127.0.0.1:")), 1)

    async def test_slow_handshake(self) -> None:
        await (self.listener.stopService() or succeed(None))
        self.listener = self.listen(handshake_seconds=0.1)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.address.port)
        caller = Caller()
        await connectProtocol(endpoint, caller)
        await caller.lost
        self.assertEqual(len(self.logs.grep("not done with its handshake after 0.1 s")), 1)

    async def test_registry_that_does_not_answer(self) -> None:
        await self.enrol()
        await (self.listener.stopService() or succeed(None))
        self.listener = self.listen(handshake_seconds=0.2, check=lambda identity, key: Deferred())
        caller = await self.dial(self.keyring.client_connection_creator(LINK))
        await caller.lost
        self.assertEqual(self.links, [])
        self.assertEqual(len(self.logs.grep("the registry did not answer within 0.2 s")), 1)

    async def test_clock_that_is_far_ahead(self) -> None:
        await self.enrol()
        self.now += 40 * DAY
        caller = await self.dial(self.keyring.client_connection_creator(LINK))
        self.assertRegex(await caller.lost, "router 'r1'.* has expired; the time here is 2027-02-24 08:00 UTC")

    async def test_too_many_handshakes(self) -> None:
        await (self.listener.stopService() or succeed(None))
        self.listener = self.listen(max_pending=2)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.address.port)
        callers = [Caller() for _ in range(5)]
        for caller in callers:
            await connectProtocol(endpoint, caller)
        for caller in callers[:3]:
            await caller.lost
        # Whoever is quick gets through.
        await self.enrol()
        self.assertFalse(callers[4].lost.called)
        self.assertEqual(len(self.logs.grep("gave up the oldest")), 1)
        for caller in callers[3:]:
            await self.hang_up(caller)


class RenewTests(World):
    async def test_renewed(self) -> None:
        first = await self.enrol()
        self.now += 60 * DAY
        self.renew_router()
        self.assertLess(abs(first.renew_at - self.now), 2)
        second = await renew(reactor, self.keyring)
        self.assertEqual(second.expires_at, self.now + 90 * DAY)
        self.assertEqual(second.key, first.key)
        self.assertEqual(Keyring(self.directory).present.encode(), second.encode())

    async def test_expired_may_only_renew(self) -> None:
        expired = await self.enrol_expired()
        caller = await self.dial(self.keyring.client_connection_creator(LINK))
        self.assertEqual(await caller.lost, "our certificate has expired")
        self.assertEqual(self.links, [])
        self.assertEqual(len(self.logs.grep("edge-1' of network 'default' has expired")), 1)
        renewed = await renew(reactor, self.keyring)
        self.assertGreater(renewed.expires_at, expired.expires_at)
        caller = await self.dial(self.keyring.client_connection_creator(LINK))
        self.assertEqual(await caller.said, b"hello node 'edge-1' of network 'default'")

    async def test_expiry_is_learnt_from_the_router(self) -> None:
        await self.enrol_expired()
        told: list[bool] = []
        self.keyring.on_expired(lambda: told.append(True))
        caller = await self.dial(self.keyring.client_connection_creator(LINK))
        await caller.lost
        self.assertEqual(told, [True])

    async def enrol_expired(self) -> Credentials:
        # OpenSSL looks at the real clock: this certificate ended in 2017.
        self.now = 1_500_000_000.0 - 90 * DAY
        credentials = await self.enrol()
        self.now = NOW
        self.renew_router()
        return credentials

    async def test_revoked_cannot_renew(self) -> None:
        await self.enrol_expired()
        await self.members.revoke("edge-1")
        await self.assertRefused(Refusal.REVOKED, renew(reactor, self.keyring), "'edge-1' was revoked")
        self.assertEqual(len(self.logs.grep("'edge-1' was revoked")), 1)

    async def test_damaged_file(self) -> None:
        await self.enrol()
        path = self.directory / "credentials.json"
        whole = path.read_bytes()
        for content in (b"", whole[:500], b"{}", b"[]", whole.replace(b"edge-1", b"edge/1")):
            path.write_bytes(content)
            with self.assertRaisesRegex(DamagedCredentials, f"{path} is damaged"):
                Keyring(self.directory)
