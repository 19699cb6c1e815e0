"""The CAs that routers on one store share: sealed with the key of the network's own CA, which all routers have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edgectl.sharedca import Pair, share
from metasync.interfaces import Store


def sealing_secret(key: ec.EllipticCurvePrivateKey, network: str) -> bytes:
    """What the CA's key yields for sealing (HKDF, RFC 5869); nothing of the key can be learnt from it.

    It is made from the key's number and its curve's name alone, which no library encodes differently one day.
    """
    number = key.private_numbers().private_value.to_bytes((key.curve.key_size + 7) // 8, "big")
    return _derive(number, f"kubebus shared CAs 2, {key.curve.name} key of network {network}")


def earlier_secret(key: ec.EllipticCurvePrivateKey, network: str) -> bytes:
    """What sealed before there was a second form: of the key's PKCS #8 encoding, as this library makes it now."""
    encoding = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return _derive(encoding, f"kubebus shared CAs of network {network}")


def _derive(secret: bytes, info: str) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt=None, info=info.encode()).derive(secret)


class SharedAuthorities:
    """:param authority: the key of the network's CA, as it is now."""

    def __init__(self, store: Store, network: str, authority: Callable[[], ec.EllipticCurvePrivateKey]) -> None:
        self._store, self._network, self._authority = store, network, authority

    async def bring(self, name: str, stem: Path, make: Callable[[], Pair]) -> None:
        """Have the CA ``name`` in ``stem.crt`` and ``stem.key``: from there, from the store, or made.

        :raises ConfigError: if the two differ, or the store's cannot be opened.
        :raises OSError: if the files cannot be read or written.
        """
        from edgectl.apiserver.pki import write_private

        certificate, key = stem.with_name(f"{stem.name}.crt"), stem.with_name(f"{stem.name}.key")
        there = certificate.exists() and key.exists()
        local = Pair(certificate.read_bytes(), key.read_bytes()) if there else None
        authority = self._authority()
        secret, earlier = sealing_secret(authority, self._network), earlier_secret(authority, self._network)
        shared = await share(self._store, self._network, name, secret, local, make, earlier=[earlier])
        if local is None:
            stem.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(key, shared.key)
            write_private(certificate, shared.certificate)
