"""What this node says of itself and its pods, written to the local store: coalesced, and tried again until it is."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from appengine.podspec import Json, PodRef
from appengine.waiting import sleep
from metasync.interfaces import Store, StoreError
from metasync.keys import NodeKeys
from metasync.model import Delete, KeyRange, Op, Put

_RETRY = 2.0
_OPERATIONS = 64


class Reports:
    """The node's ``reported`` prefix. Only the newest value of a key is written, and only if it differs."""

    _log = Logger()

    def __init__(self, reactor: Any, store: Store, keys: NodeKeys) -> None:
        self._reactor = reactor
        self._store = store
        self._keys = keys
        self._written: dict[bytes, bytes] = {}
        self._pending: dict[bytes, bytes | None] = {}
        self._writing: Deferred[None] | None = None
        self._busy = False
        self._stopped = False

    async def load(self) -> dict[str, Json]:
        """Read what was reported before: UID → PodReport.

        :raises StoreError: if the store cannot be read.
        """
        prefix = f"{self._keys.reported}pods/".encode()
        found = await self._store.range(KeyRange.prefix(prefix))
        reports: dict[str, Json] = {}
        for kv in found.kvs:
            self._written[kv.key] = kv.value
            try:
                report = json.loads(kv.value)
                reports[str(report["metadata"]["uid"])] = report
            except (ValueError, KeyError, TypeError):
                continue
        return reports

    async def load_events(self) -> dict[tuple[str, str], Any]:
        """The Events that were reported before: (namespace, name) → v1 Event.

        :raises StoreError: if the store cannot be read.
        """
        prefix = f"{self._keys.reported}events/".encode()
        events: dict[tuple[str, str], Any] = {}
        for kv in (await self._store.range(KeyRange.prefix(prefix))).kvs:
            self._written[kv.key] = kv.value
            namespace, _, name = kv.key[len(prefix) :].decode("utf-8", "replace").partition("/")
            try:
                events[namespace, name] = json.loads(kv.value)
            except ValueError:
                events[namespace, name] = None
        return events

    def event(self, namespace: str, name: str, event: Json | None) -> None:
        """Report an Event, or (``None``) remove it."""
        key = f"{self._keys.reported}events/{namespace}/{name}".encode()
        if event is not None:
            self._put(key, event)
        elif key in self._written or key in self._pending:
            self._pending[key] = None
            self._flush()

    def pod(self, ref: PodRef, status: Json, gone: bool = False, origin: Json | None = None) -> None:
        """Report a pod; ``origin`` is ``takenOver`` of one that runs in place of another."""
        metadata = {"name": ref.name, "namespace": ref.namespace, "uid": ref.uid}
        report = {"metadata": metadata, "status": status, "gone": gone}
        self._put(self._key(ref), report if origin is None else {**report, "takenOver": origin})

    def forget_pod(self, ref: PodRef) -> None:
        """Remove the record of a pod that is neither wanted nor here any more."""
        key = self._key(ref)
        if key in self._written or key in self._pending:
            self._pending[key] = None
            self._flush()

    def node(self, status: Json) -> None:
        self._put(self._keys.reported_node, {"status": status})

    def _key(self, ref: PodRef) -> bytes:
        return self._keys.reported_pod(ref.namespace, ref.name, ref.uid)

    def _put(self, key: bytes, value: Json) -> None:
        data = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
        if key not in self._pending and self._written.get(key) == data:
            return
        self._pending[key] = data
        self._flush()

    def _flush(self) -> None:
        if not self._busy and not self._stopped:
            self._busy = True
            self._writing = Deferred.fromCoroutine(self._write())

    async def _write(self) -> None:
        try:
            while self._pending and not self._stopped:
                batch = self._batch()
                operations: list[Op] = [
                    Put(key, value) if value is not None else Delete.single(key) for key, value in batch.items()
                ]
                try:
                    await self._store.txn([], operations)
                except StoreError as error:
                    self._log.error("the report cannot be written; trying again: {error}", error=str(error))
                    self._pending = {**batch, **self._pending}
                    await sleep(self._reactor, _RETRY)
                    continue
                for key, value in batch.items():
                    if value is None:
                        self._written.pop(key, None)
                    else:
                        self._written[key] = value
        finally:
            self._busy = False

    def _batch(self) -> dict[bytes, bytes | None]:
        """The next operations, within the store's limits."""
        taken: dict[bytes, bytes | None] = {}
        size = 0
        for key, value in list(self._pending.items()):
            size += len(key) + len(value or b"") + 64
            if taken and (len(taken) >= _OPERATIONS or size > self._store.max_request_bytes // 2):
                break
            taken[key] = self._pending.pop(key)
        return taken

    async def stop(self) -> None:
        """Finish the write under way; what the store would not take is left."""
        self._stopped = True
        if self._writing is not None:
            with suppress(CancelledError):
                await self._writing
