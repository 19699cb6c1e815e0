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

from kubebus.admin import BadRequest
from kubebus.backoff import Backoff
from kubebus.ca import DAY, MAX_AUTHORITIES, Authority, expires_at, key_hash
from kubebus.caadmin import AuthoritiesResource
from kubebus.credentials import Credentials, Keyring
from kubebus.enrol import RenewFactory
from kubebus.identity import PeerIdentity, Role
from kubebus.interfaces import Change, NodeAway, RegistryError, StreamAddress
from kubebus.join import join, renew
from kubebus.records import NetworkRecord
from kubebus.renewal import LOOK_SECONDS, OUTDATED_SECONDS, Renewer, enrolled
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


class RotationTests(World):
    """The CA is replaced while nodes are offline."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "router" / "ca.pem"
        self.start_trust(self.authority)

    def start_trust(self, authority: Authority) -> None:
        authority.save(self.path)
        shared = self.successResultOf(Deferred.fromCoroutine(network_record(self.registry, authority, self.path)))
        self.trust = RouterTrust(
            Clock(),
            self.registry,
            authority,
            shared,
            "default",
            "r1",
            ["127.0.0.1"],
            (LINK, JOIN, RENEW),
            clock=lambda: self.now,
            path=self.path,
        )
        self.trust.startService()
        self.addCleanup(self.trust.stopService)
        self.issuer._authority = lambda: self.trust.authority
        self.issuer._bundle = lambda: self.trust.bundle
        # The listener of the world, with the TLS of this trust.
        self.tls.replace(self.trust.issued, self.trust.bundle)
        self.trust.tls = self.tls

    async def admitted(self, keyring: Keyring) -> bool:
        caller = await self.dial(keyring.client_connection_creator(LINK))
        await caller.said.addTimeout(5, reactor) if not caller.lost.called else None
        return caller.heard.startswith(b"hello")

    async def test_node_offline_meanwhile(self) -> None:
        old_join_string = await self.join_string()
        await self.enrol()
        first = self.keyring.present
        new = await self.trust.rotate()
        self.assertEqual(self.trust.bundle, (new.certificate, self.authority.certificate))
        told: list[bool] = []
        self.keyring.on_outdated(lambda: told.append(True))
        # It knows only the old authority, and has a certificate of that one only.
        self.assertEqual(self.keyring.present.bundle, (self.authority.certificate,))
        self.assertTrue(await self.admitted(self.keyring))
        self.assertEqual(told, [True])
        # A join string from before leads to the new authority too.
        other = Keyring(self.directory / "other", lambda: self.now)
        joined = await join(reactor, other, old_join_string, "edge-2")
        self.assertEqual(joined.bundle, self.trust.bundle)
        # What it gets by renewal is of the new authority.
        renewed = await renew(reactor, self.keyring)
        self.assertEqual(renewed.bundle, self.trust.bundle)
        self.assertEqual(key_hash(renewed.key.public_key()), key_hash(first.key.public_key()))
        renewed.certificate.verify_directly_issued_by(new.certificate)
        told.clear()
        self.assertTrue(await self.admitted(self.keyring))
        self.assertEqual(told, [])

    async def test_retired(self) -> None:
        await self.enrol()
        late = Keyring(self.directory / "late", lambda: self.now)
        await join(reactor, late, await self.join_string(), "edge-late")
        await self.trust.rotate()
        await renew(reactor, self.keyring)
        self.assertEqual(await self.members.issuers(), {"edge-1": self.trust.ca_hash, "edge-late": self.authority.hash})
        with self.assertRaisesRegex(ValueError, "issues the certificates"):
            await self.trust.retire(self.trust.ca_hash)
        with self.assertRaisesRegex(LookupError, "no trusted authority"):
            await self.trust.retire("0" * 64)
        await self.trust.retire(self.authority.hash)
        self.assertEqual(self.trust.bundle, (self.trust.authority.certificate,))
        self.assertTrue(await self.admitted(self.keyring))
        caller = await self.dial(late.client_connection_creator(LINK))
        self.assertIn("was not issued by a certificate authority that the router knows", await caller.lost)

    async def test_cut_off_half_way(self) -> None:
        self.registry.unavailable = True
        with self.assertRaises(RegistryError):
            await self.trust.rotate()
        self.registry.unavailable = False
        # The file is the new one already; a restart completes the rotation.
        restarted = Authority.load(self.path)
        self.assertNotEqual(restarted.hash, self.authority.hash)
        self.start_trust(restarted)
        self.assertEqual(self.trust.bundle, (restarted.certificate, self.authority.certificate))
        # So does calling again.
        self.registry.unavailable = True
        with self.assertRaises(RegistryError):
            await self.trust.rotate()
        # Until then the present one issues: nobody trusts the other yet.
        self.assertEqual(self.trust.authority.hash, restarted.hash)
        waiting = Authority.load(self.path)
        self.registry.unavailable = False
        third = await self.trust.rotate()
        self.assertEqual(third.hash, waiting.hash)
        self.assertEqual(len(self.trust.bundle), 3)
        self.assertEqual(Authority.load(self.path).hash, third.hash)
        await self.enrol()
        self.assertTrue(await self.admitted(self.keyring))

    async def test_many_rotations(self) -> None:
        await self.enrol()
        for _ in range(MAX_AUTHORITIES - 1):
            await self.trust.rotate()
        with self.assertRaisesRegex(ValueError, "8 authorities are trusted already: retire"):
            await self.trust.rotate()
        # Messages have room for them, and handshakes stay short.
        await renew(reactor, self.keyring)
        self.assertEqual(len(self.keyring.present.bundle), MAX_AUTHORITIES)
        self.assertEqual(len(self.trust.issued.chain), MAX_AUTHORITIES)
        self.assertTrue(await self.admitted(self.keyring))

    async def test_a_stranger_cannot_succeed(self) -> None:
        forger = Authority.create("kubebus default", NOW)
        false = Authority(forger.key, forger.certificate, (forger.certificate, self.authority.certificate))
        with self.assertRaises(ForeignAuthority):
            await network_record(self.registry, false, self.path)

    async def test_the_renewer_hears_of_it(self) -> None:
        clock = Clock()
        await self.enrol()
        renewer = Renewer(_Mixed(clock), self.keyring)
        renewer.startService()
        self.addCleanup(renewer.stopService)
        await self.trust.rotate()
        self.assertTrue(await self.admitted(self.keyring))
        clock.advance(1 + OUTDATED_SECONDS)
        await self.until(lambda: self.keyring.present.bundle == self.trust.bundle)

    async def test_commands(self) -> None:
        resource = AuthoritiesResource(self.trust, self.members)
        await self.enrol()
        self.assertEqual((await self.ask(resource._list(None, {})))["authorities"][0]["nodes"], 1)
        await self.ask(resource._rotate(None, {}))
        listed = (await self.ask(resource._list(None, {})))["authorities"]
        self.assertEqual([(each["issues"], each["nodes"]) for each in listed], [(True, 0), (False, 1)])
        with self.assertRaisesRegex(BadRequest, "1 nodes have their certificate .*edge-1"):
            await resource._retire(self.authority.hash, False)
        await resource._retire(self.authority.hash, True)
        self.assertEqual(len((await self.ask(resource._list(None, {})))["authorities"]), 1)

    async def ask(self, answer: Any) -> Any:
        return await answer


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

    def test_disk_that_takes_nothing(self) -> None:
        keyring = self.keyring()
        shutil.rmtree(self.directory)
        self.directory.write_text("in the way")
        keyring.learn_time(NOW)
        self.assertEqual(keyring.now(), NOW)
        self.directory.unlink()
        self.directory.mkdir()
        keyring.learn_time(NOW + 1)
        self.assertEqual(self.keyring().now(), NOW + 1)

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

        trust = await self.start()
        record = await self.registry.get("ca", RECORD)
        assert record is not None
        new = self.authority.successor("next", NOW)
        shared = NetworkRecord((new.certificate, self.authority.certificate), trust.ula)
        await self.registry.commit([Change("ca", RECORD, shared.encode(), record.revision)])
        self.assertEqual(trust.bundle, shared.bundle)
