# mypy: disallow-untyped-calls=False
"""The links of a node to the others of its site: one for each pair, whether there is a cloud or not.

Who belongs to the site, with which key and addresses, says the roster. Of two that both listen the lesser name dials,
else whoever does not listen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import random
from typing import Any, Final, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IAddress, IProtocolFactory, IReactorTime, IStreamClientEndpoint, ITransport
from twisted.logger import Logger

from kubebus.backoff import Backoff
from kubebus.control import Hello, LinkConfig
from kubebus.edgepackets import Neighbour
from kubebus.exchange import peer_name
from kubebus.frames import PacketFrames
from kubebus.identity import PeerIdentity
from kubebus.interfaces import NodeAway
from kubebus.link import Link, link_status
from kubebus.linker import Attempt, Dial, Linker
from kubebus.linkerrors import LinkError, LinkRefused, LinkReplaced, LinkRevoked, LinkShutdown
from kubebus.roster import Member
from kubebus.rosterkeeper import RosterKeeper
from kubebus.routes import RouteTable
from kubebus.session import Side, Timing
from kubebus.status import NeighbourStatus, SiteStatus
from kubebus.streamtransport import LinkStreams, ServiceTable, StreamEndpoint

SITE_TIMING: Final = Timing(hello_timeout=5.0, idle_after=10.0, idle_timeout=5.0, probe_after=1.0, probe_timeout=2.0)
"""On a LAN answers come within milliseconds: a dead link in use is left after 3 s, an idle one after 15."""

CONNECT_SECONDS: Final = 3.0
LONGEST_WAIT: Final = 10.0
"""Seconds between attempts to reach a node of the site, at most."""


class SiteHost(Protocol):
    """What the links need of the node: :class:`kubebus.edge.EdgeLinkService` is one."""

    def route_directly(self, direct: Callable[[bytes], Link | None] | None) -> None: ...

    def packets_from_neighbour(self, neighbour: Neighbour, frames: PacketFrames) -> None: ...


@dataclass(slots=True)
class SiteOptions:
    """:ivar wallclock: UNIX seconds.

    :ivar dial: the TLS endpoint of another member's ``address:port``, with this node's certificate.
    :ivar identify: the verified identity at the other end of a transport that was dialled.
    :ivar endpoints: where this node listens; empty if it does not.
    """

    wallclock: Callable[[], float]
    dial: Dial
    identify: Callable[[ITransport], PeerIdentity]
    endpoints: Callable[[], tuple[str, ...]] = tuple
    timing: Timing = SITE_TIMING
    backoff: Callable[[], Backoff] = field(default=lambda: Backoff(random, last=LONGEST_WAIT, stable=10.0))
    agent: str = ""


SiteWatcher = Callable[[str, bool], None]


class SiteLinks(Service):
    """All links of one node to nodes of its site.

    :param keeper: has the roster.
    :ivar neighbours: the other members, by name.
    """

    log = Logger()

    def __init__(
        self, reactor: IReactorTime, identity: PeerIdentity, keeper: RosterKeeper, host: SiteHost, options: SiteOptions
    ) -> None:
        self.identity, self.keeper = identity, keeper
        self._reactor, self._host, self._options = reactor, host, options
        # Not those that routers may use: a neighbour is not the cloud.
        self._services = ServiceTable()
        self.neighbours: dict[str, SiteNeighbour] = {}
        self._routes: RouteTable[Link] = RouteTable()
        self._links: set[Link] = set()
        self._watchers: list[SiteWatcher] = []
        keeper.watch(self._roster_changed)

    # -- Service

    def startService(self) -> None:
        super().startService()
        self._roster_changed()

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        links = list(self._links)
        closed: Deferred[Any] = DeferredList([link.closed for link in links])
        for neighbour in self.neighbours.values():
            neighbour.stop_dialling()
        for link in links:
            link.close(LinkShutdown(f"{self.identity} is stopping"))
        return closed

    # -- For others

    def build_link(self, identity: PeerIdentity | None, address: IAddress) -> Link:
        """The protocol for a connection of ALPN ``kubebus-site/1`` whose peer is a member of the site."""
        assert identity is not None, "links are for members only"
        peer = identity
        return self._made(Side.ROUTER, lambda _: peer, SiteLink(self, peer.name, peer_name(address), None))

    def serve(self, service: str, factory: IProtocolFactory) -> None:
        """Let nodes of the site open streams to ``service``, on links that are up now and on later ones."""
        self._services.serve(service, factory)

    def site_endpoint(self, node: str, service: str) -> IStreamClientEndpoint:
        """Connects over the link to that node; fails with :class:`NodeAway` when there is none."""
        return StreamEndpoint(lambda: (self._streams(node), service))

    def watch(self, changed: SiteWatcher) -> None:
        """Call ``changed(node, up)`` for every link that is up now, and whenever one comes or goes."""
        self._watchers.append(changed)
        for name, neighbour in sorted(self.neighbours.items()):
            if neighbour.link is not None:
                changed(name, True)

    def status(self) -> SiteStatus:
        roster = self.keeper.roster
        return SiteStatus(
            self.keeper.site,
            0 if roster is None else roster.revision,
            self._options.endpoints(),
            tuple(neighbour.status() for _, neighbour in sorted(self.neighbours.items())),
        )

    # -- Within: the roster

    def _roster_changed(self) -> None:
        if not self.running:
            return
        # Those under way were judged by the roster before.
        for link in self._links - {neighbour.link for neighbour in self.neighbours.values()}:
            link.close(LinkRefused("the site has a new roster"))
        members = {member.name: member for member in self.keeper.others()}
        for name in self.neighbours.keys() - members.keys():
            self.neighbours.pop(name).leave(self._why_left(name))
        for name, member in members.items():
            neighbour = self.neighbours.get(name)
            if neighbour is None:
                neighbour = self.neighbours[name] = SiteNeighbour(self, member)
            neighbour.take_over(member)
            if self._is_mine_to_dial(member):
                neighbour.start_dialling()
            else:
                neighbour.stop_dialling()
        self._route()

    def _why_left(self, name: str) -> LinkError:
        roster = self.keeper.roster
        if roster is None or self.keeper.me() is None:
            return LinkRefused(f"{self.identity} left its site")
        return LinkRevoked(f"node {name!r} does not belong to site {roster.site!r} any more (roster {roster.revision})")

    def _is_mine_to_dial(self, member: Member) -> bool:
        me = self.keeper.me()
        if me is None or not member.endpoints:
            return False
        return self.identity.name < member.name or not me.endpoints

    def _route(self) -> None:
        """Let the subnets of all who have a link lead there."""
        self._routes = RouteTable()
        up = [neighbour for neighbour in self.neighbours.values() if neighbour.link is not None]
        for neighbour in up:
            assert neighbour.link is not None
            for subnet in neighbour.member.subnets:
                self._routes.add(subnet, neighbour.link)
        self._host.route_directly(self._routes.lookup if up else None)

    # -- Within: links; called by SiteLink and SiteNeighbour

    def dialler(self, name: str) -> Linker:
        def make_link(attempt: Attempt) -> Link:
            return self._made(Side.EDGE, self._options.identify, SiteLink(self, name, attempt.address, attempt))

        return Linker(
            self._reactor,
            lambda: self._endpoints_of(name),
            self._options.dial,
            make_link,
            lambda why: self._not_reached(name, why),
            self._options.backoff(),
            CONNECT_SECONDS,
        )

    def _made(self, side: Side, identify: Callable[[ITransport], PeerIdentity], handler: SiteLink) -> Link:
        options = self._options
        link = Link(
            self._reactor,
            side,
            self.identity,
            identify,
            self._services,
            handler,
            options.timing,
            options.agent,
            wants_config=False,
        )
        self._links.add(link)
        return link

    def _endpoints_of(self, name: str) -> Sequence[str]:
        neighbour = self.neighbours.get(name)
        return () if neighbour is None else neighbour.member.endpoints

    def _not_reached(self, name: str, why: str) -> None:
        neighbour = self.neighbours.get(name)
        if neighbour is not None and neighbour.link is None and why != neighbour.error:
            self.log.info("Node {name} of this site: {why}", name=name, why=why)
            neighbour.error = why

    def up(self, link: Link, name: str, address: str) -> bool:
        peer, neighbour = link.peer, self.neighbours.get(name)
        if peer is None or neighbour is None or peer.name != name:
            link.close(LinkRefused(f"node {name!r} of this site was expected, and this is {peer}"))
            return False
        old, neighbour.link = neighbour.link, link
        neighbour.address, neighbour.since, neighbour.error = address, self._options.wallclock(), None
        self._route()
        if old is not None:
            old.close(LinkReplaced(f"a newer link to {peer} took over"))
        self.log.info("Node {name} of this site is connected at {address}", name=name, address=address)
        self._tell(name, True)
        return True

    def packets(self, link: Link, name: str, frames: PacketFrames) -> None:
        neighbour = self.neighbours.get(name)
        if neighbour is not None and neighbour.link is link:
            self._host.packets_from_neighbour(neighbour.counted, frames)

    def lost(self, link: Link, name: str, error: LinkError) -> None:
        self._links.discard(link)
        neighbour = self.neighbours.get(name)
        if neighbour is None or neighbour.link is not link:
            self._not_reached(name, str(error))
            return
        neighbour.link, neighbour.error = None, str(error)
        self._route()
        self.log.info("Node {name} of this site has no link any more: {why}", name=name, why=str(error))
        self._tell(name, False)

    def left(self, neighbour: SiteNeighbour, error: LinkError) -> None:
        """A member is none any more."""
        link, neighbour.link = neighbour.link, None
        if link is not None:
            link.close(error)
            self.log.info("Node {name} was cut off: {why}", name=neighbour.name, why=str(error))
            self._tell(neighbour.name, False)

    def _tell(self, name: str, up: bool) -> None:
        for watcher in list(self._watchers):
            try:
                watcher(name, up)
            except Exception:
                # Whoever watches must not cost the node its link.
                self.log.failure("Telling of the link to {name} failed", name=name)

    def _streams(self, name: str) -> LinkStreams:
        neighbour = self.neighbours.get(name)
        if neighbour is None or neighbour.link is None or neighbour.link.streams is None:
            raise NodeAway(f"node {name!r} has no link to this one within the site")
        return neighbour.link.streams

    def neighbour_status(self, neighbour: SiteNeighbour) -> NeighbourStatus:
        link, counted = neighbour.link, neighbour.counted
        status = None
        if link is not None:
            last_seen = self._options.wallclock() - (self._reactor.seconds() - link.session.last_received)
            status = link_status(link, neighbour.address, neighbour.since, last_seen)
        return NeighbourStatus(
            neighbour.name,
            neighbour.member.endpoints,
            link is not None,
            neighbour.error,
            counted.spoofed,
            counted.malformed,
            status,
        )


class SiteNeighbour:
    """Another member of the site, with the link to it, if there is one."""

    def __init__(self, sites: SiteLinks, member: Member) -> None:
        self.member = member
        self.link: Link | None = None
        self.address, self.since = "", 0.0
        self.error: str | None = None
        self.counted = Neighbour()
        self._sites = sites
        self._linker: Linker | None = None

    @property
    def name(self) -> str:
        return self.member.name

    def take_over(self, member: Member) -> None:
        """What the roster says of it now."""
        before, self.member = self.member, member
        if before.public_key != member.public_key:
            self._sites.left(self, LinkRevoked(f"node {member.name!r} has another key now"))
        self.counted.allow(member.subnets)

    def start_dialling(self) -> None:
        if self._linker is None:
            self._linker = self._sites.dialler(self.name)
            self._linker.start()

    def stop_dialling(self) -> None:
        linker, self._linker = self._linker, None
        if linker is not None:
            linker.stop()

    def leave(self, error: LinkError) -> None:
        self.stop_dialling()
        self._sites.left(self, error)

    def status(self) -> NeighbourStatus:
        return self._sites.neighbour_status(self)


class SiteLink:
    """What happens on one link.

    :param attempt: of the linker, if this side dialled.
    """

    def __init__(self, sites: SiteLinks, name: str, address: str, attempt: Attempt | None) -> None:
        self._sites, self._name, self._address, self._attempt = sites, name, address, attempt

    def link_greeted(self, link: Link, hello: Hello) -> None:
        link.accept(0, None)

    def link_up(self, link: Link, hello: Hello) -> None:
        if self._sites.up(link, self._name, self._address) and self._attempt is not None:
            self._attempt.up_since = link.session.started

    def link_configured(self, link: Link, config: LinkConfig) -> None:
        """A neighbour has nothing to tell us."""

    def link_packets(self, link: Link, frames: PacketFrames) -> None:
        self._sites.packets(link, self._name, frames)

    def link_drained(self, link: Link) -> None:
        pass

    def link_lost(self, link: Link, error: LinkError) -> None:
        self._sites.lost(link, self._name, error)
        if self._attempt is not None:
            self._attempt.ended.callback(error)
