"""Takeover on one node: its own pods run only with the lease of the site, others' pods when theirs is gone.

Who has a lease is decided elsewhere (:class:`appengine.takeover.interfaces.Leases`), what runs in a container is the
engine's. Here is what joins them, and the one rule that nothing may break: no container of a pod that has opted in is
started or goes on without the lease. That is kept three times over: the pod is held back, each start asks for
permission, and the dead man's switch knows each container before it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from appengine.desired import Desired, ObjectKey
from appengine.podspec import InvalidPod, Json, Pod, PodRef, read_json
from appengine.runtime import EngineError
from appengine.takeover.deadman import DeadMan, Watched
from appengine.takeover.eligible import uid_of
from appengine.takeover.interfaces import Leases
from appengine.takeover.others import Others
from appengine.takeover.own import OwnPods
from appengine.takeover.records import Membership, Records
from appengine.worker import Worker
from metasync.following import Follower
from metasync.interfaces import Store
from metasync.keys import NodeKeys, SiteKeys
from metasync.model import KeyValue

MINIMUM_SECONDS = 1.0
"""What must be left of a lease for a container to be started with it."""

SWITCH_SECONDS = 0.5
"""The dead man's switch acts so long before the lease ends: by then, nothing runs any more."""

KILL_SECONDS = 0.5
"""What a pod that is stopped in time has less than its lease: SIGKILL takes effect, and the engine tells of it."""


class NotPermitted(EngineError):
    """A container may not be started here now."""


class Host(Protocol):
    """The engine, as takeover needs it."""

    def want(self, namespace: str, name: str) -> None:
        """What is wanted under this name may be something else now."""

    def worker(self, uid: str) -> Worker | None: ...

    def is_own(self, namespace: str, name: str) -> bool:
        """Whether the node has a pod of its own of that name."""

    def refusal(self, pod: Pod) -> tuple[str, str] | None:
        """Why the node could not take a pod: reason, message."""

    def has_place(self) -> bool:
        """Whether the node knows its network configuration, and so whether it is of a site."""

    def files_changed(self, namespace: str) -> None:
        """ConfigMaps or Secrets of a namespace have changed."""

    def reconsider(self) -> None:
        """Whether the node's own pods need leases may have changed."""


class Takeover:
    """:class:`appengine.node.Takeovers` of a node that may be of a site; a lease watcher.

    :ivar desired: what the cloud has sent to all nodes of the site; ``None`` without a site.
    :ivar loaded: whether the pods of the site have been read; before that nobody knows whose containers run here.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        store: Store,
        keys: NodeKeys,
        leases: Leases,
        membership: Membership,
        records: Records,
        deadman: DeadMan,
    ) -> None:
        self.reactor, self.leases, self.deadman, self.records = reactor, leases, deadman, records
        self.node = keys.node
        self._store, self._network, self._membership = store, keys.network, membership
        self._site: SiteKeys | None = None
        self.desired: Desired | None = None
        self._labels = Follower(reactor, store, f"{keys.desired}nodes/", self._labels_changed)
        self._found: dict[str, Watched] = {}
        self._calls: list[Any] = []
        self._begun = self._looked = self._stopped = False
        self.own = OwnPods(self)
        self.others = Others(self)
        self.host: Host

    # -- life

    def begin(self, host: Host, previous: Mapping[str, Json]) -> None:
        """Start, with what this node reported before it was started anew (UID → PodReport)."""
        self.host = host
        self.others.remember(previous)
        self._begun = True
        self._membership.watch(self._members_changed)
        self._members_changed()
        self._labels.start()
        self.spawn(self._look())

    async def stop(self) -> None:
        """Let go: what runs goes on until its lease ends, and on if the next agent is there before."""
        self._stopped = True
        for call in self._calls:
            if call.active():
                call.cancel()
        self._labels.stop()
        if self.desired is not None:
            await self.desired.stop()
        await self.deadman.stop()

    @property
    def loaded(self) -> bool:
        return self._looked and self._labels.synced and (self.desired is None or self.desired.loaded)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run it on its own; a fault of it is seen."""
        Deferred.fromCoroutine(coroutine).addErrback(lambda failure: self.log.failure("takeover failed", failure))

    def later(self, seconds: float, what: Callable[..., object], *arguments: Any) -> None:
        """Call it then, unless the agent stops before."""
        self._calls = [call for call in self._calls if call.active()]
        self._calls.append(self.reactor.callLater(seconds, what, *arguments))

    async def _look(self) -> None:
        """What an earlier agent left running may go on as long as that one had leave."""
        self._found = await self.deadman.look()
        now = self.leases.now()
        for uid, watched in self._found.items():
            left = watched.until - now
            if left > 0:
                self.later(left / 2, self._expiring, uid, watched.until)
        self._looked = True

    def _expiring(self, uid: str, until: float) -> None:
        original = self.original(uid)
        if original is not None and self.leases.held_until(original) is None:
            self._ending(original, until)

    def adopt(self) -> None:
        """Everything is known: what is to go on, and what is to be asked for. The leases are followed from here on."""
        self.others.resume()
        known = {uid for uid in self._found if self.original(uid) is not None}
        for uid in self._found.keys() - known:
            if self.host.worker(uid) is None:
                # Not even a container is left of it, or the engine does not tell.
                self.spawn(self.deadman.end(uid))
        self.leases.watch(self)
        self.records.compare_with(self.leases)
        self.others.consider()

    # -- the site

    @property
    def in_site(self) -> bool:
        """Whether leases are needed here. As long as that is not known, they are."""
        return self._membership.site is not None or not self.host.has_place()

    def _members_changed(self) -> None:
        if not self._begun or self._stopped:
            return
        site = self._membership.site
        keys = SiteKeys(self._network, site) if site is not None else None
        if keys != self._site:
            self._site = keys
            if self.desired is not None:
                self.spawn(self.desired.stop())
                self.desired = None
            if keys is not None:
                self.desired = Desired(self.reactor, self._store, keys, self._site_changed)
                self.desired.start()
            self.host.reconsider()
        self.others.consider()

    def _site_changed(self, changed: frozenset[ObjectKey]) -> None:
        self.records.count_only(frozenset(self._uids()))
        self.others.consider()
        for namespace in {namespace for plural, namespace, _ in changed if plural != "pods"}:
            self.host.files_changed(namespace)

    def _labels_changed(self, changes: Mapping[bytes, KeyValue | None]) -> None:
        self.others.consider()

    def _uids(self) -> Iterator[str]:
        for value in self.site_pods().values():
            try:
                yield uid_of(read_json(value, "pod"))
            except InvalidPod:
                continue  # Told of where it is considered.

    def site_pods(self) -> dict[tuple[str, str], bytes]:
        """The pods of the site that have opted in: (namespace, name) → value."""
        return self.desired.pods() if self.desired is not None else {}

    def labels(self) -> bytes | None:
        """This node's own Node object."""
        return next((kv.value for kv in self._labels.items.values()), None)

    # -- leases

    def original(self, uid: str) -> str | None:
        """The UID by which the lease of a pod is known that runs here under ``uid``; ``None`` if it needs none."""
        return uid if uid in self.own else self.others.original(uid)

    def until(self, uid: str) -> float | None:
        """Until when (``Leases.now``) a pod may run here; ``None``: not now."""
        original = self.original(uid)
        held = self.leases.held_until(original) if original is not None else None
        found = self._found.get(uid)
        held = None if held is None else held - SWITCH_SECONDS
        times = [time for time in (held, found.until if found is not None else None) if time is not None]
        latest = max(times, default=None)
        return latest if latest is not None and latest > self.leases.now() else None

    async def arm(self, uid: str) -> bool:
        """Let the switch know how long the pod may run. Whether it may."""
        until = self.until(uid)
        if until is not None:
            await self.deadman.arm(uid, until)
        return self.until(uid) is not None

    def forget_found(self, uid: str) -> None:
        """Nothing is left of the pod: what an earlier agent had is void."""
        self._found.pop(uid, None)

    def lease_gained(self, uid: str) -> None:
        self.log.info("The lease on pod {uid} was gained", uid=uid)
        if uid in self.own:
            self.spawn(self.own.gained(uid))
        else:
            self.spawn(self.others.gained(uid))

    def leases_renewed(self) -> None:
        deadlines = {uid: self.until(uid) for uid in (*self.own.uids(), *self.others.uids())}
        self.deadman.extend({uid: until for uid, until in deadlines.items() if until is not None})

    def lease_ending(self, uid: str, stop_by: float) -> None:
        self._ending(uid, stop_by)

    def _ending(self, uid: str, stop_by: float) -> None:
        grace = max(0.0, stop_by - self.leases.now() - KILL_SECONDS)
        self.log.warn(
            "The lease on pod {uid} cannot be renewed: its containers are stopped within {grace:.1f} s",
            uid=uid,
            grace=grace,
        )
        if uid in self.own:
            self.own.ending(uid, grace)
        else:
            self.others.ending(uid, grace)

    def lease_wanted_back(self, uid: str) -> None:
        if uid in self.own:
            return
        self.others.give_back(uid)

    # -- Takeovers of the node

    async def permit(self, ref: PodRef, container_id: str) -> None:
        if self.original(ref.uid) is None:
            return
        until = self.until(ref.uid)
        if until is not None and until - self.leases.now() > MINIMUM_SECONDS:
            await self.deadman.arm(ref.uid, until, container_id)
            # Telling the switch may have taken long.
            until = self.until(ref.uid)
        if until is None or until - self.leases.now() <= MINIMUM_SECONDS:
            raise NotPermitted(self.why_held())

    def origin(self, uid: str) -> Json | None:
        return self.others.origin(uid)

    def reported(self, ref: PodRef, status: Json) -> None:
        self.others.reported(ref.uid, status)

    def held(self, ref: PodRef) -> None:
        if ref.uid in self.own:
            self.spawn(self.own.stopped(ref.uid))

    # -- from the engine

    def gone(self, ref: PodRef) -> None:
        """Nothing is left of a pod, and it is wanted no more."""
        if ref.uid in self.own:
            self.spawn(self.own.gone(ref.uid))
        elif self.others.original(ref.uid) is not None:
            self.spawn(self.others.gone(ref.uid))
        elif ref.uid in self._found:
            self.forget_found(ref.uid)
            self.spawn(self.deadman.end(ref.uid))

    def own_changed(self) -> None:
        """The node's own pods are others, or its network configuration is."""
        self.others.consider()

    # -- for people

    def why_held(self) -> str:
        why = self.leases.waiting_for()
        return f"another node of the site may run it: waiting for the site's lease{f' ({why})' if why else ''}"

    def status(self) -> Json:
        """What is taken over, by whom: JSON-able."""
        members = sorted(self._membership.members())
        records = self.records.current()
        now = self.leases.now()
        pods = []
        for lease in self.leases.holdings():
            record = records.get(lease.uid)
            pods.append(
                {
                    "uid": lease.uid,
                    **self.name_of(lease.uid),
                    "owner": lease.owner,
                    "holder": lease.holder,
                    "seconds": None if lease.until is None else round(max(0.0, lease.until - now), 1),
                    "takenOver": None
                    if record is None
                    else {"node": record.node, "uid": record.uid, "ready": record.ready},
                }
            )
        return {
            "site": self._membership.site,
            "members": members,
            "waitingFor": self.leases.waiting_for(),
            "pods": pods,
        }

    def name_of(self, uid: str) -> Json:
        return self.own.name_of(uid) or self.others.name_of(uid) or {}
