"""Who belongs to a site, signed by the network's authority: so that its nodes know each other without any router. Pure.

A roster is one JSON object, made canonical (sorted keys, no blanks). The authority signs those very bytes, after a
prefix that no certificate begins with; along come the certificates that lead from it to the authorities before it.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, Final, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from kubebus.ca import MAX_AUTHORITIES, Authority, certificate_pem, is_authority, key_hash, verify_chain
from kubebus.identity import InvalidIdentity, check_name
from kubebus.interfaces import IPAddress, IPNetwork
from kubebus.joinstring import HostPort

MAX_ROSTER: Final = 256 * 1024
"""Bytes of a signed roster on the wire and on disk: 256 members with IPv6 and several endpoints are half of it."""

MAX_MEMBERS: Final = 256
"""Every pair of members keeps a link, so a site is no larger."""

MAX_ENDPOINTS: Final = 8
"""Addresses at which one member is reached."""

_MAX_SUBNETS: Final = 64
_PREFIX: Final = b"kubebus roster 1\n"


class InvalidRoster(ValueError):
    """A roster that is not to be used. The message says why."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the site.

    :ivar public_key: the SHA-256 of its SubjectPublicKeyInfo, in hex: who shows another key is somebody else.
    :ivar endpoints: ``address:port`` of where it is reached on the site's LAN, if it listens.
    """

    name: str
    addresses: tuple[IPAddress, ...]
    pod_subnets: tuple[IPNetwork, ...]
    public_key: str
    endpoints: tuple[str, ...] = ()

    @property
    def subnets(self) -> tuple[IPNetwork, ...]:
        """All that packets of it may come from."""
        return (*map(ip_network, self.addresses), *self.pod_subnets)


@dataclass(frozen=True, slots=True)
class Roster:
    """:ivar revision: of two rosters of a site the one with the higher revision holds.

    :ivar revoked: the hashes of keys that were members' once and never are again.
    """

    network: str
    site: str
    revision: int
    members: tuple[Member, ...]
    revoked: tuple[str, ...] = ()

    def member(self, name: str) -> Member | None:
        return next((member for member in self.members if member.name == name), None)

    def same_as(self, other: Roster) -> bool:
        """Whether they say the same, at whatever revision."""
        mine = (self.network, self.site, self.members, self.revoked)
        return mine == (other.network, other.site, other.members, other.revoked)

    def encode(self) -> bytes:
        """The canonical form."""
        members = [
            {
                "name": member.name,
                "addresses": list(map(str, member.addresses)),
                "podSubnets": list(map(str, member.pod_subnets)),
                "publicKey": member.public_key,
                "endpoints": list(member.endpoints),
            }
            for member in self.members
        ]
        return _canonical(
            network=self.network,
            site=self.site,
            revision=self.revision,
            members=members,
            revoked=list(self.revoked),
        )


@dataclass(frozen=True, slots=True)
class SignedRoster:
    """A roster whose signature was verified, or just made.

    :ivar signer: the hash of the authority that signed it.
    :ivar chain: certificates that lead from its authority to earlier ones; for handshakes within the site too.
    :ivar encoded: what goes over the wire, to disk and into the registry.
    """

    roster: Roster
    signer: str
    chain: tuple[x509.Certificate, ...]
    encoded: bytes


def sign(roster: Roster, authority: Authority) -> SignedRoster:
    """:raises InvalidRoster: if it is too large to be told to anybody."""
    if len(roster.members) > MAX_MEMBERS:
        raise InvalidRoster(f"site {roster.site!r} has {len(roster.members)} nodes; {MAX_MEMBERS} can be in one")
    payload = roster.encode()
    signature = authority.key.sign(_PREFIX + payload, ec.ECDSA(SHA256()))
    encoded = _canonical(
        roster=payload.decode(),
        signature=b64encode(signature).decode(),
        chain=[certificate_pem(certificate).decode() for certificate in authority.chain],
    )
    if len(encoded) > MAX_ROSTER:
        raise InvalidRoster(f"the roster of site {roster.site!r} has {len(encoded)} bytes; {MAX_ROSTER} are allowed")
    return SignedRoster(roster, authority.hash, authority.chain, encoded)


def verify(encoded: bytes, bundle: Sequence[x509.Certificate]) -> SignedRoster:
    """The roster in what anybody sent.

    :param bundle: the authorities that are trusted.
    :raises InvalidRoster: unless one of them, or a successor of one, has signed it, and it is in order.
    """
    if len(encoded) > MAX_ROSTER:
        raise InvalidRoster(f"it has {len(encoded)} bytes; {MAX_ROSTER} are allowed")
    fields = _object(encoded)
    payload = _text(fields, "roster", MAX_ROSTER).encode()
    chain = _chain(fields)
    signer = _signer(chain, bundle)
    try:
        signature = b64decode(_text(fields, "signature", 200), validate=True)
        signer.verify(signature, _PREFIX + payload, ec.ECDSA(SHA256()))
    except (ValueError, InvalidSignature):
        raise InvalidRoster("its signature is wrong") from None
    return SignedRoster(_roster(_object(payload)), key_hash(signer), chain, encoded)


def lan_endpoint(text: str) -> str:
    """An endpoint in its one form.

    :raises InvalidRoster: if it is not the ``address:port`` of a neighbour: names and local addresses are none.
    """
    try:
        place = HostPort.parse(text)
        address = ip_address(place.host)
    except ValueError as error:
        raise InvalidRoster(f"endpoint {text[:80]!r} is no ADDRESS:PORT: {error}") from None
    scoped = address.version == 6 and address.is_link_local
    if address.is_loopback or address.is_multicast or address.is_unspecified or scoped:
        raise InvalidRoster(f"endpoint {text[:80]!r} cannot be reached by others")
    return str(HostPort(str(address), place.port))


def endpoints_of(texts: Iterable[object]) -> tuple[str, ...]:
    """:raises InvalidRoster: if one is none, or there are too many."""
    found: list[str] = []
    for text in texts:
        if not isinstance(text, str) or len(found) >= MAX_ENDPOINTS:
            _wrong("endpoints", f"at most {MAX_ENDPOINTS} texts")
        found.append(lan_endpoint(text))
    return tuple(dict.fromkeys(found))


# Within


def _canonical(**fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()


def _object(encoded: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise InvalidRoster(f"it is not JSON: {type(error).__name__}") from None
    if not isinstance(fields, dict):
        raise InvalidRoster("it is not a JSON object")
    return fields


def _chain(fields: dict[str, Any]) -> tuple[x509.Certificate, ...]:
    texts = _list(fields, "chain", MAX_AUTHORITIES)
    try:
        chain = tuple(x509.load_pem_x509_certificate(str(text).encode()) for text in texts)
    except ValueError as error:
        raise InvalidRoster(f"'chain' has what is no PEM certificate: {str(error)[:100]}") from None
    if not chain:
        _wrong("chain", "the signer's certificate at least")
    return chain


def _signer(chain: Sequence[x509.Certificate], bundle: Sequence[x509.Certificate]) -> ec.EllipticCurvePublicKey:
    """The key of the first in the chain: an authority's that we trust, or that one of those has certified."""
    first = chain[0]
    key = first.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey) and is_authority(first):
        if key_hash(key) in {key_hash(certificate.public_key()) for certificate in bundle}:
            return key
        for trusted in bundle:
            try:
                verify_chain(first, (*chain[1:], trusted), key_hash(trusted.public_key()))
            except InvalidIdentity:
                continue
            return key
    raise InvalidRoster("it was not signed by a certificate authority that is trusted here")


def _roster(fields: dict[str, Any]) -> Roster:
    revision = fields.get("revision")
    if not isinstance(revision, int) or isinstance(revision, bool) or not 0 < revision < 2**53:
        _wrong("revision", "a whole number")
    members = tuple(_member(value) for value in _list(fields, "members", MAX_MEMBERS))
    if len({member.name for member in members}) != len(members):
        _wrong("members", "each name once")
    return Roster(
        _name(fields, "network"),
        _name(fields, "site"),
        revision,
        members,
        tuple(_hash(value) for value in _list(fields, "revoked", 4 * MAX_MEMBERS)),
    )


def _member(fields: object) -> Member:
    if not isinstance(fields, dict):
        _wrong("members", "objects")
    try:
        addresses = tuple(ip_address(str(value)) for value in _list(fields, "addresses", _MAX_SUBNETS))
        subnets = tuple(ip_network(str(value)) for value in _list(fields, "podSubnets", _MAX_SUBNETS))
    except ValueError as error:
        raise InvalidRoster(f"a member's addresses are wrong: {str(error)[:100]}") from None
    return Member(
        _name(fields, "name"),
        addresses,
        subnets,
        _hash(fields.get("publicKey")),
        endpoints_of(_list(fields, "endpoints", MAX_ENDPOINTS)),
    )


def _hash(value: object) -> str:
    if not isinstance(value, str) or len(value) != 64:
        _wrong("publicKey", "64 hexadecimal digits")
    return value


def _name(fields: dict[str, Any], name: str) -> str:
    try:
        return check_name(_text(fields, name, 63), name)
    except InvalidIdentity as error:
        raise InvalidRoster(str(error)) from None


def _text(fields: dict[str, Any], name: str, most: int) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or len(value) > most or not value.isascii():
        _wrong(name, f"a text of at most {most} characters")
    return value


def _list(fields: dict[str, Any], name: str, most: int) -> list[object]:
    value = fields.get(name)
    if not isinstance(value, list) or len(value) > most:
        _wrong(name, f"a list of at most {most}")
    return value


def _wrong(name: str, wanted: str) -> NoReturn:
    raise InvalidRoster(f"{name!r} is wrong: it must be {wanted}")
