"""Who asks: from a verified client certificate, or from a bearer token."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509
from cryptography.x509.oid import NameOID

MASTERS = "system:masters"
"""The group that may do everything, as in Kubernetes."""

AUTHENTICATED = "system:authenticated"


@dataclass(frozen=True, slots=True)
class User:
    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""


class TokenAuthenticator(Protocol):
    """Knows some bearer tokens."""

    def user(self, token: str) -> User | None:
        """Whose token it is, or ``None``."""


class StaticTokens:
    """Tokens that stand in the configuration."""

    def __init__(self, tokens: Mapping[str, User]) -> None:
        self._tokens = [(token.encode(), user) for token, user in tokens.items()]

    def user(self, token: str) -> User | None:
        given = token.encode("utf-8", "replace")
        found = [user for known, user in self._tokens if hmac.compare_digest(known, given)]
        return found[0] if found else None


def certificate_user(certificate: x509.Certificate) -> User | None:
    """The user of a verified client certificate: common name, and organizations as groups."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if not names:
        return None
    groups = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return User(str(names[0].value), tuple(str(one.value) for one in groups))


def bearer_user(header: str | None, authenticators: Sequence[TokenAuthenticator]) -> User | None:
    """The user of an ``Authorization`` header, or ``None`` if no one knows its token."""
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        return None
    known = (one.user(token.strip()) for one in authenticators)
    return next((user for user in known if user is not None), None)


def may(user: User, verb: str, path: Sequence[str]) -> bool:
    """Whether a user may do it: members of ``system:masters`` anything, all others only look at what there is."""
    if MASTERS in user.groups:
        return True
    discovery = not path or path[0] in ("version", "healthz", "livez", "readyz", "openapi")
    return verb == "get" and (
        discovery or (path[0] == "api" and len(path) < 3) or (path[0] == "apis" and len(path) < 4)
    )
