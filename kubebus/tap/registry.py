"""The router's registry over the cloud store: ``/kubebus/<network>/registry/<kind>/<name>``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from kubebus.interfaces import Change, Record, RegistryError, Subscription
from metasync.interfaces import Store, StoreError, Watch
from metasync.keys import registry_prefix
from metasync.model import Compare, Delete, EventType, KeyRange, KeyValue, Op, Put, WatchBatch

_RETRY_SECONDS = 1.0
"""Between two attempts to read the registry while the store is away."""


class StoreRegistry:
    """A :class:`kubebus.interfaces.Registry` for one network. A record's revision is its key's mod revision."""

    def __init__(self, reactor: IReactorTime, store: Store, network: str) -> None:
        self._reactor = reactor
        self._store = store
        self._prefix = registry_prefix(network)

    async def get(self, kind: str, name: str) -> Record | None:
        found = await self._read(KeyRange.single(self._key(kind, name)))
        return self._record(kind, found[1][0]) if found[1] else None

    async def list(self, kind: str) -> Sequence[Record]:
        _, kvs = await self._read(self._range(kind))
        return [self._record(kind, kv) for kv in kvs]

    async def commit(self, changes: Sequence[Change]) -> bool:
        compares: list[Compare] = []
        ops: list[Op] = []
        for change in changes:
            key = self._key(change.kind, change.name)
            compares.append(Compare.unchanged(key, change.revision))
            ops.append(Delete.single(key) if change.value is None else Put(key, change.value))
        try:
            return (await self._store.txn(compares, ops)).succeeded
        except StoreError as error:
            raise RegistryError(f"the registry could not be written: {error}") from error

    def subscribe(self, kind: str, changed: Callable[[str, Record | None], None]) -> Subscription:
        subscription = _Subscription(self, kind, changed)
        subscription.start()
        return subscription

    async def _read(self, keys: KeyRange) -> tuple[int, tuple[KeyValue, ...]]:
        try:
            result = await self._store.range(keys)
        except StoreError as error:
            raise RegistryError(f"the registry could not be read: {error}") from error
        return result.revision, result.kvs

    def _range(self, kind: str) -> KeyRange:
        return KeyRange.prefix(self._key(kind, ""))

    def _key(self, kind: str, name: str) -> bytes:
        return f"{self._prefix}{kind}/{name}".encode()

    def _record(self, kind: str, kv: KeyValue) -> Record:
        return Record(kind, self._name(kind, kv.key), kv.value, kv.mod_revision)

    def _name(self, kind: str, key: bytes) -> str:
        return key.decode()[len(self._prefix) + len(kind) + 1 :]


class _Subscription:
    """Reads a kind, then watches it; on any failure of the watch it reads again and tells the difference."""

    _log = Logger()

    def __init__(self, registry: StoreRegistry, kind: str, changed: Callable[[str, Record | None], None]) -> None:
        self._registry = registry
        self._kind = kind
        self._changed = changed
        self._known: dict[str, int] = {}
        self._watch: Watch | None = None
        self._retry: IDelayedCall | None = None
        self._cancelled = False

    def start(self) -> None:
        self._retry = None
        Deferred.fromCoroutine(self._follow()).addErrback(self._lost)

    async def _follow(self) -> None:
        registry = self._registry
        revision, kvs = await registry._read(registry._range(self._kind))
        if self._cancelled:
            return
        gone = set(self._known)
        for kv in kvs:
            record = registry._record(self._kind, kv)
            gone.discard(record.name)
            self._tell(record.name, record, record.revision)
        for name in gone:
            self._tell(name, None, revision)
        self._watch = registry._store.watch(registry._range(self._kind), revision + 1, self)

    def batch(self, batch: WatchBatch) -> None:
        for event in batch.events:
            name = self._registry._name(self._kind, event.kv.key)
            if event.type is EventType.DELETE:
                self._tell(name, None, batch.revision)
            else:
                self._tell(name, self._registry._record(self._kind, event.kv), batch.revision)

    def progress(self, revision: int) -> None:
        pass

    def failed(self, error: StoreError) -> None:
        self._again(str(error))

    def cancel(self) -> None:
        self._cancelled = True
        if self._watch is not None:
            self._watch.cancel()
        if self._retry is not None:
            self._retry.cancel()

    def _tell(self, name: str, record: Record | None, revision: int) -> None:
        if self._cancelled:
            return
        if record is None:
            if self._known.pop(name, None) is None:
                return
        elif self._known.get(name) == record.revision:
            return
        else:
            self._known[name] = record.revision
        self._changed(name, record)

    def _lost(self, failure: object) -> None:
        self._again(str(failure))

    def _again(self, why: str) -> None:
        if self._cancelled:
            return
        self._log.warn("Watching the registry's {kind} failed, reading it again: {why}", kind=self._kind, why=why)
        self._watch = None
        self._retry = self._registry._reactor.callLater(_RETRY_SECONDS, self.start)
