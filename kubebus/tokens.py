"""Join tokens: what may be used, by whom, until when. Pure: times and records are passed in."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import replace
from enum import Enum
from hashlib import sha256

from kubebus.records import TokenRecord

HOUR = 3600.0
TOKEN_LIFETIME = 24 * HOUR
MAX_TOKEN_LIFETIME = 365 * 24 * HOUR
# 128 bits: nobody guesses it, so a plain hash of it tells nothing either.
_SECRET_BYTES = 16


class Refusal(Enum):
    """Why an enrolment or a renewal was refused. The values are what goes over the wire."""

    BAD_REQUEST = "bad-request"
    UNKNOWN_TOKEN = "unknown-token"
    EXPIRED_TOKEN = "expired-token"
    USED_TOKEN = "used-token"
    OTHER_NAME = "other-name"
    OTHER_NETWORK = "other-network"
    NAME_TAKEN = "name-taken"
    REVOKED = "revoked"
    UNKNOWN_NODE = "unknown-node"
    OTHER_KEY = "other-key"
    EXHAUSTED = "exhausted"
    UNAVAILABLE = "unavailable"


class Refused(Exception):
    """An enrolment or a renewal was refused. The message says why and what to do."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal


def new_token(now: float, lifetime: float, node: str | None, site: str | None = None) -> tuple[TokenRecord, str]:
    """A new token and its secret, which is kept nowhere."""
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    token = TokenRecord(secrets.token_hex(4), _hash(secret), now, now + lifetime, node, site=site)
    return token, secret


def check_token(token: TokenRecord | None, token_id: str, secret: str, name: str, key: str, now: float) -> None:
    """Whether the holder of ``secret`` may enrol ``key`` under ``name``.

    The key that used a token may use it again while it lasts: its first answer may have been lost.

    :raises Refused: if not. Without the right secret nothing is told about the token.
    """
    if token is None or not hmac.compare_digest(token.secret_hash, _hash(secret)):
        raise Refused(
            Refusal.UNKNOWN_TOKEN,
            f"the join token {token_id!r} is not known here, or was revoked: make one with 'kubebus token create'",
        )
    if now >= token.expires_at:
        raise Refused(
            Refusal.EXPIRED_TOKEN,
            f"the join token {token.id!r} has expired: make a new one with 'kubebus token create'",
        )
    if token.node is not None and token.node != name:
        raise Refused(Refusal.OTHER_NAME, f"the join token {token.id!r} is for node {token.node!r}, not for {name!r}")
    if token.used_by is not None and (token.used_by, token.used_key) != (name, key):
        raise Refused(
            Refusal.USED_TOKEN,
            f"the join token {token.id!r} was used already, by node {token.used_by!r}: "
            "each node needs one of its own ('kubebus token create')",
        )


def use(token: TokenRecord, name: str, key: str, now: float) -> TokenRecord:
    return replace(token, used_at=now, used_by=name, used_key=key)


def _hash(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
