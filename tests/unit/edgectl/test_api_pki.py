# mypy: allow-untyped-calls
"""The certificates of the embedded API: made, found again, and renewed in time, also while it runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from cryptography import x509
from twisted.internet import ssl
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.filepath import FilePath
from twisted.test.iosim import IOPump, connect, makeFakeClient, makeFakeServer
from twisted.trial.unittest import SynchronousTestCase

from edgectl.apiserver.pki import ApiPki, KeyPair
from edgectl.apiserver.renewal import LOOK_SECONDS, PkiRenewal
from edgectl.apiserver.service import ServingContext, ServingTLS

DAY = 86400.0
HOSTS = ["127.0.0.1", "localhost"]


class Collect(Protocol):
    def __init__(self) -> None:
        self.data = b""

    def dataReceived(self, data: bytes) -> None:
        self.data += data


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[union-attr]


class Connection:
    """A client that trusts the CA, at a server with that context, in memory."""

    def __init__(self, context: ServingContext, ca: KeyPair) -> None:
        self.client = Collect()
        authority = ssl.Certificate.loadPEM(ca.certificate)
        options = ssl.optionsForClientTLS("localhost", trustRoot=authority)
        self.clock = Clock()
        clock: Any = self.clock
        at_client = TLSMemoryBIOFactory(options, True, Factory.forProtocol(lambda: self.client), clock)
        at_server = TLSMemoryBIOFactory(context, False, Factory.forProtocol(Echo), clock)
        client, server = at_client.buildProtocol(None), at_server.buildProtocol(None)
        self.pump: IOPump = connect(server, makeFakeServer(server), client, makeFakeClient(client), greet=False)
        self.pump.flush()

    def says(self, text: bytes) -> bytes:
        """What is echoed."""
        self.client.data = b""
        self.client.transport.write(text)  # type: ignore[union-attr]
        for _ in range(4):
            # What is written together goes out with the next turn.
            self.clock.advance(0)
            self.pump.flush()
        return self.client.data

    @property
    def serial(self) -> int:
        transport: Any = self.client.transport
        certificate: x509.Certificate = transport.getPeerCertificate().to_cryptography()
        return certificate.serial_number


class PkiTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(FilePath(self.mktemp()).path)
        self.clock = Clock()
        self.began = time.time()
        self.first = self.load(0)

    def load(self, days: float) -> ApiPki:
        return ApiPki.load_or_create(self.folder, HOSTS, self.began + days * DAY)

    def test_what_is_there_is_used_again(self) -> None:
        self.assertEqual(self.load(200), self.first)

    def test_what_ends_soon_is_made_anew_by_the_same_ca(self) -> None:
        later = self.load(276)
        self.assertEqual(later.ca, self.first.ca)
        self.assertNotEqual((later.server, later.admin), (self.first.server, self.first.admin))
        left = later.server.x509().not_valid_after_utc.timestamp() - self.began
        self.assertLess(abs(left - (276 + 365) * DAY), DAY)

    def test_a_name_that_is_missing(self) -> None:
        later = ApiPki.load_or_create(self.folder, [*HOSTS, "edge.example.com"], self.began)
        self.assertNotEqual(later.server, self.first.server)
        self.assertEqual(later.admin, self.first.admin)

    def run_for(self, days: float) -> None:
        for _ in range(int(days * DAY / LOOK_SECONDS)):
            self.clock.advance(LOOK_SECONDS)

    def renewal(self, server: Any, admin: Any) -> PkiRenewal:
        now = lambda: self.began + self.clock.seconds()  # noqa: E731
        made = PkiRenewal(self.clock, self.folder, HOSTS, self.first, now, server, admin)
        made.startService()
        self.addCleanup(made.stopService)
        return made

    def test_it_is_renewed_while_it_runs_and_no_connection_ends(self) -> None:
        tls = ServingTLS(self.first.server.certificate, self.first.server.key, self.first.ca.certificate)
        context = ServingContext(tls)
        before = Connection(context, self.first.ca)
        admins: list[KeyPair] = []
        renewal = self.renewal(
            lambda pair: context.change(ServingTLS(pair.certificate, pair.key, tls.client_ca)), admins.append
        )
        self.run_for(274)
        self.assertEqual((admins, Connection(context, self.first.ca).serial), ([], before.serial))
        self.run_for(2)
        after = Connection(context, self.first.ca)
        self.assertNotEqual(after.serial, before.serial)
        self.assertEqual((after.says(b"new"), before.says(b"old")), (b"new", b"old"))
        # Once, and what is told stands on the disk.
        self.assertEqual(admins, [self.load(276).admin])
        self.run_for(10)
        self.assertEqual(len(admins), 1)
        renewal.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_disk_that_cannot_be_written_is_tried_again(self) -> None:
        told: list[KeyPair] = []
        broken = [True]

        def admin(pair: KeyPair) -> None:
            if broken:
                raise OSError("read-only")
            told.append(pair)

        self.renewal(lambda pair: None, admin)
        self.run_for(276)
        self.assertEqual(told, [])
        broken.clear()
        self.run_for(1)
        self.assertEqual(len(told), 1)
