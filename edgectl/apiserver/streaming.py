# mypy: allow-untyped-calls
"""A watch as an HTTP response that goes on: one JSON event a line."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.web.server import Request
from zope.interface import implementer

from edgectl.apiserver.negotiate import Form
from edgectl.apiserver.resources import Resource

Obj = dict[str, Any]

MAX_QUEUED = 4 * 1024 * 1024
"""Bytes that wait for a slow client before its watch is ended; it watches again from where it is."""

BOOKMARK_SECONDS = 60.0
"""How often a client that wants bookmarks gets one (as in kube-apiserver)."""

INITIAL_END = "k8s.io/initial-events-end"


@implementer(IPushProducer)
class WatchResponse:
    """Writes events to a request until one side ends it. It is a WatchSink."""

    def __init__(self, reactor: IReactorTime, request: Request, resource: Resource, form: Form) -> None:
        self._reactor = reactor
        self._request = request
        self._resource = resource
        self._form = form
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._paused = False
        self._finished = False
        self._timers: list[IDelayedCall] = []
        self._on_end: Callable[[], None] = lambda: None

    def begin(self, timeout: float) -> None:
        """Send the head; end by itself after ``timeout`` seconds."""
        self._request.setHeader(b"content-type", b"application/json")
        self._request.setHeader(b"cache-control", b"no-cache, private")
        self._request.registerProducer(self, True)
        self._request.write(b"")
        self._timers.append(self._reactor.callLater(timeout, self.closed))

    def ends(self, on_end: Callable[[], None]) -> None:
        """Call ``on_end`` once when it is over, now if it already is."""
        if self._finished:
            on_end()
        else:
            self._on_end = on_end

    def bookmarks(self, bookmark: Callable[[], None]) -> None:
        """Call ``bookmark`` from time to time."""

        def again() -> None:
            bookmark()
            self._timers.append(self._reactor.callLater(BOOKMARK_SECONDS, again))
            del self._timers[1:-1]

        self._timers.append(self._reactor.callLater(BOOKMARK_SECONDS, again))

    def event(self, type_: str, obj: Obj) -> None:
        self._send(type_, self._form.watched(self._resource, obj))

    def bookmark(self, revision: int, *, initial: bool) -> None:
        meta: Obj = {"resourceVersion": str(revision), "creationTimestamp": None}
        if initial:
            meta["annotations"] = {INITIAL_END: "true"}
        self._send("BOOKMARK", self._form.bookmark(self._resource, meta))

    def error(self, status: Obj) -> None:
        """Tell the client why, and end."""
        self._send("ERROR", status)
        self.closed()

    def closed(self) -> None:
        """End the response. What is queued for a slow client goes with it."""
        if not self._finished:
            self._over()
            self._request.unregisterProducer()
            self._request.finish()

    def lost(self) -> None:
        """The client went away."""
        if not self._finished:
            self._over()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        while self._queue and not self._paused:
            line = self._queue.popleft()
            self._queued -= len(line)
            self._request.write(line)

    def stopProducing(self) -> None:
        self.lost()

    def _over(self) -> None:
        self._finished = True
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        self._queue.clear()
        self._on_end()

    def _send(self, type_: str, obj: Obj) -> None:
        if self._finished:
            return
        line = json.dumps({"type": type_, "object": obj}, separators=(",", ":")).encode() + b"\n"
        if not self._paused:
            self._request.write(line)
            return
        self._queue.append(line)
        self._queued += len(line)
        if self._queued > MAX_QUEUED:
            self.closed()
