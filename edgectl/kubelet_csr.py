"""Requests for kubelets' serving certificates, to the cluster's signer ``kubernetes.io/kubelet-serving``. Pure.

What the signer accepts, and that nobody approves by default, is in
https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#kubernetes-signers.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from edgectl.interfaces import EdgeNode
from edgectl.kubelet_tls import alternative_names, kubelet_subject
from edgectl.kubernetes import Resource
from edgectl.watch import Object

SIGNER = "kubernetes.io/kubelet-serving"
CSRS = Resource("certificates.k8s.io", "v1", "certificatesigningrequests", namespaced=False)
_USAGES = ("digital signature", "key encipherment", "server auth")
"""The only set that signers before Kubernetes 1.27 take, whatever the key."""

_RENEW_AT = 2 / 3
"""Of its life, as the design has it for all certificates."""

_MAX_CHAIN = 16
_MAX_PEM = 64 * 1024


class BadCertificate(Exception):
    """What the signer gave is not what was asked for. The message says how."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A serving certificate with what leads to the cluster's CA, and its key."""

    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]

    @property
    def leaf(self) -> x509.Certificate:
        return self.chain[0]

    @property
    def expires(self) -> float:
        """UNIX seconds."""
        return self.leaf.not_valid_after_utc.timestamp()

    @property
    def renew_at(self) -> float:
        """UNIX seconds."""
        begin = self.leaf.not_valid_before_utc.timestamp()
        return begin + (self.expires - begin) * _RENEW_AT

    def serves(self, node: EdgeNode, now: float) -> bool:
        """Whether it is good for all addresses of the node."""
        return now < self.expires and _covers(self.leaf, node)

    def encode(self) -> bytes:
        return key_pem(self.key) + b"".join(each.public_bytes(Encoding.PEM) for each in self.chain)

    @classmethod
    def decode(cls, pem: bytes) -> Issued:
        """:raises ValueError: if it is not what :meth:`encode` made."""
        chain = tuple(x509.load_pem_x509_certificates(pem))
        issued = cls(load_key(pem), chain)
        if _spki(issued.key.public_key()) != _spki(issued.leaf.public_key()):
            raise ValueError("key and certificate do not belong together")
        return issued


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """:raises ValueError: if it is not a key of ours."""
    key = load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic curve key")
    return key


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def request_name(node: EdgeNode, key: ec.EllipticCurvePrivateKey) -> str:
    """The request's: the same for the same key and addresses, so that a restarted process finds its own again."""
    what = _spki(key.public_key()) + "".join(map(str, node.addresses)).encode()
    return f"kubebus-{node.name}-{sha256(what).hexdigest()[:12]}"


def request_for(node: EdgeNode, key: ec.EllipticCurvePrivateKey) -> Object:
    """The ``CertificateSigningRequest`` object."""
    pem = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(kubelet_subject(node))
        .add_extension(alternative_names(node), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    return {
        "apiVersion": CSRS.api_version,
        "kind": "CertificateSigningRequest",
        "metadata": {"name": request_name(node, key)},
        "spec": {"request": base64.b64encode(pem).decode(), "signerName": SIGNER, "usages": list(_USAGES)},
    }


def refused(request: Mapping[str, Any]) -> str | None:
    """Why it was denied or could not be signed, if so."""
    for condition in (request.get("status") or {}).get("conditions") or ():
        if condition.get("type") in ("Denied", "Failed") and condition.get("status", "True") == "True":
            return f"{condition['type']}: {condition.get('reason', '')} {condition.get('message', '')}".strip()
    return None


def issued(request: Mapping[str, Any], node: EdgeNode, key: ec.EllipticCurvePrivateKey, now: float) -> Issued | None:
    """The certificate, once it is there.

    :raises BadCertificate: if it is another than the one that was asked for.
    """
    encoded = (request.get("status") or {}).get("certificate")
    if not encoded:
        return None
    if len(encoded) > _MAX_PEM:
        raise BadCertificate(f"over {_MAX_PEM} bytes")
    try:
        chain = tuple(x509.load_pem_x509_certificates(base64.b64decode(encoded, validate=True)))
    except (ValueError, TypeError, binascii.Error) as error:
        raise BadCertificate(f"not certificates in PEM: {error}") from error
    if len(chain) > _MAX_CHAIN:
        raise BadCertificate(f"a chain of {len(chain)} certificates")
    if _spki(chain[0].public_key()) != _spki(key.public_key()):
        raise BadCertificate("it is for another key")
    result = Issued(key, chain)
    if not result.serves(node, now):
        raise BadCertificate("it has expired, or lacks one of the node's names and addresses")
    return result


def _covers(certificate: x509.Certificate, node: EdgeNode) -> bool:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return all(name in names for name in alternative_names(node))


def _spki(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded
