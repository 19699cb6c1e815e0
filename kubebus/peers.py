# mypy: disallow-untyped-calls=False
"""The links of a router to the other routers of its network: one for each pair, dialled by the lesser name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import random
from typing import Protocol

from twisted.internet.interfaces import IReactorTime, ITransport
from twisted.logger import Logger

from kubebus.backoff import Backoff
from kubebus.control import Hello, LinkConfig
from kubebus.forwarding import Port
from kubebus.frames import PacketFrames
from kubebus.identity import PeerIdentity
from kubebus.interfaces import IPAddress
from kubebus.link import Link
from kubebus.linker import Attempt, Dial, Linker
from kubebus.linkerrors import LinkError, LinkRefused, LinkReplaced
from kubebus.session import Side, Timing
from kubebus.sharedlinks import RouterRecord, SharedLinks
from kubebus.status import PeerStatus
from kubebus.streamtransport import LinkStreams, ServiceTable


@dataclass(slots=True)
class PeerOptions:
    """What a router needs to work together with others.

    :ivar links: the shared registry of links.
    :ivar dial: the TLS endpoint of another router's ``host:port``, with this router's certificate.
    :ivar identify: the verified identity of the router at the other end of a transport that was dialled.
    """

    links: SharedLinks
    dial: Dial
    identify: Callable[[ITransport], PeerIdentity]
    backoff: Callable[[], Backoff] = field(default=lambda: Backoff(random, last=10.0))


class PeerOwner(Protocol):
    """The router."""

    def peer_changed(self, name: str) -> None:
        """The link to that router came up or went down."""

    def peer_addresses(self, port: Port, addresses: tuple[IPAddress, ...], present: bool) -> None:
        """Another router's own addresses lead to ``port``, or no more."""

    def peer_packets(self, port: Port, frames: PacketFrames) -> None: ...


class RouterPeers:
    """All links to other routers."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        identity: PeerIdentity,
        services: ServiceTable,
        owner: PeerOwner,
        options: PeerOptions,
        timing: Timing,
        agent: str,
    ) -> None:
        self._clock, self._identity, self._services, self._owner = clock, identity, services, owner
        self._options, self._timing, self._agent = options, timing, agent
        self._records: dict[str, RouterRecord] = {}
        self._ports: dict[str, Port] = {}
        self._links: dict[str, Link] = {}
        self._dialled: set[Link] = set()
        self._linkers: dict[str, Linker] = {}

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the other routers are reached."""
        return tuple(address for _, record in sorted(self._records.items()) for address in record.reached_at)

    def status(self) -> tuple[PeerStatus, ...]:
        links = self._links
        return tuple(
            PeerStatus(
                name, record.reached_at, record.own, name in links, links[name].session.rtt if name in links else None
            )
            for name, record in sorted(self._records.items())
        )

    def outlet(self, name: str) -> Link | None:
        """The live link to that router."""
        return self._links.get(name)

    def streams(self, name: str) -> LinkStreams | None:
        link = self.outlet(name)
        return None if link is None else link.streams

    def router_changed(self, name: str, record: RouterRecord | None) -> None:
        """The registry tells of another router, or that it is gone for good."""
        port = self.port(name)
        before = self._records.pop(name, None)
        if before is not None:
            self._owner.peer_addresses(port, before.own, False)
        if record is None:
            linker = self._linkers.pop(name, None)
            if linker is not None:
                linker.stop()
            return
        self._records[name] = record
        self._owner.peer_addresses(port, record.own, True)
        if self._identity.name < name and name not in self._linkers:
            self._linkers[name] = self._linker(name)
            self._linkers[name].start()

    def handler(self, peer: PeerIdentity) -> PeerLink:
        """For a link that another router has dialled."""
        return PeerLink(self, peer.name, None)

    def stop(self) -> None:
        """Dial no more."""
        for linker in self._linkers.values():
            linker.stop()
        self._linkers.clear()

    @property
    def dialled(self) -> frozenset[Link]:
        """Links that this router dialled and that have not ended."""
        return frozenset(self._dialled)

    def _linker(self, name: str) -> Linker:
        def make_link(attempt: Attempt) -> Link:
            link = Link(
                self._clock,
                Side.EDGE,
                self._identity,
                self._options.identify,
                self._services,
                PeerLink(self, name, attempt),
                self._timing,
                self._agent,
                wants_config=False,
            )
            self._dialled.add(link)
            return link

        def failed(why: str) -> None:
            self.log.debug("Router {name}: {why}", name=name, why=why)

        return Linker(
            self._clock,
            lambda: self._records[name].reached_at if name in self._records else (),
            self._options.dial,
            make_link,
            failed,
            self._options.backoff(),
        )

    # Called by PeerLink

    def up(self, link: Link, name: str) -> bool:
        peer = link.peer
        assert peer is not None
        if peer.name != name or peer.name == self._identity.name:
            link.close(LinkRefused(f"router {name!r} was expected, and this is {peer}: each needs a name of its own"))
            return False
        old = self._links.get(name)
        self._links[name] = self.port(name).outlet = link
        if old is not None:
            old.close(LinkReplaced(f"a newer link to router {name!r} took over"))
        self.log.info("Router {name} is connected", name=name)
        self._owner.peer_changed(name)
        return True

    def packets(self, link: Link, name: str, frames: PacketFrames) -> None:
        if self._links.get(name) is link:
            self._owner.peer_packets(self.port(name), frames)

    def port(self, name: str) -> Port:
        """Where packets for that router itself go."""
        return self._ports.setdefault(name, Port(f"router {name}", remote=True))

    def lost(self, link: Link, name: str, error: LinkError) -> None:
        self._dialled.discard(link)
        if self._links.get(name) is link:
            del self._links[name]
            self.port(name).outlet = None
            self.log.info("Router {name} is away: {why}", name=name, why=str(error))
            self._owner.peer_changed(name)


class PeerLink:
    """What happens on one link between routers.

    :param attempt: of the linker, if this side dialled.
    """

    def __init__(self, peers: RouterPeers, name: str, attempt: Attempt | None) -> None:
        self._peers, self._name, self._attempt = peers, name, attempt

    def link_greeted(self, link: Link, hello: Hello) -> None:
        link.accept(0, None)

    def link_up(self, link: Link, hello: Hello) -> None:
        if self._peers.up(link, self._name) and self._attempt is not None:
            self._attempt.up_since = link.session.started

    def link_configured(self, link: Link, config: LinkConfig) -> None:
        """Another router has nothing to tell us."""

    def link_packets(self, link: Link, frames: PacketFrames) -> None:
        self._peers.packets(link, self._name, frames)

    def link_drained(self, link: Link) -> None:
        pass

    def link_lost(self, link: Link, error: LinkError) -> None:
        self._peers.lost(link, self._name, error)
        if self._attempt is not None:
            self._attempt.ended.callback(error)
