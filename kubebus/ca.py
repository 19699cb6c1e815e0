"""Certificate authorities: the network's own, and the same machinery for any separate one (the Kubernetes API's).

Keys are EC P-256. Everything is valid from 1970 on, because devices boot without a clock; revocation and expiry,
not ``notBefore``, end a certificate. Times are UNIX seconds and always passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kubebus.identity import InvalidIdentity, PeerIdentity
from kubebus.keyfiles import read_secret, remove_leftovers, write_atomically

DAY = 86_400.0
CA_LIFETIME = 20 * 365 * DAY
NODE_LIFETIME = 90 * DAY
ROUTER_LIFETIME = 30 * DAY

MAX_AUTHORITIES = 8
"""So many authorities one after the other are accepted by who trusts the first of them only.

Every handshake carries a certificate for each.
"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CLIENT_AND_SERVER = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


class InvalidAuthority(Exception):
    """The file of a certificate authority cannot be used. The message names the file and what is wrong."""


class InvalidRequest(ValueError):
    """A certificate signing request is not acceptable. The message says why."""


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """:raises ValueError: if it is not an unencrypted EC private key in PEM."""
    try:
        key = load_pem_private_key(pem, None)
    except TypeError as error:  # an encrypted key
        raise ValueError(str(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the private key is not an EC key")
    return key


def certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def key_hash(public_key: object) -> str:
    """The SHA-256 of a public key's SubjectPublicKeyInfo, in lower-case hex.

    It names a node's key in the registry, and a CA in a join string.
    """
    spki: bytes = public_key.public_bytes(  # type: ignore[attr-defined]
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return sha256(spki).hexdigest()


def expires_at(certificate: x509.Certificate) -> float:
    """When the certificate ends, in UNIX seconds."""
    return certificate.not_valid_after_utc.timestamp()


def subject(common_name: str, organizations: Iterable[str] = ()) -> x509.Name:
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in organizations]
    return x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def host_names(hosts: Iterable[str]) -> list[x509.GeneralName]:
    """Subject alternative names for addresses and DNS names, each once, in order."""
    return [_host_name(host) for host in dict.fromkeys(hosts)]


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@dataclass(frozen=True)
class Issued:
    """A new key with its certificate and, after that, the certificates that lead from it to the authority."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.key)

    @property
    def chain_pem(self) -> bytes:
        """The certificate, then its chain."""
        return b"".join(map(certificate_pem, (self.certificate, *self.chain)))


@dataclass(frozen=True)
class Authority:
    """A key and its certificate, which issue certificates.

    :ivar cross: the same key certified by the authority before it, then that one's own chain, so that who trusts
        only an earlier authority accepts what this one issues.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    cross: tuple[x509.Certificate, ...] = ()

    @classmethod
    def create(cls, common_name: str, now: float, lifetime: float = CA_LIFETIME) -> Authority:
        key = new_key()
        name = subject(common_name)
        certificate = _build_ca(name, key.public_key(), name, key, now + lifetime)
        return cls(key, certificate)

    @classmethod
    def load(cls, path: Path) -> Authority:
        """Read what :meth:`save` wrote.

        :raises FileNotFoundError: if there is no such file.
        :raises InvalidAuthority: if it cannot be used.
        """
        remove_leftovers(path)
        content = read_secret(path)
        try:
            key = load_key(content)
            certificate, *cross = x509.load_pem_x509_certificates(content)
        except ValueError as error:
            raise InvalidAuthority(
                f"{path} is damaged ({error}): put back a copy of the certificate authority's file"
            ) from error
        if key_hash(certificate.public_key()) != key_hash(key.public_key()):
            raise InvalidAuthority(f"{path}: the certificate does not belong to the key")
        return cls(key, certificate, tuple(cross))

    @classmethod
    def load_or_create(cls, path: Path, common_name: str, now: float) -> Authority:
        """The authority kept in ``path``; a new one if there is no such file.

        :raises InvalidAuthority: if the file cannot be used. It is never replaced.
        """
        try:
            return cls.load(path)
        except FileNotFoundError:
            authority = cls.create(common_name, now)
            authority.save(path)
            return authority

    def save(self, path: Path) -> None:
        """Write key and certificates into one file, so that they can only change together."""
        certificates = b"".join(map(certificate_pem, (self.certificate, *self.cross)))
        write_atomically(path, key_pem(self.key) + certificates)

    @property
    def hash(self) -> str:
        """The name of this authority in a join string."""
        return key_hash(self.certificate.public_key())

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """What leads from a certificate of this authority to every authority that its users may know."""
        return self.cross or (self.certificate,)

    def successor(self, common_name: str, now: float, lifetime: float = CA_LIFETIME) -> Authority:
        """A new authority, cross-certified by this one."""
        new = Authority.create(common_name, now, lifetime)
        cross = _build_ca(
            new.certificate.subject,
            new.key.public_key(),
            self.certificate.subject,
            self.key,
            expires_at(self.certificate),
        )
        return Authority(new.key, new.certificate, (cross, *self.chain)[:MAX_AUTHORITIES])

    def sign(
        self,
        public_key: ec.EllipticCurvePublicKey,
        name: x509.Name,
        alternatives: Sequence[x509.GeneralName],
        expires: float,
        *,
        usages: Sequence[x509.ObjectIdentifier] = _CLIENT_AND_SERVER,
    ) -> x509.Certificate:
        """A certificate for ``public_key``. It ends at ``expires``, but never after the authority itself."""
        builder = _builder(name, public_key, self.certificate.subject, min(expires, expires_at(self.certificate)))
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(ca=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return _sign(builder, self.key)

    def issue(
        self,
        common_name: str,
        now: float,
        *,
        organizations: Iterable[str] = (),
        hosts: Iterable[str] = (),
        identity: PeerIdentity | None = None,
        lifetime: float = ROUTER_LIFETIME,
    ) -> Issued:
        """A new key and its certificate, for client and server use.

        :param organizations: groups, as Kubernetes reads them from a client certificate.
        :param hosts: names and addresses that a server certificate covers.
        :param identity: the member of a network that the certificate speaks for.
        """
        alternatives = host_names(hosts)
        if identity is not None:
            alternatives.insert(0, x509.UniformResourceIdentifier(identity.uri))
        key = new_key()
        name = subject(common_name, organizations)
        certificate = self.sign(key.public_key(), name, alternatives, now + lifetime)
        return Issued(key, certificate, self.chain)


def issue_router(
    authority: Authority, identity: PeerIdentity, hosts: Iterable[str], now: float, lifetime: float = ROUTER_LIFETIME
) -> Issued:
    """A router's certificate: it covers ``hosts`` (every public name and address)."""
    return authority.issue(identity.name, now, hosts=hosts, identity=identity, lifetime=lifetime)


def issue_node(
    authority: Authority, identity: PeerIdentity, public_key: ec.EllipticCurvePublicKey, expires: float
) -> x509.Certificate:
    """A node's certificate for the key of its request. Nothing but the key is taken from the request."""
    alternatives = [x509.UniformResourceIdentifier(identity.uri)]
    return authority.sign(public_key, subject(identity.name), alternatives, expires)


def signing_request(key: ec.EllipticCurvePrivateKey, identity: PeerIdentity) -> bytes:
    """A PEM request for a certificate of ``identity``."""
    alternatives = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject(identity.name))
    return builder.add_extension(alternatives, critical=False).sign(key, SHA256()).public_bytes(Encoding.PEM)


def requested_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a signing request whose sender has shown to hold the private one.

    :raises InvalidRequest: if the request is not in order.
    """
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        valid = request.is_signature_valid
    except Exception as error:  # the parser raises several kinds, depending on what a peer made up
        raise InvalidRequest(f"the certificate request cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidRequest("the certificate request must be for an EC P-256 key")
    if not valid:
        raise InvalidRequest("the certificate request is not signed with its own key")
    return key


def verify_chain(leaf: x509.Certificate, chain: Sequence[x509.Certificate], ca_hash: str) -> x509.Certificate:
    """The authority with the hash ``ca_hash`` in ``chain``, if ``leaf`` leads to it by signatures.

    For a peer that is met for the first time: its authority is known by nothing but the hash.

    :raises InvalidIdentity: if it does not.
    """
    at = leaf
    for _ in range(len(chain) + 1):
        issuer = next((c for c in chain if c is not at and _issued(at, c)), None)
        if issuer is None:
            break
        if key_hash(issuer.public_key()) == ca_hash and is_authority(issuer):
            return issuer
        at = issuer
    raise InvalidIdentity("its certificate was not issued by the expected certificate authority")


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # a wrong signature, another kind of key, another name: not the issuer in any case
        return False
    return is_authority(issuer)


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate says that its holder may issue others."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _build_ca(
    name: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    expires: float,
) -> x509.Certificate:
    builder = _builder(name, public_key, issuer, expires)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(ca=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    return _sign(builder, issuer_key)


def _builder(
    name: x509.Name, public_key: ec.EllipticCurvePublicKey, issuer: x509.Name, expires: float
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(public_key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(_EPOCH).not_valid_after(datetime.fromtimestamp(int(expires), UTC))


def _sign(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return builder.add_extension(identifier, critical=False).sign(key, SHA256())


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
