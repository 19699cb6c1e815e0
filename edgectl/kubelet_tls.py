"""TLS of the kubelet endpoints: a CA, and a certificate for each node's addresses."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.internet import ssl
from twisted.internet.interfaces import IReactorTime

from edgectl.errors import ConfigError
from edgectl.interfaces import EdgeNode

LEAF_LIFE = timedelta(days=90)
_MAX_COMMON_NAME = 64
"""X.520's bound; the alternative names are what is compared."""

_SKEW = timedelta(hours=1)

IPAddress = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class KubeletCredentials:
    """How the endpoints prove themselves, and whose client certificates count. All PEM.

    :ivar ca: the CA that signs their serving certificates: what ``--kubelet-certificate-authority`` of the API server
        names (a CA of its own is best: whoever holds this key can pass for any kubelet).
    :ivar client_ca: what signed the API server's ``--kubelet-client-certificate``. ``None``: no client certificates.
    """

    ca: bytes
    ca_key: bytes
    client_ca: bytes | None = None


def load_or_create_credentials(folder: Path, now: float, client_ca: bytes | None) -> KubeletCredentials:
    """The CA of the serving certificates from ``kubelet-ca.crt`` and ``kubelet-ca.key``, made the first time.

    Several controllers of one cluster need the same two files.

    :raises ConfigError: if the files cannot be read or written.
    """
    certificate_path, key_path = folder / "kubelet-ca.crt", folder / "kubelet-ca.key"
    try:
        if not certificate_path.exists():
            certificate, key = new_ca(now)
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            with open(os.open(key_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(pem)
            certificate_path.write_bytes(certificate.public_bytes(Encoding.PEM))
        return KubeletCredentials(certificate_path.read_bytes(), key_path.read_bytes(), client_ca)
    except OSError as error:
        raise ConfigError(f"the CA of the kubelet API: {error}") from None


def new_ca(now: float, name: str = "kubebus-kubelet-ca") -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A CA for serving certificates, good for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = datetime.fromtimestamp(now, UTC) - _SKEW
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(True, 0), critical=True)
        .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


class ServingCertificate(Protocol):
    """A certificate from elsewhere, with its key and what leads to its CA."""

    @property
    def key(self) -> ec.EllipticCurvePrivateKey: ...

    @property
    def chain(self) -> tuple[x509.Certificate, ...]: ...

    @property
    def expires(self) -> float:
        """UNIX seconds."""


class ServingContexts:
    """A TLS context per node, with a certificate for its addresses; made when first needed and before it expires.

    :param given: the certificate of a node that another CA has issued, if there is one: then it is used.
    :raises ConfigError: if the credentials cannot be read.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        credentials: KubeletCredentials,
        given: Callable[[EdgeNode], ServingCertificate | None] = lambda _: None,
    ) -> None:
        self._reactor, self._given = reactor, given
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._contexts: dict[str, _Context] = {}
        try:
            self._ca = x509.load_pem_x509_certificate(credentials.ca)
            self._ca_key: CertificateIssuerPrivateKeyTypes = load_pem_private_key(credentials.ca_key, None)  # type: ignore[assignment]
            self._clients = _x509(credentials.client_ca) if credentials.client_ca is not None else None
        except (ValueError, TypeError) as error:
            raise ConfigError(f"a certificate or key of the kubelet API cannot be read: {error}") from None

    def of(self, node: EdgeNode) -> Any:
        now, given = self._reactor.seconds(), self._given(node)
        known = self._contexts.get(node.name)
        if known is None or now >= known.until or (known.addresses, known.given) != (node.addresses, given):
            until = now + LEAF_LIFE.total_seconds() * 2 / 3 if given is None else given.expires
            context = self._make(node, now) if given is None else self._with(given)
            known = self._contexts[node.name] = _Context(until, node.addresses, given, context)
        return known.context

    def forget(self, name: str) -> None:
        self._contexts.pop(name, None)

    def _make(self, node: EdgeNode, now: float) -> Any:
        return self._options(self._key, self._leaf(node, now))

    def _with(self, given: ServingCertificate) -> Any:
        leaf, *rest = given.chain
        return self._options(given.key, leaf, extraCertChain=rest)

    def _options(self, key: ec.EllipticCurvePrivateKey, leaf: x509.Certificate, **more: Any) -> Any:
        options: dict[str, Any] = {"privateKey": key, "certificate": leaf, "acceptableProtocols": [b"http/1.1"], **more}
        if self._clients is not None:
            options |= {"verify": True, "caCerts": self._clients, "requireCertificate": False}
        return ssl.CertificateOptions(**options)

    def _leaf(self, node: EdgeNode, now: float) -> x509.Certificate:
        begin = datetime.fromtimestamp(now, UTC) - _SKEW
        return (
            x509.CertificateBuilder()
            .subject_name(kubelet_subject(node))
            .issuer_name(self._ca.subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + LEAF_LIFE)
            .add_extension(alternative_names(node), critical=False)
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._ca_key, hashes.SHA256())
        )


@dataclass(frozen=True, slots=True)
class _Context:
    until: float
    addresses: tuple[IPAddress, ...]
    given: ServingCertificate | None
    context: Any


def kubelet_subject(node: EdgeNode) -> x509.Name:
    """Whose a kubelet's certificate is, for Kubernetes."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node.name}"[:_MAX_COMMON_NAME]),
        ]
    )


def alternative_names(node: EdgeNode) -> x509.SubjectAlternativeName:
    """What a node's kubelet is called by."""
    return x509.SubjectAlternativeName(
        [x509.DNSName(node.name), *(x509.IPAddress(address) for address in node.addresses)]
    )


def _x509(pem: bytes) -> list[Any]:
    """Certificates as ``caCerts`` wants them: ``trustRoot`` would insist on a certificate of every caller."""
    load: Any = ssl.Certificate.loadPEM
    return [load(root.public_bytes(Encoding.PEM)).original for root in x509.load_pem_x509_certificates(pem)]
