"""The nodes' part of the cloud store, held in memory by one watch: what was desired of them, what they report."""

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
from edgectl.tokens import SECRET_PREFIX
from edgectl.watch import Backoff, Object
from metasync.interfaces import Store, StoreError, Watch
from metasync.keys import NodeKeys, node_of, nodes_prefix
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
    """One node's keys. ``pods`` and ``events`` hold the decoded reports, ``tokens`` the Secrets of tokens."""

    desired: dict[bytes, Stored] = field(default_factory=dict)
    tokens: dict[bytes, Object] = field(default_factory=dict)
    report: Object | None = None
    pods: dict[PodKey, Object] = field(default_factory=dict)
    events: dict[tuple[str, str], Object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """What a change in the store was about. ``pod`` and ``event`` name it where it is one's report."""

    node: str
    kind: str
    pod: PodKey | None = None
    event: tuple[str, str] | None = None


class Mirror:
    """The state itself. It takes keys and values, and says what each was about."""

    _log = Logger()

    def __init__(self, network: str) -> None:
        self.network = network
        self.nodes: dict[str, NodeMirror] = {}

    def node(self, name: str) -> NodeMirror:
        return self.nodes.setdefault(name, NodeMirror())

    def apply(self, key: bytes, kv: KeyValue | None) -> Change | None:
        """Take in a key (``None``: removed). ``None`` if it tells nothing."""
        name = node_of(self.network, key)
        if name is None:
            return None
        keys = NodeKeys(self.network, name)
        if key.startswith(keys.desired.encode()):
            return self._desired(name, key, kv)
        if key.startswith(keys.reported.encode()):
            return self._reported(name, key[len(keys.reported.encode()) :], kv)
        return None

    def wrote(self, node: str, written: Mapping[bytes, Stored | None]) -> None:
        """Our own writes, before the watch tells of them."""
        desired = self.node(node).desired
        for key, stored in written.items():
            known = desired.get(key)
            if stored is None:
                desired.pop(key, None)
            elif known is None or known.mod_revision < stored.mod_revision:
                desired[key] = stored

    def _desired(self, name: str, key: bytes, kv: KeyValue | None) -> Change | None:
        node = self.node(name)
        desired = node.desired
        if kv is None:
            node.tokens.pop(key, None)
            return Change(name, "desired") if desired.pop(key, None) is not None else None
        known = desired.get(key)
        if known is not None and known.mod_revision >= kv.mod_revision:
            return None
        desired[key] = Stored.of(kv.value, kv.mod_revision)
        if key.rpartition(b"/")[2].startswith(_TOKEN):
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
                _set(node.pods, (namespace, pod, uid), value)
                return Change(name, "pod", pod=(namespace, pod, uid))
            case ["events", namespace, event]:
                _set(node.events, (namespace, event), value)
                return Change(name, "event", event=(namespace, event))
        return None

    def _decode(self, name: str, rest: bytes, kv: KeyValue) -> Object | None:
        """A report, or ``None`` for one that is unusable: the node is not trusted to send what it should."""
        if len(kv.value) > MAX_REPORT:
            self._log.warn("node {node}: report {rest!r} is over {max} bytes", node=name, rest=rest, max=MAX_REPORT)
            return None
        try:
            value = json.loads(kv.value)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            self._log.warn("node {node}: report {rest!r} is not a JSON object", node=name, rest=rest)
            return None
        return value


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
        self._keys = KeyRange.prefix(nodes_prefix(network).encode())
        self._backoff = Backoff(random)
        self._tell = changed
        self._filled = filled
        self._watch: Watch | None = None
        self._running: Deferred[None] | None = None
        self._stopped = False

    def start(self) -> None:
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(lambda _: None)

    def stop(self) -> None:
        self._stopped = True
        if self._watch is not None:
            self._watch.cancel()
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
        start, revision, seen = self._keys.start, 0, set()
        while True:
            page = await self._store.range(KeyRange(start, self._keys.end), revision=revision, limit=PAGE)
            revision = revision or page.revision
            for kv in page.kvs:
                seen.add(kv.key)
                self._apply(kv.key, kv)
            if not page.more or not page.kvs:
                break
            start = page.kvs[-1].key + b"\0"
        for key in self._known() - seen:
            self._apply(key, None)
        if not self.synced:
            self.synced = True
            self._filled()
        return revision

    def _known(self) -> set[bytes]:
        known: set[bytes] = set()
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
        self._watch = self._store.watch(self._keys, revision, _Observer(self._apply, over))
        try:
            await over
        finally:
            self._watch.cancel()
            self._watch = None

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
