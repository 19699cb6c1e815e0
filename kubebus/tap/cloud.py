# mypy: disallow-untyped-calls=False
"""``twistd kubebus``, composed: registry and router, sync, controller, and the embedded control plane."""

from __future__ import annotations

import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.interfaces import IStreamServerEndpoint

from edgectl.errors import ConfigError
from kubebus import __version__
from kubebus.addresses import AddressPlan, InvalidPlan
from kubebus.admin import AdminService, status_resource
from kubebus.adoption import PodSubnets
from kubebus.ca import Authority, InvalidAuthority
from kubebus.caadmin import AuthoritiesResource
from kubebus.composed import CannotStart, ComposedService, state_directory
from kubebus.dialling import router_creator, router_identity, tls_dialler
from kubebus.enrol import Issuer, RenewFactory, join_handler, renew_farewell, renew_handler
from kubebus.farewell import farewell
from kubebus.hostnetwork import HostNetworkError
from kubebus.interfaces import Registry, RegistryError
from kubebus.joinstring import HostPort
from kubebus.listener import Listener
from kubebus.loglimit import LogLimit
from kubebus.memberadmin import NodesResource, TokensResource
from kubebus.members import Members
from kubebus.memory import AFTER_CROWD, Trimmer, release_heap
from kubebus.netconf import LinuxHostNetwork
from kubebus.network import Network
from kubebus.oldtokens import OldTokens
from kubebus.peers import PeerOptions
from kubebus.renewal import RENEW_SERVICE
from kubebus.rosters import Rosters
from kubebus.rosterstream import SERVICE as ROSTER_SERVICE
from kubebus.router import RouterOptions, RouterService
from kubebus.session import Timing
from kubebus.sharedlinks import SharedLinks
from kubebus.status import as_json
from kubebus.tap.directory import RouterDirectory
from kubebus.tap.kubernetes import Kubernetes
from kubebus.tap.options import Options
from kubebus.tap.registry import StoreRegistry
from kubebus.tap.sharing import SharedAuthorities
from kubebus.tlsconfig import JOIN, LINK, RENEW
from kubebus.trust import ForeignAuthority, RouterTrust, network_record
from kubebus.tun import open_tun
from kubebus.tundevice import TunError
from metasync.admin import meta_resource
from metasync.compaction import Compactable, CompactionService
from metasync.interfaces import Store, StoreError
from metasync.opening import open_store
from metasync.server import SyncServerFactory, scopes_by_site
from metasync.wire import SERVICE as SYNC_SERVICE

_EXPECTED = (
    StoreError,
    RegistryError,
    InvalidAuthority,
    ForeignAuthority,
    InvalidPlan,
    TunError,
    HostNetworkError,
    ConfigError,
    OSError,
)


class CloudNode(ComposedService):
    """Everything that the VM with the public address does for one network."""

    def __init__(self, reactor: Any, options: Options) -> None:
        super().__init__(reactor, _EXPECTED)
        self._options = options
        self._state: Path = options["state-dir"]
        self._public = tuple(HostPort.parse(each, options["listen-port"]) for each in options["public-address"])

    async def compose(self) -> None:
        state_directory(self._state, 0o700)
        store = self._open_store()
        registry = StoreRegistry(self.reactor, store, self._options["network"])
        trust = await self._trust(registry)
        members = Members(self._options["network"], registry, self._plan(trust), time.time)
        router = self._router(trust, members, registry)
        self.add(trust)
        self.add(router)
        rosters = Rosters(self.reactor, registry, members, lambda: trust.authority, lambda: trust.bundle, time.time)
        self.add(rosters)
        self.add(OldTokens(self.reactor, members))
        router.serve(ROSTER_SERVICE, rosters.factory())
        sync = SyncServerFactory(
            self.reactor,
            store,
            self._options["network"],
            self._options["router-name"],
            scopes_by_site(router.site_of),
            limit=LogLimit(self.reactor.seconds),
        )
        await sync.start()
        self.at_stop(sync.stop)
        router.serve(SYNC_SERVICE, sync)
        # Nobody is to wait for what a node that is gone for good has not read; who leaves its site reads it no more.
        router.subscribe(lambda name, node: sync.forget(name) if node is None else sync.look_again(name))
        subnets = PodSubnets(registry, members.plan, self._options["advertise"])
        await self._kubernetes(store, router, subnets, trust)
        self._listen(trust, members, router)
        self._administer(trust, members, router, store, sync)
        self.add(Trimmer(self.reactor, release_heap, again=AFTER_CROWD))

    def _open_store(self) -> Store:
        store = open_store(self.reactor, self._options["store"])
        self.at_stop(store.close)
        if isinstance(store, Compactable):
            # Whoever lags behind what is forgotten is brought up to date by digests.
            self.add(CompactionService(self.reactor, store, lambda: None))
        return store

    async def _trust(self, registry: Registry) -> RouterTrust:
        network = self._options["network"]
        path = self._state / "ca.pem"
        authority = Authority.load_or_create(path, f"KubeBus network {network}", time.time())
        return RouterTrust(
            self.reactor,
            registry,
            authority,
            await network_record(registry, authority, path),
            network,
            self._options["router-name"],
            [each.host for each in self._public],
            (LINK, JOIN, RENEW),
            clock=time.time,
            path=path,
        )

    def _plan(self, trust: RouterTrust) -> AddressPlan:
        options = self._options
        return AddressPlan(
            trust.ula, options["node-subnet"], options["pod-subnet"], assign_pods=not options["adopt-pod-cidr"]
        )

    def _router(self, trust: RouterTrust, members: Members, registry: Registry) -> RouterService:
        options = self._options
        try:
            network = Network(
                options["network"], members.plan, options["advertise"], options["interface"], options["mtu"]
            )
        except ValueError as error:
            raise CannotStart(str(error)) from error
        return RouterService(
            self.reactor,
            network,
            trust.identity,
            members,
            lambda name: open_tun(self.reactor, name),
            LinuxHostNetwork(self._state / "host-settings"),
            RouterOptions(
                time.time,
                lambda: [str(each) for each in self._public],
                timing=Timing.every(options["heartbeat"], options["probe"]),
                agent=f"kubebus/{__version__}",
                peers=PeerOptions(
                    SharedLinks(registry, trust.identity.name),
                    tls_dialler(self.reactor, router_creator(trust, time.time), options["congestion"]),
                    router_identity,
                ),
            ),
        )

    def _routers(self, router: RouterService) -> tuple[HostPort, ...]:
        return tuple(map(HostPort.parse, router.routers))

    def _listen(self, trust: RouterTrust, members: Members, router: RouterService) -> None:
        issuer = Issuer(
            members,
            lambda: trust.authority,
            lambda: trust.bundle,
            time.time,
            routers=lambda: self._routers(router),
            is_live=router.is_live,
        )
        router.serve(RENEW_SERVICE, RenewFactory(self.reactor, issuer))
        handlers = {
            LINK: router.build_link,
            JOIN: join_handler(self.reactor, issuer),
            RENEW: renew_handler(self.reactor, issuer),
        }
        farewells = {LINK: farewell, RENEW: renew_farewell}
        endpoint = self._endpoint(self._options["listen-address"], self._options["listen-port"])
        self.add(
            Listener(
                self.reactor,
                endpoint,
                trust.tls,
                handlers,
                members.check,
                self.fatal,
                farewells=farewells,
                congestion=self._options["congestion"],
            )
        )

    def _endpoint(self, address: str, port: int) -> IStreamServerEndpoint:
        if not address:
            # Without an address, an IPv6 socket takes IPv4 as well, where the host has IPv6.
            ipv6 = LinuxHostNetwork().has_ipv6()
            return TCP6ServerEndpoint(self.reactor, port) if ipv6 else TCP4ServerEndpoint(self.reactor, port)
        kind = TCP6ServerEndpoint if ip_address(address).version == 6 else TCP4ServerEndpoint
        return kind(self.reactor, port, interface=address)

    async def _kubernetes(self, store: Store, router: RouterService, subnets: PodSubnets, trust: RouterTrust) -> None:
        addresses = router.network.router_addresses
        kubernetes = Kubernetes(
            self,
            self._options,
            store,
            RouterDirectory(router, subnets),
            self._public[0].host,
            list(map(str, addresses)),
            [] if router.network.plan is None else router.network.plan.node_pools,
            SharedAuthorities(store, self._options["network"], lambda: trust.authority.key),
        )
        await kubernetes.start(self._endpoint)

    def _administer(
        self, trust: RouterTrust, members: Members, router: RouterService, store: Store, sync: SyncServerFactory
    ) -> None:
        resources = {
            "status": status_resource(lambda: as_json(router.status())),
            "tokens": TokensResource(members, lambda: self._routers(router), lambda: trust.ca_hash),
            "nodes": NodesResource(members, lambda: _links(router)),
            "ca": AuthoritiesResource(trust, members),
            "meta": meta_resource(store, sync.status),
        }
        self.add(AdminService(self.reactor, self._options["socket"], resources))


def _links(router: RouterService) -> dict[str, dict[str, object]]:
    return {node.name: {"connected": node.connected, "since": node.since} for node in router.status().nodes}
