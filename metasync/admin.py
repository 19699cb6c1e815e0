# mypy: disallow-untyped-calls=False
"""The store and its sync for people: an HTTP resource for the admin socket.

::

    GET    status
    GET    keys?key=K | ?prefix=P   [&revision=N] [&limit=N] [&keys_only=1]
    PUT    keys?key=K               the body is the value
    DELETE keys?key=K | ?prefix=P
    POST   token?namespace=N        the local API's token of a namespace (on an edge node)
    GET    watch?key=K | ?prefix=P  [&revision=N]   one JSON object a line, until the client hangs up

Answers are JSON. A key or value that is not UTF-8 stands as ``key64``/``value64``, in base64. Who reaches the
socket may read and write everything, Secrets too: it is root's.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from metasync.interfaces import Store, StoreError, Watch
from metasync.keys import NodeKeys
from metasync.model import Delete, DeleteResult, KeyRange, KeyValue, Op, Put, WatchBatch
from metasync.stamping import DataKeys

MAX_VALUE = 1 << 20
"""The most bytes of a value that is put by hand."""

_LIMIT = 1000
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class BadRequest(ValueError):
    """The request makes no sense. The message is for people."""


def meta_resource(
    store: Store, status: Callable[[], dict[str, Any]], issue: Callable[[str], str] | None = None
) -> Resource:
    """The resource, to be mounted anywhere.

    :param status: the sync's own (:meth:`metasync.client.SyncClientService.status` or the server's).
    :param issue: makes the token of a namespace for the local API, where there is one.
    """
    root = Resource()
    root.putChild(b"status", _Status(store, status))
    root.putChild(b"keys", _Keys(store))
    root.putChild(b"watch", _Watch(store))
    if issue is not None:
        root.putChild(b"token", _Token(issue))
    return root


class _Token(Resource):
    isLeaf = True

    def __init__(self, issue: Callable[[str], str]) -> None:
        super().__init__()
        self._issue = issue

    def render_POST(self, request: Request) -> bytes:
        namespace = (_argument(request, "namespace") or b"").decode("ascii", "replace")
        if not _NAMESPACE.fullmatch(namespace):
            return _answer(request, {"error": f"{namespace!r} is no namespace (namespace=NAME)"}, 400)
        return _answer(request, {"token": self._issue(namespace)})


class _Status(Resource):
    isLeaf = True

    def __init__(self, store: Store, status: Callable[[], dict[str, Any]]) -> None:
        super().__init__()
        self._store = store
        self._status = status

    def render_GET(self, request: Request) -> int:
        return _respond(request, self._get)

    async def _get(self, request: Request) -> dict[str, Any]:
        status = self._status()
        if "network" in status:
            status["conflicts"] = await self._conflicts(str(status["network"]))
        if status.get("connected") is False and "node" in status:
            await self._count_pending(status)
        return status

    async def _conflicts(self, network: str) -> dict[str, Any]:
        """How many keys have a version that lost, and where those can be read."""
        prefix = DataKeys(network).conflicts
        found = await self._store.range(KeyRange.prefix(prefix), limit=1, keys_only=True)
        return {"count": found.count, "prefix": prefix.decode()}

    async def _count_pending(self, status: dict[str, Any]) -> None:
        """While a node is away nobody counts along: ask its store what is newer than what the cloud has."""
        keys = NodeKeys(status["network"], status["node"])
        for feed in status["feeds"]:
            if feed["feed"] == "reported":
                synced = feed["syncedRevision"] or 0
                found = await self._store.range(
                    KeyRange.prefix(keys.reported.encode()), min_mod_revision=synced + 1, keys_only=True
                )
                feed["pending"], feed["lagRevisions"] = len(found.kvs), max(0, found.revision - synced)


class _Keys(Resource):
    isLeaf = True

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def render_GET(self, request: Request) -> int:
        return _respond(request, self._get)

    def render_PUT(self, request: Request) -> int:
        return _respond(request, self._put)

    def render_DELETE(self, request: Request) -> int:
        return _respond(request, self._delete)

    async def _get(self, request: Request) -> dict[str, Any]:
        found = await self._store.range(
            _keys(request),
            revision=_number(request, "revision"),
            limit=_number(request, "limit") or _LIMIT,
            keys_only=bool(_number(request, "keys_only")),
        )
        return {
            "revision": found.revision,
            "count": found.count,
            "more": found.more,
            "kvs": [describe(kv) for kv in found.kvs],
        }

    async def _put(self, request: Request) -> dict[str, Any]:
        keys = _keys(request)
        assert request.content is not None
        value = request.content.read(MAX_VALUE + 1)
        if keys.end is not None:
            raise BadRequest("name one key to put (key=…)")
        if len(value) > MAX_VALUE:
            raise BadRequest(f"the value is over {MAX_VALUE} bytes")
        return {"revision": (await self._store.txn((), [Put(keys.start, value)])).revision}

    async def _delete(self, request: Request) -> dict[str, Any]:
        ops: list[Op] = [Delete(_keys(request))]
        result = await self._store.txn((), ops)
        deleted = sum(r.deleted for r in result.results if isinstance(r, DeleteResult))
        return {"revision": result.revision, "deleted": deleted}


class _Watch(Resource):
    isLeaf = True

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def render_GET(self, request: Request) -> int | bytes:
        try:
            keys, revision = _keys(request), _number(request, "revision")
        except BadRequest as error:
            return _answer(request, {"error": str(error)}, 400)
        _Follower(request).start(self._store, keys, revision)
        return NOT_DONE_YET


@implementer(IPushProducer)
class _Follower:
    """Writes the batches of a watch to a request. A client that does not read is hung up on."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._watch: Watch | None = None
        self._over = False

    def start(self, store: Store, keys: KeyRange, revision: int) -> None:
        self._request.setHeader(b"content-type", b"application/x-ndjson")
        self._request.write(b"")
        self._request.registerProducer(self, True)
        self._request.notifyFinish().addBoth(lambda _: self._stop())
        self._watch = store.watch(keys, revision, self)

    def batch(self, batch: WatchBatch) -> None:
        events = [{"type": event.type.value, **describe(event.kv)} for event in batch.events]
        self._line({"revision": batch.revision, "events": events})

    def progress(self, revision: int) -> None:
        pass

    def failed(self, error: StoreError) -> None:
        self._hang_up(str(error))

    def _line(self, what: dict[str, Any]) -> None:
        if not self._over:
            self._request.write(json.dumps(what).encode() + b"\n")

    def pauseProducing(self) -> None:
        self._hang_up("the reader is too slow; watch again from the last revision")

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        self._stop()

    def _hang_up(self, reason: str) -> None:
        if not self._over:
            self._line({"error": reason})
            self._stop()
            self._request.unregisterProducer()
            self._request.finish()

    def _stop(self) -> None:
        self._over = True
        if self._watch is not None:
            self._watch.cancel()


def describe(kv: KeyValue) -> dict[str, Any]:
    """A key and its value as JSON."""
    described: dict[str, Any] = {"modRevision": kv.mod_revision, "version": kv.version}
    for name, data in (("key", kv.key), ("value", kv.value)):
        try:
            described[name] = data.decode()
        except UnicodeDecodeError:
            described[f"{name}64"] = b64encode(data).decode()
    return described


def _keys(request: Request) -> KeyRange:
    key, prefix = _argument(request, "key"), _argument(request, "prefix")
    if (key is None) == (prefix is None):
        raise BadRequest("name either a key (key=…) or a prefix (prefix=…)")
    if key is not None:
        if not key:
            raise BadRequest("the key is empty")
        return KeyRange.single(key)
    assert prefix is not None
    return KeyRange.prefix(prefix)


def _argument(request: Request, name: str) -> bytes | None:
    values = (request.args or {}).get(name.encode())
    return values[0] if values else None


def _number(request: Request, name: str) -> int:
    value = _argument(request, name)
    if value is None:
        return 0
    if not value.isdigit():
        raise BadRequest(f"{name} is not a number")
    return int(value)


def _answer(request: Request, what: dict[str, Any], code: int = 200) -> bytes:
    request.setResponseCode(code)
    request.setHeader(b"content-type", b"application/json")
    return json.dumps(what).encode() + b"\n"


def _respond(request: Request, answer: Callable[[Request], Any]) -> int:
    """Answer once a coroutine is done, unless the client has gone."""
    gone: list[object] = []
    request.notifyFinish().addErrback(gone.append)

    def finish(what: dict[str, Any] | Failure) -> None:
        code = 200
        if isinstance(what, Failure):
            code, what = _explain(what)
        if not gone:
            request.write(_answer(request, what, code))
            request.finish()

    Deferred.fromCoroutine(answer(request)).addBoth(finish)
    return NOT_DONE_YET


def _explain(failure: Failure) -> tuple[int, dict[str, Any]]:
    if failure.check(BadRequest):
        return 400, {"error": str(failure.value)}
    if failure.check(StoreError):
        return 503, {"error": str(failure.value)}
    _log.failure("an admin request failed", failure)
    return 500, {"error": "internal error; see the log"}


_log = Logger()
