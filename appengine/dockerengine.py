"""Docker (or Podman's Docker-compatible socket) as the runtime.

Short calls go through the ``docker`` package on a small thread pool of its own; long answers (events, pulls, attached
processes) are read on the reactor. A hanging engine so costs a few threads, never the reactor; while it does not
answer, calls fail at once.
"""

from __future__ import annotations

import json
import socket
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from appengine import labels
from appengine.dockerjson import (
    container_view,
    create_body,
    engine_info,
    image_view,
    listed_image,
    network_body,
    same_network,
    usage,
)
from appengine.dockersession import DockerSession, OutputBody
from appengine.dockerstream import Demultiplexer, EngineEndpoint, HttpStream, JsonLines
from appengine.runtime import (
    ContainerConfig,
    ContainerView,
    EngineError,
    EngineInfo,
    ExecResult,
    ImageView,
    LogOptions,
    NetworkConfig,
    NoSuchContainer,
    NoSuchImage,
    Output,
    PullFailed,
    RuntimeObserver,
    RuntimeUnavailable,
    Session,
    Usage,
)
from appengine.waiting import sleep

T = TypeVar("T")

_THREADS = 4
_CALL_TIMEOUT = 60
_PING_PERIOD = 10.0
_PING_TIMEOUT = 8.0
_RETRY = 2.0
_MAX_EXEC_OUTPUT = 10 * 1024
# Docker's words, and Podman's.
_NOT_RUNNING = ("is not running", "can only kill running containers")
# The last two are Podman's own names for "die" and "destroy".
_EVENTS = ("create", "start", "die", "oom", "destroy", "died", "remove")
_SAME_EVENTS = {"died": "die", "remove": "destroy"}


class DockerEngine:
    """The :class:`appengine.runtime.Runtime` over a Docker Engine API.

    :param url: ``unix:///path`` or ``tcp://host:port``.
    :param network: with ``node``, marks the containers that are ours.
    """

    _log = Logger()

    def __init__(self, reactor: Any, url: str, network: str, node: str) -> None:
        self._reactor: Any = reactor
        self._url = url
        self._network = network
        self._node = node
        self._pool = ThreadPool(0, _THREADS, name="docker")
        self._api: Any = None
        self._observer: RuntimeObserver | None = None
        self._running = False
        self._up = False
        self._loop: Deferred[None] | None = None
        self._events: HttpStream | None = None
        self.endpoint = EngineEndpoint(reactor, url)

    # -- life ------------------------------------------------------------------------------------------------

    def start(self, observer: RuntimeObserver) -> None:
        self._observer = observer
        self._running = True
        self._pool.start()
        self._loop = Deferred.fromCoroutine(self._watch(observer))

    async def stop(self) -> None:
        self._running = self._up = False
        if self._events is not None:
            self._events.close()
        if self._loop is not None:
            self._loop.cancel()
            with suppress(CancelledError):
                await self._loop
        self._pool.stop()
        if self._api is not None:
            self._api.close()

    async def _watch(self, observer: RuntimeObserver) -> None:
        """Keep the event stream open; a ping beside it tells a hanging engine from a quiet one."""
        said = ""
        while self._running:
            ended: Deferred[Exception | None] = Deferred()
            try:
                self._events = await self._open_events(observer, ended)
            except EngineError as error:
                if str(error) != said:
                    said = str(error)
                    self._log.warn("container engine at {url}: {error}", url=self._url, error=said)
                    observer.disconnected(said)
                await sleep(self._reactor, _RETRY)
                continue
            said = ""
            self._up = True
            self._log.info("container engine at {url} answers", url=self._url)
            observer.connected()
            reason = await self._until_lost(ended)
            self._up = False
            if self._running:
                said = reason
                self._log.warn("container engine at {url}: {reason}", url=self._url, reason=reason)
                observer.disconnected(reason)
                await sleep(self._reactor, 0.2)

    async def _open_events(self, observer: RuntimeObserver, ended: Deferred[Exception | None]) -> HttpStream:
        def received(event: Any) -> None:
            actor = event.get("Actor") or {}
            what = str(event.get("Action") or event.get("status") or "")
            container = str(actor.get("ID") or event.get("id") or "")
            if container and self._running:
                observer.container_changed(container, _SAME_EVENTS.get(what, what))

        def done(error: Exception | None) -> None:
            if not ended.called:
                ended.callback(error)

        filters = {"type": ["container"], "event": list(_EVENTS), "label": self._ours()}
        path = "/events?" + urlencode({"filters": json.dumps(filters)})
        await self.ping()
        return await self.endpoint.open("GET", path, JsonLines(received, done), patience=_PING_TIMEOUT)

    async def _until_lost(self, ended: Deferred[Exception | None]) -> str:
        while True:
            if await self._wait_for(ended, _PING_PERIOD):
                error = ended.result if isinstance(ended.result, Exception) else None
                return str(error or "it closed the event stream")
            try:
                await self.ping()
            except EngineError as error:
                if self._events is not None:
                    self._events.close()
                return f"it does not answer: {error}"

    async def _wait_for(self, ended: Deferred[Exception | None], seconds: float) -> bool:
        if ended.called:
            return True
        woken: Deferred[None] = Deferred()

        def wake(result: T) -> T:
            if not woken.called:
                woken.callback(None)
            return result

        timer = self._reactor.callLater(seconds, wake, None)
        ended.addBoth(wake)
        try:
            await woken
        finally:
            if timer.active():
                timer.cancel()
        return ended.called

    async def ping(self) -> None:
        """:raises RuntimeUnavailable: if the engine does not answer within a few seconds."""
        done: Deferred[None] = Deferred()
        lines = JsonLines(lambda _: None, lambda _: None if done.called else done.callback(None))
        await self.endpoint.open("GET", "/_ping", lines, patience=_PING_TIMEOUT)

    def _ours(self) -> list[str]:
        return [f"{labels.NETWORK}={self._network}", f"{labels.NODE}={self._node}"]

    # -- calls -----------------------------------------------------------------------------------------------

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        """Run ``function(api, …)`` in a thread, the ``docker`` package's errors translated."""
        if not self._running:
            raise RuntimeUnavailable("the engine is stopped")
        if self._observer is not None and not self._up:
            raise RuntimeUnavailable(f"the container engine at {self._url} does not answer")
        return await deferToThreadPool(self._reactor, self._pool, self._blocking, function, *args)

    def _blocking(self, function: Callable[..., T], *args: Any) -> T:
        import docker
        import requests

        try:
            _knock(self._url)
            if self._api is None:
                self._api = docker.APIClient(base_url=self._url, version="auto", timeout=_CALL_TIMEOUT)
            return function(self._api, *args)
        except docker.errors.ImageNotFound as error:
            raise NoSuchImage(str(error.explanation or error)) from error
        except docker.errors.NotFound as error:
            message = str(error.explanation or error)
            kind = NoSuchImage if "no such image" in message.lower() else NoSuchContainer
            raise kind(message) from error
        except docker.errors.APIError as error:
            raise EngineError(str(error.explanation or error)) from error
        except (requests.exceptions.RequestException, docker.errors.DockerException, OSError) as error:
            raise RuntimeUnavailable(f"the container engine does not answer: {error}") from error

    async def info(self) -> EngineInfo:
        return engine_info(await self._call(lambda api: api.info()))

    async def list(self) -> Sequence[ContainerView]:
        return await self._call(self._list)

    def _list(self, api: Any) -> Sequence[ContainerView]:
        from docker.errors import NotFound

        found = []
        for listed in api.containers(all=True, filters={"label": self._ours()}):
            with suppress(NotFound):
                found.append(container_view(api.inspect_container(listed["Id"])))
        return found

    async def inspect(self, container_id: str) -> ContainerView:
        view = container_view(await self._call(lambda api: api.inspect_container(container_id)))
        if (view.labels.get(labels.NETWORK), view.labels.get(labels.NODE)) != (self._network, self._node):
            raise NoSuchContainer(f"container {container_id[:12]} is not ours")
        return view

    async def create(self, config: ContainerConfig) -> str:
        return await self._call(self._create, config)

    def _create(self, api: Any, config: ContainerConfig) -> str:
        from docker.errors import APIError

        body = create_body(config)
        try:
            return str(api.create_container_from_config(body, config.name)["Id"])
        except APIError as error:
            # Docker answers 409, Podman 500.
            if error.status_code != 409 and "already in use" not in str(error):
                raise
        # A container of that name is there: made by us just before we were killed, and never noted.
        present = container_view(api.inspect_container(config.name))
        if present.running:
            raise EngineError(f"container {config.name} is there already, and runs")
        api.remove_container(config.name, v=True, force=True)
        return str(api.create_container_from_config(body, config.name)["Id"])

    async def start_container(self, container_id: str) -> None:
        await self._call(lambda api: api.start(container_id))

    async def signal(self, container_id: str, signal: str) -> None:
        try:
            await self._call(lambda api: api.kill(container_id, signal))
        except NoSuchContainer:
            return
        except RuntimeUnavailable:
            raise
        except EngineError as error:
            if not any(words in str(error) for words in _NOT_RUNNING):
                raise

    async def remove(self, container_id: str) -> None:
        try:
            await self._call(lambda api: api.remove_container(container_id, v=True, force=True))
        except NoSuchContainer:
            return
        except RuntimeUnavailable:
            raise
        except EngineError as error:
            if "is already in progress" not in str(error):
                raise

    async def ensure_network(self, config: NetworkConfig) -> bool:
        return await self._call(self._ensure_network, config)

    def _ensure_network(self, api: Any, config: NetworkConfig) -> bool:
        from docker.errors import NotFound

        marks = {labels.NETWORK: self._network, labels.NODE: self._node}
        try:
            found = api.inspect_network(config.name)
        except NotFound:
            found = None
        if found is not None:
            if same_network(found, config):
                return False
            for container in list((found.get("Containers") or {}).keys()):
                api.disconnect_container_from_network(container, found["Id"], force=True)
            api.remove_network(found["Id"])
        body = network_body(config, marks, str(api.version().get("Version") or ""))
        api._result(api._post_json(api._url("/networks/create"), data=body), json=True)
        return True

    # -- images ----------------------------------------------------------------------------------------------

    async def image(self, reference: str) -> ImageView:
        return image_view(await self._call(lambda api: api.inspect_image(reference)))

    async def images(self) -> Sequence[ImageView]:
        return [listed_image(listed) for listed in await self._call(lambda api: api.images())]

    async def images_in_use(self) -> Sequence[str]:
        return [str(c.get("ImageID") or "") for c in await self._call(lambda api: api.containers(all=True))]

    async def import_image(self, layer: bytes, repository: str, tag: str, entrypoint: str) -> None:
        change = f'ENTRYPOINT ["{entrypoint}"]'
        await self._call(
            # Podman reads no tag beside the name.
            lambda api: api.import_image_from_data(layer, repository=f"{repository}:{tag}", changes=[change])
        )

    async def load_image(self, path: str) -> None:
        await self._call(_load, path)

    async def pull(self, reference: str, auth: Mapping[str, str] | None) -> None:
        failure: list[str] = []
        done: Deferred[Exception | None] = Deferred()

        def received(line: Any) -> None:
            if isinstance(line, dict) and line.get("error"):
                failure.append(str(line["error"]))

        headers = {}
        if auth:
            headers["X-Registry-Auth"] = urlsafe_b64encode(json.dumps(dict(auth)).encode()).decode()
        name, tag = split_reference(reference)
        query = urlencode({"fromImage": name, "tag": tag})
        try:
            await self.endpoint.open(
                "POST",
                f"/images/create?{query}",
                JsonLines(received, done.callback),
                headers=headers,
                # The answer begins when the registry has been reached.
                patience=120.0,
            )
            error = await done
        except RuntimeUnavailable:
            raise
        except EngineError as refused:
            raise PullFailed(str(refused)) from refused
        if failure or error is not None:
            raise PullFailed(failure[0] if failure else str(error))

    async def remove_image(self, image_id: str) -> None:
        with suppress(NoSuchImage, NoSuchContainer):
            await self._call(lambda api: api.remove_image(image_id))

    # -- processes in containers ------------------------------------------------------------------------------

    async def execute(self, container_id: str, command: Sequence[str], seconds: float) -> ExecResult:
        output = bytearray()
        done: Deferred[Exception | None] = Deferred()

        def received(stream: int, data: bytes) -> None:
            output.extend(data[: _MAX_EXEC_OUTPUT - len(output)])

        split = Demultiplexer(received)

        class Reader:
            def data(self, data: bytes) -> None:
                split.feed(data)

            def ended(self, error: Exception | None) -> None:
                if not done.called:
                    done.callback(error)

        identity = await self._call(
            lambda api: str(api.exec_create(container_id, list(command), stdout=True, stderr=True)["Id"])
        )
        stream = await self.endpoint.open(
            "POST",
            f"/exec/{quote(identity)}/start",
            Reader(),
            content={"Detach": False, "Tty": False},
            upgrade=True,
        )
        if not await self._wait_for(done, seconds):
            stream.close()
            raise TimeoutError(f"command {command[0]!r} timed out after {seconds:g}s")
        inspected = await self._call(lambda api: api.exec_inspect(identity))
        return ExecResult(int(inspected.get("ExitCode") or 0), bytes(output))

    async def exec_session(
        self, container_id: str, command: Sequence[str], tty: bool, stdin: bool, output: Output
    ) -> Session:
        identity = await self._call(
            lambda api: str(
                api.exec_create(container_id, [*command], stdout=True, stderr=not tty, stdin=stdin, tty=tty)["Id"]
            )
        )
        session = DockerSession(
            lambda width, height: self._call(lambda api: api.exec_resize(identity, height=height, width=width)),
            lambda: self._call(lambda api: api.exec_inspect(identity).get("ExitCode")),
        )
        content = {"Detach": False, "Tty": tty}
        await self._converse(session, "POST", f"/exec/{quote(identity)}/start", output, tty, content)
        return session

    async def attach_session(self, view: ContainerView, stdin: bool, output: Output) -> Session:
        session = DockerSession(
            lambda width, height: self._call(lambda api: api.resize(view.id, height=height, width=width)), None
        )
        query = urlencode({"stream": 1, "stdin": int(stdin), "stdout": 1, "stderr": 1})
        await self._converse(session, "POST", f"/containers/{view.id}/attach?{query}", output, view.tty, None)
        return session

    async def log_session(self, view: ContainerView, options: LogOptions, output: Output) -> Session:
        session = DockerSession(None, None)
        query = urlencode(
            {
                "stdout": 1,
                "stderr": 1,
                "follow": int(options.follow),
                "timestamps": int(options.timestamps),
                "tail": "all" if options.tail is None else options.tail,
                "since": f"{options.since:.9f}" if options.since else 0,
            }
        )
        body = OutputBody(output, view.tty)
        session.stream = await self.endpoint.open("GET", f"/containers/{view.id}/logs?{query}", body)
        return session

    async def _converse(
        self, session: DockerSession, method: str, path: str, output: Output, tty: bool, content: Any
    ) -> None:
        body = OutputBody(output, tty)
        session.stream = await self.endpoint.open(method, path, body, content=content, upgrade=True)

    async def stats(self, container_id: str) -> Usage:
        return usage(await self._call(lambda api: api.stats(container_id, stream=False, one_shot=True)))


def _knock(url: str) -> None:
    """See that somebody listens: the ``docker`` package leaves its socket open where nobody does.

    :raises OSError: if nobody does.
    """
    parts = urlsplit(url)
    if parts.scheme in ("unix", "http+unix"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_PING_TIMEOUT)
            probe.connect(parts.path)


def _load(api: Any, path: str) -> None:
    with open(path, "rb") as archive:
        for line in api.load_image(archive):
            if "error" in line:
                raise EngineError(str(line["error"]))


def split_reference(reference: str) -> tuple[str, str]:
    """Name and tag (or digest) of an image reference; without either the tag is ``latest``."""
    if "@" in reference:
        name, _, digest = reference.partition("@")
        return name, digest
    head, slash, last = reference.rpartition("/")
    name, _, tag = last.partition(":")
    return head + slash + name, tag or "latest"
