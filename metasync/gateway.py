# mypy: disallow-untyped-calls=False
"""The local API of edge applications: etcd v3's JSON gateway over the node's own store. It works offline.

``POST /v3/kv/range``, ``put``, ``deleterange``, ``txn``, ``/v3/watch`` and ``/v3/lease/grant``, ``keepalive``,
``revoke``, ``timetolive`` (also below ``/v3beta`` and ``/v3alpha``) are as etcd's, so that its gateway's clients work
unchanged. What a caller reaches is a prefix of the application data, and its keys stand below that. A URL beginning
with ``/scopes/SCOPE`` names the scope; else it is ``all``.

Over the UNIX socket, which is root's, a caller without a token reaches a whole scope. Everywhere else a token is
needed (``Authorization: TOKEN``, as with etcd), and it reaches what belongs to its namespace: ``SCOPE/NAMESPACE/``.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from time import monotonic
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from metasync.feeds import spawn
from metasync.gateway_json import Fields, InvalidRequest, Translator
from metasync.gateway_txn import Branch, Parser, Transaction, put_step
from metasync.interfaces import (
    Compacted,
    FutureRevision,
    LeaseExists,
    LeaseNotFound,
    LeaseTooLong,
    Store,
    StoreError,
    StoreUnavailable,
    TxnTooLarge,
    Watch,
)
from metasync.model import DeleteResult, Event, EventType, KeyRange, KeyValue, WatchBatch
from metasync.stamping import DataKeys
from metasync.tokens import NamespaceTokens

MAX_BODY = 2 << 20
"""Of a request: a little more than etcd's largest one."""

MAX_WATCHES = 1000
MAX_BODIES = 1000
PROGRESS_SECONDS = 600.0
"""So often a watch that asked for it (``progress_notify``) hears how far a store is that others write: etcd's own."""

_MAX_WAITING = 1000
_FILTERS = {"NOPUT": EventType.PUT, "NODELETE": EventType.DELETE}
_VERSIONS = (b"v3", b"v3beta", b"v3alpha")
_log = Logger()


class Refused(Exception):
    """The caller may not do this."""


def gateway_resource(
    store: Store, network: str, tokens: NamespaceTokens, *, scopes: Callable[[], Collection[str]], trusted: bool = False
) -> Resource:
    """The API, to be served at the root of a site.

    :param scopes: tells the scopes of data that this node shares in, such as ``all`` and ``node.NAME``.
    :param trusted: whether callers need no token (a socket that is root's).
    """
    return _Gateway(store, network, tokens, scopes, trusted)


class _Gateway(Resource):
    isLeaf = True

    def __init__(
        self,
        store: Store,
        network: str,
        tokens: NamespaceTokens,
        scopes: Callable[[], Collection[str]],
        trusted: bool,
    ) -> None:
        super().__init__()
        self._store = store
        self._data = DataKeys(network).data
        self._tokens = tokens
        self._scopes = scopes
        self._trusted = trusted
        self._watching = 0

    def render_POST(self, request: Request) -> int:
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)

        def failed(failure: Failure) -> None:
            code, answer = _explain(failure)
            if not gone:
                request.setResponseCode(code)
                _finish(request, answer)

        Deferred.fromCoroutine(self._serve(request, gone)).addErrback(failed)
        return NOT_DONE_YET

    async def _serve(self, request: Request, gone: list[object]) -> None:
        scope, path = self._route(list(request.postpath or []))
        translator = self._translator(request, scope)
        if path == b"lease/keepalive":
            await self._keep_alive(request, translator, gone)
            return
        fields = Fields(_body(request))
        if path == b"watch":
            self._watch(request, translator, fields)
            return
        calls: dict[bytes, Callable[[Translator, Fields], Awaitable[tuple[int, dict[str, Any]]]]] = {
            b"kv/range": self._range,
            b"kv/put": self._put,
            b"kv/deleterange": self._delete,
            b"kv/txn": self._txn,
            b"lease/grant": self._grant,
            b"lease/revoke": self._revoke,
            b"kv/lease/revoke": self._revoke,
            b"lease/timetolive": self._time_to_live,
            b"kv/lease/timetolive": self._time_to_live,
        }
        if path not in calls:
            raise LookupError
        revision, answer = await calls[path](translator, fields)
        if not gone:
            _finish(request, {"header": header(revision), **answer})

    def _route(self, path: list[bytes]) -> tuple[str, bytes]:
        scope = "all"
        if len(path) > 2 and path[0] == b"scopes":
            scope, path = path[1].decode("ascii", "replace"), path[2:]
        if not path or path[0] not in _VERSIONS:
            raise LookupError
        if scope not in self._scopes():
            raise Refused(f"this node has no scope {scope!r}; it has {', '.join(sorted(self._scopes()))}")
        return scope, b"/".join(path[1:])

    def _translator(self, request: Request, scope: str) -> Translator:
        token = request.getHeader("authorization")
        if token is None and self._trusted:
            return Translator(self._data + f"{scope}/".encode(), reserved=True)
        namespace = self._tokens.namespace_of((token or "").removeprefix("Bearer ").strip())
        if namespace is None:
            raise Refused("etcdserver: invalid auth token")
        return Translator(self._data + f"{scope}/{namespace}/".encode(), self._tokens.mask(namespace))

    async def _range(self, translator: Translator, fields: Fields) -> tuple[int, dict[str, Any]]:
        reading = translator.reading(fields)
        found = await self._store.range(
            reading.keys,
            revision=reading.revision,
            limit=1 if reading.count_only else 0 if reading.whole else reading.limit,
            keys_only=reading.count_only or (reading.keys_only and reading.target != "VALUE"),
        )
        answer = translator.range(found, reading)
        if reading.count_only:
            answer.pop("more", None)
        return found.revision, answer

    async def _put(self, translator: Translator, fields: Fields) -> tuple[int, dict[str, Any]]:
        step = put_step(translator, fields)
        revision, answer = await Transaction(self._store, translator, Branch((), [step], ())).run()
        answer = dict(answer["responses"][0]["response_put"])
        del answer["header"]
        return revision, answer

    async def _delete(self, translator: Translator, fields: Fields) -> tuple[int, dict[str, Any]]:
        done = await self._store.txn((), [translator.delete(fields)])
        (result,) = done.results
        assert isinstance(result, DeleteResult)
        return done.revision, translator.result(result, fields)

    async def _txn(self, translator: Translator, fields: Fields) -> tuple[int, dict[str, Any]]:
        return await Transaction(self._store, translator, Parser(translator).branch(fields)).run()

    async def _grant(self, translator: Translator, fields: Fields) -> tuple[int, dict[str, Any]]:
        granted = await self._store.lease_grant(fields.number("TTL"), translator.lease(fields.number("ID")))
        return granted.revision, translator.granted(granted)

    async def _revoke(self, translator: Translator, fields: Fields) -> tuple[int, dict[str, Any]]:
        return await self._store.lease_revoke(translator.lease(fields.number("ID"))), {}

    async def _time_to_live(self, translator: Translator, fields: Fields) -> tuple[int, dict[str, Any]]:
        try:
            found = await self._store.lease_time_to_live(translator.lease(fields.number("ID")))
        except LeaseNotFound:
            revision = (await self._store.range(KeyRange.single(b"\0"), limit=1)).revision
            return revision, {"ID": str(fields.number("ID")), "TTL": "-1"}
        return found.revision, translator.time_to_live(found, fields.flag("keys"))

    async def _keep_alive(self, request: Request, translator: Translator, gone: list[object]) -> None:
        """A stream in etcd's interface: of so many answers as there are requests."""
        for each in _bodies(request):
            number = Fields(each).number("ID")
            try:
                kept = await self._store.lease_keep_alive(translator.lease(number))
                revision, answer = kept.revision, translator.granted(kept)
            except LeaseNotFound:  # as etcd: no error, but no time
                revision = (await self._store.range(KeyRange.single(b"\0"), limit=1)).revision
                answer = {"ID": str(number)} if number else {}
            if gone:
                return
            request.setHeader(b"content-type", b"application/json")
            line = {"result": {"header": header(revision), **answer}}
            request.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        request.finish()

    def _watch(self, request: Request, translator: Translator, fields: Fields) -> None:
        create = Fields(fields.raw("create_request"))
        if self._watching >= MAX_WATCHES:
            raise StoreUnavailable(f"there are {MAX_WATCHES} watches already")
        self._watching += 1
        watcher = _Watcher(request, translator, self._store, create)
        request.notifyFinish().addBoth(lambda _: self._ended(watcher))
        watcher.start(translator.keys(create), create.number("start_revision"))

    def _ended(self, watcher: _Watcher) -> None:
        self._watching -= 1
        watcher.stop()


@implementer(IPushProducer)
class _Watcher:
    """One watch, as lines of JSON. A client that does not read is hung up on, for it would fill our memory."""

    def __init__(self, request: Request, translator: Translator, store: Store, create: Fields) -> None:
        self._request = request
        self._translator = translator
        self._store = store
        self._without = {_FILTERS[name] for name in create.choices("filters", list(_FILTERS))}
        self._previous = create.flag("prev_kv")
        self._tells = create.flag("progress_notify")
        self._told_at = monotonic()
        self._waiting: deque[WatchBatch] = deque()
        self._working = False
        self._watch: Watch | None = None
        self._over = False

    def start(self, keys: KeyRange, revision: int) -> None:
        self._request.setHeader(b"content-type", b"application/json")
        self._request.registerProducer(self, True)
        self._line({"header": header(0), "created": True})
        self._watch = self._store.watch(keys, revision, self)

    def batch(self, batch: WatchBatch) -> None:
        events = tuple(event for event in batch.events if event.type not in self._without)
        if not events:
            self.progress(batch.revision)
        elif self._previous:
            self._waiting.append(WatchBatch(batch.revision, events))
            if len(self._waiting) > _MAX_WAITING:
                self._hang_up()
            elif not self._working:
                self._working = True
                spawn(self._look_up(), self._lost)
        else:
            self._tell(batch.revision, [self._translator.event(event) for event in events])

    async def _look_up(self) -> None:
        """What stood there before, in the order of the batches."""
        while self._waiting and not self._over:
            batch = self._waiting.popleft()
            before = [await self._before(event, batch.revision) for event in batch.events]
            events = [self._translator.event(event, kv) for event, kv in zip(batch.events, before, strict=True)]
            self._tell(batch.revision, events)
        self._working = False

    async def _before(self, event: Event, revision: int) -> KeyValue | None:
        try:
            found = await self._store.range(KeyRange.single(event.kv.key), revision=revision - 1)
        except Compacted:
            return None  # as in etcd: nobody knows any more
        return found.kvs[0] if found.kvs else None

    def _lost(self, error: Exception) -> None:
        self.failed(error if isinstance(error, StoreError) else StoreUnavailable(str(error)))

    def _tell(self, revision: int, events: list[dict[str, Any]]) -> None:
        self._told_at = monotonic()
        self._line({"header": header(revision), "events": events})

    def progress(self, revision: int) -> None:
        if self._tells and not self._waiting and not self._working and monotonic() - self._told_at >= PROGRESS_SECONDS:
            self._told_at = monotonic()
            self._line({"header": header(revision)})

    def failed(self, error: StoreError) -> None:
        compacted = {"compact_revision": str(error.compact_revision)} if isinstance(error, Compacted) else {}
        self._line({"header": header(0), "canceled": True, "cancel_reason": str(error), **compacted})
        self._hang_up()

    def pauseProducing(self) -> None:
        self._hang_up()

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        self.stop()

    def stop(self) -> None:
        self._over = True
        self._waiting.clear()
        if self._watch is not None:
            self._watch.cancel()

    def _line(self, result: dict[str, Any]) -> None:
        if not self._over:
            self._request.write(json.dumps({"result": result}, separators=(",", ":")).encode() + b"\n")

    def _hang_up(self) -> None:
        if not self._over:
            self.stop()
            self._request.unregisterProducer()
            self._request.finish()


def header(revision: int) -> dict[str, str]:
    return {"revision": str(revision)} if revision else {}


def _body(request: Request) -> object:
    bodies = _bodies(request)
    if len(bodies) > 1:
        raise InvalidRequest("the body is more than one JSON object")
    return bodies[0]


def _bodies(request: Request) -> list[object]:
    """The JSON objects of a body, one after the other; an empty one for an empty body."""
    assert request.content is not None
    body = request.content.read(MAX_BODY + 1)
    if len(body) > MAX_BODY:
        raise TxnTooLarge("etcdserver: request is too large")
    found: list[object] = []
    try:
        rest = body.decode().strip()
        while rest:
            each, end = json.JSONDecoder().raw_decode(rest)
            found.append(each)
            rest = rest[end:].lstrip()
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the body is not JSON") from error
    if len(found) > MAX_BODIES:
        raise InvalidRequest(f"more than {MAX_BODIES} requests at once")
    return found or [{}]


def _finish(request: Request, answer: dict[str, Any]) -> None:
    request.setHeader(b"content-type", b"application/json")
    request.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
    request.finish()


_CODES: list[tuple[type[Exception], int, int]] = [
    (InvalidRequest, 400, 3),
    (Refused, 401, 16),
    (LookupError, 404, 5),
    (LeaseNotFound, 404, 5),
    (LeaseExists, 412, 9),
    (LeaseTooLong, 400, 11),
    (Compacted, 400, 11),
    (FutureRevision, 400, 11),
    (TxnTooLarge, 400, 3),
    (StoreUnavailable, 503, 14),
    (StoreError, 400, 3),
]
"""HTTP status and gRPC code, as etcd's gateway has them."""


def _explain(failure: Failure) -> tuple[int, dict[str, Any]]:
    for kind, status, code in _CODES:
        if failure.check(kind):
            message = str(failure.value) or "Not Found"
            if kind is Compacted:
                message = "etcdserver: mvcc: required revision has been compacted"
            return status, {"error": message, "code": code, "message": message}
    _log.failure("a request of the gateway failed", failure)
    return 500, {"error": "internal error", "code": 13, "message": "internal error"}
