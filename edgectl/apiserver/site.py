# mypy: allow-untyped-calls
"""The API over HTTP: who asks, what for, and the answer."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import Resource as WebResource
from twisted.web.server import NOT_DONE_YET, Request, Site

from edgectl.apiserver import discovery, errors, nodeproxy, openapi
from edgectl.apiserver.handlers import Handlers
from edgectl.apiserver.identity import AUTHENTICATED, TokenAuthenticator, User, bearer_user, certificate_user, may
from edgectl.apiserver.negotiate import form_of, media_types
from edgectl.apiserver.nodeproxy import ApiChannel
from edgectl.apiserver.resources import group_versions
from edgectl.apiserver.routes import Target, flag, list_options, parse_path, whole
from edgectl.apiserver.selectors import predicate
from edgectl.apiserver.streaming import WatchResponse
from edgectl.apiserver.watches import ApiWatch
from metasync.interfaces import StoreError, TxnTooLarge

Obj = dict[str, Any]

MAX_BODY = 3 * 1024 * 1024
"""The most bytes of a request's body (kube-apiserver's own limit)."""

MAX_DISCARDED = 2 * MAX_BODY
"""Bytes of a body too large after which the connection is closed: until then the client may read why."""

_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_CARRIED = ("log", "exec", "attach", "portforward")
_DISCOVERY = "apidiscovery.k8s.io"


class ApiRequest(Request):
    """A request whose body is bounded before it is kept: nothing is kept of one from nobody."""

    _received = 0
    _limit = 0

    def gotLength(self, length: int | None) -> None:
        known = self.getHeader("authorization") is not None or _peer_certificate(self) is not None
        self._limit = MAX_BODY if known else 0
        super().gotLength(length if length is not None and length <= self._limit else None)

    def handleContentChunk(self, data: bytes) -> None:
        self._received += len(data)
        if self._received <= self._limit:
            super().handleContentChunk(data)
        elif self._received > MAX_DISCARDED:
            self.loseConnection()

    @property
    def oversized(self) -> bool:
        return self._received > self._limit


def _peer_certificate(request: Request) -> Any:
    """The client's certificate, which TLS has verified, or ``None``."""
    channel: Any = request.channel
    transport = getattr(channel, "transport", None)
    return getattr(transport, "getPeerCertificate", lambda: None)()


class ApiSite(Site):
    """The site of one network's API."""

    # A plain HTTP/1.1 channel, which can be handed over; Twisted's own may turn out to be HTTP/2.
    protocol: Any = ApiChannel

    def __init__(self, reactor: Any, resource: WebResource) -> None:
        super().__init__(resource, requestFactory=ApiRequest, reactor=reactor)
        self.displayTracebacks = False

    def log(self, request: http.Request) -> None:
        """Requests are not logged one by one: the controller alone makes many."""


class ApiResource(WebResource):
    """The root of the API."""

    isLeaf = True
    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        handlers: Handlers,
        authenticators: Sequence[TokenAuthenticator] = (),
        kubelets: nodeproxy.Kubelets | None = None,
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._handlers = handlers
        self._authenticators = authenticators
        self._kubelets = kubelets

    def render(self, request: Request) -> int:
        running = Deferred.fromCoroutine(self._answer(request))
        running.addErrback(self._failed, request)
        gone = request.notifyFinish()
        gone.addErrback(lambda _: running.cancel())
        return NOT_DONE_YET

    def _failed(self, failure: Failure, request: Request) -> None:
        error = failure.value
        if request.channel is None or request._disconnected:
            return
        if isinstance(error, TxnTooLarge):
            error = errors.too_large(self._handlers.api.objects.store.max_request_bytes)
        elif isinstance(error, StoreError):
            error = errors.unavailable(str(error))
        if not isinstance(error, errors.ApiError):
            self.log.failure("{method} {uri!r} failed", failure, method=request.method, uri=request.uri)
            error = errors.internal("see the log of the control plane")
        if request.startedWriting:
            request.loseConnection()
            return
        if error.code == 401:
            request.setHeader(b"www-authenticate", b"Bearer")
        _send(request, error.status(), error.code)

    async def _answer(self, request: Request) -> None:
        path = [unquote(part.decode("ascii", "replace")) for part in request.path.split(b"/") if part]
        method = request.method.decode("ascii", "replace")
        if path and path[0] in ("healthz", "livez", "readyz"):
            _send_bytes(request, b"ok", b"text/plain")
            return
        user = self._user(request)
        if method not in _VERBS:
            raise errors.method_not_allowed()
        if not may(user, _VERBS[method], path):
            raise errors.forbidden("", path[-1] if path else "", "", f'User "{user.name}" may not {method} this path')
        if isinstance(request, ApiRequest) and request.oversized:
            raise errors.too_large(MAX_BODY)
        if self._discovery(request, path, method):
            return
        if len(path) < 3 or path[0] not in ("api", "apis") or (path[0] == "apis" and len(path) < 4):
            raise errors.no_such_path()
        await self._objects(request, method, user, path)

    # -- who

    def _user(self, request: Request) -> User:
        if any(name.lower().startswith(b"impersonate-") for name, _ in request.requestHeaders.getAllRawHeaders()):
            raise errors.forbidden("", "users", "", "this API does not let users act for others")
        user = bearer_user(request.getHeader("authorization"), self._authenticators) or self._certified(request)
        if user is None:
            raise errors.unauthorized()
        return User(user.name, (*user.groups, AUTHENTICATED), user.uid)

    def _certified(self, request: Request) -> User | None:
        channel = request.channel
        if isinstance(channel, ApiChannel) and channel.certified is not None:
            return channel.certified
        peer = _peer_certificate(request)
        user = certificate_user(peer.to_cryptography()) if peer is not None else None
        if isinstance(channel, ApiChannel):
            channel.certified = user
        return user

    # -- what there is

    def _discovery(self, request: Request, path: list[str], method: str) -> bool:
        if method not in ("GET", "HEAD"):
            return False
        found = self._described(request, path)
        if found is None:
            return False
        body, content_type = found
        _send_bytes(request, body, content_type)
        return True

    def _described(self, request: Request, path: list[str]) -> tuple[bytes, bytes] | None:
        if path == ["openapi", "v2"]:
            return self._openapi_v2(request)
        if path == ["openapi", "v3"]:
            return openapi.index_v3(), b"application/json"
        if path[:2] == ["openapi", "v3"]:
            return self._openapi_v3(path[2:]), b"application/json"
        if path in (["api"], ["apis"]):
            return self._groups(request, core=path == ["api"])
        plain = self._plain(path)
        return None if plain is None else (_dumps(plain), b"application/json")

    def _plain(self, path: list[str]) -> Obj | None:
        if not path:
            return {"paths": ["/api", "/api/v1", "/apis", "/healthz", "/openapi/v2", "/openapi/v3", "/version"]}
        if path == ["version"]:
            return discovery.VERSION
        if path[0] == "api" and len(path) == 2 and path[1] == "v1":
            return discovery.resource_list("", "v1")
        known = {group: [v for g, v in group_versions() if g == group] for group, _ in group_versions() if group}
        if path[0] == "apis" and len(path) in (2, 3) and path[1] in known:
            if len(path) == 2:
                return discovery.group(path[1])
            if path[2] in known[path[1]]:
                return discovery.resource_list(path[1], path[2])
        return None

    def _groups(self, request: Request, *, core: bool) -> tuple[bytes, bytes]:
        for name, parameters in media_types(request.getHeader("accept") or ""):
            if name == "application/json" and parameters.get("as") == "APIGroupDiscoveryList":
                version = parameters.get("v", "")
                if parameters.get("g") == _DISCOVERY and version in ("v2", "v2beta1"):
                    made = discovery.aggregated(f"{_DISCOVERY}/{version}", core=core)
                    content_type = f"application/json;g={_DISCOVERY};v={version};as=APIGroupDiscoveryList"
                    return _dumps(made), content_type.encode()
        return _dumps(discovery.api_versions() if core else discovery.group_list()), b"application/json"

    def _openapi_v2(self, request: Request) -> tuple[bytes, bytes]:
        accept = request.getHeader("accept") or ""
        from edgectl.apiserver import openapi_v2

        if "proto" in accept:
            return openapi_v2.protobuf(), openapi_v2.PROTOBUF_TYPE
        return openapi_v2.document(), b"application/json"

    def _openapi_v3(self, path: list[str]) -> bytes:
        place = ("", path[1]) if path[0] == "api" and len(path) == 2 else tuple(path[1:3])
        if place not in group_versions():
            raise errors.no_such_path()
        return openapi.document_v3(place[0], place[1])

    # -- objects

    async def _objects(self, request: Request, method: str, user: User, path: list[str]) -> None:
        target = parse_path(path)
        pairs = parse_qsl(request.uri.partition(b"?")[2].decode("ascii", "replace"), keep_blank_values=True)
        query = dict(pairs)
        if target.subresource in _CARRIED:
            await self._carry(request, method, target, pairs)
            return
        form = form_of(request.getHeader("accept") or "", query.get("includeObject", ""), self._reactor.seconds)
        if method == "GET" and not target.subresource and flag(query, "watch"):
            if "watch" not in target.resource.verbs:
                raise errors.method_not_allowed()
            self._watch(request, target, query)
            return
        body = request.content.read() if request.content is not None else b""
        content_type = (request.getHeader("content-type") or "").partition(";")[0].strip().lower()
        agent = request.getHeader("user-agent") or ""
        code, made, warnings = await self._handlers.handle(method, target, query, content_type, body, form, user, agent)
        for warning in warnings:
            text = warning.replace("\\", "\\\\").replace('"', '\\"')
            request.responseHeaders.addRawHeader(b"Warning", f'299 - "{text}"'.encode())
        _send(request, made, code)

    async def _carry(self, request: Request, method: str, target: Target, pairs: list[tuple[str, str]]) -> None:
        if method not in ("GET", "POST"):
            raise errors.method_not_allowed()
        pod = await self._handlers.api.get(target.resource, target.namespace, target.name)
        path = nodeproxy.node_path(target.subresource, pod, pairs)
        node = await nodeproxy.connect(self._kubelets, pod, self._reactor)
        channel = request.channel
        if not isinstance(channel, nodeproxy.ApiChannel) or node.transport is None:
            raise errors.unavailable("the connection was lost")
        headers = list(request.requestHeaders.getAllRawHeaders())
        pairs_of = [(name, value) for name, values in headers for value in values]
        client = nodeproxy.Side()
        channel.take_over(client)
        client.join(node)
        node.transport.write(nodeproxy.request_head(method, path, pod["spec"]["nodeName"], pairs_of))

    def _watch(self, request: Request, target: Target, query: dict[str, str]) -> None:
        options = list_options(query, target.name)
        selected = predicate(target.resource, options.label_selector, options.field_selector)
        form = form_of(request.getHeader("accept") or "", query.get("includeObject", ""), self._reactor.seconds)
        response = WatchResponse(self._reactor, request, target.resource, form)
        request.notifyFinish().addErrback(lambda _: response.lost())
        seconds = whole(query, "timeoutSeconds") or random.uniform(1800, 3600)
        response.begin(seconds)
        try:
            watch = ApiWatch(
                self._handlers.api.cache,
                target.resource,
                target.namespace,
                selected,
                options.resource_version,
                response,
                send_initial=flag(query, "sendInitialEvents"),
            )
        except errors.ApiError as error:
            response.error(error.status())
            return
        response.ends(watch.stop)
        if flag(query, "allowWatchBookmarks"):
            response.bookmarks(watch.bookmark)


def _dumps(obj: Obj) -> bytes:
    return json.dumps(obj, separators=(",", ":")).encode()


def _send(request: Request, obj: Obj, code: int) -> None:
    request.setResponseCode(code, HTTPStatus(code).phrase.encode())
    _send_bytes(request, _dumps(obj) + b"\n", b"application/json")


def _send_bytes(request: Request, body: bytes, content_type: bytes) -> None:
    request.setHeader(b"content-type", content_type)
    request.setHeader(b"cache-control", b"no-cache, private")
    request.setHeader(b"content-length", str(len(body)).encode())
    if request.method != b"HEAD":
        request.write(body)
    request.finish()
