"""The router's registry over the cloud store: ``/kubebus/<network>/registry/<kind>/<name>``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from twisted.internet.interfaces import IReactorTime

from kubebus.interfaces import Change, Record, RegistryError, Subscription
from metasync.following import Follower
from metasync.interfaces import Store, StoreError
from metasync.keys import registry_prefix
from metasync.model import Compare, Delete, KeyRange, KeyValue, Op, Put


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
        def told(changes: Mapping[bytes, KeyValue | None]) -> None:
            for name, kv in changes.items():
                if not subscription.cancelled:
                    changed(name.decode(), None if kv is None else self._record(kind, kv))

        subscription = _Subscription(Follower(self._reactor, self._store, self._key(kind, ""), told))
        subscription.follower.start()
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
    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self.follower.stop()
