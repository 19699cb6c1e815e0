"""What the registry's records hold, as JSON. Unknown fields are ignored: a newer router may have written them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv6Network, ip_address, ip_network
from typing import Any, TypeVar

from cryptography import x509

from kubebus.ca import certificate_pem
from kubebus.interfaces import NodeRecord, RegistryError

NODES = "nodes"
ADDRESSES = "addresses"
TOKENS = "tokens"
CA = "ca"
LINKS = "links"

_Parsed = TypeVar("_Parsed")


class DamagedRecord(RegistryError):
    """A registry record that cannot be read. The message names it."""


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """A node with the keys under its name that were revoked for good.

    :ivar issuer: the hash of the authority that issued its certificate.
    """

    node: NodeRecord
    revoked_keys: tuple[str, ...] = ()
    issuer: str = ""

    def revoke(self, now: float) -> NodeEntry:
        keys = dict.fromkeys((*self.revoked_keys, self.node.public_key))
        return replace(self, node=replace(self.node, revoked_at=now), revoked_keys=tuple(keys))

    def encode(self) -> bytes:
        node = self.node
        return _encode(
            name=node.name,
            addresses=list(map(str, node.addresses)),
            podSubnets=list(map(str, node.pod_subnets)),
            publicKey=node.public_key,
            enrolledAt=node.enrolled_at,
            revokedAt=node.revoked_at,
            revokedKeys=list(self.revoked_keys),
            issuer=self.issuer,
            site=node.site,
            endpoints=list(node.endpoints),
        )

    @classmethod
    def decode(cls, name: str, value: bytes) -> NodeEntry:
        """:raises DamagedRecord: if ``value`` is not what :meth:`encode` made."""
        return _decode(f"node {name!r}", value, cls._of)

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> NodeEntry:
        revoked_at = fields.get("revokedAt")
        node = NodeRecord(
            name=str(fields["name"]),
            addresses=tuple(map(ip_address, fields["addresses"])),
            pod_subnets=tuple(map(ip_network, fields["podSubnets"])),
            public_key=str(fields["publicKey"]),
            enrolled_at=float(fields["enrolledAt"]),
            revoked_at=None if revoked_at is None else float(revoked_at),
            site=fields.get("site"),
            endpoints=tuple(map(str, fields.get("endpoints", ()))),
        )
        return cls(node, tuple(map(str, fields.get("revokedKeys", ()))), str(fields.get("issuer", "")))


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A join token. Of its secret only the SHA-256 is kept.

    :ivar node: the only name that may use it, or any for ``None``.
    :ivar site: the site of the node that uses it, if it is to have one.
    :ivar used_by: the node that used it, and ``used_key`` the hash of that node's key.
    """

    id: str
    secret_hash: str
    created_at: float
    expires_at: float
    node: str | None = None
    used_at: float | None = None
    used_by: str | None = None
    used_key: str | None = None
    site: str | None = None

    def encode(self) -> bytes:
        return _encode(
            secretHash=self.secret_hash,
            createdAt=self.created_at,
            expiresAt=self.expires_at,
            node=self.node,
            usedAt=self.used_at,
            usedBy=self.used_by,
            usedKey=self.used_key,
            site=self.site,
        )

    @classmethod
    def decode(cls, name: str, value: bytes) -> TokenRecord:
        """:raises DamagedRecord: if ``value`` is not what :meth:`encode` made."""
        return _decode(f"token {name!r}", value, lambda fields: cls._of(name, fields))

    @classmethod
    def _of(cls, name: str, fields: dict[str, Any]) -> TokenRecord:
        used_at = fields.get("usedAt")
        return cls(
            id=name,
            secret_hash=str(fields["secretHash"]),
            created_at=float(fields["createdAt"]),
            expires_at=float(fields["expiresAt"]),
            node=fields.get("node"),
            used_at=None if used_at is None else float(used_at),
            used_by=fields.get("usedBy"),
            used_key=fields.get("usedKey"),
            site=fields.get("site"),
        )


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """What all routers of a network share: the authorities that are trusted, newest first, and the IPv6 range."""

    bundle: tuple[x509.Certificate, ...]
    ula: IPv6Network

    def encode(self) -> bytes:
        return _encode(bundle=[certificate_pem(c).decode() for c in self.bundle], ula=str(self.ula))

    @classmethod
    def decode(cls, name: str, value: bytes) -> NetworkRecord:
        """:raises DamagedRecord: if ``value`` is not what :meth:`encode` made."""
        return _decode(f"certificate authority {name!r}", value, cls._of)

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> NetworkRecord:
        bundle = tuple(x509.load_pem_x509_certificate(pem.encode()) for pem in fields["bundle"])
        return cls(bundle, IPv6Network(fields["ula"]))


def _encode(**fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()


def _decode(what: str, value: bytes, parse: Callable[[dict[str, Any]], _Parsed]) -> _Parsed:
    try:
        return parse(json.loads(value))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedRecord(f"the registry's record of {what} is damaged: {error!r}") from error
