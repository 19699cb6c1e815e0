"""What an edge node is: its key, certificate, whom it trusts and where its routers are; kept in one file.

The file changes in one step, so a crash leaves the old credentials or the new ones. The key never leaves it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.logger import Logger

from kubebus.ca import certificate_pem, expires_at, key_hash, key_pem, load_key, new_key
from kubebus.identity import PeerIdentity, Role, check_name
from kubebus.joinstring import HostPort
from kubebus.keyfiles import read_secret, remove_leftovers, write_atomically
from kubebus.tlsconfig import ALERT_EXPIRED, ClientIdentity, ClientTLS
from kubebus.wire import Grant

CREDENTIALS = "credentials.json"
JOINING_KEY = "joining.key"
LEARNT_TIME = "time"
# Flash memory wears out: the time learnt is written down at most so often.
_TIME_STEP = 3600.0


class DamagedCredentials(Exception):
    """The credentials' file cannot be used. The message names it and says what to do."""


@dataclass(frozen=True)
class Credentials:
    """:ivar issued_at: when the certificate was issued by the router's clock; its life counts from there.

    :ivar token: the join token that the node was enrolled with.
    """

    identity: PeerIdentity
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate
    bundle: tuple[x509.Certificate, ...]
    routers: tuple[HostPort, ...]
    issued_at: float
    token: str

    @property
    def expires_at(self) -> float:
        return expires_at(self.certificate)

    @property
    def renew_at(self) -> float:
        """Two thirds of the certificate's life."""
        return self.issued_at + (self.expires_at - self.issued_at) * 2 / 3

    def renewed(self, grant: Grant) -> Credentials:
        return replace(
            self,
            certificate=grant.certificate,
            bundle=grant.bundle,
            routers=grant.routers or self.routers,
            issued_at=grant.time,
        )

    def encode(self) -> bytes:
        fields = {
            "network": self.identity.network,
            "node": self.identity.name,
            "key": key_pem(self.key).decode(),
            "certificate": certificate_pem(self.certificate).decode(),
            "bundle": [certificate_pem(certificate).decode() for certificate in self.bundle],
            "routers": list(map(str, self.routers)),
            "issuedAt": self.issued_at,
            "token": self.token,
        }
        return json.dumps(fields, indent=1).encode()

    @classmethod
    def decode(cls, content: bytes) -> Credentials:
        """:raises ValueError: if it is not what :meth:`encode` made (a damaged file)."""
        try:
            return cls._of(json.loads(content))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(repr(error)) from error

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> Credentials:
        key = load_key(fields["key"].encode())
        certificate = x509.load_pem_x509_certificate(fields["certificate"].encode())
        if key_hash(certificate.public_key()) != key_hash(key.public_key()):
            raise ValueError("the certificate does not belong to the key")
        return cls(
            identity=PeerIdentity(check_name(fields["network"], "network name"), Role.NODE, check_name(fields["node"])),
            key=key,
            certificate=certificate,
            bundle=tuple(x509.load_pem_x509_certificate(pem.encode()) for pem in fields["bundle"]),
            routers=tuple(map(HostPort.parse, fields["routers"])),
            issued_at=float(fields["issuedAt"]),
            token=str(fields["token"]),
        )


class Keyring:
    """Keeps a node's credentials in a directory, judges time, and makes TLS connections from them.

    :param directory: is made (0700) when something is written to it.
    :param clock: the system's clock, in UNIX seconds. It may be decades slow on a device without a battery.
    :param monotonic: seconds since any fixed moment, never set back.
    """

    log = Logger()

    def __init__(
        self,
        directory: Path,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = directory / CREDENTIALS
        self._joining = directory / JOINING_KEY
        self._time = directory / LEARNT_TIME
        self._clock = clock
        self._monotonic = monotonic
        self._creators: dict[bytes, ClientTLS] = {}
        self._expired_observers: list[Callable[[], None]] = []
        self._outdated_observers: list[Callable[[], None]] = []
        self._changed_observers: list[Callable[[Credentials], None]] = []
        self._written_time = self._read_time()
        self._learnt, self._learnt_at = self._written_time, monotonic()
        self._credentials = self._load()

    # Credentials

    @property
    def credentials(self) -> Credentials | None:
        """The node's credentials, if it has been enrolled."""
        return self._credentials

    @property
    def present(self) -> Credentials:
        """The credentials of an enrolled node."""
        if self._credentials is None:
            raise LookupError("this node has not been enrolled: give it a join string (--join)")
        return self._credentials

    def status(self) -> dict[str, object]:
        """How the certificate stands, for ``kubebus status``."""
        mine, now = self.present, self.now()
        return {
            "expires_in_seconds": mine.expires_at - now,
            "renewal_in_seconds": mine.renew_at - now,
            "authorities": [key_hash(certificate.public_key())[:12] for certificate in mine.bundle],
        }

    def install(self, credentials: Credentials) -> None:
        """Keep these credentials from now on, durably, and use them in connections to come.

        :raises OSError: if they cannot be written; the old ones then stay in use.
        """
        write_atomically(self._path, credentials.encode())
        self._joining.unlink(missing_ok=True)
        self._credentials = credentials
        self._creators.clear()
        self.learn_time(credentials.issued_at)
        for observer in list(self._changed_observers):
            observer(credentials)

    def on_change(self, changed: Callable[[Credentials], None]) -> None:
        """Call ``changed`` whenever credentials were installed."""
        self._changed_observers.append(changed)

    def joining_key(self, *, fresh: bool = False) -> ec.EllipticCurvePrivateKey:
        """The key to enrol with: it is kept before it is used, so that a lost answer can be asked for again."""
        if not fresh:
            try:
                return load_key(read_secret(self._joining))
            except (FileNotFoundError, ValueError):
                pass
            if self._credentials is not None:
                return self._credentials.key
        remove_leftovers(self._joining)
        key = new_key()
        write_atomically(self._joining, key_pem(key))
        return key

    def _load(self) -> Credentials | None:
        remove_leftovers(self._path)
        try:
            return Credentials.decode(read_secret(self._path))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise DamagedCredentials(
                f"{self._path} is damaged ({error}): remove it and enrol this node again with a new join string"
            ) from error

    # Connections

    def client_connection_creator(self, alpn: bytes) -> IOpenSSLClientConnectionCreator:
        """For connections to routers, by mutual certificates, as of now: ask again for every connection.

        :raises LookupError: if the node has not been enrolled.
        """
        creator = self._creators.get(alpn)
        if creator is None:
            mine = self.present
            identity = ClientIdentity(mine.identity.network, mine.key, mine.certificate, mine.bundle)
            creator = self._creators[alpn] = ClientTLS(identity, alpn, self.now, self._alerted, self._is_outdated)
        return creator

    def on_expired(self, expired: Callable[[], None]) -> None:
        """Call ``expired`` when a router says that our certificate has expired: its clock may know better."""
        self._expired_observers.append(expired)

    def on_outdated(self, outdated: Callable[[], None]) -> None:
        """Call ``outdated`` when a router shows a certificate of an authority newer than those that we trust."""
        self._outdated_observers.append(outdated)

    def _is_outdated(self) -> None:
        for observer in list(self._outdated_observers):
            observer()

    def _alerted(self, alert: int) -> None:
        if alert == ALERT_EXPIRED:
            for observer in list(self._expired_observers):
                observer()

    # Time

    def now(self) -> float:
        """The later of the system's clock and the time learnt from the cloud, in UNIX seconds."""
        return max(self._clock(), self._learnt + self._monotonic() - self._learnt_at)

    def learn_time(self, unix_time: float) -> None:
        """A router whom we trust says that it is at least ``unix_time``. It is kept, if it can be."""
        if unix_time <= self._learnt + self._monotonic() - self._learnt_at:
            return
        self._learnt, self._learnt_at = unix_time, self._monotonic()
        if unix_time < self._written_time + _TIME_STEP:
            return
        try:
            write_atomically(self._time, f"{unix_time:.0f}\n".encode())
        except OSError as error:
            # A full disk is no reason to be without a link.
            self.log.error("The time learnt from the cloud cannot be kept in {path}: {why}", path=self._time, why=error)
        else:
            self._written_time = unix_time

    def _read_time(self) -> float:
        remove_leftovers(self._time)
        try:
            return max(0.0, min(float(self._time.read_bytes()), 1e11))
        except (FileNotFoundError, ValueError):
            return 0.0
