"""Serving certificates from the cluster's signer: asked for, kept, renewed; and what it may give instead."""

from __future__ import annotations

import base64
import shutil
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from edgectl.interfaces import EdgeNode
from edgectl.kubelet_csr import SIGNER
from edgectl.kubelet_serving import ServingCertificates
from edgectl.kubelet_tls import ServingContexts, load_or_create_credentials, new_ca
from edgectl.kubernetes import KubernetesClient
from edgectl.testing_control import FAKE_CONFIG, FakeDirectory, FakeKubernetes, fake_agent
from edgectl.watch import Object
from tests.unit.edgectl.control_world import START, edge

DAY = 86400.0


class Signer:
    """What kube-controller-manager does with an approved request."""

    def __init__(self) -> None:
        self.ca, self.key = new_ca(START, "cluster")

    def sign(self, request: Object, now: float, days: float = 90, **other: Any) -> Object:
        asked = x509.load_pem_x509_csr(base64.b64decode(request["spec"]["request"]))
        begin = datetime.fromtimestamp(now, UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(asked.subject)
            .issuer_name(self.ca.subject)
            .public_key(other.get("key") or asked.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + timedelta(days=days))
            .add_extension(asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value, False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
            .sign(self.key, hashes.SHA256())
        )
        pem = certificate.public_bytes(Encoding.PEM) + self.ca.public_bytes(Encoding.PEM)
        status = {
            "conditions": [{"type": "Approved", "status": "True", "reason": "Test", "message": ""}],
            "certificate": base64.b64encode(pem).decode(),
        }
        return {**request, "status": status}


class ServingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.api, self.directory, self.signer = FakeKubernetes(), FakeDirectory(), Signer()
        self.agent = fake_agent(self.api)
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.serving: ServingCertificates | None = None
        self.addCleanup(self.stop)
        self.directory.set(edge())

    def start(self) -> None:
        client = KubernetesClient(self.clock, FAKE_CONFIG, self.agent)
        self.serving = ServingCertificates(self.clock, client, self.directory, self.folder, lambda: 0.5)
        self.serving.startService()
        self.settle()

    def stop(self) -> None:
        if self.serving is not None and self.serving.running:
            self.successResultOf(self.serving.stopService())

    def settle(self, seconds: float = 2.0) -> None:
        for _ in range(20):
            self.clock.advance(seconds / 20)
            for _ in range(8):
                self.agent.flush()
                self.clock.advance(0)

    @property
    def requests(self) -> dict[str, Object]:
        return self.api.objects["certificatesigningrequests"]

    def answer(self, name: str, **how: Any) -> None:
        self.api.put("certificatesigningrequests", self.signer.sign(self.requests[name], self.clock.seconds(), **how))
        self.settle()

    def serial(self, node: EdgeNode | None = None) -> int | None:
        assert self.serving is not None
        found = self.serving.current(node or edge())
        return None if found is None else found.leaf.serial_number

    def test_it_asks_as_a_kubelet_does_and_waits(self) -> None:
        self.start()
        ((name, request),) = self.requests.items()
        self.assertEqual(SIGNER, request["spec"]["signerName"])
        self.assertEqual({"digital signature", "key encipherment", "server auth"}, set(request["spec"]["usages"]))
        asked = x509.load_pem_x509_csr(base64.b64decode(request["spec"]["request"]))
        self.assertTrue(asked.is_signature_valid)
        subject = {each.oid: each.value for each in asked.subject}
        self.assertEqual("system:nodes", subject[NameOID.ORGANIZATION_NAME])
        self.assertEqual("system:node:edge1", subject[NameOID.COMMON_NAME])
        names = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(["edge1"], names.get_values_for_type(x509.DNSName))
        self.assertEqual([ip_address("10.250.0.2")], names.get_values_for_type(x509.IPAddress))
        self.settle(600)
        self.assertEqual([name], list(self.requests), "one request, however long it takes")
        self.assertIsNone(self.serial())
        self.answer(name)
        self.assertIsNotNone(self.serial())

    def test_a_restart_asks_for_nothing_anew(self) -> None:
        self.start()
        (name,) = self.requests
        self.stop()
        self.start()
        self.assertEqual([name], list(self.requests), "the same key, so the same request")
        self.answer(name)
        serial = self.serial()
        del self.requests[name]
        self.stop()
        self.start()
        self.assertEqual({}, self.requests)
        self.assertEqual(serial, self.serial())

    def test_renewed_at_two_thirds_with_a_new_key_while_the_old_one_serves(self) -> None:
        self.start()
        (first,) = self.requests
        self.answer(first)
        serial = self.serial()
        self.settle(59 * DAY)
        self.assertEqual([first], list(self.requests))
        self.settle(2 * DAY)
        (second,) = self.requests.keys() - {first}
        self.assertEqual(serial, self.serial(), "it waits for approval again")
        self.answer(second)
        self.assertNotIn(self.serial(), (None, serial))

    def test_a_denied_request_is_made_again_once_it_is_removed(self) -> None:
        self.start()
        ((name, request),) = self.requests.items()
        denied = {"conditions": [{"type": "Denied", "status": "True", "reason": "No", "message": "not here"}]}
        self.api.put("certificatesigningrequests", {**request, "status": denied})
        self.settle(600)
        self.assertIsNone(self.serial())
        self.assertEqual([name], list(self.requests))
        self.api.remove("certificatesigningrequests", name)
        self.settle()
        self.assertEqual([name], list(self.requests))
        self.answer(name)
        self.assertIsNotNone(self.serial())

    def test_what_was_not_asked_for_is_not_used(self) -> None:
        self.start()
        (name,) = self.requests
        self.answer(name, key=ec.generate_private_key(ec.SECP256R1()).public_key())
        self.assertIsNone(self.serial())
        request = self.requests[name]
        for junk in ("AAAA", "not base64", base64.b64encode(b"x" * 60_000).decode()):
            self.api.put("certificatesigningrequests", {**request, "status": {"certificate": junk}})
            self.settle()
            self.assertIsNone(self.serial())
        expired = self.signer.sign(self.requests[name], START - 100 * DAY)
        self.api.put("certificatesigningrequests", expired)
        self.settle()
        self.assertIsNone(self.serial())

    def test_another_address_needs_another_certificate(self) -> None:
        self.start()
        (name,) = self.requests
        self.answer(name)
        moved = replace(edge(), addresses=(ip_address("10.250.0.9"),))
        self.assertIsNone(self.serial(moved), "the old one is not shown at the new address")
        self.directory.set(moved)
        self.settle()
        (second,) = self.requests.keys() - {name}
        self.answer(second)
        self.assertIsNotNone(self.serial(moved))

    def test_nothing_is_kept_of_a_node_that_is_gone(self) -> None:
        self.start()
        self.answer(next(iter(self.requests)))
        self.assertEqual(["edge1.pem"], [path.name for path in self.folder.iterdir()])
        self.assertEqual(0o600, (self.folder / "edge1.pem").stat().st_mode & 0o777)
        self.directory.remove("edge1")
        self.settle()
        self.assertEqual([], list(self.folder.iterdir()))
        self.assertIsNone(self.serial())

    def test_tls_uses_it_from_when_it_is_there(self) -> None:
        self.start()
        assert self.serving is not None
        credentials = load_or_create_credentials(self.folder, START, None)
        contexts = ServingContexts(self.clock, credentials, self.serving.current)
        before = contexts.of(edge())
        self.assertIs(before, contexts.of(edge()))
        self.assertEqual("kubebus-kubelet-ca", before.certificate.issuer.rfc4514_string().partition("=")[2])
        self.answer(next(iter(self.requests)))
        after = contexts.of(edge())
        self.assertEqual("CN=cluster", after.certificate.issuer.rfc4514_string())
        self.assertIs(after, contexts.of(edge()))
        self.assertIsNotNone(after.getContext())
