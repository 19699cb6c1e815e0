# mypy: allow-untyped-calls
"""All that stands for the edge nodes towards one cluster, as one service: what :mod:`kubebus.tap` starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from random import Random
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint

from edgectl.controller import ControllerOptions, EdgeController
from edgectl.interfaces import NodeDirectory
from edgectl.kubeconfig import ClusterConfig
from edgectl.kubelet_auth import ReviewedAccess
from edgectl.kubelet_redirect import RedirectService
from edgectl.kubelet_service import KubeletService
from edgectl.kubelet_tls import load_or_create_credentials
from edgectl.kubernetes import KubernetesClient
from edgectl.leader import LeadingService
from metasync.interfaces import Store

LISTEN_PORT = 10300
"""Where the kubelet endpoint listens; callers are brought there from port 10250 of the nodes' addresses."""


@dataclass(frozen=True, slots=True)
class KubeletOptions:
    """How the kubelet API of the nodes is served.

    :ivar folder: where the CA of the serving certificates is kept (``kubelet-ca.crt``, ``kubelet-ca.key``).
    :ivar subnets: the nodes' own addresses: connections to their port 10250 end here.
    :ivar client_ca: PEM of what signed the API server's client certificate. ``None``: bearer tokens only.
    :ivar serving_signer: have the certificates of the cluster's signer (:mod:`edgectl.kubelet_serving`).
    """

    folder: Path
    subnets: Sequence[IPv4Network | IPv6Network]
    client_ca: bytes | None = None
    port: int = LISTEN_PORT
    serving_signer: bool = False


@dataclass(frozen=True, slots=True)
class LeaderOptions:
    """Which Lease decides among several controllers, and who this one is (different from all others)."""

    identity: str
    namespace: str = "kubebus"


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """:ivar kubelet: ``None``: no logs and exec. :ivar leader: ``None``: this is the only controller."""

    controller: ControllerOptions = field(default_factory=ControllerOptions)
    kubelet: KubeletOptions | None = None
    leader: LeaderOptions | None = None


def cluster_service(
    reactor: Any,
    cluster: ClusterConfig,
    store: Store,
    network: str,
    directory: NodeDirectory,
    options: ClusterOptions | None = None,
) -> MultiService:
    """The service that stands for the nodes of ``directory`` towards ``cluster``.

    Leading decides over the controller only: every process serves the kubelet API, for the nodes it can reach.

    :raises ConfigError: if certificates or keys cannot be read.
    """
    options = options or ClusterOptions()
    whole = MultiService()

    def controller() -> EdgeController:
        client = KubernetesClient(reactor, cluster)
        return EdgeController(reactor, client, store, network, directory, options.controller)

    if options.leader is None:
        whole.addService(controller())
    else:
        whole.addService(_leading(reactor, cluster, network, options.leader, controller))
    if options.kubelet is not None:
        for service in _kubelet(reactor, cluster, directory, options.kubelet):
            whole.addService(service)
    return whole


def _leading(
    reactor: Any, cluster: ClusterConfig, network: str, options: LeaderOptions, make: Callable[[], EdgeController]
) -> LeadingService:
    client = KubernetesClient(reactor, cluster)
    name = f"kubebus-{network}"
    return LeadingService(reactor, client, options.identity, options.namespace, name, make, Random().random)


def _kubelet(reactor: Any, cluster: ClusterConfig, directory: NodeDirectory, options: KubeletOptions) -> list[Service]:
    credentials = load_or_create_credentials(options.folder, reactor.seconds(), options.client_ca)
    client = KubernetesClient(reactor, cluster)
    access = ReviewedAccess(client, reactor.seconds)
    # The API server dials a Node's first address, which is IPv4 where there is any.
    subnets: list[IPv4Network | IPv6Network] = [subnet for subnet in options.subnets if subnet.version == 4]
    endpoint = (TCP4ServerEndpoint if subnets else TCP6ServerEndpoint)(reactor, options.port)
    redirect = RedirectService(reactor, subnets or options.subnets, options.port)
    if not options.serving_signer:
        service = KubeletService(reactor, endpoint, directory, access, credentials, pods=client)
        return [_ClosesClient(client), service, redirect]
    # Who does not ask the cluster for certificates does not pay for it.
    from edgectl.kubelet_serving import ServingCertificates

    asking = KubernetesClient(reactor, cluster)
    serving = ServingCertificates(reactor, asking, directory, options.folder / "kubelet-serving", Random().random)
    service = KubeletService(reactor, endpoint, directory, access, credentials, serving.current, client)
    return [_ClosesClient(client), serving, service, redirect]


class _ClosesClient(Service):
    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return maybeDeferred(lambda: Deferred.fromCoroutine(self._client.close()))
