"""Certificates of an embedded control plane: its own CA, a serving certificate and one for the administrator.

The keys lie in a directory that only their owner can read. What is there is used again; a serving certificate that
lacks a name or ends soon is made anew.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgectl.apiserver.identity import MASTERS

NOT_BEFORE = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
"""Machines boot with a wrong clock; being too early is no reason to refuse."""

IN_CLUSTER_NAMES = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
"""By which pods call the API."""

API_CA = "kubebus-api-ca"
CA_LIFE = datetime.timedelta(days=3650)
LEAF_LIFE = datetime.timedelta(days=365)
RENEW_BEFORE = datetime.timedelta(days=90)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes

    def x509(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate)


def _name(common_name: str, groups: Sequence[str] = ()) -> x509.Name:
    organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, one) for one in groups]
    return x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, life: datetime.timedelta, now: float | None
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(_date(now) + life)
    )


def _date(now: float | None) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(time.time() if now is None else now, datetime.UTC)


def make_ca(common_name: str, now: float | None = None) -> KeyPair:
    """A new certificate authority.

    :param now: UNIX seconds, here and below; ``None``: by the machine's clock.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, key, CA_LIFE, now)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))


def issue(
    ca: KeyPair,
    common_name: str,
    *,
    groups: Sequence[str] = (),
    hosts: Sequence[str] = (),
    server: bool = False,
    life: datetime.timedelta = LEAF_LIFE,
    now: float | None = None,
) -> KeyPair:
    """A certificate signed by ``ca``: for a server named ``hosts`` (names and addresses), else for a client."""
    ca_key = load_pem_private_key(ca.key, None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(_name(common_name, groups), key, life, now)
        .issuer_name(ca.x509().subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
            critical=False,
        )
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(one) for one in hosts]), False)
    certificate = builder.sign(ca_key, hashes.SHA256())
    return KeyPair(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@dataclass(frozen=True, slots=True)
class ApiPki:
    """All that a control plane needs to serve, and its administrator to be let in."""

    ca: KeyPair
    server: KeyPair
    admin: KeyPair

    @classmethod
    def load_or_create(cls, directory: Path, hosts: Sequence[str], now: float | None = None) -> ApiPki:
        """What stands in ``directory``, made where it is missing, ends soon or serves too few names.

        :param hosts: all names and addresses by which clients may call the server.
        :raises OSError: if the directory cannot be read or written.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        ca = _load(directory, "ca") or _save(directory, "ca", make_ca(API_CA, now))
        server = _load(directory, "server")
        if server is None or not _serves(server, hosts, now):
            server = _save(directory, "server", issue(ca, "kubebus-api", hosts=hosts, server=True, now=now))
        admin = _load(directory, "admin")
        if admin is None or _ends_soon(admin, now):
            admin = _save(directory, "admin", issue(ca, "kubernetes-admin", groups=[MASTERS], now=now))
        return cls(ca, server, admin)


def _ends_soon(pair: KeyPair, now: float | None) -> bool:
    return pair.x509().not_valid_after_utc < _date(now) + RENEW_BEFORE


def _serves(pair: KeyPair, hosts: Sequence[str], now: float | None) -> bool:
    names = pair.x509().extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return all(_general_name(one) in names for one in hosts) and not _ends_soon(pair, now)


def _load(directory: Path, name: str) -> KeyPair | None:
    paths = directory / f"{name}.crt", directory / f"{name}.key"
    if not all(one.exists() for one in paths):
        return None
    return KeyPair(paths[0].read_bytes(), paths[1].read_bytes())


def _save(directory: Path, name: str, pair: KeyPair) -> KeyPair:
    write_private(directory / f"{name}.key", pair.key)
    write_private(directory / f"{name}.crt", pair.certificate)
    return pair


def write_private(path: Path, data: bytes) -> None:
    """Replace a file as one step by one that only its owner can read."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
