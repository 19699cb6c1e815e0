"""What a router vouches with: the CA, its own certificate, and the authorities that the network trusts.

The bundle of trusted authorities stands in the registry, for all routers; the CA's key stands in a file only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv6Network
from pathlib import Path

from cryptography import x509
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from kubebus.addresses import random_ula
from kubebus.ca import ROUTER_LIFETIME, Authority, expires_at, issue_router, key_hash
from kubebus.identity import PeerIdentity, Role
from kubebus.interfaces import Change, Record, Registry, RegistryError, Subscription
from kubebus.records import CA, NetworkRecord
from kubebus.tlsconfig import ServerTLS

RECORD = "network"
_ROUNDS = 8
# A timer of months would not do: the clock may be set meanwhile.
_LOOK_SECONDS = 3600.0


class ForeignAuthority(Exception):
    """The registry trusts other authorities than the one whose key this router has. The message says what to do."""


async def network_record(registry: Registry, authority: Authority, path: Path) -> NetworkRecord:
    """The network's shared record; made on the first start of its first router.

    :param path: where the authority is kept, for the message.
    :raises ForeignAuthority: if the network has an authority whose key this router does not have.
    """
    for _ in range(_ROUNDS):
        record = await registry.get(CA, RECORD)
        if record is None:
            made = NetworkRecord((authority.certificate,), random_ula())
            if await registry.commit([Change(CA, RECORD, made.encode(), 0)]):
                return made
            continue
        shared = NetworkRecord.decode(RECORD, record.value)
        if authority.hash not in map(_hash, shared.bundle):
            raise ForeignAuthority(
                f"the network's registry belongs to another certificate authority than {path}: copy that file from a "
                "router that runs already, or begin with an empty store"
            )
        return shared
    raise RegistryError("the network's record could not be made: it keeps changing")


def _hash(certificate: x509.Certificate) -> str:
    return key_hash(certificate.public_key())


class RouterTrust(Service):
    """Keeps the TLS listener's certificate fresh, and its trust as the registry has it.

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

    def _changed(self, name: str, record: Record | None) -> None:
        if name != RECORD or record is None:
            return
        bundle = NetworkRecord.decode(name, record.value).bundle
        if bundle != self.bundle:
            self.bundle = bundle
            self.tls.replace(self.issued, bundle)
            self.log.info("The network trusts {count} certificate authorities now", count=len(bundle))

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
