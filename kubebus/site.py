# mypy: disallow-untyped-calls=False
"""A node's site, composed: its roster, the links to the others, and the port at which they reach this node.

Nothing of it runs on a node that has no site.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, cast

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IOpenSSLClientConnectionCreator,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from kubebus.ca import Issued
from kubebus.credentials import Keyring
from kubebus.dialling import router_identity, tls_dialler
from kubebus.edge import EdgeLinkService, EdgeNetwork
from kubebus.farewell import farewell
from kubebus.hostnetwork import HostAddress, lan_addresses
from kubebus.identity import PeerIdentity
from kubebus.interfaces import IPAddress
from kubebus.joinstring import HostPort
from kubebus.listenat import ListenAt
from kubebus.listener import Listener
from kubebus.roster import MAX_ENDPOINTS, InvalidRoster, lan_endpoint
from kubebus.rosterkeeper import RosterKeeper
from kubebus.rosterstream import SERVICE, RosterStream
from kubebus.sitelinks import SiteLinks, SiteOptions
from kubebus.status import SiteStatus
from kubebus.tlsconfig import SITE, ClientIdentity, ClientTLS, ServerTLS

LISTEN_SECONDS: Final = 10.0
"""Between attempts to have the port: an address may come later than this process."""

ASK_SECONDS: Final = 60.0
"""Between attempts where a router has no rosters, and between looks at this host's addresses."""

MAX_PENDING: Final = 64


class SiteService(Service):
    """What one node does for its site, as soon as it knows that it has one.

    :param folder: where the roster is kept.
    :param listen: where the others of the site reach this node; ``None`` to listen nowhere.
    :param addresses: this host's addresses now.
    :ivar links: the links, and the streams over them.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        edge: EdgeLinkService,
        keyring: Keyring,
        folder: Path,
        listen: ListenAt | None,
        addresses: Callable[[], Sequence[HostAddress]],
        wallclock: Callable[[], float],
        agent: str = "",
    ) -> None:
        self._reactor, self._edge, self._keyring = reactor, edge, keyring
        self._listen, self._addresses = listen, addresses
        self.keeper = RosterKeeper(edge.identity, lambda: keyring.present.bundle, folder)
        self._client: tuple[object, ClientTLS] | None = None
        self.links = SiteLinks(
            reactor,
            edge.identity,
            self.keeper,
            edge,
            SiteOptions(
                wallclock,
                tls_dialler(reactor, self._creator),
                router_identity,
                lambda: self.endpoints if self._listener is not None and self._listener.port is not None else (),
                agent=agent,
            ),
        )
        self.endpoints: tuple[str, ...] = ()
        self._tls: ServerTLS | None = None
        self._listener: Listener | None = None
        self._retry: IDelayedCall | None = None
        self._look: IDelayedCall | None = None
        self._asking: Deferred[None] | None = None
        self._router: RosterStream | None = None
        self._streams: set[RosterStream] = set()
        self._begun = False
        self.links.serve(SERVICE, _Gossip(self))
        self.links.watch(self._link_changed)
        self.keeper.watch(self._roster_changed)
        keyring.on_change(lambda _: self._renew_server())

    # -- Service

    def startService(self) -> None:
        super().startService()
        self.links.startService()
        self._edge.subscribe(self._placed)

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        for call in (self._retry, self._look):
            if call is not None:
                call.cancel()
        self._retry = self._look = None
        if self._asking is not None:
            self._asking.cancel()
        waiting = [self.links.stopService()]
        if self._listener is not None:
            stopped = self._listener.stopService()
            waiting += [] if stopped is None else [stopped]
        return DeferredList(waiting)

    def status(self) -> SiteStatus:
        return self.links.status()

    # -- Within: where this node is

    def _placed(self, network: EdgeNetwork) -> None:
        if not self.running:
            return
        site = network.config.site
        self.keeper.belong_to(site)
        if site is None or self._begun:
            return
        self._begun = True
        self._asking = Deferred.fromCoroutine(self._ask())
        self._asking.addErrback(lambda failure: failure.trap(CancelledError) and None)
        self._asking.addErrback(lambda failure: self.log.failure("Asking for the site's roster ended", failure))
        if self._listen is not None:
            self._start_listening(self._listen)
        self._look_at_addresses()

    def _look_at_addresses(self) -> None:
        self._look = self._reactor.callLater(ASK_SECONDS, self._look_at_addresses)
        self.endpoints = self._find_endpoints()
        if self._router is not None:
            self._router.send_endpoints(self.endpoints)

    def _find_endpoints(self) -> tuple[str, ...]:
        listen = self._listen
        if listen is None:
            return ()
        found: tuple[IPAddress, ...] = (listen.address,) if listen.address is not None else self._lan_addresses()
        endpoints = []
        for address in found:
            try:
                endpoints.append(lan_endpoint(str(HostPort(str(address), listen.port))))
            except InvalidRoster:
                continue
        return tuple(endpoints[:MAX_ENDPOINTS])

    def _lan_addresses(self) -> tuple[IPAddress, ...]:
        place = self._edge.place
        tunnelled = () if place is None else [route.subnet for route in place.config.routes if route.pool]
        return lan_addresses(self._addresses(), self._edge.network.interface, tunnelled)

    # -- Within: the router, and what it knows of the site

    async def _ask(self) -> None:
        """Have a stream to the router whenever there is a link."""
        while self.running:
            await self._edge.when_connected()
            try:
                await self._ask_once()
                wait = 1.0
            except CancelledError:
                raise
            except Exception as error:
                # A router of before there were sites, or a link that has just gone.
                self.log.debug("The router tells no roster: {why}", why=str(error))
                wait = ASK_SECONDS if self._edge.connected else 1.0
            finally:
                self._router = None
            await deferLater(self._reactor, wait)

    async def _ask_once(self) -> None:
        ended: Deferred[None] = Deferred()
        stream = RosterStream(
            "the router",
            roster=lambda encoded: self.keeper.offer(encoded, "the router"),
            opened=self._router_opened,
            closed=lambda _: ended.callback(None),
        )
        await self._edge.router_endpoint(SERVICE).connect(_factory(stream))
        await ended

    def _router_opened(self, stream: RosterStream) -> None:
        self._router = stream
        self.endpoints = self._find_endpoints()
        stream.send_endpoints(self.endpoints)

    # -- Within: rosters among the nodes of the site

    def _link_changed(self, name: str, up: bool) -> None:
        if up and self._edge.identity.name < name:
            connecting = self.links.site_endpoint(name, SERVICE).connect(_factory(self.gossip(name)))
            connecting.addErrback(lambda failure: self.log.debug("No rosters from {name}: {why}", name=name,
                                                                 why=str(failure.value)))  # fmt: skip

    def gossip(self, name: str) -> RosterStream:
        """A stream to another node, on which both tell the newest roster that they know."""
        return RosterStream(
            f"node {name!r}",
            roster=lambda encoded: self._offered(encoded, f"node {name!r}"),
            opened=self._gossip_opened,
            closed=self._streams.discard,
        )

    def _offered(self, encoded: bytes, by: str) -> None:
        before = self.keeper.history.entries
        if self.keeper.offer(encoded, by):
            return  # All are told the newest as it is.
        for past in self.keeper.history.entries:
            if past not in before:
                for stream in list(self._streams):
                    stream.send_roster(past.encoded)

    def _gossip_opened(self, stream: RosterStream) -> None:
        """Tell the rosters that were before the newest: who learns that one first goes by no other, and need not."""
        self._streams.add(stream)
        if self.keeper.signed is not None:
            for past in self.keeper.history.entries:
                stream.send_roster(past.encoded)
            stream.send_roster(self.keeper.signed.encoded)

    def _roster_changed(self) -> None:
        signed = self.keeper.signed
        if signed is not None:
            for stream in list(self._streams):
                stream.send_roster(signed.encoded)
            self._renew_server()

    # -- Within: the port

    def _start_listening(self, listen: ListenAt) -> None:
        self._retry = None
        self._tls = ServerTLS(self._issued(), self._keyring.present.bundle, [SITE])
        self._listener = Listener(
            self._reactor,
            self._endpoint(listen),
            self._tls,
            {SITE: self.links.build_link},
            self._check,
            lambda failure: self._cannot_listen(failure, listen),
            farewells={SITE: farewell},
            max_pending=MAX_PENDING,
        )
        self._listener.startService()

    def _endpoint(self, listen: ListenAt) -> IStreamServerEndpoint:
        if listen.address is None:
            ipv6 = Path("/proc/net/if_inet6").exists()
            return (TCP6ServerEndpoint if ipv6 else TCP4ServerEndpoint)(self._reactor, listen.port)
        kind = TCP6ServerEndpoint if listen.address.version == 6 else TCP4ServerEndpoint
        return kind(self._reactor, listen.port, interface=str(listen.address))

    def _cannot_listen(self, failure: Failure, listen: ListenAt) -> None:
        self.log.error(
            "Nodes of this site cannot reach this one: {why}. Choose another --site-listen; trying again",
            why=str(failure.value),
        )
        self._listener = None
        if self.running:
            self._retry = self._reactor.callLater(LISTEN_SECONDS, self._start_listening, listen)

    async def _check(self, identity: PeerIdentity, key: str) -> object:
        return self.keeper.check(identity, key)

    def _issued(self) -> Issued:
        mine, signed = self._keyring.present, self.keeper.signed
        # Neighbours may not know our authority yet: the roster's chain leads to it.
        return Issued(mine.key, mine.certificate, () if signed is None else signed.chain)

    def _renew_server(self) -> None:
        if self._tls is not None:
            self._tls.replace(self._issued(), self._keyring.present.bundle)

    def _creator(self) -> IOpenSSLClientConnectionCreator:
        mine, issued = self._keyring.present, self._issued()
        source = (mine, issued.chain)
        if self._client is None or self._client[0] != source:
            identity = ClientIdentity(mine.identity.network, mine.key, mine.certificate, mine.bundle, issued.chain)
            client = ClientTLS(identity, SITE, self._keyring.now, problem=self.keeper.problem)
            self._client = (source, client)
        return cast(IOpenSSLClientConnectionCreator, self._client[1])


class _Gossip(Factory):
    noisy = False

    def __init__(self, site: SiteService) -> None:
        self._site = site

    def buildProtocol(self, addr: IAddress | None) -> RosterStream | None:
        peer: PeerIdentity | None = getattr(addr, "peer", None)
        return None if peer is None else self._site.gossip(peer.name)


def _factory(stream: RosterStream) -> Factory[RosterStream]:
    factory = Factory.forProtocol(lambda: stream)
    factory.noisy = False
    return factory
