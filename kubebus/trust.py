"""What a router vouches with: the CA, its own certificate, and the authorities that the network trusts.

The bundle of trusted authorities stands in the registry, for all routers; the CA's key stands in a file only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import IPv6Network
from pathlib import Path

from cryptography import x509
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from kubebus.addresses import random_ula
from kubebus.ca import MAX_AUTHORITIES, ROUTER_LIFETIME, Authority, expires_at, issue_router, key_hash, verify_chain
from kubebus.identity import InvalidIdentity, PeerIdentity, Role
from kubebus.interfaces import Change, Record, Registry, RegistryError, Subscription
from kubebus.records import CA, DamagedRecord, NetworkRecord
from kubebus.tlsconfig import ServerTLS

RECORD = "network"
_ROUNDS = 8
# A timer of months would not do: the clock may be set meanwhile.
_LOOK_SECONDS = 3600.0


class ForeignAuthority(Exception):
    """The registry trusts other authorities than the one whose key this router has. The message says what to do."""


async def network_record(registry: Registry, authority: Authority, path: Path) -> NetworkRecord:
    """The network's shared record; made on the first start of its first router.

    An authority that succeeds a trusted one (see :meth:`kubebus.ca.Authority.successor`) is made the first of the
    trusted ones here, so a rotation that was cut off after the file was written is completed.

    :param path: where the authority is kept, for the message.
    :raises ForeignAuthority: if the network has an authority whose key this router does not have.
    """
    for _ in range(_ROUNDS):
        record = await registry.get(CA, RECORD)
        shared = None if record is None else NetworkRecord.decode(RECORD, record.value)
        if shared is None:
            wanted = NetworkRecord((authority.certificate,), random_ula())
        elif authority.hash in map(_hash, shared.bundle):
            return shared
        elif _succeeds(authority, shared.bundle):
            wanted = NetworkRecord((authority.certificate, *shared.bundle), shared.ula)
        else:
            raise ForeignAuthority(
                f"the network's registry belongs to another certificate authority than {path}: copy that file from a "
                "router that runs already, or begin with an empty store"
            )
        if await registry.commit([Change(CA, RECORD, wanted.encode(), 0 if record is None else record.revision)]):
            return wanted
    raise RegistryError("the network's record could not be made: it keeps changing")


def _succeeds(authority: Authority, bundle: Sequence[x509.Certificate]) -> bool:
    """Whether a trusted authority has vouched for the key of this one."""
    for trusted in bundle:
        try:
            verify_chain(authority.chain[0], (*authority.chain[1:], trusted), _hash(trusted))
        except InvalidIdentity:
            continue
        return key_hash(authority.chain[0].public_key()) == authority.hash
    return False


def _hash(certificate: x509.Certificate) -> str:
    return key_hash(certificate.public_key())


class RouterTrust(Service):
    """Keeps the TLS listener's certificate fresh, and its trust as the registry has it.

    :param path: where the authority is kept; needed for :meth:`rotate`.
    :ivar tls: for the listener.
    :ivar authority: what certificates are issued with now.
    :ivar bundle: the authorities that members trust now.
    :ivar ula: the network's IPv6 range.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        registry: Registry,
        authority: Authority,
        shared: NetworkRecord,
        network: str,
        router: str,
        hosts: Sequence[str],
        protocols: Sequence[bytes],
        *,
        clock: Callable[[], float],
        lifetime: float = ROUTER_LIFETIME,
        path: Path | None = None,
    ) -> None:
        self.identity = PeerIdentity(network, Role.ROUTER, router)
        self.authority = authority
        self.bundle = shared.bundle
        self.ula: IPv6Network = shared.ula
        self._reactor = reactor
        self._registry = registry
        self._hosts = tuple(hosts)
        self._clock = clock
        self._lifetime = lifetime
        self._path = path
        # It is in the file already, but perhaps not in the registry.
        self._successor: Authority | None = None
        self._subscription: Subscription | None = None
        self._timer: IDelayedCall | None = None
        self._issue()
        self.tls = ServerTLS(self.issued, self.bundle, protocols)

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._subscription = self._registry.subscribe(CA, self._changed)
        self._look()

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        if self._subscription is not None:
            self._subscription.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def ca_hash(self) -> str:
        """What join strings name."""
        return self.authority.hash

    async def rotate(self) -> Authority:
        """Replace the authority by a new one. Members trust both, and accept what the new one issues right away.

        A rotation that failed half-way is completed by the next call, or the next start.

        :raises RegistryError: if the registry cannot be changed now.
        :raises ValueError: if too many authorities are trusted already.
        """
        if len(self.bundle) >= MAX_AUTHORITIES:
            raise ValueError(
                f"{len(self.bundle)} authorities are trusted already: retire those that no node depends on "
                "('kubebus ca list', 'kubebus ca retire')"
            )
        if self._path is None:
            raise RuntimeError("this router does not know where its authority is kept")
        if self._successor is None:
            now = self._clock()
            stamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S")
            made = self.authority.successor(f"kubebus {self.identity.network} {stamp}", now)
            made.save(self._path)
            self._successor = made
        successor = self._successor
        shared = await network_record(self._registry, successor, self._path)
        # Only now does everybody trust what it issues.
        self.authority, self._successor = successor, None
        self._trust(shared.bundle)
        self._issue()
        self.tls.replace(self.issued, self.bundle)
        self.log.info("The network has a new certificate authority: {hash}", hash=self.authority.hash)
        return self.authority

    async def retire(self, ca_hash: str) -> None:
        """Trust an authority no more. Members that have certificates of it only must enrol again.

        :raises ValueError: if it is the one that issues now.
        :raises LookupError: if it is not trusted.
        """
        if ca_hash == self.authority.hash:
            raise ValueError("this authority issues the certificates: make a new one first ('kubebus ca rotate')")
        for _ in range(_ROUNDS):
            record = await self._registry.get(CA, RECORD)
            shared = None if record is None else NetworkRecord.decode(RECORD, record.value)
            if record is None or shared is None or ca_hash not in map(_hash, shared.bundle):
                raise LookupError(f"no trusted authority has the hash {ca_hash[:64]!r} ('kubebus ca list')")
            left = tuple(certificate for certificate in shared.bundle if _hash(certificate) != ca_hash)
            changed = NetworkRecord(left, shared.ula)
            if await self._registry.commit([Change(CA, RECORD, changed.encode(), record.revision)]):
                self._trust(left)
                return
        raise RegistryError("the authority could not be retired: the network's record keeps changing")

    def _trust(self, bundle: tuple[x509.Certificate, ...]) -> None:
        if bundle == self.bundle:
            return
        self.bundle = bundle
        self.tls.replace(self.issued, bundle)
        self.log.info("The network trusts {count} certificate authorities now", count=len(bundle))
        if self.authority.hash not in map(_hash, bundle):
            self.log.error(
                "The network no longer trusts this router's certificate authority: copy ca.pem from a router that "
                "has the new one, and restart"
            )

    def _changed(self, name: str, record: Record | None) -> None:
        if name != RECORD or record is None:
            return
        try:
            bundle = NetworkRecord.decode(name, record.value).bundle
        except DamagedRecord as error:
            self.log.error("{why}; what was trusted before is trusted still", why=str(error))
            return
        self._trust(bundle)

    def _issue(self) -> None:
        now = self._clock()
        self.issued = issue_router(self.authority, self.identity, self._hosts, now, self._lifetime)
        life = expires_at(self.issued.certificate) - now
        self._renew_at = now + life * 2 / 3

    def _look(self) -> None:
        if self._clock() >= self._renew_at:
            self._issue()
            self.tls.replace(self.issued, self.bundle)
            self.log.info("The router's own certificate was renewed")
        self._timer = self._reactor.callLater(_LOOK_SECONDS, self._look)
