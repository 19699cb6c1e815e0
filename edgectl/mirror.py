"""The nodes' part of the cloud store, held in memory: what was desired of them and their sites, what they report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from edgectl.desired import Stored
from edgectl.lasting import lasting
from edgectl.tokens import SECRET_PREFIX
from edgectl.watch import Backoff, Object
from metasync.interfaces import Store, StoreError, Watch
from metasync.keys import NodeKeys, SiteKeys, node_of, nodes_prefix, site_of, sites_prefix
from metasync.model import EventType, KeyRange, KeyValue, WatchBatch

PAGE = 1000
"""Keys read at a time when the mirror is filled."""

MAX_REPORT = 512 * 1024
"""Bytes of one report. Kubernetes takes no object over 1.5 MiB, and a pod's spec needs room beside its status."""

_TOKEN = SECRET_PREFIX.encode()

PodKey = tuple[str, str, str]
"""``(namespace, name, uid)``."""


@dataclass(slots=True)
class NodeMirror:
    """One node's keys. ``pods`` and ``events`` hold the decoded reports, ``tokens`` the Secrets of tokens.

    :ivar revisions: when the report on a pod last changed.
    """

    desired: dict[bytes, Stored] = field(default_factory=dict)
    tokens: dict[bytes, Object] = field(default_factory=dict)
    report: Object | None = None
    pods: dict[PodKey, Object] = field(default_factory=dict)
    revisions: dict[PodKey, int] = field(default_factory=dict)
    events: dict[tuple[str, str], Object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """What a change in the store was about. ``pod`` and ``event`` name it where it is one's report.

    :ivar node: whose it is; the site's name where ``kind`` is ``site``.
    """

    node: str
    kind: str
    pod: PodKey | None = None
    event: tuple[str, str] | None = None


class Mirror:
    """The state itself. It takes keys and values, and says what each was about.

    :ivar sites: by site, what stands under its ``desired``.
    :ivar takeovers: by the UID of a pod, the reports (node and pod) that say to be of its copy.
    """

    _log = Logger()

    def __init__(self, network: str) -> None:
        self.network = network
        self.nodes: dict[str, NodeMirror] = {}
        self.sites: dict[str, dict[bytes, Stored]] = {}
        self.takeovers: dict[str, dict[tuple[str, PodKey], None]] = {}

    def node(self, name: str) -> NodeMirror:
        return self.nodes.setdefault(name, NodeMirror())

    def site(self, name: str) -> dict[bytes, Stored]:
        """What stands under the ``desired`` of a site."""
        return self.sites.setdefault(name, {})

    def apply(self, key: bytes, kv: KeyValue | None) -> Change | None:
        """Take in a key (``None``: removed). ``None`` if it tells nothing."""
        name = node_of(self.network, key)
        if name is None:
            return self._of_site(key, kv)
        keys = NodeKeys(self.network, name)
        if key.startswith(keys.desired.encode()):
            return self._desired(name, key, kv)
        if key.startswith(keys.reported.encode()):
            return self._reported(name, key[len(keys.reported.encode()) :], kv)
        return None

    def _of_site(self, key: bytes, kv: KeyValue | None) -> Change | None:
        site = site_of(self.network, key)
        if site is None or not key.startswith(SiteKeys(self.network, site).desired.encode()):
            return None
        return Change(site, "site") if _take(self.site(site), key, kv) else None

    @staticmethod
    def wrote(desired: dict[bytes, Stored], written: Mapping[bytes, Stored | None]) -> None:
        """Our own writes, before the watch tells of them; ``desired`` is a node's or a site's."""
        for key, stored in written.items():
            known = desired.get(key)
            if stored is None:
                desired.pop(key, None)
            elif known is None or known.mod_revision < stored.mod_revision:
                desired[key] = stored

    def _desired(self, name: str, key: bytes, kv: KeyValue | None) -> Change | None:
        node = self.node(name)
        if kv is None:
            node.tokens.pop(key, None)
        if not _take(node.desired, key, kv):
            return None
        if kv is not None and key.rpartition(b"/")[2].startswith(_TOKEN):
            _set(node.tokens, key, self._decode(name, key, kv))
        return Change(name, "desired")

    def _reported(self, name: str, rest: bytes, kv: KeyValue | None) -> Change | None:
        value = self._decode(name, rest, kv) if kv is not None else None
        node = self.node(name)
        match rest.decode("utf-8", "replace").split("/"):
            case ["node"]:
                node.report = value
                return Change(name, "node")
            case ["pods", namespace, pod, uid]:
                self._pod(name, (namespace, pod, uid), value, kv)
                return Change(name, "pod", pod=(namespace, pod, uid))
            case ["events", namespace, event]:
                _set(node.events, (namespace, event), value)
                return Change(name, "event", event=(namespace, event))
        return None

    def _pod(self, name: str, key: PodKey, value: Object | None, kv: KeyValue | None) -> None:
        node = self.node(name)
        for original in _originals(node.pods.get(key)):
            self.takeovers[original].pop((name, key))
            if not self.takeovers[original]:
                del self.takeovers[original]
        for original in _originals(value):
            self.takeovers.setdefault(original, {})[name, key] = None
        _set(node.pods, key, value)
        if value is None or kv is None:
            node.revisions.pop(key, None)
        else:
            node.revisions[key] = kv.mod_revision

    def _decode(self, name: str, rest: bytes, kv: KeyValue) -> Object | None:
        """A report, or ``None`` for one that is unusable: the node is not trusted to send what it should."""
        if len(kv.value) > MAX_REPORT:
            self._log.warn("node {node}: report {rest!r} is over {max} bytes", node=name, rest=rest, max=MAX_REPORT)
            return None
        try:
            value = lasting(json.loads(kv.value))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            self._log.warn("node {node}: report {rest!r} is not a JSON object", node=name, rest=rest)
            return None
        return value


def _take(desired: dict[bytes, Stored], key: bytes, kv: KeyValue | None) -> bool:
    """Take in a key that we write ourselves; whether that was news."""
    if kv is None:
        return desired.pop(key, None) is not None
    known = desired.get(key)
    if known is not None and known.mod_revision >= kv.mod_revision:
        return False
    desired[key] = Stored.of(kv.value, kv.mod_revision)
    return True


def _originals(report: Mapping[str, Any] | None) -> list[str]:
    """The UID of the pod of which the report's is a copy, if it says so."""
    of = report.get("takenOver") if report is not None else None
    uid = of.get("uid") if isinstance(of, Mapping) else None
    return [uid] if isinstance(uid, str) else []


def _set(holder: dict[Any, Object], key: Any, value: Object | None) -> None:
    if value is None:
        holder.pop(key, None)
    else:
        holder[key] = value


class StoreMirror:
    """Keeps a :class:`Mirror` equal to the store from :meth:`start` to :meth:`stop`, whatever happens to the watch.

    :param changed: called for every change once the mirror is filled.
    :param filled: called when it has been filled for the first time; the changes of that are not told singly.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        store: Store,
        network: str,
        random: Callable[[], float],
        changed: Callable[[Change], None],
        filled: Callable[[], None],
    ) -> None:
        self.mirror = Mirror(network)
        self.synced = False
        self._reactor = reactor
        self._store = store
        self._ranges = [KeyRange.prefix(prefix(network).encode()) for prefix in (nodes_prefix, sites_prefix)]
        self._backoff = Backoff(random)
        self._tell = changed
        self._filled = filled
        self._watches: list[Watch] = []
        self._running: Deferred[None] | None = None
        self._stopped = False

    def start(self) -> None:
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(lambda _: None)

    def stop(self) -> None:
        self._stopped = True
        self._unwatch()
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> None:
        while not self._stopped:
            try:
                revision = await self._fill()
                self._backoff.reset()
                await self._follow(revision + 1)
            except StoreError as error:
                self._log.warn("reading the nodes' part of the store failed: {error}", error=error)
            except CancelledError:
                raise
            except Exception:
                self._log.failure("following the nodes' part of the store failed")
            await deferLater(self._reactor, self._backoff.next())

    async def _fill(self) -> int:
        """Read everything at one revision, and forget what is no longer there."""
        revision, seen = 0, set()
        for keys in self._ranges:
            start, more = keys.start, True
            while more:
                page = await self._store.range(KeyRange(start, keys.end), revision=revision, limit=PAGE)
                revision = revision or page.revision
                for kv in page.kvs:
                    seen.add(kv.key)
                    self._apply(kv.key, kv)
                more = page.more and bool(page.kvs)
                start = page.kvs[-1].key + b"\0" if more else start
        for key in self._known() - seen:
            self._apply(key, None)
        if not self.synced:
            self.synced = True
            self._filled()
        return revision

    def _known(self) -> set[bytes]:
        known: set[bytes] = {key for desired in self.mirror.sites.values() for key in desired}
        for name, node in self.mirror.nodes.items():
            keys = NodeKeys(self.mirror.network, name)
            known.update(node.desired)
            known.update(keys.reported_pod(*pod) for pod in node.pods)
            known.update(f"{keys.reported}events/{ns}/{event}".encode() for ns, event in node.events)
            if node.report is not None:
                known.add(keys.reported_node)
        return known

    async def _follow(self, revision: int) -> None:
        over: Deferred[None] = Deferred()
        self._watches = [self._store.watch(keys, revision, _Observer(self._apply, over)) for keys in self._ranges]
        try:
            await over
        finally:
            self._unwatch()

    def _unwatch(self) -> None:
        for watch in self._watches:
            watch.cancel()
        self._watches = []

    def _apply(self, key: bytes, kv: KeyValue | None) -> None:
        change = self.mirror.apply(key, kv)
        if change is not None and self.synced:
            self._tell(change)


class _Observer:
    """Hands a watch's events on, until it fails."""

    def __init__(self, apply: Callable[[bytes, KeyValue | None], None], over: Deferred[None]) -> None:
        self._apply = apply
        self._over = over

    def batch(self, batch: WatchBatch) -> None:
        try:
            for event in batch.events:
                self._apply(event.kv.key, event.kv if event.type is EventType.PUT else None)
        except Exception as error:
            self._end(error)

    def progress(self, revision: int) -> None:
        pass

    def failed(self, error: StoreError) -> None:
        self._end(error)

    def _end(self, error: Exception) -> None:
        if not self._over.called:
            self._over.errback(error)
