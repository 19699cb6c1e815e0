"""The Kubernetes that the cloud side serves: a real cluster, or the embedded control plane."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.application.service import IService
from twisted.internet.interfaces import IStreamServerEndpoint

from edgectl.controller import ControllerOptions
from edgectl.interfaces import NodeDirectory
from edgectl.kubeconfig import ClusterConfig, in_cluster, load_kubeconfig
from edgectl.kubelet_redirect import KUBELET_PORT
from edgectl.kubelet_tls import new_ca
from edgectl.nodes import NodeOptions
from edgectl.service import ClusterOptions, KubeletOptions, LeaderOptions, cluster_service
from edgectl.sharedca import Pair
from kubebus.composed import CannotStart, ComposedService
from kubebus.joinstring import HostPort
from kubebus.tap.sharing import SharedAuthorities
from metasync.interfaces import Store

Listen = Callable[[str, int], IStreamServerEndpoint]
"""Makes the endpoint for a local address and port."""


class Kubernetes:
    """Starts, on ``daemon``, what stands for the nodes of ``directory``.

    :param public: the name or address under which clients reach this machine.
    :param addresses: further ones of this machine.
    :param subnets: the nodes' own addresses.
    :param shared: CAs that other processes on the store have as well.
    """

    def __init__(
        self,
        daemon: ComposedService,
        options: Mapping[str, Any],
        store: Store,
        directory: NodeDirectory,
        public: str,
        addresses: Sequence[str],
        subnets: Sequence[IPv4Network | IPv6Network],
        shared: SharedAuthorities,
    ) -> None:
        self._shared = shared
        self._daemon, self._options, self._store, self._directory = daemon, options, store, directory
        self._public, self._addresses, self._subnets = public, addresses, subnets
        self._state: Path = options["state-dir"]

    async def start(self, listen: Listen) -> None:
        """Start the one that is chosen, if any."""
        options = self._options
        if options["standalone"]:
            # The embedded API proxies logs and exec to nodes itself.
            identity = self._candidate()
            leader = None if identity is None else LeaderOptions(identity, "kube-system")
            plane = await self._control_plane(listen, identity)
            self._add(plane, ClusterOptions(self._controller(), leader=leader))
        elif options["kubeconfig"] is not None:
            self._add(load_kubeconfig(options["kubeconfig"]), await self._real())
        elif options["in-cluster"]:
            self._add(in_cluster(os.environ), await self._real())
        else:
            self._daemon.log.info("No Kubernetes: neither --standalone nor --kubeconfig nor --in-cluster was given")

    def _add(self, cluster: ClusterConfig, options: ClusterOptions) -> None:
        service: IService = cluster_service(
            self._daemon.reactor, cluster, self._store, self._options["network"], self._directory, options
        )
        self._daemon.add(service)

    def _controller(self, kubelet_port: int | None = None) -> ControllerOptions:
        options = self._options
        nodes = NodeOptions(
            dict(options["node-label"]),
            options["node-taint"],
            options["set-pod-cidr"],
            kubelet_port,
            options["adopt-pod-cidr"],
        )
        return ControllerOptions(options["namespace"], nodes, options["keep-revoked"])

    async def _real(self) -> ClusterOptions:
        options = self._options
        if self._store_is_shared:
            await self._shared.bring("kubelet", self._state / "kubelet-ca", _new_kubelet_ca)
        namespace = options["leader-namespace"]
        leader = LeaderOptions(options["router-name"], namespace) if namespace else None
        client_ca = None if options["kubelet-client-ca"] is None else _read(options["kubelet-client-ca"])
        kubelet = KubeletOptions(
            self._state, self._subnets, client_ca, serving_signer=options["kubelet-serving-signer"]
        )
        return ClusterOptions(self._controller(KUBELET_PORT), kubelet, leader)

    @property
    def _store_is_shared(self) -> bool:
        """Whether other processes may be on it: an embedded one is open for one only."""
        return not self._options["store"].startswith("sqlite:")

    def _candidate(self) -> str | None:
        """Who this is among those on one store; ``None`` on an embedded store, which no other process can open.

        A restarted process is the same candidate, so that it need not wait for its own lead to run out.
        """
        if not self._store_is_shared:
            return None
        path = self._state / "candidate"
        if not path.exists():
            from edgectl.apiserver.pki import write_private

            write_private(path, str(uuid.uuid4()).encode())
        return f"{self._options['router-name']}_{path.read_text()}"

    def _reachable(self, address: str) -> list[str]:
        """Where pods at the edge reach the API, if it listens there."""
        at = ip_address(address)
        if at.is_loopback:
            return []
        return [one for one in self._addresses if ip_address(one).version == 4] if at.is_unspecified else [address]

    async def _control_plane(self, listen: Listen, identity: str | None) -> ClusterConfig:
        """Start the embedded Kubernetes API; how to reach it from within."""
        # Who has a real cluster does not pay for it.
        from edgectl.apiserver.clusterips import DEFAULT_CIDR
        from edgectl.apiserver.identity import MASTERS
        from edgectl.apiserver.kubeconfig import write_kubeconfig
        from edgectl.apiserver.pki import CA_LIFE, IN_CLUSTER_NAMES, ApiPki, KeyPair, issue
        from edgectl.apiserver.renewal import PkiRenewal
        from edgectl.apiserver.service import EmbeddedControlPlane, ServingTLS

        daemon, options = self._daemon, self._options
        address, port = str(options["api-address"]), options["api-port"]
        local = "127.0.0.1" if ip_address(address).is_unspecified else address
        public = self._public if local != address else address
        wanted = (local, "localhost", public, *self._addresses, *IN_CLUSTER_NAMES, str(DEFAULT_CIDR[1]))
        names, folder = list(dict.fromkeys(wanted)), self._state / "kubernetes-pki"
        if self._store_is_shared:
            await self._shared.bring("kubernetes", folder / "ca", _new_api_ca)
        pki = ApiPki.load_or_create(folder, names)
        tls = ServingTLS(pki.server.certificate, pki.server.key, pki.ca.certificate)
        plane = EmbeddedControlPlane(
            daemon.reactor,
            self._store,
            options["network"],
            listen(address, port),
            tls,
            kubelets=self._directory,
            identity=identity,
            reachable=self._reachable(address),
            reachable_port=port,
        )
        daemon.at_stop(plane.stopService)
        await plane.begin()
        path = options["kubeconfig-out"]

        def tell_admin(admin: KeyPair) -> None:
            write_kubeconfig(path, f"https://{HostPort(public, port)}", pki.ca.certificate, client=admin)

        def serve(server: KeyPair) -> None:
            plane.serve(server.certificate, server.key)

        tell_admin(pki.admin)
        daemon.add(PkiRenewal(daemon.reactor, folder, names, pki, time.time, serve, tell_admin))
        daemon.log.info("The embedded Kubernetes API is up: kubectl --kubeconfig {path}", path=str(path))
        # It is in this process's memory only, and need not be renewed while that lives.
        controller = issue(pki.ca, "kubebus-edge-controller", groups=[MASTERS], life=CA_LIFE)
        server = f"https://{HostPort(local, port)}"
        return ClusterConfig(server, pki.ca.certificate, controller.certificate, controller.key)


def _new_api_ca() -> Pair:
    from edgectl.apiserver.pki import API_CA, make_ca

    made = make_ca(API_CA)
    return Pair(made.certificate, made.key)


def _new_kubelet_ca() -> Pair:
    certificate, key = new_ca(time.time())
    encoded = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Pair(certificate.public_bytes(Encoding.PEM), encoded)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CannotStart(f"--kubelet-client-ca {path}: {error.strerror}") from error
