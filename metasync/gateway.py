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
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from metasync.gateway_json import Fields, InvalidRequest, Translator
from metasync.gateway_site import MAX_BODY, GatewaySite, token_of
from metasync.gateway_txn import Branch, Parser, Transaction, deletions, put_step
from metasync.gateway_watch import Watcher, header
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
)
from metasync.model import Delete, DeleteResult, KeyRange
from metasync.stamping import DataKeys
from metasync.tokens import NamespaceTokens

MAX_WATCHES = 400
MAX_WATCHES_EACH = 100
"""Of all callers together, and of one namespace (or of all callers of a whole scope)."""

MAX_BODIES = 1000
MAX_DELETED = 10_000
"""Keys that one deletion may have: more would be too much at once for the other end of the sync."""

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


def gateway_site(
    store: Store, network: str, tokens: NamespaceTokens, *, scopes: Callable[[], Collection[str]], trusted: bool = False
) -> GatewaySite:
    """The site of :func:`gateway_resource`, which bounds what callers may send before they are known."""
    gateway = _Gateway(store, network, tokens, scopes, trusted)
    return GatewaySite(gateway, gateway.knows)


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
        self.watchers: dict[Watcher, bytes] = {}

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

    def knows(self, token: bytes | None) -> bool:
        """Whether who sends that ``Authorization`` header may call."""
        return (token is None and self._trusted) or self._namespace(token) is not None

    def _namespace(self, token: bytes | None) -> str | None:
        return self._tokens.namespace_of((token or b"").decode("ascii", "replace").removeprefix("Bearer ").strip())

    def _translator(self, request: Request, scope: str) -> Translator:
        token = token_of(request)
        if token is None and self._trusted:
            return Translator(self._data + f"{scope}/".encode(), reserved=True)
        namespace = self._namespace(token)
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
        deletion = translator.delete(fields)
        await self._check_deletions([deletion])
        done = await self._store.txn((), [deletion])
        (result,) = done.results
        assert isinstance(result, DeleteResult)
        return done.revision, translator.result(result, fields)

    async def _txn(self, translator: Translator, fields: Fields) -> tuple[int, dict[str, Any]]:
        branch = Parser(translator).branch(fields)
        await self._check_deletions(deletions(branch))
        return await Transaction(self._store, translator, branch).run()

    async def _check_deletions(self, wanted: Sequence[Delete]) -> None:
        ranges = [each.keys for each in wanted if each.keys.end is not None]
        count = sum([(await self._store.range(keys, limit=1, keys_only=True)).count for keys in ranges])
        if count > MAX_DELETED:
            raise TxnTooLarge(f"{count} keys; at most {MAX_DELETED} can be deleted at once")

    async def _grant(self, translator: Translator, fields: Fields) -> tuple[int, dict[str, Any]]:
        granted = await self._store.lease_grant(fields.number("TTL"), translator.lease(fields.number("ID")))
        return granted.revision, translator.granted(granted)

    async def _revoke(self, translator: Translator, fields: Fields) -> tuple[int, dict[str, Any]]:
        return await self._store.lease_revoke(translator.lease(fields.number("ID"))), {}

    async def _time_to_live(self, translator: Translator, fields: Fields) -> tuple[int, dict[str, Any]]:
        try:
            found = await self._store.lease_time_to_live(translator.lease(fields.number("ID")))
        except LeaseNotFound:
            revision = (await self._store.range(KeyRange.single(translator.prefix), limit=1)).revision
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
                revision = (await self._store.range(KeyRange.single(translator.prefix), limit=1)).revision
                answer = {"ID": str(number)} if number else {}
            if gone:
                return
            request.setHeader(b"content-type", b"application/json")
            line = {"result": {"header": header(revision), **answer}}
            request.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        request.finish()

    def _watch(self, request: Request, translator: Translator, fields: Fields) -> None:
        if fields.raw("create_request") is None:
            raise InvalidRequest("a watch begins with a create_request")
        caller = translator.prefix
        mine = sum(each == caller for each in self.watchers.values())
        if len(self.watchers) >= MAX_WATCHES or mine >= MAX_WATCHES_EACH:
            raise StoreUnavailable(f"there are {len(self.watchers)} watches already, {mine} of them yours")
        watcher = Watcher(request, translator, self._store, Fields(fields.raw("create_request")))
        self.watchers[watcher] = caller
        request.notifyFinish().addBoth(lambda _: self._ended(watcher))
        watcher.start()

    def _ended(self, watcher: Watcher) -> None:
        del self.watchers[watcher]
        watcher.stop()


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
    return [{} if each is None else each for each in found] or [{}]


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
