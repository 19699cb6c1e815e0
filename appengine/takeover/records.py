# mypy: disallow-untyped-calls=False
"""Who runs which pod in place of its owner, as the nodes of a site tell each other in their own data."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from appengine.services.table import Substitute
from appengine.takeover.interfaces import Leases
from appengine.waiting import sleep
from metasync.following import Follower
from metasync.interfaces import Store, StoreError
from metasync.keys import SiteKeys
from metasync.model import Compare, Delete, KeyRange, KeyValue, Put

IPAddress = IPv4Address | IPv6Address

MAX_RECORD_BYTES = 4096
_RETRY = 2.0
_LATER = 0.1
"""Seconds after a vote has ended."""


class Membership(Protocol):
    """Which site this node is of, by the roster that its members have signed for."""

    @property
    def site(self) -> str | None:
        """``None``: of no site, as far as is known."""

    def members(self) -> Collection[str]:
        """The names of the site's nodes, this one among them; none while that is not known."""

    def owns(self, node: str, address: IPAddress) -> bool:
        """Whether an address is that member's, or one of its pods'."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` whenever the site or its members are others."""


@dataclass(frozen=True, slots=True)
class Record:
    """A pod that runs elsewhere than on its owner.

    :ivar uid: the new UID that it runs under.
    :ivar node: who runs it.
    """

    uid: str
    node: str
    addresses: tuple[IPAddress, ...] = ()
    ready: bool = False

    def encode(self) -> bytes:
        addresses = [str(each) for each in self.addresses]
        value = {"uid": self.uid, "node": self.node, "addresses": addresses, "ready": self.ready}
        return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()

    @classmethod
    def decode(cls, value: bytes) -> Record:
        """:raises ValueError: for what is no record."""
        if len(value) > MAX_RECORD_BYTES:
            raise ValueError(f"it has {len(value)} bytes; the limit is {MAX_RECORD_BYTES}")
        found: Any = json.loads(value)
        if not isinstance(found, dict) or not isinstance(found.get("addresses"), list):
            raise ValueError("it is no takeover record")
        addresses = tuple(ip_address(str(each)) for each in found["addresses"])
        return cls(str(found.get("uid")), str(found.get("node")), addresses, found.get("ready") is True)

    @classmethod
    def of_status(cls, uid: str, node: str, status: Mapping[str, Any]) -> Record:
        """From a v1 PodStatus."""
        addresses = tuple(ip_address(str(each["ip"])) for each in status.get("podIPs") or () if each.get("ip"))
        conditions = {str(each.get("type")): each.get("status") for each in status.get("conditions") or ()}
        return cls(uid, node, addresses, conditions.get("Ready") == "True")


class Records(Service):
    """The takeovers of this node's site: read, and written for the pods that this node runs.

    What this node has to say of its own takeovers is written again if somebody else's word came to stand there: two
    halves of a site that were apart may both have written, and who has the pod now is right.

    All members can write all of it, and one of them may lie. So no more is believed than what can be true: see
    :meth:`current` and :meth:`substitutes`.
    """

    _log = Logger()

    def __init__(self, reactor: Any, store: Store, network: str, membership: Membership) -> None:
        self._reactor, self._store, self._network, self._membership = reactor, store, network, membership
        self._mine: dict[str, bytes] = {}
        self._todo: set[str] = set()
        self._dropped: dict[str, str | None] = {}
        self._writing: Deferred[None] | None = None
        self._busy = False
        self._keys: SiteKeys | None = None
        self._follower: Follower | None = None
        self._watchers: list[Callable[[], None]] = []
        self._opted_in: Collection[str] | None = None
        self._leases: Leases | None = None
        self._refused: dict[str, str] = {}
        self._again: IDelayedCall | None = None
        membership.watch(self._place)

    def startService(self) -> None:
        super().startService()
        self._place()

    def stopService(self) -> None:
        super().stopService()
        if self._follower is not None:
            self._follower.stop()
        if self._writing is not None:
            self._writing.cancel()
        self._look_again_in(None)

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` when :meth:`current` may have changed."""
        self._watchers.append(changed)

    def current(self) -> dict[str, Record]:
        """Original UID → who runs it.

        A word counts only if it speaks of a member of the site, and of addresses which the authority gave that one.
        """
        members, found, refused = self._membership.members(), {}, {}
        for key, kv in self._items().items():
            try:
                record = Record.decode(kv.value)
            except (ValueError, RecursionError):
                continue
            if record.node not in members:
                continue
            uid = key.decode("utf-8", "replace")
            foreign = [each for each in record.addresses if not self._membership.owns(record.node, each)]
            if foreign:
                refused[uid] = f"{foreign[0]} is no address of node {record.node}"
            else:
                found[uid] = record
        self._tell_refused(refused)
        return found

    def count_only(self, uids: Collection[str]) -> None:
        """The original UIDs of the pods that may be taken over.

        By a word on any other pod a member of the site could draw the traffic of every Service to itself.
        """
        if uids != self._opted_in:
            self._opted_in = uids
            self._tell()

    def compare_with(self, leases: Leases) -> None:
        """As long as this node's own vote is with one node, a word that another one runs the pod leads nobody there.

        So a member cannot have the traffic of a pod that runs elsewhere.
        """
        self._leases = leases
        self._tell()

    def substitutes(self) -> dict[str, Substitute]:
        """The same, for the Services of this node: of pods that have opted in, and only where its own vote is not with
        another node."""
        found, opted_in = self.current(), self._opted_in
        belied = self._belied(found)
        return {
            uid: Substitute(each.node, each.addresses, each.ready)
            for uid, each in found.items()
            if uid not in belied and (opted_in is None or uid in opted_in)
        }

    def _belied(self, found: Mapping[str, Record]) -> Collection[str]:
        if self._leases is None or not found:
            return ()
        now, until = self._leases.now(), {}
        for lease in self._leases.holdings():
            record = found.get(lease.uid)
            if record is not None and lease.holder not in (None, record.node) and lease.until is not None:
                until[lease.uid] = lease.until
        # Votes end by themselves, and nobody tells of it.
        self._look_again_in(max(0.0, min(until.values()) - now) + _LATER if until else None)
        return until

    def _look_again_in(self, seconds: float | None) -> None:
        if self._again is not None and self._again.active():
            self._again.cancel()
        self._again = None if seconds is None or not self.running else self._reactor.callLater(seconds, self._tell)

    def _tell_refused(self, refused: dict[str, str]) -> None:
        for uid, why in refused.items():
            if self._refused.get(uid) != why:
                self._log.warn("the word of its site on who runs pod {uid} does not count: {why}", uid=uid, why=why)
        self._refused = refused

    def put(self, uid: str, record: Record) -> None:
        """This node runs the pod of that original UID."""
        value = record.encode()
        if self._mine.get(uid) != value:
            self._mine[uid] = value
            self._dropped.pop(uid, None)
            self._todo.add(uid)
            self._write()

    def drop(self, uid: str, node: str | None = None) -> None:
        """The pod of that original UID is run by ``node`` no more; without one, by nobody but its owner."""
        self._mine.pop(uid, None)
        self._todo.discard(uid)
        self._dropped[uid] = node
        self._write()

    def _items(self) -> Mapping[bytes, KeyValue]:
        return self._follower.items if self._follower is not None else {}

    def _place(self) -> None:
        site = self._membership.site
        keys = SiteKeys(self._network, site) if site is not None else None
        if not self.running or keys == self._keys:
            self._tell()
            return
        if self._follower is not None:
            self._follower.stop()
            self._follower = None
        self._keys = keys
        self._todo |= self._mine.keys()
        if keys is not None:
            self._follower = Follower(self._reactor, self._store, keys.takeover(""), self._changed)
            self._follower.start()
        self._tell()

    def _changed(self, changes: Mapping[bytes, KeyValue | None]) -> None:
        for key, kv in changes.items():
            mine = self._mine.get(key.decode("utf-8", "replace"))
            if mine is not None and (kv is None or kv.value != mine):
                self._todo.add(key.decode())
        self._write()
        self._tell()

    def _tell(self) -> None:
        for watcher in self._watchers:
            watcher()

    def _write(self) -> None:
        if not self._busy and self.running:
            self._busy = True
            self._writing = Deferred.fromCoroutine(self._write_all())
            self._writing.addErrback(_cancelled)
            self._writing.addErrback(
                lambda failure: self._log.failure("writing of takeovers to the store failed", failure)
            )

    async def _write_all(self) -> None:
        try:
            while (self._todo or self._dropped) and self.running and self._keys is not None:
                try:
                    for uid in list(self._todo):
                        self._todo.discard(uid)
                        if uid in self._mine:
                            await self._store.txn([], [Put(self._keys.takeover(uid), self._mine[uid])])
                    for uid, node in list(self._dropped.items()):
                        if uid in self._dropped and await self._drop(self._keys.takeover(uid), node):
                            self._dropped.pop(uid, None)
                except StoreError as error:
                    self._log.error("takeovers cannot be told now; trying again: {error}", error=str(error))
                    self._todo |= self._mine.keys()
                    await sleep(self._reactor, _RETRY)
        finally:
            self._busy = False

    async def _drop(self, key: bytes, node: str | None) -> bool:
        """Whether it is done; not if the key has changed at the same time."""
        found = (await self._store.range(KeyRange.single(key))).kvs
        if not found or (node is not None and _node_of(found[0].value) != node):
            return True
        same = Compare.unchanged(key, found[0].mod_revision)
        return (await self._store.txn([same], [Delete.single(key)])).succeeded


def _cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)


def _node_of(value: bytes) -> str | None:
    try:
        return Record.decode(value).node
    except (ValueError, RecursionError):
        return None
