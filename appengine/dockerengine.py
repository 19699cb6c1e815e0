"""Docker (or Podman's Docker-compatible socket) as the runtime.

Everything is done on the reactor, but loading an archive of images: that is the ``docker`` package's, in a thread.
While the engine does not answer, calls fail at once.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from appengine import labels
from appengine.dockerapi import EngineApi
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

_CALL_TIMEOUT = 60.0
_LOAD_TIMEOUT = 60
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
        self._pool = ThreadPool(0, 1, name="docker")
        self._observer: RuntimeObserver | None = None
        self._running = False
        self._up = False
        self._loop: Deferred[None] | None = None
        self._events: HttpStream | None = None
        self.endpoint = EngineEndpoint(reactor, url)
        self._calls = EngineApi(reactor, self.endpoint, _CALL_TIMEOUT)

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
        await self._calls.close()
        self._pool.stop()

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

    async def _call(self, method: str, path: str, query: Mapping[str, Any] | None = None, content: Any = None) -> Any:
        """See :meth:`appengine.dockerapi.EngineApi.call`; fails at once while the engine is known not to answer."""
        self._check()
        return await self._calls.call(method, path, query, content)

    def _check(self) -> None:
        if not self._running:
            raise RuntimeUnavailable("the engine is stopped")
        if self._observer is not None and not self._up:
            raise RuntimeUnavailable(f"the container engine at {self._url} does not answer")

    async def info(self) -> EngineInfo:
        return engine_info(await self._call("GET", "/info"))

    async def list(self) -> Sequence[ContainerView]:
        filters = json.dumps({"label": self._ours()})
        found = []
        for listed in await self._call("GET", "/containers/json", {"all": 1, "filters": filters}) or ():
            with suppress(NoSuchContainer):
                found.append(container_view(await self._inspect(listed["Id"])))
        return found

    async def inspect(self, container_id: str) -> ContainerView:
        view = container_view(await self._inspect(container_id))
        if (view.labels.get(labels.NETWORK), view.labels.get(labels.NODE)) != (self._network, self._node):
            raise NoSuchContainer(f"container {container_id[:12]} is not ours")
        return view

    async def _inspect(self, container: str) -> Any:
        return await self._call("GET", f"/containers/{quote(container)}/json")

    async def create(self, config: ContainerConfig) -> str:
        body = create_body(config)
        try:
            return str((await self._call("POST", "/containers/create", {"name": config.name}, body))["Id"])
        except (RuntimeUnavailable, NoSuchContainer, NoSuchImage):
            raise
        except EngineError as error:
            # Docker answers 409, Podman 500.
            if "already in use" not in str(error):
                raise
        # A container of that name is there: made by us just before we were killed, and never noted.
        present = container_view(await self._inspect(config.name))
        if present.running:
            raise EngineError(f"container {config.name} is there already, and runs")
        await self._remove(config.name)
        return str((await self._call("POST", "/containers/create", {"name": config.name}, body))["Id"])

    async def start_container(self, container_id: str) -> None:
        await self._call("POST", f"/containers/{quote(container_id)}/start")

    async def signal(self, container_id: str, signal: str) -> None:
        try:
            await self._call("POST", f"/containers/{quote(container_id)}/kill", {"signal": signal})
        except NoSuchContainer:
            return
        except RuntimeUnavailable:
            raise
        except EngineError as error:
            if not any(words in str(error) for words in _NOT_RUNNING):
                raise

    async def remove(self, container_id: str) -> None:
        try:
            await self._remove(container_id)
        except NoSuchContainer:
            return
        except RuntimeUnavailable:
            raise
        except EngineError as error:
            if "is already in progress" not in str(error):
                raise

    async def _remove(self, container: str) -> None:
        await self._call("DELETE", f"/containers/{quote(container)}", {"v": 1, "force": 1})

    async def ensure_network(self, config: NetworkConfig) -> bool:
        try:
            found = await self._call("GET", f"/networks/{quote(config.name)}")
        except NoSuchContainer:
            found = None
        if found is not None:
            if same_network(found, config):
                return False
            path = f"/networks/{quote(found['Id'])}"
            for container in list((found.get("Containers") or {}).keys()):
                await self._call("POST", f"{path}/disconnect", content={"Container": container, "Force": True})
            await self._call("DELETE", path)
        marks = {labels.NETWORK: self._network, labels.NODE: self._node}
        version = await self._call("GET", "/version")
        body = network_body(config, marks, str(version.get("Version") or ""))
        await self._call("POST", "/networks/create", content=body)
        return True

    # -- images ----------------------------------------------------------------------------------------------

    async def image(self, reference: str) -> ImageView:
        return image_view(await self._call("GET", f"/images/{quote(reference, safe='/:@')}/json"))

    async def images(self) -> Sequence[ImageView]:
        return [listed_image(listed) for listed in await self._call("GET", "/images/json") or ()]

    async def images_in_use(self) -> Sequence[str]:
        listed = await self._call("GET", "/containers/json", {"all": 1})
        return [str(container.get("ImageID") or "") for container in listed or ()]

    async def import_image(self, layer: bytes, repository: str, tag: str, entrypoint: str) -> None:
        change = f'ENTRYPOINT ["{entrypoint}"]'
        # Podman reads no tag beside the name.
        query = {"fromSrc": "-", "repo": f"{repository}:{tag}", "changes": change}
        self._check()
        await self._calls.call("POST", "/images/create", query, data=layer)

    async def load_image(self, path: str) -> None:
        self._check()
        # The one thing that the docker package is loaded for: an archive is long, and is read in a thread.
        await deferToThreadPool(self._reactor, self._pool, _load, self._url, path)

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
            await self._call("DELETE", f"/images/{quote(image_id, safe='/:@')}")

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

        identity = await self._exec(container_id, command)
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
        inspected = await self._exec_inspect(identity)
        return ExecResult(int(inspected.get("ExitCode") or 0), bytes(output))

    async def _exec(self, container_id: str, command: Sequence[str], **options: bool) -> str:
        body = {"AttachStdout": True, "AttachStderr": True, "Cmd": [*command], **options}
        return str((await self._call("POST", f"/containers/{quote(container_id)}/exec", content=body))["Id"])

    async def _exec_inspect(self, identity: str) -> Any:
        return await self._call("GET", f"/exec/{quote(identity)}/json")

    async def exec_session(
        self, container_id: str, command: Sequence[str], tty: bool, stdin: bool, output: Output
    ) -> Session:
        identity = await self._exec(container_id, command, AttachStdin=stdin, AttachStderr=not tty, Tty=tty)

        async def exit_code() -> int | None:
            code: int | None = (await self._exec_inspect(identity)).get("ExitCode")
            return code

        session = DockerSession(
            lambda width, height: self._call("POST", f"/exec/{quote(identity)}/resize", {"h": height, "w": width}),
            exit_code,
        )
        content = {"Detach": False, "Tty": tty}
        await self._converse(session, "POST", f"/exec/{quote(identity)}/start", output, tty, content)
        return session

    async def attach_session(self, view: ContainerView, stdin: bool, output: Output) -> Session:
        session = DockerSession(
            lambda width, height: self._call("POST", f"/containers/{view.id}/resize", {"h": height, "w": width}), None
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
        path = f"/containers/{quote(container_id)}/stats"
        return usage(await self._call("GET", path, {"stream": "false", "one-shot": "true"}))


def _load(url: str, path: str) -> None:
    import docker

    try:
        with (
            closing(docker.APIClient(base_url=url, version="auto", timeout=_LOAD_TIMEOUT)) as api,
            open(path, "rb") as archive,
        ):
            for line in api.load_image(archive):  # type: ignore[no-untyped-call]
                if "error" in line:
                    raise EngineError(str(line["error"]))
    except docker.errors.APIError as error:
        raise EngineError(str(error.explanation or error)) from error
    except (docker.errors.DockerException, OSError) as error:
        # The errors of requests are OSErrors too.
        raise RuntimeUnavailable(f"the container engine does not answer: {error}") from error


def split_reference(reference: str) -> tuple[str, str]:
    """Name and tag (or digest) of an image reference; without either the tag is ``latest``."""
    if "@" in reference:
        name, _, digest = reference.partition("@")
        return name, digest
    head, slash, last = reference.rpartition("/")
    name, _, tag = last.partition(":")
    return head + slash + name, tag or "latest"
