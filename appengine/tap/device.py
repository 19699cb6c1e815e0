# mypy: disallow-untyped-calls=False
"""``twistd edgenode``, composed: identity, link, store, sync, engine. Nothing here but joining waits for the cloud."""

from __future__ import annotations

import time
from pathlib import Path
from random import random
from typing import TYPE_CHECKING, Any

from twisted.internet.error import CannotListenError

from appengine.takeover.interfaces import Leases
from appengine.takeover.timing import LeaseTiming
from appengine.tap.agreement import agreement
from appengine.tap.options import Options
from appengine.tap.place import LinkNetworkSource, PatientEndpoint
from kubebus import __version__
from kubebus.adminsocket import AdminSocket
from kubebus.backoff import Backoff
from kubebus.composed import CannotStart, ComposedService, state_directory
from kubebus.credentials import Credentials, DamagedCredentials, Keyring
from kubebus.dialling import router_identity, tls_dialler
from kubebus.edge import EdgeLinkService, EdgeOptions
from kubebus.hostnetwork import HostNetworkError
from kubebus.interfaces import IPAddress
from kubebus.latesite import LateSite
from kubebus.loglimit import LogLimit
from kubebus.memory import Trimmer
from kubebus.netconf import LinuxHostNetwork
from kubebus.network import Network
from kubebus.renewal import Renewer, enrolled
from kubebus.session import Timing
from kubebus.site import SiteService
from kubebus.status import as_json
from kubebus.tlsconfig import LINK
from kubebus.tokens import Refused
from kubebus.tun import open_tun
from kubebus.tundevice import TunError
from metasync.interfaces import Store, StoreError
from metasync.keys import NodeKeys
from metasync.neighbours import SERVICE as NEIGHBOUR_SERVICE
from metasync.neighbours import NeighbourSync
from metasync.opening import open_store
from metasync.service import EdgeMetadata
from metasync.wire import SERVICE as SYNC_SERVICE

if TYPE_CHECKING:
    from appengine.service import Engine
    from appengine.takeover.records import Records

_EXPECTED = (DamagedCredentials, Refused, LookupError, StoreError, TunError, HostNetworkError, OSError)


class DeviceNode(ComposedService):
    """Everything that a device does."""

    def __init__(self, reactor: Any, options: Options) -> None:
        super().__init__(reactor, _EXPECTED)
        self._options = options
        self._state: Path = options["state-dir"]
        self._has_dns_address = False

    async def compose(self) -> None:
        # Pods' volumes lie below it, and containers of any user read them.
        state_directory(self._state, 0o711)
        keyring = Keyring(self._state / "identity")
        mine = await self._enrol(keyring)
        identity = mine.identity
        store = open_store(self.reactor, self._options["store"])
        self.at_stop(store.close)
        link = self._link(keyring)
        self.add(link)
        self.add(Renewer(self.reactor, keyring, link.router_endpoint))
        site = self._site(keyring, link)
        self.add(site)
        metadata = EdgeMetadata(
            self.reactor,
            store,
            PatientEndpoint(link, SYNC_SERVICE),
            identity.network,
            identity.name,
            self._state,
            LateSite,
            self._data_addresses(),
        )
        self.add(metadata)
        neighbours = self._neighbours(store, metadata, site)
        leases = agreement(self.reactor, site, self._state, LeaseTiming.of(self._options["takeover-lease"]))
        self.add(leases)
        engine = None if self._options["no-pods"] else self._engine(store, link, site, leases)

        def resources() -> dict[str, Any]:
            # Loaded when somebody looks.
            from kubebus.admin import status_resource
            from metasync.admin import meta_resource

            return {
                "status": status_resource(lambda: _status(link, site, keyring)),
                "meta": meta_resource(
                    store, lambda: {**metadata.sync.status(), **neighbours.status()}, metadata.tokens.issue
                ),
                **({} if engine is None else engine.admin_resources()),
            }

        self.add(AdminSocket(self.reactor, self._options["socket"], resources))
        self.add(Trimmer(self.reactor))

    async def _enrol(self, keyring: Keyring) -> Credentials:
        join, name = self._options["join"], self._options["node-name"]
        present = keyring.credentials
        if present is not None and name not in (None, present.identity.name):
            raise CannotStart(
                f"--node-name {name}: this machine is {present.identity} already. Leave the option out, or remove "
                f"{self._state / 'identity'} and join anew"
            )
        node = self._options.node_name() if present is None else present.identity.name
        return await enrolled(self.reactor, keyring, node, join)

    def _link(self, keyring: Keyring) -> EdgeLinkService:
        identity = keyring.present.identity
        return EdgeLinkService(
            self.reactor,
            Network(identity.network, interface=self._options["interface"]),
            identity,
            tls_dialler(self.reactor, lambda: keyring.client_connection_creator(LINK), self._options["congestion"]),
            lambda: [str(each) for each in keyring.present.routers],
            router_identity,
            self._state,
            lambda name: open_tun(self.reactor, name),
            LinuxHostNetwork(self._state / "host-settings"),
            EdgeOptions(
                time.time,
                keyring.learn_time,
                timing=Timing.every(self._options["heartbeat"], self._options["probe"]),
                backoff=Backoff(random, last=self._options["redial"]),
                agent=f"kubebus/{__version__}",
            ),
        )

    def _site(self, keyring: Keyring, link: EdgeLinkService) -> SiteService:
        return SiteService(
            self.reactor,
            link,
            keyring,
            self._state,
            self._options["site-listen"],
            LinuxHostNetwork().addresses,
            time.time,
            f"kubebus/{__version__}",
        )

    def _neighbours(self, store: Store, metadata: EdgeMetadata, site: SiteService) -> NeighbourSync:
        """Start the sync of the site's data over the links within the site."""
        identity, links = site.links.identity, site.links
        sync = NeighbourSync(
            self.reactor,
            store,
            identity.network,
            identity.name,
            metadata.sync,
            lambda: site.keeper.site,
            members=lambda: None if (roster := site.keeper.roster) is None else [each.name for each in roster.members],
            limit=LogLimit(self.reactor.seconds),
        )
        self.add(sync)
        links.serve(NEIGHBOUR_SERVICE, sync.factory())
        links.watch(lambda name, up: sync.neighbour(name, links.site_endpoint(name, NEIGHBOUR_SERVICE) if up else None))
        return sync

    def _engine(self, store: Store, link: EdgeLinkService, site: SiteService, leases: Leases) -> Engine:
        """Start the engine."""
        # A device without pods does not pay for it.
        from appengine.kubelet import SERVICE as KUBELET_SERVICE
        from appengine.service import Engine
        from appengine.takeover.records import Records
        from appengine.tap.takeover import SiteMembership, takeover

        source, identity, state = LinkNetworkSource(link), link.identity, self._state / "pods"
        membership = SiteMembership(site.keeper)
        records = Records(self.reactor, store, identity.network, membership)
        self.add(records)
        keys = NodeKeys(identity.network, identity.name)
        engine = Engine(
            self.reactor,
            store,
            identity.network,
            identity.name,
            self._options["docker"],
            source,
            state,
            cluster_dns=self._cluster_dns(store, link, source, records),
            cluster_domain=self._options["cluster-domain"],
            image_dir=self._options["image-dir"],
            manifest_dir=self._options["manifest-dir"],
            takeover=takeover(self.reactor, store, keys, leases, membership, records, state),
        )
        self.add(engine)
        link.serve(KUBELET_SERVICE, engine.kubelet_factory())
        return engine

    def _cluster_dns(
        self, store: Store, link: EdgeLinkService, source: LinkNetworkSource, records: Records
    ) -> list[str]:
        """Start what leads to Services; the addresses at which pods find their names."""
        from appengine.services.dns import NameServer
        from appengine.services.proxy import ServiceProxy
        from kubebus.hairpin import reflect
        from kubebus.nftables import Nftables

        domain, keys = self._options["cluster-domain"], NodeKeys(link.identity.network, link.identity.name)
        chosen: tuple[IPAddress, ...] = self._options["cluster-dns"]
        server = NameServer(self.reactor, domain, str(self._options["dns-address"]))
        rules = Nftables()
        self.at_stop(rules.close)
        self.add(ServiceProxy(self.reactor, store, keys, source, rules.run, server.tell, reflect, domain, records))
        if chosen:
            return list(map(str, chosen))
        try:
            self._at_dns_address()
            self.add(server)
        except (HostNetworkError, CannotListenError) as error:
            self.log.error(
                "Pods cannot look up names of Services at {address}: {error}. Choose another --dns-address",
                address=str(self._options["dns-address"]),
                error=str(error),
            )
        return [str(self._options["dns-address"])]

    def _data_addresses(self) -> list[tuple[str, int]]:
        """Where pods reach application data over TCP, if they shall."""
        if self._options["data-port"] is None:
            return []
        self._at_dns_address()
        return [(str(self._options["dns-address"]), self._options["data-port"])]

    def _at_dns_address(self) -> None:
        """Have the address at which this node serves its pods, until it stops."""
        if self._has_dns_address:
            return
        self._has_dns_address = True
        address, host = self._options["dns-address"], LinuxHostNetwork()
        host.add_address("lo", address)
        self.at_stop(lambda: host.remove_address("lo", address))


def _status(link: EdgeLinkService, site: SiteService, keyring: Keyring) -> dict[str, object]:
    """What ``kubebus status`` shows on a device."""
    of_site = {} if site.keeper.site is None else {"site": as_json(site.status())}
    return {**as_json(link.status()), **of_site, "certificate": keyring.status()}
