# mypy: disallow-untyped-calls=False
"""What is served on the local administration socket (:mod:`kubebus.adminsocket`): HTTP and JSON.

Each part of the system brings its own resources; :mod:`kubebus.cli` is the client. Paths begin with ``/v1/``.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Site

from kubebus.adminsocket import AdminSocket
from kubebus.interfaces import RegistryError

_log = Logger()


class RequestError(Exception):
    """The request cannot be done. The message says why."""

    status = 500


class BadRequest(RequestError):
    """Nor can it ever be as it stands."""

    status = 400


class NotFound(RequestError):
    """What it is about does not exist."""

    status = 404


class Conflict(RequestError):
    """Not in the present state of things."""

    status = 409


Answer = object | Awaitable[object]


class JSONResource(Resource):
    """A leaf that answers JSON. Give it one function per HTTP method.

    A function gets the request's JSON body (``None`` for an empty one) and its query (the last value of each name)
    and returns what ``json`` can write, or an awaitable of it. Errors become an answer with ``{"error": …}``: a
    :class:`RequestError` with its status, :class:`kubebus.interfaces.RegistryError` with 503.
    """

    isLeaf = True

    def __init__(self, **methods: Callable[[Any, Mapping[str, str]], Answer]) -> None:
        super().__init__()
        self._methods = methods

    def render(self, request: Request) -> int | bytes:
        method = self._methods.get(request.method.decode("ascii", "replace"))
        if method is None:
            return error_answer(request, 405, f"use {', '.join(self._methods)} here")
        work = Deferred.fromCoroutine(self._answer(request, method))
        gone = request.notifyFinish()
        gone.addErrback(lambda _: work.cancel())
        work.addErrback(_unexpected, request)
        return NOT_DONE_YET

    async def _answer(self, request: Request, method: Callable[[Any, Mapping[str, str]], Answer]) -> None:
        try:
            answer = method(_body(request), query_of(request))
            if isinstance(answer, Awaitable):
                answer = await answer
        except RequestError as error:
            status, answer = error.status, {"error": str(error)}
        except RegistryError as error:
            status, answer = 503, {"error": str(error)}
        else:
            status = 200
        finish_json(request, status, answer)


def _unexpected(failure: Failure, request: Request) -> None:
    if failure.check(CancelledError):
        return
    _log.failure("The request {path} failed", failure, path=request.path.decode("ascii", "replace"))
    finish_json(request, 500, {"error": f"internal error: {failure.value!r}; the daemon's log has more"})


def finish_json(request: Request, status: int, answer: object) -> None:
    """Answer a request that is still open; nothing happens if its client has gone."""
    if request.finished or request._disconnected:
        return
    body = json.dumps(answer).encode()
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"content-length", str(len(body)).encode())
    request.write(body)
    request.finish()


def error_answer(request: Request, status: int, message: str) -> bytes:
    """For ``render``: the body of an answer that says what is wrong."""
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    return json.dumps({"error": message}).encode()


def query_of(request: Request) -> dict[str, str]:
    """The last value of each name in the query."""
    args: Mapping[bytes, list[bytes]] = request.args or {}
    return {name.decode("utf-8", "replace"): values[-1].decode("utf-8", "replace") for name, values in args.items()}


def _body(request: Request) -> object:
    assert request.content is not None
    content = request.content.read()
    if not content:
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error


def status_resource(status: Callable[[], Answer]) -> JSONResource:
    """``GET /v1/status``: whatever ``status`` returns, which ``json`` can write."""
    return JSONResource(GET=lambda body, query: status())


# The socket


class Folder(Resource):
    """What its children are; everything else does not exist, which is said in JSON."""

    def getChild(self, path: bytes, request: Request) -> IResource:
        return _Missing()


class _Missing(Resource):
    isLeaf = True

    def render(self, request: Request) -> bytes:
        where = request.path.decode("ascii", "replace")
        return error_answer(request, 404, f"this daemon has no {where}: perhaps it is another's socket (--socket)")


class AdminSite(Site):
    """:param resources: by the path segment after ``/v1/``, for instance ``{"tokens": TokensResource(…)}``."""

    noisy = False

    def __init__(self, reactor: Any, resources: Mapping[str, IResource]) -> None:
        root, v1 = Folder(), Folder()
        root.putChild(b"v1", v1)
        for name, resource in resources.items():
            v1.putChild(name.encode("ascii"), resource)
        super().__init__(root, reactor=reactor)

    def log(self, request: Request) -> None:
        """Administration is not worth an access log."""


class AdminService(AdminSocket):
    """The socket with resources that are there already."""

    def __init__(self, reactor: Any, path: Path, resources: Mapping[str, IResource]) -> None:
        super().__init__(reactor, path, lambda: resources)
