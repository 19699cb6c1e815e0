"""A CA that several processes on one store share, without its key lying open there.

The certificate stands in the store as it is, the key sealed (AES-256-GCM) under a secret that the processes have from
elsewhere: who reads the store alone can neither sign with the CA nor put another in its place.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgectl.errors import ConfigError
from metasync.interfaces import Store
from metasync.keys import api_prefix
from metasync.model import Compare, KeyRange, Put

_NONCE = 12
"""Bytes; what NIST SP 800-38D recommends for GCM. A key is sealed a few times in its life, so random ones will do."""

_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Pair:
    """A CA's certificate and its key, both PEM."""

    certificate: bytes
    key: bytes


async def share(
    store: Store,
    network: str,
    name: str,
    secret: bytes,
    local: Pair | None,
    make: Callable[[], Pair],
    *,
    earlier: Sequence[bytes] = (),
) -> Pair:
    """The CA ``name`` of all processes on ``store``: the first brings its ``local`` one, or makes it.

    What was sealed under another secret, by processes that have since changed theirs, is sealed anew by who has the CA.

    :param secret: 32 bytes that all of them have, and the store has not.
    :param earlier: what was sealed under one of these is opened, and sealed anew under ``secret``. Processes that do
        not know that one yet have to be brought up to date before they can take the CA from the store.
    :raises ConfigError: if the store's is another than ``local``, or cannot be opened; it says what to do.
    """
    place = f"{api_prefix(network)}-/shared/{name}".encode()
    for _ in range(_ROUNDS):
        found = (await store.range(KeyRange.single(place))).kvs
        if found:
            try:
                certificate, sealed = _parse(found[0].value)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ConfigError(f"the store's record of the {name} CA is damaged: {error!r}") from None
            pair = _opened(name, certificate, sealed, secret, place)
            if local is not None and local.certificate != certificate:
                raise ConfigError(
                    f"the {name} CA in the state directory is another than that of the others on this store: move the "
                    "files away to take over theirs (what this one issued is then trusted no more)"
                )
            if pair is not None:
                return pair
            local = local or _opened_by_any(name, certificate, sealed, earlier, place)
            if local is None:
                raise ConfigError(
                    f"the key of the {name} CA in the store cannot be opened with this router's ca.pem: start one of "
                    "the routers that have the CA in their state directory once with the same ca.pem, or copy its files"
                )
            wanted, guard = local, Compare.unchanged(place, found[0].mod_revision)
        else:
            wanted, guard = local or make(), Compare.absent(place)
        put = Put(place, _record(wanted, secret, place))
        if (await store.txn([guard], [put])).succeeded:
            return wanted
    raise ConfigError(f"the {name} CA could not be shared: others kept changing it; start again")


def _record(pair: Pair, secret: bytes, place: bytes) -> bytes:
    nonce = os.urandom(_NONCE)
    sealed = nonce + AESGCM(secret).encrypt(nonce, pair.key, place + pair.certificate)
    return json.dumps(
        {"certificate": pair.certificate.decode(), "sealedKey": base64.b64encode(sealed).decode()}
    ).encode()


def _parse(value: bytes) -> tuple[bytes, bytes]:
    fields = json.loads(value)
    return fields["certificate"].encode(), base64.b64decode(fields["sealedKey"], validate=True)


def _opened_by_any(name: str, certificate: bytes, sealed: bytes, secrets: Sequence[bytes], place: bytes) -> Pair | None:
    found = (_opened(name, certificate, sealed, secret, place) for secret in secrets)
    return next((pair for pair in found if pair is not None), None)


def _opened(name: str, certificate: bytes, sealed: bytes, secret: bytes, place: bytes) -> Pair | None:
    """``None`` if it was sealed under another secret, or has been tampered with."""
    try:
        key = AESGCM(secret).decrypt(sealed[:_NONCE], sealed[_NONCE:], place + certificate)
    except (InvalidTag, ValueError):
        return None
    return Pair(certificate, key)
