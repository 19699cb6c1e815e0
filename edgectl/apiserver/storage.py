"""Objects in the metadata store: JSON under ``/kubebus/<network>/api/<group|core>/<plural>/[<namespace>/]<name>``.

The resource version of an object is the store's revision of its last change; it is not stored but read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgectl.apiserver.resources import RESOURCES, Resource
from metasync.interfaces import Store
from metasync.keys import api_prefix
from metasync.model import Compare, CompareOp, CompareTarget, Delete, KeyRange, KeyValue, Op, Put

Obj = dict[str, Any]

_BY_PLACE = {(one.group or "core", one.plural): one for one in RESOURCES}


@dataclass(frozen=True, slots=True)
class Page:
    """Objects of one read. ``next_key`` is where the next page begins, or ``None``."""

    items: list[Obj]
    revision: int
    next_key: bytes | None
    remaining: int


def encode(obj: Obj) -> bytes:
    """As it is stored: without its resource version."""
    meta = {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}
    return json.dumps({**obj, "metadata": meta}, separators=(",", ":"), ensure_ascii=False).encode()


def decode(kv: KeyValue) -> Obj:
    obj: Obj = json.loads(kv.value)
    obj["metadata"]["resourceVersion"] = str(kv.mod_revision)
    return obj


class ObjectStore:
    """Objects of one network in one store. Errors are the store's."""

    def __init__(self, store: Store, network: str) -> None:
        self.store = store
        self._root = api_prefix(network)

    @property
    def root(self) -> KeyRange:
        """Where all objects stand."""
        return KeyRange.prefix(self._root.encode())

    def key(self, resource: Resource, namespace: str, name: str) -> bytes:
        place = f"{namespace}/{name}" if resource.namespaced else name
        return f"{self._root}{resource.group or 'core'}/{resource.plural}/{place}".encode()

    def prefix(self, resource: Resource, namespace: str = "") -> bytes:
        """Where the objects of a kind stand; with a namespace only those in it."""
        below = f"{namespace}/" if namespace else ""
        return f"{self._root}{resource.group or 'core'}/{resource.plural}/{below}".encode()

    def resource_of(self, key: bytes) -> Resource | None:
        """The kind of what stands at a key of ours."""
        parts = key.removeprefix(self._root.encode()).split(b"/", 2)
        if len(parts) < 3:
            return None
        return _BY_PLACE.get((parts[0].decode("utf-8", "replace"), parts[1].decode("utf-8", "replace")))

    def record_key(self, kind: str, name: str) -> bytes:
        """The key of a record of the control plane itself, which is no object."""
        return f"{self._root}-/{kind}/{name}".encode()

    async def get(self, resource: Resource, namespace: str, name: str) -> Obj | None:
        found = await self.store.range(KeyRange.single(self.key(resource, namespace, name)))
        return decode(found.kvs[0]) if found.kvs else None

    async def page(
        self, resource: Resource, namespace: str, *, revision: int = 0, limit: int = 0, start: bytes = b""
    ) -> Page:
        """Up to ``limit`` (0: all) objects in key order, from ``start`` on, as they were at ``revision`` (0: now)."""
        whole = KeyRange.prefix(self.prefix(resource, namespace))
        wanted = KeyRange(max(start, whole.start), whole.end)
        found = await self.store.range(wanted, revision=revision, limit=limit)
        next_key = found.kvs[-1].key + b"\0" if found.more else None
        items = [decode(kv) for kv in found.kvs]
        return Page(items, revision or found.revision, next_key, max(0, found.count - len(items)))

    async def create(
        self, resource: Resource, obj: Obj, conditions: Sequence[Compare] = (), also: Sequence[Op] = ()
    ) -> Obj | None:
        """The object with its version, or ``None`` if one exists or a condition does not hold."""
        key = self._key_of(resource, obj)
        result = await self.store.txn([Compare.absent(key), *conditions], [Put(key, encode(obj)), *also])
        return _versioned(obj, result.revision) if result.succeeded else None

    async def update(self, resource: Resource, obj: Obj, version: str) -> Obj | None:
        """The object with its new version, or ``None`` if ``version`` is not that of the stored one."""
        key = self._key_of(resource, obj)
        result = await self.store.txn([Compare.unchanged(key, int(version))], [Put(key, encode(obj))])
        return _versioned(obj, result.revision) if result.succeeded else None

    async def delete(self, resource: Resource, obj: Obj, also: Sequence[Op] = ()) -> int | None:
        """The revision of the deletion, or ``None`` if the stored object is not this version any more."""
        key = self._key_of(resource, obj)
        version = int(obj["metadata"]["resourceVersion"])
        result = await self.store.txn([Compare.unchanged(key, version)], [Delete.single(key), *also])
        return result.revision if result.succeeded else None

    def still(self, resource: Resource, obj: Obj) -> Compare:
        """The condition that a cluster-scoped object is unchanged."""
        key = self.key(resource, "", obj["metadata"]["name"])
        return Compare(key, CompareTarget.MOD, CompareOp.EQUAL, int(obj["metadata"]["resourceVersion"]))

    def _key_of(self, resource: Resource, obj: Obj) -> bytes:
        meta = obj["metadata"]
        return self.key(resource, meta.get("namespace", ""), meta["name"])


def _versioned(obj: Obj, revision: int) -> Obj:
    obj["metadata"]["resourceVersion"] = str(revision)
    return obj
