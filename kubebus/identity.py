"""Who a peer is, read from its verified certificate and from nothing else.

A node's certificate carries the URI SAN ``kubebus://<network>/node/<name>``, a router's
``kubebus://<network>/router/<name>``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from cryptography import x509

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_URI = re.compile(r"kubebus://(?P<network>[^/?#]*)/(?P<role>[^/?#]*)/(?P<name>[^/?#]*)")
_MAX_NAME = 63


class Role(Enum):
    NODE = "node"
    ROUTER = "router"


class InvalidIdentity(ValueError):
    """A name or a certificate does not say who its holder is. The message names what is wrong."""


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """A member of a network."""

    network: str
    role: Role
    name: str

    @property
    def uri(self) -> str:
        return f"kubebus://{self.network}/{self.role.value}/{self.name}"

    def __str__(self) -> str:
        return f"{self.role.value} {self.name!r} of network {self.network!r}"


def check_name(name: str, what: str = "node name") -> str:
    """The name, if it is an RFC 1123 label of at most 63 characters.

    :raises InvalidIdentity: if it is not.
    """
    if len(name) > _MAX_NAME or not _LABEL.fullmatch(name):
        raise InvalidIdentity(
            f"{what} {name[:80]!r} is not valid: use at most {_MAX_NAME} lower-case letters, digits and '-', "
            "beginning and ending with a letter or digit (RFC 1123)"
        )
    return name


def parse_uri(uri: str) -> PeerIdentity:
    """The identity that a URI SAN spells.

    :raises InvalidIdentity: if it is none of ours.
    """
    parts = _URI.fullmatch(uri)
    if parts is None:
        raise InvalidIdentity(f"{uri[:200]!r} is not a kubebus identity (kubebus://NETWORK/node/NAME)")
    try:
        role = Role(parts["role"])
    except ValueError:
        raise InvalidIdentity(f"{uri[:200]!r}: {parts['role']!r} is neither 'node' nor 'router'") from None
    return PeerIdentity(
        check_name(parts["network"], "network name"), role, check_name(parts["name"], f"{role.value} name")
    )


def identity_of(certificate: x509.Certificate) -> PeerIdentity:
    """The identity in a certificate, which the caller has verified.

    :raises InvalidIdentity: if it has none, or several.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise InvalidIdentity("the certificate has no subject alternative name") from None
    uris = [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith("kubebus:")]
    if len(uris) != 1:
        raise InvalidIdentity(f"the certificate has {len(uris)} kubebus identities; it must have one")
    return parse_uri(uris[0])
