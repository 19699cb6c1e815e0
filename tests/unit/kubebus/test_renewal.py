# mypy: disallow-untyped-calls=False
"""The life of an edge node's credentials, and of a router's."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from kubebus.backoff import Backoff
from kubebus.ca import DAY, Authority, expires_at
from kubebus.credentials import Credentials, Keyring
from kubebus.enrol import RenewFactory
from kubebus.identity import PeerIdentity, Role
from kubebus.interfaces import NodeAway, StreamAddress
from kubebus.records import NetworkRecord
from kubebus.renewal import LOOK_SECONDS, Renewer, enrolled
from kubebus.testing import MemoryRegistry
from kubebus.tlsconfig import JOIN, LINK, RENEW
from kubebus.tokens import Refusal
from kubebus.trust import RECORD, ForeignAuthority, RouterTrust, network_record
from tests.unit.kubebus.test_enrol import NOW, World

QUICK = lambda: Backoff(lambda: 1.0, 0.01, 0.02)  # noqa: E731


class EnrolledTests(World):
    """A node enrols once, and keeps trying while routers are away."""

    async def test_first_time_and_later(self) -> None:
        join_string = await self.join_string()
        first = await enrolled(reactor, self.keyring, "edge-1", join_string)
        self.assertEqual(first.token, join_string.token)
        for again in (join_string, None):
            self.assertIs(await enrolled(reactor, self.keyring, "edge-1", again), first)

    async def test_neither_credentials_nor_join_string(self) -> None:
        with self.assertRaisesRegex(LookupError, "give it a join string"):
            await enrolled(reactor, self.keyring, "edge-1", None)

    async def test_waits_for_a_router(self) -> None:
        join_string = await self.join_string()
        self.registry.unavailable = True
        trying = Deferred.fromCoroutine(enrolled(reactor, self.keyring, "edge-1", join_string, backoff=QUICK()))
        await self.until(lambda: len(self.logs.grep("trying again in 0 s")) >= 2)
        self.registry.unavailable = False
        self.assertEqual((await trying).identity.name, "edge-1")

    async def test_refused(self) -> None:
        join_string = await self.join_string()
        await self.members.revoke_token(join_string.token)
        await self.assertRefused(Refusal.UNKNOWN_TOKEN, enrolled(reactor, self.keyring, "edge-1", join_string))

    async def test_a_new_join_string_enrols_again(self) -> None:
        first = await enrolled(reactor, self.keyring, "edge-1", await self.join_string())
        second = await enrolled(reactor, self.keyring, "edge-1", await self.join_string())
        self.assertNotEqual(first.token, second.token)

    async def test_a_bad_join_string_does_no_harm(self) -> None:
        first = await enrolled(reactor, self.keyring, "edge-1", await self.join_string())
        bad = replace(await self.join_string(), secret="wrong")
        self.assertIs(await enrolled(reactor, self.keyring, "edge-1", bad), first)
        self.assertEqual(len(self.logs.grep("did not work out, so node 'edge-1'")), 1)


@implementer(IAddress)
class _Anybody:
    pass


class RenewerTests(World):
    """Renewal at two thirds of life, by whatever way there is."""

    async def setUpRenewer(self, link: Any = None) -> Renewer:
        self.clock = Clock()
        self.credentials = await self.enrol()
        renewer = Renewer(_Mixed(self.clock), self.keyring, link)
        renewer.startService()
        self.addCleanup(renewer.stopService)
        return renewer

    async def renewed(self) -> Credentials:
        before = self.keyring.present
        await self.until(lambda: self.keyring.present is not before)
        return self.keyring.present

    async def test_at_two_thirds(self) -> None:
        await self.setUpRenewer()
        for _ in range(3):
            self.now += 19 * DAY
            self.renew_router()
            self.clock.advance(LOOK_SECONDS)
        self.assertEqual(self.keyring.present, self.credentials)
        self.now += 3.1 * DAY
        self.clock.advance(LOOK_SECONDS)
        renewed = await self.renewed()
        self.assertEqual(renewed.expires_at, self.now + 90 * DAY)
        await self.until(lambda: bool(self.logs.grep("it lasts 90 days")))

    async def test_over_the_link(self) -> None:
        peer = PeerIdentity("default", Role.NODE, "edge-1")
        factory = RenewFactory(reactor, self.issuer)
        opened: list[str] = []

        class Streams(Factory):
            noisy = False

            def buildProtocol(self, addr: object) -> Any:
                return factory.buildProtocol(StreamAddress(peer, "renew/1"))

        port: IListeningPort = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(Streams())
        self.addCleanup(port.stopListening)
        number = port.getHost().port  # type: ignore[attr-defined]

        def link(service: str) -> Any:
            opened.append(service)
            return clientFromString(reactor, f"tcp:127.0.0.1:{number}")

        await self.setUpRenewer(link)
        self.now += 61 * DAY
        self.clock.advance(LOOK_SECONDS)
        await self.renewed()
        self.assertEqual(opened, ["renew/1"])

    async def test_by_the_port_while_the_link_is_down(self) -> None:
        def link(service: str) -> Any:
            raise NodeAway("no link")

        await self.setUpRenewer(link)
        self.now += 61 * DAY
        self.renew_router()
        self.clock.advance(LOOK_SECONDS)
        await self.renewed()

    async def test_told_that_it_expired(self) -> None:
        """The device booted in 1970, long after its certificate ended by everybody else's clock."""
        self.now = 1_500_000_000.0 - 90 * DAY
        await self.setUpRenewer()
        router_now, self.now = NOW, 0.0
        device = self.keyring
        self.assertLess(device.now(), device.present.renew_at)
        self.issuer._clock = lambda: router_now
        caller = await self.dial(device.client_connection_creator(LINK))
        self.assertEqual(await caller.lost, "our certificate has expired")
        self.clock.advance(2)
        renewed = await self.renewed()
        self.assertEqual(renewed.expires_at, router_now + 90 * DAY)
        self.assertGreaterEqual(device.now(), router_now)
        caller = await self.dial(device.client_connection_creator(LINK))
        self.assertEqual(await caller.said, b"hello node 'edge-1' of network 'default'")

    async def test_failure_is_logged_and_tried_again(self) -> None:
        await self.setUpRenewer()
        self.registry.unavailable = True
        self.now += 61 * DAY
        self.renew_router()
        self.clock.advance(LOOK_SECONDS)
        await self.until(lambda: bool(self.logs.grep("The certificate was not renewed")))
        self.registry.unavailable = False
        self.clock.advance(60)
        await self.renewed()


class _Mixed:
    """Timers of a test's clock, connections of the real reactor."""

    def __init__(self, clock: Clock) -> None:
        self.callLater = clock.callLater
        self.seconds = clock.seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class TimeTests(TestCase):
    """The later of the clock and of what the cloud said, for ever."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.wall, self.uptime = 0.0, 1000.0

    def keyring(self) -> Keyring:
        return Keyring(self.directory, lambda: self.wall, lambda: self.uptime)

    def test_learnt_time_goes_on_and_survives(self) -> None:
        keyring = self.keyring()
        self.assertEqual(keyring.now(), 0)
        keyring.learn_time(NOW)
        self.uptime += 100
        self.assertEqual(keyring.now(), NOW + 100)
        keyring.learn_time(NOW - 5)
        self.assertEqual(keyring.now(), NOW + 100)
        self.assertEqual(self.keyring().now(), NOW)
        self.wall = NOW + 5000
        self.assertEqual(keyring.now(), NOW + 5000)

    def test_flash_is_spared(self) -> None:
        keyring = self.keyring()
        keyring.learn_time(NOW)
        path = self.directory / "time"
        first = path.stat().st_ino
        keyring.learn_time(NOW + 3599)
        self.assertEqual(path.stat().st_ino, first)
        keyring.learn_time(NOW + 3600)
        self.assertEqual(path.read_text(), f"{NOW + 3600:.0f}\n")

    def test_damaged(self) -> None:
        for content in ("", "soon", "-5", "nan"):
            (self.directory / "time").write_text(content)
            self.assertEqual(self.keyring().now(), 0.0)


class RouterTrustTests(TestCase):
    """What a router vouches with."""

    def setUp(self) -> None:
        self.now = NOW
        self.clock = Clock()
        self.registry = MemoryRegistry()
        self.authority = Authority.create("kubebus default", NOW)

    async def start(self, authority: Authority | None = None) -> RouterTrust:
        authority = authority or self.authority
        shared = await network_record(self.registry, authority, Path("/x/ca.pem"))
        trust = RouterTrust(
            self.clock,
            self.registry,
            authority,
            shared,
            "default",
            "r1",
            ["203.0.113.1"],
            (LINK, JOIN, RENEW),
            clock=lambda: self.now,
        )
        trust.startService()
        self.addCleanup(trust.stopService)
        return trust

    async def test_two_routers_share_one_network(self) -> None:
        one, two = await self.start(), await self.start()
        self.assertEqual(one.ula, two.ula)
        self.assertEqual(one.bundle, (self.authority.certificate,))

    async def test_another_authority(self) -> None:
        await self.start()
        with self.assertRaisesRegex(ForeignAuthority, "another certificate authority than /x/ca.pem"):
            await self.start(Authority.create("kubebus default", NOW))

    async def test_own_certificate_is_renewed(self) -> None:
        trust = await self.start()
        first, context = trust.issued, trust.tls.context
        self.now += 19 * DAY
        self.clock.advance(3600)
        self.assertIs(trust.issued, first)
        self.now += 2 * DAY
        self.clock.advance(3600)
        self.assertEqual(expires_at(trust.issued.certificate), self.now + 30 * DAY)
        self.assertIsNot(trust.tls.context, context)

    async def test_bundle_follows_the_registry(self) -> None:
        from kubebus.interfaces import Change

        trust = await self.start()
        record = await self.registry.get("ca", RECORD)
        assert record is not None
        new = self.authority.successor("next", NOW)
        shared = NetworkRecord((new.certificate, self.authority.certificate), trust.ula)
        await self.registry.commit([Change("ca", RECORD, shared.encode(), record.revision)])
        self.assertEqual(trust.bundle, shared.bundle)
