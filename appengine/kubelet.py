"""The kubelet's API of this node, for the cloud over a stream and for people over the administration socket.

Paths and parameters are the kubelet's (pkg/kubelet/server/server.go): ``/containerLogs/NS/POD/CONTAINER``,
``/exec/…``, ``/attach/…``, ``/portForward/NS/POD``, ``/pods``, ``/stats/summary``,
``/metrics/resource``, ``/healthz``. The caller has been
authorized already: whoever reaches this may do everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from appengine.kubeletexec import CommandRun, negotiate
from appengine.kubelethttp import (
    HttpError,
    Request,
    cut_request,
    error_response,
    json_response,
    response,
    stream_head,
)
from appengine.node import Node
from appengine.podspec import Json, Kind
from appengine.portforward import PortForwarding
from appengine.runtime import ContainerView, EngineError, LogOptions, RuntimeUnavailable, Session
from appengine.summary import summary
from appengine.worker import Worker

SERVICE = "kubelet/1"
"""The stream service under which a node offers it."""

MAX_CONNECTIONS = 100
_HEAD_SECONDS = 15.0


class Pods(Protocol):
    """The pods of the node, to look at."""

    @property
    def node(self) -> Node: ...

    def pods(self) -> Sequence[Worker]: ...

    def find(self, namespace: str, name: str) -> Worker | None: ...


class KubeletFactory(Factory):
    """Serves the kubelet API; one request for each connection.

    :param as_json: whether errors are JSON objects with ``error``, for our own command, or plain text.
    """

    noisy = False

    def __init__(self, pods: Pods, as_json: bool = False) -> None:
        self.pods = pods
        self.as_json = as_json
        self.connections: set[KubeletConnection] = set()

    def buildProtocol(self, addr: IAddress | None) -> KubeletConnection | None:
        if len(self.connections) >= MAX_CONNECTIONS:
            return None
        return KubeletConnection(self)

    def close(self) -> None:
        """End every connection."""
        for connection in list(self.connections):
            connection.abort()


class Handler(Protocol):
    """What a connection has become after its request."""

    def received(self, data: bytes) -> None: ...

    def lost(self) -> None: ...


class KubeletConnection(TwistedProtocol):
    _log = Logger()

    def __init__(self, factory: KubeletFactory) -> None:
        self.factory = factory
        self._buffer = bytearray()
        self._handler: Handler | None = None
        self._work: Deferred[None] | None = None
        self._timer: Any = None

    @property
    def node(self) -> Node:
        node: Node = self.factory.pods.node
        return node

    def connectionMade(self) -> None:
        self.factory.connections.add(self)
        self._timer = self.node.reactor.callLater(_HEAD_SECONDS, self.abort)

    def dataReceived(self, data: bytes) -> None:
        if self._handler is not None:
            self._feed(data)
            return
        self._buffer += data
        if self._work is not None:
            if len(self._buffer) > 1 << 20:
                self.abort()
            return
        try:
            cut = cut_request(self._buffer)
            if cut is None:
                return
            request, rest = cut
            self._buffer = bytearray(rest)
            self._timer.cancel()
            self._work = Deferred.fromCoroutine(self._answer(request))
            self._work.addErrback(self._unexpected)
        except HttpError as error:
            self._refuse(error)

    async def _answer(self, request: Request) -> None:
        try:
            await self._route(request)
        except HttpError as error:
            self._refuse(error)
        except RuntimeUnavailable as error:
            self._refuse(HttpError(503, str(error)))
        except EngineError as error:
            self._refuse(HttpError(500, str(error)))

    def _unexpected(self, failure: Failure) -> None:
        if not isinstance(failure.value, CancelledError):
            self._log.failure("a request to the kubelet API failed", failure)
            self._refuse(HttpError(500, f"internal error: {failure.getErrorMessage()}"))

    def _refuse(self, error: HttpError) -> None:
        self.end(error_response(error, self.factory.as_json))

    def end(self, data: bytes = b"") -> None:
        """Say the last words."""
        if self.transport is not None:
            self.transport.write(data)
            self.transport.loseConnection()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.connections.discard(self)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._work is not None:
            self._work.cancel()
        if self._handler is not None:
            self._handler.lost()

    def _feed(self, data: bytes) -> None:
        assert self._handler is not None
        try:
            self._handler.received(data)
        except Exception as error:
            # Whatever a peer sends costs its own connection only.
            self._log.info("a kubelet API connection is closed: {error}", error=str(error))
            self.abort()

    def take_over(self, handler: Handler) -> None:
        """From here on the handler gets what comes, beginning with what has come already."""
        self._handler = handler
        data, self._buffer = bytes(self._buffer), bytearray()
        if data:
            self._feed(data)

    # -- routes ---------------------------------------------------------------------------------------------------

    async def _route(self, request: Request) -> None:
        match request.path:
            case ("healthz",):
                self.end(response(200, b"ok"))
            case ("pods",) | ("runningpods",):
                self.end(json_response(self._pods()))
            case ("stats", "summary"):
                self.end(json_response(await summary(self.node, self.factory.pods.pods())))
            case ("metrics", "resource"):
                # Who has no metrics-server does not pay for it.
                from appengine.resourcemetrics import CONTENT_TYPE, resource_metrics

                text = await resource_metrics(self.node, self.factory.pods.pods())
                self.end(response(200, text.encode(), CONTENT_TYPE))
            case ("containerLogs", namespace, pod, container):
                await self._logs(request, self._worker(namespace, pod), container)
            case ("exec" | "attach" as what, namespace, pod, container) | (
                "exec" | "attach" as what,
                namespace,
                pod,
                _,
                container,
            ):
                view = self._running(self._worker(namespace, pod), container)
                self._command(request, what, view)
            case ("portForward", namespace, pod) | ("portForward", namespace, pod, _):
                self._port_forward(request, self._worker(namespace, pod))
            case _:
                raise HttpError(404, f"there is no /{'/'.join(request.path)[:200]} here")

    def _pods(self) -> Json:
        items = []
        for worker in self.factory.pods.pods():
            metadata = {"namespace": worker.ref.namespace, "name": worker.ref.name, "uid": worker.ref.uid}
            spec: Json = {}
            if worker.pod is not None:
                metadata.update(labels=dict(worker.pod.labels), annotations=dict(worker.pod.annotations))
                spec = worker.pod.spec
            events = self.node.events.of(worker.ref)
            items.append({"metadata": metadata, "spec": spec, "status": worker.status, "events": events})
        return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}

    def _worker(self, namespace: str, name: str) -> Worker:
        worker: Worker | None = self.factory.pods.find(namespace, name)
        if worker is None:
            raise HttpError(404, f'pod "{name}" in namespace "{namespace}" is not on this node')
        return worker

    def _views(self, worker: Worker, name: str) -> list[ContainerView]:
        known = [c.name for c in worker.pod.every_container] if worker.pod is not None else []
        views = [v for v in worker.views.values() if v.name == name and v.kind is not Kind.PAUSE]
        if not views and name not in known:
            raise HttpError(404, f"container {name} is not valid for pod {worker.ref.name}")
        return sorted(views, key=lambda view: (view.attempt, view.created_at))

    def _running(self, worker: Worker, name: str) -> ContainerView:
        running = [view for view in self._views(worker, name) if view.running]
        if not running:
            raise HttpError(404, f'container "{name}" in pod "{worker.ref.name}" does not run')
        return running[-1]

    async def _logs(self, request: Request, worker: Worker, name: str) -> None:
        views = [view for view in self._views(worker, name) if view.started_at]
        if request.flag("previous"):
            views = [view for view in views[:-1] if not view.running]
            if not views:
                raise HttpError(400, f'previous terminated container "{name}" in pod "{worker.ref.name}" not found')
        if not views:
            raise HttpError(
                400, f'container "{name}" in pod "{worker.ref.name}" is waiting to start: {_waiting(worker, name)}'
            )
        options = log_options(request, self.node.wall())
        copier = LogCopy(self, request.number("limitBytes"))
        self._handler = copier
        copier.begin(await self.node.runtime.log_session(views[-1], options, copier))

    def _command(self, request: Request, what: str, view: ContainerView) -> None:
        chosen = negotiate(request)
        command = request.query.get("command") or []
        if what == "exec" and not command:
            raise HttpError(400, "there is no command")
        run = CommandRun(self.node, view, command if what == "exec" else None, chosen, self)
        self.take_over(run)
        run.begin()

    def _port_forward(self, request: Request, worker: Worker) -> None:
        sandbox = worker.sandbox()
        if sandbox is None or not sandbox.pid:
            raise HttpError(404, f'pod "{worker.ref.name}" does not run')
        self.take_over(PortForwarding(self.node, sandbox.pid, request, self))


def _waiting(worker: Worker, name: str) -> str:
    for status in worker.status.get("containerStatuses") or ():
        if status.get("name") == name:
            return str((status.get("state") or {}).get("waiting", {}).get("reason") or "ContainerCreating")
    return "ContainerCreating"


def log_options(request: Request, now: float) -> LogOptions:
    """From ``follow``, ``tailLines``, ``sinceSeconds``, ``sinceTime`` and ``timestamps``.

    :raises HttpError: for values that are wrong.
    """
    from appengine.dockerjson import timestamp

    since = 0.0
    seconds = request.number("sinceSeconds")
    if seconds is not None:
        since = now - seconds
    elif moment := request.value("sinceTime"):
        since = timestamp(moment)
        if not since:
            raise HttpError(400, f"sinceTime must be a time (RFC 3339), not {moment[:40]!r}")
    tail = request.number("tailLines")
    if tail is not None and tail < 0:
        raise HttpError(400, "tailLines must not be negative")
    return LogOptions(request.flag("follow"), tail, max(0.0, since), request.flag("timestamps"))


class LogCopy:
    """Copies a log to a connection, no faster than that takes it."""

    def __init__(self, connection: KubeletConnection, limit: int | None) -> None:
        self._connection = connection
        self._left = limit
        self._session: Session | None = None
        self._begun = self._over = False

    def begin(self, session: Session) -> None:
        self._session = session
        transport: Any = self._connection.transport
        if self._over:
            session.close()
            return
        self._head()
        transport.registerProducer(session, True)

    def _head(self) -> None:
        if not self._begun and self._connection.transport is not None:
            self._begun = True
            self._connection.transport.write(stream_head())

    def output(self, stream: int, data: bytes) -> None:
        if self._over or self._connection.transport is None:
            return
        self._head()
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        self._connection.transport.write(data)
        if self._left == 0:
            self._finish()

    def ended(self, error: Exception | None) -> None:
        if not self._over:
            self._head()
            self._finish()

    def _finish(self) -> None:
        self._over = True
        transport: Any = self._connection.transport
        if transport is not None:
            transport.unregisterProducer()
            transport.loseConnection()
        if self._session is not None:
            self._session.close()

    def received(self, data: bytes) -> None:
        return

    def lost(self) -> None:
        self._over = True
        if self._session is not None:
            self._session.close()
