# mypy: disallow-untyped-calls=False
"""The router's part in rosters: makes one for each site whenever its nodes change, and tells the nodes.

The signed roster of each site stands in the registry (kind ``rosters``), so that all routers tell the same. It is made
from what the registry says after the last one was read, and written only if that one still stands: so a router that is
late never undoes what another one knew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from cryptography import x509
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from kubebus.ca import Authority, key_hash
from kubebus.identity import PeerIdentity, Role
from kubebus.interfaces import Change, NodeRecord, Record, Registry, RegistryError, Subscription
from kubebus.members import Members, NotFound
from kubebus.roster import MAX_MEMBERS, InvalidRoster, Member, Roster, SignedRoster, sign, verify
from kubebus.rosterstream import RosterStream

ROSTERS: Final = "rosters"

RETRY_SECONDS: Final = 2.0
"""Between attempts while the registry is away."""

ENDPOINTS_SECONDS: Final = 5.0
"""A node's endpoints are taken over so often at most: each change is a write, and a new roster for its site."""

_ROUNDS: Final = 32


class Rosters(Service):
    """Keeps the rosters of all sites of a network.

    :param authority: what signs now, and ``bundle`` the trusted authorities, the newest first.
    :param clock: UNIX seconds.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        registry: Registry,
        members: Members,
        authority: Callable[[], Authority],
        bundle: Callable[[], Sequence[x509.Certificate]],
        clock: Callable[[], float],
    ) -> None:
        self._reactor, self._registry, self._members = reactor, registry, members
        self._authority, self._bundle, self._clock = authority, bundle, clock
        self._sites: dict[str, str] = {}
        self._encoded: dict[str, bytes] = {}
        self._streams: dict[RosterStream, str] = {}
        self._told: dict[str, _Endpoints] = {}
        self._subscriptions: list[Subscription] = []
        self._due: set[str] = set()
        self._work: Deferred[None] | None = None
        self._retry: IDelayedCall | None = None

    # -- Service

    def startService(self) -> None:
        super().startService()
        self._subscriptions = [
            self._registry.subscribe(ROSTERS, self._roster_changed),
            self._members.subscribe(self._node_changed),
        ]

    def stopService(self) -> None:
        super().stopService()
        for subscription in self._subscriptions:
            subscription.cancel()
        self._due.clear()
        for told in self._told.values():
            told.stop()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._work is not None:
            self._work.cancel()

    def factory(self) -> IProtocolFactory:
        """For :data:`kubebus.rosterstream.SERVICE`, on the links of nodes."""
        return _Factory(self)

    # -- What the registry tells

    def _node_changed(self, name: str, node: NodeRecord | None) -> None:
        before = self._sites.pop(name, None)
        if node is not None and node.site is not None:
            self._sites[name] = node.site
        for site in {before, self._sites.get(name)}:
            if site is not None:
                self._make(site)
        self._tell(name)

    def _roster_changed(self, site: str, record: Record | None) -> None:
        if record is None:
            self._encoded.pop(site, None)
            return
        self._encoded[site] = record.value
        for stream, name in list(self._streams.items()):
            if self._sites.get(name) == site:
                stream.send_roster(record.value)

    def _tell(self, name: str) -> None:
        encoded = self._encoded.get(self._sites.get(name, ""))
        for stream, peer in list(self._streams.items()):
            if peer == name and encoded is not None:
                stream.send_roster(encoded)

    # -- Making rosters

    def _make(self, site: str) -> None:
        self._due.add(site)
        if self._work is None and self._retry is None and self.running:
            self._work = work = Deferred.fromCoroutine(self._make_due())
            work.addErrback(self._not_made)
            work.addBoth(self._made)

    def _made(self, _: object) -> None:
        self._work = None
        if self._due and self._retry is None and self.running:
            self._make(next(iter(self._due)))

    def _not_made(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        if failure.check(RegistryError):
            self.log.warn("Rosters wait for the registry: {why}", why=str(failure.value))
        else:
            self.log.failure("Making a roster failed", failure)
        if self.running:
            self._retry = self._reactor.callLater(RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._made(None)

    async def _make_due(self) -> None:
        while self._due:
            site = next(iter(self._due))
            self._due.discard(site)
            try:
                await self._make_one(site)
            except InvalidRoster as error:
                self.log.error("Site {site} keeps its old roster: {why}", site=site, why=str(error))
            except BaseException:
                self._due.add(site)
                raise

    async def _make_one(self, site: str) -> None:
        for _ in range(_ROUNDS):
            # In this order: see above.
            record = await self._registry.get(ROSTERS, site)
            last = self._last(site, record)
            revision = max(int(self._clock()), last.roster.revision + 1 if last is not None else 1)
            roster = self._roster(site, revision, await self._members.nodes())
            if last is not None and last.roster.same_as(roster) and not self._to_be_signed_anew(last):
                return
            signed = sign(roster, self._authority())
            change = Change(ROSTERS, site, signed.encoded, 0 if record is None else record.revision)
            if await self._registry.commit([change]):
                self.log.info(
                    "Site {site} has {count} nodes in its roster {revision}",
                    site=site,
                    count=len(roster.members),
                    revision=revision,
                )
                return
        raise RegistryError(f"the roster of site {site!r} could not be written: it keeps changing")

    def _last(self, site: str, record: Record | None) -> SignedRoster | None:
        if record is None:
            return None
        try:
            return verify(record.value, self._bundle())
        except InvalidRoster as error:
            # Its authority was retired, for example.
            self.log.warn("The roster of site {site} is made anew: {why}", site=site, why=str(error))
            return None

    def _roster(self, site: str, revision: int, nodes: Sequence[NodeRecord]) -> Roster:
        own = [node for node in nodes if node.site == site]
        members = tuple(
            Member(node.name, node.addresses, node.pod_subnets, node.public_key, node.endpoints)
            for node in own
            if node.revoked_at is None
        )
        revoked = sorted(
            (node for node in own if node.revoked_at is not None), key=lambda node: -(node.revoked_at or 0)
        )
        return Roster(
            self._members.network,
            site,
            revision,
            members,
            tuple(node.public_key for node in revoked[: 4 * MAX_MEMBERS]),
        )

    def _to_be_signed_anew(self, last: SignedRoster) -> bool:
        """An older authority has signed it, and this router has the newest one. Others leave it as it is."""
        newest = key_hash(self._bundle()[0].public_key())
        return last.signer != newest and self._authority().hash == newest

    # -- Streams of nodes

    def opened(self, stream: RosterStream, name: str) -> None:
        self._streams[stream] = name
        encoded = self._encoded.get(self._sites.get(name, ""))
        if encoded is not None:
            stream.send_roster(encoded)

    def closed(self, stream: RosterStream) -> None:
        self._streams.pop(stream, None)

    def endpoints_told(self, name: str, endpoints: tuple[str, ...]) -> None:
        """A node says where others of its site reach it."""
        told = self._told.get(name)
        if told is None:
            told = self._told[name] = _Endpoints(self._reactor, name, self._members, lambda: self._told.pop(name, None))
        told.wanted = endpoints
        told.write()


class _Endpoints:
    """What one node told last, until it has been written; not more often than :data:`ENDPOINTS_SECONDS`."""

    log = Logger()

    def __init__(self, reactor: IReactorTime, name: str, members: Members, done: Callable[[], object]) -> None:
        self._reactor, self._name, self._members, self._done = reactor, name, members, done
        self.wanted: tuple[str, ...] | None = None
        self._timer: IDelayedCall | None = None

    def write(self) -> None:
        if self._timer is not None:
            return
        self._timer = self._reactor.callLater(ENDPOINTS_SECONDS, self._again)
        wanted, self.wanted = self.wanted, None
        assert wanted is not None
        Deferred.fromCoroutine(self._members.set_endpoints(self._name, wanted)).addErrback(self._failed, wanted)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self) -> None:
        self._timer = None
        if self.wanted is None:
            self._done()
        else:
            self.write()

    def _failed(self, failure: Failure, wanted: tuple[str, ...]) -> None:
        if failure.check(NotFound):
            return
        failure.trap(RegistryError)
        self.log.warn("{why}", why=str(failure.value))
        if self.wanted is None:
            self.wanted = wanted


class _Factory(Factory):
    noisy = False

    def __init__(self, rosters: Rosters) -> None:
        self._rosters = rosters

    def buildProtocol(self, addr: IAddress | None) -> RosterStream | None:
        peer: PeerIdentity | None = getattr(addr, "peer", None)
        if peer is None or peer.role is not Role.NODE:
            return None
        name, rosters = peer.name, self._rosters
        return RosterStream(
            str(peer),
            endpoints=lambda endpoints: rosters.endpoints_told(name, endpoints),
            opened=lambda stream: rosters.opened(stream, name),
            closed=rosters.closed,
        )
