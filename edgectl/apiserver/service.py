# mypy: allow-untyped-calls
"""The embedded control plane as a service: API, scheduler and controllers on one store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from random import Random
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IOpenSSLContextFactory, IStreamServerEndpoint
from twisted.internet.ssl import Certificate, CertificateOptions, trustRootFromCertificates
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from edgectl.apiserver.accounts import AccountTokens, SigningKey
from edgectl.apiserver.cache import WatchCache
from edgectl.apiserver.clusterips import DEFAULT_CIDR
from edgectl.apiserver.errors import ApiError
from edgectl.apiserver.handlers import Handlers
from edgectl.apiserver.identity import StaticTokens, User
from edgectl.apiserver.leases import OwnLeases
from edgectl.apiserver.metrics import Metrics
from edgectl.apiserver.nodeproxy import Kubelets
from edgectl.apiserver.resources import NAMESPACE
from edgectl.apiserver.site import ApiResource, ApiSite
from edgectl.apiserver.storage import ObjectStore
from edgectl.apiserver.verbs import Api
from edgectl.leader import LeadingService
from edgectl.scheduler import Scheduler
from edgectl.workloads.accounts import AccountController
from edgectl.workloads.apiservice import ApiServiceController
from edgectl.workloads.collector import Collector
from edgectl.workloads.controller import Controller
from edgectl.workloads.daemonsets import DaemonSetController
from edgectl.workloads.deployments import DeploymentController
from edgectl.workloads.disruption import DisruptionController
from edgectl.workloads.endpoints import EndpointsController
from edgectl.workloads.housekeeping import EventCollector, PodCollector
from edgectl.workloads.namespaces import NamespaceController
from edgectl.workloads.nodelife import EvictionController, NodeLifeController
from edgectl.workloads.replicasets import ReplicaSetController
from metasync.interfaces import Store

LEASE_NAMESPACE, LEASE_NAME = "kube-system", "kubebus-control-plane"
"""The Lease of whoever runs scheduler and controllers."""

SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


@dataclass(frozen=True, slots=True)
class ServingTLS:
    """PEM: the server's certificate (its chain after it) and key, and the authorities of client certificates."""

    certificate: bytes
    key: bytes
    client_ca: bytes


def tls_options(tls: ServingTLS) -> CertificateOptions:
    """TLS that asks for a client certificate but does without: a bearer token will do as well."""
    first, *chain = x509.load_pem_x509_certificates(tls.certificate)
    authorities = x509.load_pem_x509_certificates(tls.client_ca)
    trusted = trustRootFromCertificates([_twisted(one) for one in authorities])
    # pyOpenSSL takes cryptography's objects; Twisted's annotations do not say so yet.
    key: Any = load_pem_private_key(tls.key, None)
    leaf: Any = first
    others: Any = chain
    options = CertificateOptions(
        privateKey=key,
        certificate=leaf,
        extraCertChain=others,
        trustRoot=trusted,
        acceptableProtocols=[b"http/1.1"],
    )
    options.requireCertificate = False
    return options


@implementer(IOpenSSLContextFactory)
class ServingContext:
    """A context factory: connections that begin get what is to be served by then, those that are up keep theirs."""

    def __init__(self, tls: ServingTLS) -> None:
        self.change(tls)

    def change(self, tls: ServingTLS) -> None:
        self._options = tls_options(tls)

    def getContext(self) -> Any:
        return self._options.getContext()


def _twisted(certificate: x509.Certificate) -> Certificate:
    from cryptography.hazmat.primitives.serialization import Encoding

    return Certificate.loadPEM(certificate.public_bytes(Encoding.PEM))


class EmbeddedControlPlane(Service):
    """The Kubernetes API of one network, on its store.

    :param endpoint: where to listen (TCP; TLS is put on top).
    :param tokens: bearer tokens that are let in, beside client certificates.
    :param kubelets: reaches the nodes, for logs, exec, attach and port-forward.
    :param service_cidr: from which services get their virtual addresses.
    :param identity: who this is among several on one store: each serves the API, and one of them at a time, by a
        Lease, runs scheduler and controllers. ``None``: the store is this one's alone.
    :param reachable: where pods reach the API, for the Service ``kubernetes``: addresses of one family.
    :param reachable_port: the port there.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        store: Store,
        network: str,
        endpoint: IStreamServerEndpoint,
        tls: ServingTLS,
        *,
        tokens: Mapping[str, User] | None = None,
        kubelets: Kubelets | None = None,
        service_cidr: IPv4Network = DEFAULT_CIDR,
        identity: str | None = None,
        reachable: Sequence[str] = (),
        reachable_port: int = 6443,
    ) -> None:
        self._reactor = reactor
        self._identity = identity
        self._reachable, self._reachable_port = reachable, reachable_port
        self._endpoint = endpoint
        self._tls = tls
        self._context = ServingContext(tls)
        self.objects = ObjectStore(store, network)
        self.cache = WatchCache(reactor, self.objects)
        self.api = Api(reactor, self.objects, self.cache, service_cidr)
        self._handlers = Handlers(self.api, StaticTokens(tokens or {}))
        self._handlers.metrics = Metrics(reactor, self.api, kubelets)
        self.resource = ApiResource(reactor, self._handlers, [self._handlers], kubelets)
        self.site = ApiSite(reactor, self.resource)
        self._working: Service | None = None
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        super().startService()
        Deferred.fromCoroutine(self.begin()).addErrback(self._fatal)

    async def begin(self) -> IListeningPort:
        """Read the store, start the controllers and listen; :meth:`startService` does it too."""
        await self.cache.start()
        self._handlers.accounts = AccountTokens(await SigningKey.of_store(self.objects), self.api)
        for name in SYSTEM_NAMESPACES:
            await self._ensure_namespace(name)
        self._working = self._work()
        self._working.startService()
        factory = TLSMemoryBIOFactory(self._context, False, self.site, self._reactor)
        self._port = await self._endpoint.listen(factory)
        self.log.info("the embedded Kubernetes API listens on {address}", address=self._port.getHost())
        return self._port

    def serve(self, certificate: bytes, key: bytes) -> None:
        """Show another certificate to whoever connects from now on."""
        self._tls = replace(self._tls, certificate=certificate, key=key)
        self._context.change(self._tls)

    def _work(self) -> Service:
        """Scheduler and controllers, at once or once this one leads."""
        if self._identity is None:
            return self._controllers()
        leases = OwnLeases(self.api)
        names = LEASE_NAMESPACE, LEASE_NAME
        return LeadingService(self._reactor, leases, self._identity, *names, self._controllers, Random().random)

    def _controllers(self) -> Service:
        kinds: tuple[type[Controller], ...] = (
            Collector,
            DaemonSetController,
            DeploymentController,
            DisruptionController,
            EndpointsController,
            EventCollector,
            EvictionController,
            NamespaceController,
            NodeLifeController,
            PodCollector,
            ReplicaSetController,
            Scheduler,
        )
        made = [kind(self._reactor, self.api) for kind in kinds]
        made.append(AccountController(self._reactor, self.api, self._tls.client_ca))
        where = self.api.own_address, self._reachable, self._reachable_port
        made.append(ApiServiceController(self._reactor, self.api, *where))
        return _Controllers(made)

    @property
    def port(self) -> IListeningPort | None:
        """The port while it listens."""
        return self._port

    def _fatal(self, failure: Failure) -> None:
        self.log.failure("the embedded control plane cannot start", failure)
        if self._reactor.running:
            self._reactor.stop()

    async def _ensure_namespace(self, name: str) -> None:
        if self.cache.get(NAMESPACE, "", name) is None:
            try:
                await self.api.create(NAMESPACE, "", {"metadata": {"name": name}})
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise

    async def stopService(self) -> None:
        """Stop listening and watching. The store is left open: it is the caller's."""
        super().stopService()
        working, self._working = self._working, None
        if working is not None:
            await _maybe(working.stopService())
        self.cache.stop()
        port, self._port = self._port, None
        if port is not None:
            await _maybe(port.stopListening())


class _Controllers(Service):
    """Starts and stops them together."""

    def __init__(self, controllers: Iterable[Controller]) -> None:
        self._all = tuple(controllers)

    def startService(self) -> None:
        super().startService()
        for controller in self._all:
            controller.start()

    def stopService(self) -> None:
        super().stopService()
        for controller in self._all:
            controller.stop()


async def _maybe(result: object) -> None:
    if isinstance(result, Deferred):
        await result
