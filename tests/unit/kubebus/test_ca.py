# mypy: disallow-untyped-calls=False
"""Certificate authorities and what they issue."""

from __future__ import annotations

import os
from datetime import datetime
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL.crypto import X509, X509Store, X509StoreContext, X509StoreContextError
from twisted.trial.unittest import SynchronousTestCase

from kubebus.ca import (
    DAY,
    Authority,
    InvalidAuthority,
    InvalidRequest,
    expires_at,
    issue_node,
    issue_router,
    key_hash,
    new_key,
    requested_key,
    signing_request,
    subject,
    verify_chain,
)
from kubebus.identity import InvalidIdentity, PeerIdentity, Role, identity_of
from tests.unit.kubebus.temporary import temporary

NOW = 1_800_000_000.0
NODE = PeerIdentity("default", Role.NODE, "edge-1")
ROUTER = PeerIdentity("default", Role.ROUTER, "r1")


class AuthorityTests(SynchronousTestCase):
    def test_node_certificate(self) -> None:
        authority = Authority.create("kubebus default", NOW)
        key = new_key()
        certificate = issue_node(authority, NODE, key.public_key(), NOW + 90 * DAY)
        certificate.verify_directly_issued_by(authority.certificate)
        self.assertEqual(identity_of(certificate), NODE)
        self.assertEqual(key_hash(certificate.public_key()), key_hash(key.public_key()))
        self.assertEqual(certificate.not_valid_before_utc.timestamp(), 0)
        self.assertEqual(expires_at(certificate), NOW + 90 * DAY)

    def test_router_certificate_covers_every_public_address(self) -> None:
        authority = Authority.create("kubebus default", NOW)
        issued = issue_router(authority, ROUTER, ["203.0.113.1", "2001:db8::1", "bus.example", "203.0.113.1"], NOW)
        self.assertEqual(identity_of(issued.certificate), ROUTER)
        names = issued.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(
            names.get_values_for_type(x509.IPAddress), [ip_address("203.0.113.1"), ip_address("2001:db8::1")]
        )
        self.assertEqual(names.get_values_for_type(x509.DNSName), ["bus.example"])

    def test_nothing_outlives_its_authority(self) -> None:
        authority = Authority.create("short", NOW, 10 * DAY)
        certificate = issue_node(authority, NODE, new_key().public_key(), NOW + 90 * DAY)
        self.assertEqual(expires_at(certificate), NOW + 10 * DAY)

    def test_user_certificate_for_kubernetes(self) -> None:
        authority = Authority.create("kubernetes", NOW)
        issued = authority.issue("admin", NOW, organizations=["system:masters"])
        self.assertEqual(issued.certificate.subject, subject("admin", ["system:masters"]))
        self.assertIn(b"BEGIN PRIVATE KEY", issued.key_pem)
        self.assertEqual(issued.chain_pem.count(b"BEGIN CERTIFICATE"), 2)

    def test_save_and_load(self) -> None:
        path = temporary(self) / "ca" / "ca.pem"
        created = Authority.load_or_create(path, "kubebus default", NOW)
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        self.assertEqual(os.stat(path.parent).st_mode & 0o777, 0o700)
        loaded = Authority.load_or_create(path, "kubebus default", NOW)
        self.assertEqual(loaded.hash, created.hash)
        self.assertEqual(loaded.certificate, created.certificate)

    def test_opened_permissions_are_closed(self) -> None:
        path = temporary(self) / "ca.pem"
        Authority.create("a", NOW).save(path)
        path.chmod(0o644)
        Authority.load(path)
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)

    def test_leftover_of_a_crash_is_removed(self) -> None:
        path = temporary(self) / "ca.pem"
        Authority.create("a", NOW).save(path)
        leftover = path.parent / ".ca.pem.abc123"
        leftover.write_bytes(b"half")
        Authority.load(path)
        self.assertFalse(leftover.exists())

    def test_damaged_file_is_named_and_kept(self) -> None:
        path = temporary(self)
        authority = Authority.create("a", NOW)
        authority.save(path)
        whole = path.read_bytes()
        other = Authority.create("b", NOW)
        swapped = whole.split(b"-----BEGIN CERT")[0]
        for content in (b"", b"rubbish", whole[:100], swapped, swapped + other.certificate.public_bytes(Encoding.PEM)):
            path.write_bytes(content)
            with self.assertRaisesRegex(InvalidAuthority, str(path)):
                Authority.load_or_create(path, "a", NOW)
            self.assertEqual(path.read_bytes(), content)


class SuccessorTests(SynchronousTestCase):
    """A new authority is accepted by who knows only the old one."""

    def test_chain_leads_to_both(self) -> None:
        old = Authority.create("old", NOW)
        new = old.successor("new", NOW)
        newest = new.successor("newest", NOW)
        issued = issue_router(newest, ROUTER, [], NOW)
        for authority in (old, new, newest):
            found = verify_chain(issued.certificate, issued.chain, authority.hash)
            self.assertEqual(key_hash(found.public_key()), authority.hash)
        with self.assertRaises(InvalidIdentity):
            verify_chain(issued.certificate, issued.chain, Authority.create("old", NOW).hash)

    def test_saved_with_its_chain(self) -> None:
        path = temporary(self)
        new = Authority.create("old", NOW).successor("new", NOW)
        new.save(path)
        self.assertEqual(Authority.load(path).chain, new.chain)


class ClockTests(SynchronousTestCase):
    """Certificates are good on a device that believes it is 1970."""

    def verify(self, at: datetime) -> None:
        authority = Authority.create("old", NOW).successor("new", NOW)
        issued = issue_router(authority, ROUTER, [], NOW)
        store = X509Store()
        store.add_cert(X509.from_cryptography(authority.chain[-1]))
        store.set_time(at)
        chain = [X509.from_cryptography(certificate) for certificate in issued.chain]
        X509StoreContext(store, X509.from_cryptography(issued.certificate), chain).verify_certificate()

    def test_boot_in_1970(self) -> None:
        self.verify(datetime(1970, 1, 1, 0, 0, 1))
        self.verify(datetime.fromtimestamp(NOW))
        with self.assertRaisesRegex(X509StoreContextError, "expired"):
            self.verify(datetime.fromtimestamp(NOW + 31 * DAY))


class VerifyChainTests(SynchronousTestCase):
    """Only signatures lead to an authority; its certificate alone, which is public, proves nothing."""

    def setUp(self) -> None:
        self.authority = Authority.create("kubebus default", NOW)

    def test_forged_with_the_public_certificate(self) -> None:
        forger = Authority.create("kubebus default", NOW)
        issued = issue_router(forger, ROUTER, [], NOW)
        chain = (self.authority.certificate, forger.certificate)
        with self.assertRaises(InvalidIdentity):
            verify_chain(issued.certificate, chain, self.authority.hash)

    def test_a_node_cannot_issue(self) -> None:
        key = new_key()
        node = issue_node(self.authority, NODE, key.public_key(), NOW + DAY)
        mischief = Authority(key, node).issue("r1", NOW, identity=ROUTER)
        with self.assertRaises(InvalidIdentity):
            verify_chain(mischief.certificate, (node, self.authority.certificate), self.authority.hash)

    def test_the_pinned_key_must_be_an_authority(self) -> None:
        key = new_key()
        node = issue_node(self.authority, NODE, key.public_key(), NOW + DAY)
        mischief = Authority(key, node).issue("r1", NOW, identity=ROUTER)
        with self.assertRaises(InvalidIdentity):
            verify_chain(mischief.certificate, (node,), key_hash(key.public_key()))

    def test_empty_chain(self) -> None:
        issued = issue_router(self.authority, ROUTER, [], NOW)
        self.assertRaises(InvalidIdentity, verify_chain, issued.certificate, (), self.authority.hash)


class RequestTests(SynchronousTestCase):
    def test_key_of_a_request(self) -> None:
        key = new_key()
        self.assertEqual(requested_key(signing_request(key, NODE)), key.public_key())

    def test_damaged(self) -> None:
        pem = signing_request(new_key(), NODE)
        for wrong in (b"", b"x" * 100, pem[:200], pem.replace(b"REQUEST", b"X")):
            self.assertRaises(InvalidRequest, requested_key, wrong)

    def test_signed_by_another(self) -> None:
        request = x509.load_pem_x509_csr(signing_request(new_key(), NODE))
        der = bytearray(request.public_bytes(Encoding.DER))
        der[-1] ^= 1
        forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
        self.assertRaises(InvalidRequest, requested_key, forged)

    def test_other_kinds_of_keys(self) -> None:
        for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
            builder = x509.CertificateSigningRequestBuilder().subject_name(subject("edge-1"))
            pem = builder.sign(key, SHA256()).public_bytes(Encoding.PEM)
            with self.assertRaisesRegex(InvalidRequest, "P-256"):
                requested_key(pem)
