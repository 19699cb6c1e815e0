# mypy: disallow-untyped-calls=False
"""The edge side: keeps the link to a router up, and the host's network as the router tells it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from random import random
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import (
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.logger import Logger

from kubebus.backoff import Backoff
from kubebus.control import Hello, LinkConfig
from kubebus.edgepackets import EdgePackets, Neighbour
from kubebus.frames import PacketFrames
from kubebus.hostnetwork import HostNetwork, HostNetworkError, RefusedRoute, TunnelInterface
from kubebus.identity import PeerIdentity
from kubebus.interfaces import IPAddress, IPNetwork, NodeAway
from kubebus.link import Link, link_status
from kubebus.linker import Attempt, Dial, Linker
from kubebus.linkerrors import LinkError, LinkRefused, LinkShutdown
from kubebus.network import Network
from kubebus.savedconfig import SavedConfig
from kubebus.session import Side, Timing
from kubebus.status import EdgeStatus, LinkStatus
from kubebus.streamtransport import LinkStreams, ServiceTable, StreamEndpoint
from kubebus.tundevice import OpenTun, TunDevice, TunError, tun_status

CONFIG_FILE: Final = "network.json"


@dataclass(frozen=True, slots=True)
class EdgeNetwork:
    """The node's network as it is on this host now.

    :ivar config: what the router told last, in this run of the process or an earlier one.
    :ivar routes: what is reached through the tunnel; ``refused`` what is not, though the router advertises it.
    """

    config: LinkConfig
    routes: tuple[IPNetwork, ...]
    refused: tuple[RefusedRoute, ...]


EdgeWatcher = Callable[[EdgeNetwork], None]


@dataclass(slots=True)
class EdgeOptions:
    """What the edge's link can be told beside its network.

    :ivar wallclock: UNIX seconds.
    :ivar learn_time: told the router's clock (UNIX seconds) whenever a link comes up.
    """

    wallclock: Callable[[], float]
    learn_time: Callable[[float], object] = lambda _: None
    timing: Timing = field(default_factory=Timing)
    backoff: Backoff = field(default_factory=lambda: Backoff(random))
    agent: str = ""


class EdgeLinkService(Service):
    """The link of one edge node. It offers :class:`~kubebus.interfaces.RouterStreams`.

    :param identity: the node's own.
    :param dial: the TLS endpoint of a router's ``host:port``.
    :param routers: the routers known from joining; those of the last configuration come first.
    :param identify: the verified identity of the router at the other end of a transport.
    :param state: the folder where the network configuration is kept.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        network: Network,
        identity: PeerIdentity,
        dial: Dial,
        routers: Callable[[], Sequence[str]],
        identify: Callable[[ITransport], PeerIdentity],
        state: Path,
        open_tun: OpenTun,
        host: HostNetwork,
        options: EdgeOptions,
    ) -> None:
        self.network, self.identity = network, identity
        self._reactor, self._known_routers, self._identify = reactor, routers, identify
        self._open_tun, self._host, self._options = open_tun, host, options
        self._saved = SavedConfig(state / CONFIG_FILE)
        self._services = ServiceTable()
        self._watchers: list[EdgeWatcher] = []
        self._interface = TunnelInterface(host, network.interface)
        self._packets = EdgePackets(network.mtu)
        self._tun: TunDevice | None = None
        self._now: EdgeNetwork | None = None
        self._link: Link | None = None
        self._attempt: Attempt | None = None
        self._linker = Linker(reactor, self._routers, dial, self._make_link, self._not_connected, options.backoff)
        self._open_links: set[Link] = set()
        self._since = options.wallclock()
        self._error: str | None = None
        self._waiting: set[Deferred[None]] = set()

    # -- Service

    def startService(self) -> None:
        """Set the network up as it was last, if it was ever known, and begin to dial.

        :raises TunError: if there can be no TUN device.
        :raises HostNetworkError: if the host's network cannot be set up.
        """
        super().startService()
        saved = self._saved.load()
        if saved is not None and (saved.network, saved.node) == (self.network.name, self.identity.name):
            self._configure(saved, ())
        self._linker.start()

    def stopService(self) -> Deferred[Any]:
        """Take everything back; done when the peers were told."""
        super().stopService()
        self._linker.stop()
        closed: Deferred[Any] = DeferredList([link.closed for link in self._open_links])
        for link in list(self._open_links):
            link.close(LinkShutdown(f"{self.identity} is stopping"))
        if self._tun is not None:
            self._interface.undo()
            self._host.restore_forwarding()
            self._tun.close()
            self._tun = None
        return closed

    # -- For others

    def subscribe(self, changed: EdgeWatcher) -> None:
        """Call ``changed`` now if the network configuration is known, and whenever it changes."""
        self._watchers.append(changed)
        if self._now is not None:
            changed(self._now)

    def serve(self, service: str, factory: IProtocolFactory) -> None:
        self._services.serve(service, factory)

    def router_endpoint(self, service: str) -> IStreamClientEndpoint:
        return StreamEndpoint(lambda: (self._streams(), service))

    @property
    def place(self) -> EdgeNetwork | None:
        """The network configuration, if it is known."""
        return self._now

    @property
    def connected(self) -> bool:
        return self._link is not None

    def when_connected(self) -> Deferred[None]:
        """Fires once there is a link: at once, if there is one now. May be cancelled."""
        waiting: Deferred[None] = Deferred(self._waiting.discard)
        if self._link is not None:
            waiting.callback(None)
        else:
            self._waiting.add(waiting)
        return waiting

    def route_directly(self, direct: Callable[[bytes], Link | None] | None) -> None:
        """From now on packets to an address for which ``direct`` knows a link go there, not to the router."""
        self._packets.direct = direct
        self._resume_tun()

    def packets_from_neighbour(self, neighbour: Neighbour, frames: PacketFrames) -> None:
        """Packets of another node of the site, for this one."""
        if self._tun is not None:
            self._packets.from_neighbour(neighbour, frames, self._tun)

    def status(self) -> EdgeStatus:
        now, link, packets = self._now, self._link, self._packets
        config = None if now is None else now.config
        return EdgeStatus(
            self.network.name,
            self.identity.name,
            link is not None,
            None if link is None or link.peer is None else link.peer.name,
            self._since,
            self._error,
            () if config is None else config.addresses,
            () if config is None else config.pod_subnets,
            () if now is None else now.routes,
            () if now is None else tuple(refused.why for refused in now.refused),
            None if config is None else tun_status(self.network.interface, config.mtu, self._tun),
            None if link is None else self._link_status(link),
            packets.foreign,
            packets.malformed,
            packets.lost,
        )

    # -- Within: dialling

    def _routers(self) -> Sequence[str]:
        told = () if self._now is None else self._now.config.routers
        return tuple(dict.fromkeys((*told, *self._known_routers())))

    def _make_link(self, attempt: Attempt) -> Link:
        handler = _RouterLink(self, attempt)
        options = self._options
        link = Link(
            self._reactor,
            Side.EDGE,
            self.identity,
            self._identify,
            self._services,
            handler,
            options.timing,
            options.agent,
        )
        self._open_links.add(link)
        return link

    def _not_connected(self, why: str) -> None:
        if why != self._error:
            self.log.warn("Node {node}: {why}", node=self.identity.name, why=why)
        self._error = why

    # -- Within: the link; called by _RouterLink

    def link_is_up(self, link: Link, attempt: Attempt, config: LinkConfig) -> None:
        if (config.network, config.node) != (self.network.name, self.identity.name):
            why = f"the router takes us for node {config.node!r} of network {config.network!r}"
            link.close(LinkRefused(why))
            return
        attempt.up_since = self._reactor.seconds()
        self._link, self._attempt = link, attempt
        self._packets.link = link
        self._since, self._error = self._options.wallclock(), None
        self.log.info("Node {node} is connected to {peer}", node=self.identity.name, peer=link.peer)
        self._options.learn_time(config.time)
        self.reconfigure(config, _reserved(link))
        waiting, self._waiting = self._waiting, set()
        for each in waiting:
            each.callback(None)

    def reconfigure(self, config: LinkConfig, reserved: tuple[IPAddress, ...]) -> None:
        try:
            self._configure(config, reserved)
            self._saved.save(config)
        except (HostNetworkError, TunError, OSError) as error:
            # A node whose own network cannot be set up still has its streams.
            self.log.error("Node {node}: {error}", node=self.identity.name, error=str(error))
            self._error = str(error)

    def link_is_lost(self, link: Link, attempt: Attempt, error: LinkError) -> None:
        self._open_links.discard(link)
        why = f"{attempt.address}: {error}"
        if self._link is link:
            self._link = self._packets.link = None
            self._since = self._options.wallclock()
            self.log.info("Node {node} lost its router {why}", node=self.identity.name, why=why)
            self._resume_tun()
            self._error = why
        else:
            self._not_connected(why)
        attempt.ended.callback(error)

    def packets_received(self, link: Link, frames: PacketFrames) -> None:
        if self._tun is not None:
            self._packets.from_router(frames, self._tun)

    def drained(self, link: Link) -> None:
        if not self._packets.congested:
            self._resume_tun()

    # -- Within: the host's network

    def _configure(self, config: LinkConfig, reserved: tuple[IPAddress, ...]) -> None:
        if self._tun is None:
            self._tun = self._open_tun(self.network.interface)
            self._tun.start(self._from_tun, self._tun_lost)
            self._host.forward(self.network.interface, ipv6=self._host.has_ipv6())
        interface = self._interface
        interface.apply(config.addresses, config.routes, config.pod_subnets, config.mtu, reserved)
        self._packets.configure((*map(ip_network, config.addresses), *config.pod_subnets), config.mtu)
        before, self._now = self._now, EdgeNetwork(config, interface.routes, interface.refused)
        if before is None or before.refused != self._now.refused:
            for refused in self._now.refused:
                self.log.warn("Node {node}: {why}", node=self.identity.name, why=refused.why)
        for watcher in list(self._watchers):
            try:
                watcher(self._now)
            except Exception:
                # Whoever watches must not cost the node its link.
                self.log.failure("Telling of the network configuration failed")

    def _tun_lost(self) -> None:
        """Somebody removed the device: make it anew, as it was."""
        self._tun = None
        self._interface.forget()
        link, now = self._link, self._now
        if now is not None:
            self.reconfigure(now.config, () if link is None else _reserved(link))

    def _from_tun(self, frames: PacketFrames) -> None:
        self._packets.from_host(frames)
        if self._packets.congested and self._tun is not None:
            # There is one way out only: let the kernel's queue fill, and its senders notice.
            self._tun.pause()

    def _resume_tun(self) -> None:
        if self._tun is not None:
            self._tun.resume()

    # -- Within: the rest

    def _streams(self) -> LinkStreams:
        link = self._link
        if link is None or link.streams is None:
            raise NodeAway(f"node {self.identity.name!r} has no link to a router")
        return link.streams

    def _link_status(self, link: Link) -> LinkStatus:
        last_seen = self._options.wallclock() - (self._reactor.seconds() - link.session.last_received)
        address = "" if self._attempt is None else self._attempt.address
        return link_status(link, address, self._since, last_seen)


class _RouterLink:
    """Tells the service what happens on one link, and which attempt made it."""

    def __init__(self, edge: EdgeLinkService, attempt: Attempt) -> None:
        self._edge, self._attempt = edge, attempt

    def link_greeted(self, link: Link, hello: Hello) -> None:
        raise AssertionError("a router does not ask to be let in")

    def link_up(self, link: Link, hello: Hello) -> None:
        assert hello.config is not None
        self._edge.link_is_up(link, self._attempt, hello.config)

    def link_configured(self, link: Link, config: LinkConfig) -> None:
        self._edge.reconfigure(config, _reserved(link))

    def link_packets(self, link: Link, frames: PacketFrames) -> None:
        self._edge.packets_received(link, frames)

    def link_drained(self, link: Link) -> None:
        self._edge.drained(link)

    def link_lost(self, link: Link, error: LinkError) -> None:
        self._edge.link_is_lost(link, self._attempt, error)


def _reserved(link: Link) -> tuple[IPAddress, ...]:
    """The address that the link itself is connected to."""
    host = getattr(link.remote_address, "host", None)
    try:
        return () if host is None else (ip_address(host),)
    except ValueError:
        return ()
