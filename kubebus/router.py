# mypy: disallow-untyped-calls=False
"""The router: it takes the links of edge nodes and makes one network of them and the cloud's subnets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IAddress, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from kubebus.control import AdvertisedRoute, Hello, LinkConfig
from kubebus.exchange import peer_name
from kubebus.forwarding import Forwarder, Port
from kubebus.frames import PacketFrames
from kubebus.hostnetwork import HostNetwork, HostNetworkError, TunnelInterface
from kubebus.identity import PeerIdentity, Role
from kubebus.interfaces import IPAddress, NodeAway, NodeRecord, RegistryError, Subscription
from kubebus.link import Link, LinkHandler
from kubebus.linkerrors import LinkError, LinkRefused, LinkRevoked, LinkShutdown
from kubebus.memberroutes import MemberRoutes
from kubebus.network import Network
from kubebus.nodes import ClockEpochs, Epochs, MemberSource, NodeWatcher
from kubebus.nodetable import REVOKED, NodeTable
from kubebus.peers import PeerOptions, RouterPeers
from kubebus.relay import relay, relayed
from kubebus.session import Side, Timing
from kubebus.sharedlinks import RouterRecord
from kubebus.status import RouterStatus
from kubebus.streamtransport import LinkStreams, ServiceTable, StreamEndpoint
from kubebus.tundevice import OpenTun, TunDevice, TunError, tun_status

_RETRY: Final = 1.0
"""Seconds between attempts while the registry is away."""


@dataclass(slots=True)
class RouterOptions:
    """What a router can be told beside its network.

    :ivar routers: this router's own ``host:port`` addresses, for its nodes to redial and for other routers.
    :ivar wallclock: UNIX seconds.
    :ivar peers: how to work together with other routers; ``None`` for a router that is alone.
    """

    wallclock: Callable[[], float]
    routers: Callable[[], Sequence[str]] = tuple
    timing: Timing = field(default_factory=Timing)
    agent: str = ""
    peers: PeerOptions | None = None


class RouterService(Service):
    """The router of one network. It offers :class:`~kubebus.interfaces.NodeStreams`.

    :param identity: the router's own.
    :param members: the enrolled nodes; addresses are learnt from here only, never from a node.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        network: Network,
        identity: PeerIdentity,
        members: MemberSource,
        open_tun: OpenTun,
        host: HostNetwork,
        options: RouterOptions,
    ) -> None:
        self.network, self.identity = network, identity
        self._reactor, self._members, self._open_tun, self._host = reactor, members, open_tun, host
        self._options = options
        self._wallclock = options.wallclock
        self._services = ServiceTable()
        self._services.fallback = lambda peer: relay(peer, self._local_endpoint)
        self._peers: RouterPeers | None = None
        self._epochs: Epochs = ClockEpochs(options.wallclock)
        if options.peers is not None:
            self._epochs = options.peers.links
            self._peers = RouterPeers(
                reactor, identity, self._services, self, options.peers, options.timing, options.agent
            )
        self._shared: Sequence[Subscription] = ()
        self._releasing: set[Deferred[None]] = set()
        self._ready: Deferred[None] = Deferred()
        # Every link that has not ended, greeted or not.
        self._links: set[Link] = set()
        # The epochs of sessions that were let in.
        self._sessions: dict[Link, int] = {}
        self._interface = TunnelInterface(host, network.interface)
        self._tun: TunDevice | None = None
        self._starting: Deferred[None] | None = None
        self._subscription: Subscription | None = None
        # Every node is told the same.
        self._told_routes = (
            *(AdvertisedRoute(pool, True) for pool in network.pools),
            *map(AdvertisedRoute, network.advertise),
        )
        self._forwarder = Forwarder(self._write, network.mtu, reactor.seconds)
        self._table = NodeTable(
            identity.name, self._forwarder, self._outlet, self._config, options.wallclock, reactor.seconds
        )
        self._member_routes = MemberRoutes(reactor, network.pools, self._reroute)
        self._table.watch(self._member_routes.node_changed)
        self._forwarder.add(Port("pool"), network.pools)
        self._forwarder.add(self._forwarder.host, network.advertise)
        # A router among others is told its own when it starts.
        self._own: tuple[IPAddress, ...] = () if options.peers is not None else network.router_addresses
        self._forwarder.set_addresses(self._own)

    # -- Service

    def startService(self) -> None:
        """
        :raises TunError: if there can be no TUN device.
        :raises HostNetworkError: if the host's network cannot be set up.
        """
        super().startService()
        self._set_up()
        self._subscription = self._members.subscribe(self._table.record_changed)
        self._ready = Deferred()
        self._starting = Deferred.fromCoroutine(self._begin())
        self._starting.addErrback(lambda failure: failure.trap(CancelledError) and None)
        self._starting.addErrback(lambda failure: self.log.failure("The router cannot work with others", failure))

    def _set_up(self) -> None:
        """Make the TUN device, and the host's routes over it."""
        network = self.network
        self._tun = self._open_tun(network.interface)
        self._apply()
        for refused in self._interface.refused:
            self.log.error("Network {network}: {why}", network=network.name, why=refused.why)
        self._host.forward(network.interface, ipv6=self._host.has_ipv6())
        self._tun.start(self._forwarder.from_host, self._tun_lost)

    def _apply(self) -> None:
        network = self.network
        routes = [AdvertisedRoute(pool, True) for pool in network.pools]
        self._interface.apply(self._own, routes + self._member_routes.routes, (), network.mtu)

    def _reroute(self) -> None:
        """The pod subnets outside of the pools are others now."""
        before = {refused.subnet for refused in self._interface.refused}
        try:
            self._apply()
        except HostNetworkError as error:
            self.log.error("The host has not all routes into the network: {error}", error=str(error))
        for refused in self._interface.refused:
            if refused.subnet not in before:
                self.log.error("Network {network}: {why}", network=self.network.name, why=refused.why)

    def _tun_lost(self) -> None:
        """Somebody removed the device: make it anew."""
        self._tun = None
        self._interface.forget()
        try:
            self._set_up()
        except (TunError, HostNetworkError) as error:
            self.log.error("The host has no way into the network any more: {error}", error=str(error))

    async def _begin(self) -> None:
        """Take part in what the routers share; links are let in after that."""
        peers, plan = self._options.peers, self.network.plan
        if peers is not None and plan is not None:
            while True:
                try:
                    self._own = await peers.links.begin(tuple(self._options.routers()), plan)
                    break
                except RegistryError as error:
                    self.log.warn("The router waits for its registry: {error}", error=str(error))
                    await deferLater(self._reactor, _RETRY)
            self._forwarder.set_addresses(self._own)
            try:
                self._apply()
            except HostNetworkError as error:
                # The nodes still have each other.
                self.log.error("The host has no address in the network: {error}", error=str(error))
            self._shared = peers.links.subscribe(self._table.claim_changed, self._router_changed)
        self._ready.callback(None)

    def stopService(self) -> Deferred[Any]:
        """Take everything back; done when the peers were told."""
        super().stopService()
        for subscription in (self._subscription, *self._shared):
            if subscription is not None:
                subscription.cancel()
        if self._starting is not None:
            self._starting.cancel()
        self._member_routes.stop()
        links = set(self._links)
        if self._peers is not None:
            self._peers.stop()
            links |= self._peers.dialled
        closed: Deferred[Any] = DeferredList([link.closed for link in links])
        for link in links:
            link.close(LinkShutdown(f"{self.identity} is stopping"))
        if self._tun is not None:
            self._interface.undo()
            self._host.restore_forwarding()
            self._tun.close()
            self._tun = None
        return DeferredList([closed, *self._releasing])

    # -- Links

    def build_link(self, identity: PeerIdentity | None, address: IAddress) -> Link:
        """The protocol for a connection of ALPN ``kubebus/1`` whose peer's certificate was verified."""
        assert identity is not None, "links are for members only"
        peer = identity
        handler: LinkHandler = _NodeLink(self, peer, peer_name(address, port=False))
        if self._peers is not None and (peer.network, peer.role) == (self.network.name, Role.ROUTER):
            handler = _Counted(self._links, self._peers.handler(peer))
        link = Link(
            self._reactor,
            Side.ROUTER,
            self.identity,
            lambda _: peer,
            self._services,
            handler,
            self._options.timing,
            self._options.agent,
        )
        self._links.add(link)
        return link

    def cut(self, node: str, reason: str) -> bool:
        """Close the live link of a node to this router at once, for a reason it is told. Whether there was one."""
        known = self._table.get(node)
        if known is None or known.link is None:
            return False
        known.link.close(LinkRevoked(reason))
        return True

    def is_live(self, node: str) -> bool:
        """Whether the node is connected, to this router or to another one that is reached."""
        known = self._table.get(node)
        return known is not None and known.connected

    # -- NodeStreams

    def serve(self, service: str, factory: IProtocolFactory) -> None:
        self._services.serve(service, factory)

    def node_endpoint(self, node: str, service: str) -> IStreamClientEndpoint:
        def find() -> tuple[LinkStreams, str]:
            return self._streams_of(node, service)

        return StreamEndpoint(find)

    def _local_endpoint(self, node: str, service: str) -> IStreamClientEndpoint:
        """For streams that another router passes on: they go no further than to a node of this one."""
        return StreamEndpoint(lambda: (self._own_streams(node), service))

    # -- Directory

    def site_of(self, node: str) -> str | None:
        """The site of a node, if it has one."""
        known = self._table.get(node)
        return None if known is None else known.record.site

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """This router's own; none before it has taken its part among several."""
        return self._own

    def subscribe(self, changed: NodeWatcher) -> None:
        """Call ``changed(name, node)`` for every node now, then at every change (``None``: removed for good)."""
        self._table.watch(changed)

    def status(self) -> RouterStatus:
        network = self.network
        return RouterStatus(
            network.name,
            self.identity.name,
            self._own,
            network.pools,
            network.advertise,
            tuple(refused.why for refused in self._interface.refused),
            tun_status(network.interface, network.mtu, self._tun),
            () if self._peers is None else self._peers.status(),
            self._table.status(),
        )

    # -- Within: links; called by _NodeLink

    def greeted(self, link: Link, peer: PeerIdentity) -> None:
        deciding = Deferred.fromCoroutine(self._decide(link, peer))
        deciding.addCallback(self._decided, link, peer)
        deciding.addErrback(self._not_let_in, link, peer)

    async def _decide(self, link: Link, peer: PeerIdentity) -> int:
        """Let the link's node in, or not; the epoch of its session."""
        if peer.network != self.network.name or peer.role is not Role.NODE:
            raise LinkRefused(f"{peer} has no link here: this is a router of network {self.network.name!r}")
        await self._when_ready()
        try:
            self._check(peer.name, await self._members.node(peer.name))
            epoch = await self._epochs.claim(peer.name)
        except RegistryError as error:
            raise LinkRefused(f"the router cannot look up node {peer.name!r} now: {error}") from error
        node = self._table.get(peer.name)
        if node is None or node.revoked or epoch < node.epoch or link.session.has_ended:
            # Something has changed while the registry was asked. The node will dial again.
            self._release(peer.name, epoch)
            raise LinkRefused(f"node {peer.name!r} was changed meanwhile")
        return epoch

    def _check(self, name: str, record: NodeRecord | None) -> None:
        if record is None:
            raise LinkRefused(f"node {name!r} is not enrolled here")
        if record.revoked_at is not None:
            raise LinkRevoked(REVOKED.format(name=name))
        if self._table.get(name) is None:
            # The registry may be faster to ask than to tell.
            self._table.record_changed(name, record)

    def _decided(self, epoch: int, link: Link, peer: PeerIdentity) -> None:
        node = self._table.get(peer.name)
        assert node is not None
        self._sessions[link] = epoch
        link.accept(epoch, self._config(node.record))

    async def _when_ready(self) -> None:
        if not self._ready.called:
            waiting: Deferred[None] = Deferred()
            self._ready.addCallback(lambda _: waiting.callback(None))
            await waiting

    def _not_let_in(self, failure: Failure, link: Link, peer: PeerIdentity) -> None:
        error = failure.value
        if not isinstance(error, LinkError):
            self.log.failure("Deciding about the link of {peer} failed", failure, peer=peer)
            error = LinkRefused("the router failed")
        link.close(error)

    def joined(self, link: Link, peer: PeerIdentity, address: str) -> None:
        node = self._table.get(peer.name)
        assert node is not None
        self.log.info("Node {node} is connected from {address}", node=peer.name, address=address)
        self._table.joined(node, link, self._sessions[link], address)

    def packets(self, link: Link, peer: PeerIdentity, frames: PacketFrames) -> None:
        node = self._table.get(peer.name)
        if node is not None and node.link is link:
            self._forwarder.from_link(node.port, frames)

    def left(self, link: Link, peer: PeerIdentity, address: str, error: LinkError) -> None:
        self._links.discard(link)
        epoch = self._sessions.pop(link, None)
        node = self._table.get(peer.name)
        if node is None or node.link is not link:
            self.log.info("A link of {peer} from {address} ended: {why}", peer=peer, address=address, why=str(error))
        else:
            self.log.info("Node {node} is away: {why}", node=peer.name, why=str(error))
            self._table.left(node)
        if epoch is not None:
            self._release(peer.name, epoch)

    # -- Within: other routers

    def _router_changed(self, name: str, record: RouterRecord | None) -> None:
        assert self._peers is not None
        self._peers.router_changed(name, record)
        for node in self._table:
            if node.link is not None:
                node.link.configure(self._config(node.record))

    def _outlet(self, router: str) -> Link | None:
        return None if self._peers is None else self._peers.outlet(router)

    def peer_changed(self, name: str) -> None:
        self._table.peer_changed(name)

    def peer_addresses(self, port: Port, addresses: tuple[IPAddress, ...], present: bool) -> None:
        change = self._forwarder.add if present else self._forwarder.remove
        change(port, map(ip_network, addresses))

    def peer_packets(self, port: Port, frames: PacketFrames) -> None:
        self._forwarder.from_router(port, frames)

    def _release(self, name: str, epoch: int) -> None:
        """Let the other routers know that the node has left this one."""
        peers = self._options.peers
        if peers is None:
            return
        releasing = Deferred.fromCoroutine(peers.links.release(name, epoch))
        self._releasing.add(releasing)
        releasing.addErrback(self._not_released, name)
        releasing.addBoth(lambda _: self._releasing.discard(releasing))

    def _not_released(self, failure: Failure, name: str) -> None:
        failure.trap(RegistryError)
        # Other routers find out as they try: this one answers that the node is away.
        self.log.warn("Node {node} is away, which could not be recorded: {why}", node=name, why=str(failure.value))

    # -- Within: the rest

    def _write(self, payload: bytes | memoryview) -> bool:
        return self._tun is not None and self._tun.write(payload)

    def _config(self, record: NodeRecord) -> LinkConfig:
        network = self.network
        return LinkConfig(
            network.name,
            record.name,
            record.addresses,
            record.pod_subnets,
            self._told_routes,
            self._own,
            network.mtu,
            self.routers,
            self._wallclock(),
            record.site,
        )

    @property
    def routers(self) -> tuple[str, ...]:
        """Where nodes reach this router, then where they reach the others that are known now."""
        others = () if self._peers is None else self._peers.addresses
        return tuple(dict.fromkeys((*self._options.routers(), *others)))

    def _own_streams(self, name: str) -> LinkStreams:
        node = self._table.get(name)
        if node is None or node.link is None or node.link.streams is None:
            raise NodeAway(f"node {name!r} is not connected")
        return node.link.streams

    def _streams_of(self, name: str, service: str) -> tuple[LinkStreams, str]:
        node = self._table.get(name)
        if node is not None and node.link is None and node.claim is not None and self._peers is not None:
            streams = self._peers.streams(node.claim.router or "")
            if streams is not None:
                return streams, relayed(name, service)
        return self._own_streams(name), service


class _Counted:
    """Passes on what happens on a link, and takes it off the router's list at its end."""

    def __init__(self, links: set[Link], handler: LinkHandler) -> None:
        self._links, self._handler = links, handler
        self.link_greeted, self.link_up = handler.link_greeted, handler.link_up
        self.link_configured, self.link_drained = handler.link_configured, handler.link_drained
        self.link_packets = handler.link_packets

    def link_lost(self, link: Link, error: LinkError) -> None:
        self._links.discard(link)
        self._handler.link_lost(link, error)


class _NodeLink:
    """Tells the router what happens on one link, and whose it is."""

    def __init__(self, router: RouterService, peer: PeerIdentity, address: str) -> None:
        self._router, self._peer, self._address = router, peer, address

    def link_greeted(self, link: Link, hello: Hello) -> None:
        self._router.greeted(link, self._peer)

    def link_up(self, link: Link, hello: Hello) -> None:
        self._router.joined(link, self._peer, self._address)

    def link_configured(self, link: Link, config: LinkConfig) -> None:
        raise AssertionError("a node does not configure its router")

    def link_packets(self, link: Link, frames: PacketFrames) -> None:
        self._router.packets(link, self._peer, frames)

    def link_drained(self, link: Link) -> None:
        pass

    def link_lost(self, link: Link, error: LinkError) -> None:
        self._router.left(link, self._peer, self._address, error)
