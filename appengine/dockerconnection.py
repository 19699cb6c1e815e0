"""The connection to a Docker Engine API: the stream of events, and single calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from appengine import labels
from appengine.dockerapi import EngineApi
from appengine.dockerstream import EngineEndpoint, HttpStream, JsonLines
from appengine.runtime import (
    EngineError,
    RuntimeObserver,
    RuntimeUnavailable,
)
from appengine.waiting import sleep

T = TypeVar("T")

_CALL_TIMEOUT = 60.0
_RETRY = 2.0
# The last two are Podman's own names for "die" and "destroy".
_EVENTS = ("create", "start", "die", "oom", "destroy", "died", "remove")
_SAME_EVENTS = {"died": "die", "remove": "destroy"}


@dataclass(frozen=True, slots=True)
class Patience:
    """With an engine that says nothing, in seconds."""

    period: float = 10.0
    """So often it is asked whether it is there."""
    timeout: float = 8.0
    """So long it may take to answer that."""


_PATIENCE = Patience()


class DockerConnection:
    """Watches whether the engine answers, and asks it.

    :param url: ``unix:///path`` or ``tcp://host:port``.
    :param network: with ``node``, marks the containers that are ours.
    :param patience: when an engine is taken to hang.
    """

    _log = Logger()

    def __init__(self, reactor: Any, url: str, network: str, node: str, patience: Patience = _PATIENCE) -> None:
        self._reactor: Any = reactor
        self._url = url
        self._network = network
        self._node = node
        self._patience = patience
        self._pool = ThreadPool(0, 1, name="docker")
        self._observer: RuntimeObserver | None = None
        self._running = False
        self._up = False
        self._loop: Deferred[None] | None = None
        self._events: HttpStream | None = None
        self.endpoint = EngineEndpoint(reactor, url)
        self._calls = EngineApi(reactor, self.endpoint, _CALL_TIMEOUT)

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
        return await self.endpoint.open("GET", path, JsonLines(received, done), patience=self._patience.timeout)

    async def _until_lost(self, ended: Deferred[Exception | None]) -> str:
        while True:
            if await self._wait_for(ended, self._patience.period):
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
        await self.endpoint.open("GET", "/_ping", lines, patience=self._patience.timeout)

    def _ours(self) -> list[str]:
        return [f"{labels.NETWORK}={self._network}", f"{labels.NODE}={self._node}"]

    async def _call(self, method: str, path: str, query: Mapping[str, Any] | None = None, content: Any = None) -> Any:
        """See :meth:`appengine.dockerapi.EngineApi.call`; fails at once while the engine is known not to answer."""
        self._check()
        return await self._calls.call(method, path, query, content)

    def _check(self) -> None:
        if not self._running:
            raise RuntimeUnavailable("the engine is stopped")
        if self._observer is not None and not self._up:
            raise RuntimeUnavailable(f"the container engine at {self._url} does not answer")
