"""The join string: everything a new node must know, in one word that survives copying, mail and shells.

``kubebus1.`` and then base64url (no padding) of compact JSON followed by a checksum. The checksum is against
mistakes in copying, not against people: who makes a join string could make the checksum too.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv6Address
from typing import Any

from kubebus.identity import InvalidIdentity, check_name

PREFIX = "kubebus1."
MAX_LENGTH = 4096
DEFAULT_PORT = 443

_CHECKSUM = 4
_ALPHABET = re.compile(r"[A-Za-z0-9_-]*")
_HASH = re.compile(r"[0-9a-f]{64}")


class InvalidJoinString(ValueError):
    """A join string that cannot be used. The message says what is wrong with it; it never shows the secret."""


@dataclass(frozen=True, slots=True)
class HostPort:
    """Where a router listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, default_port: int = DEFAULT_PORT) -> HostPort:
        """Read ``HOST``, ``HOST:PORT``, ``IPV6`` or ``[IPV6]:PORT``.

        :raises ValueError: if it is none of these.
        """
        match = re.fullmatch(r"\[([0-9A-Fa-f:.%]+)\](?::(\d+))?|([^\s:/\[\]]+)(?::(\d+))?|([0-9A-Fa-f:.]+)", text)
        if match is None:
            raise ValueError(f"{text[:200]!r} is not HOST, HOST:PORT or [IPV6]:PORT")
        if match[3] is None:
            IPv6Address(match[1] or match[5])
        host = match[1] or match[3] or match[5]
        port = int(match[2] or match[4] or default_port)
        if not 0 < port < 65536:
            raise ValueError(f"{text[:200]!r}: the port must be from 1 to 65535")
        return cls(host, port)


@dataclass(frozen=True, slots=True)
class JoinString:
    """What a join string says.

    :ivar ca_hash: the SHA-256 of the public key of the network's CA, in hex.
    :ivar token: the public name of the one-time ``secret``.
    :ivar expires_at: UNIX seconds; for people and early messages, the router decides.
    :ivar node: the only node name that may use it, if it is bound to one.
    """

    network: str
    routers: tuple[HostPort, ...]
    ca_hash: str
    token: str
    secret: str
    expires_at: float
    node: str | None = None

    def __repr__(self) -> str:
        return f"<JoinString of token {self.token!r} for network {self.network!r}>"

    def encode(self) -> str:
        fields: dict[str, object] = {
            "n": self.network,
            "r": list(map(str, self.routers)),
            "h": self.ca_hash,
            "t": self.token,
            "s": self.secret,
            "e": int(self.expires_at),
        }
        if self.node is not None:
            fields["N"] = self.node
        body = json.dumps(fields, separators=(",", ":")).encode()
        return PREFIX + urlsafe_b64encode(body + _checksum(body)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> JoinString:
        """Read a join string; white space around and inside it (a wrapped line) does not matter.

        :raises InvalidJoinString: if it cannot be used.
        """
        word = "".join(text.split())
        if len(word) > MAX_LENGTH:
            raise InvalidJoinString(f"the join string is too long ({len(word)} characters)")
        if not word.startswith("kubebus"):
            raise InvalidJoinString("this is not a join string: it must begin with 'kubebus1.'")
        if not word.startswith(PREFIX):
            version = word.partition(".")[0][:20]
            raise InvalidJoinString(f"the join string is of version {version!r}; this program reads 'kubebus1'")
        body = _checked_body(word[len(PREFIX) :])
        try:
            return cls._of(json.loads(body))
        except (ValueError, TypeError, KeyError, AttributeError, InvalidIdentity, RecursionError) as error:
            raise InvalidJoinString(f"the join string makes no sense: {type(error).__name__} {error}") from error

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> JoinString:
        node = fields.get("N")
        if not _HASH.fullmatch(fields["h"]):
            raise ValueError("bad CA hash")
        routers = tuple(HostPort.parse(router) for router in fields["r"])
        if not routers:
            raise ValueError("no router address")
        return cls(
            network=check_name(fields["n"], "network name"),
            routers=routers,
            ca_hash=fields["h"],
            token=str(fields["t"]),
            secret=str(fields["s"]),
            expires_at=float(fields["e"]),
            node=None if node is None else check_name(node),
        )


def _checksum(body: bytes) -> bytes:
    return sha256(body).digest()[:_CHECKSUM]


def _checked_body(encoded: str) -> bytes:
    if not _ALPHABET.fullmatch(encoded):
        raise InvalidJoinString("the join string has characters that do not belong in it: copy it again")
    try:
        raw = b64decode(encoded.encode() + b"=" * (-len(encoded) % 4), b"-_", validate=True)
    except ValueError:
        raw = b""
    body, checksum = raw[:-_CHECKSUM], raw[-_CHECKSUM:]
    if len(raw) <= _CHECKSUM or _checksum(body) != checksum:
        raise InvalidJoinString("the join string is incomplete or mistyped (its checksum is wrong): copy it again")
    return body
