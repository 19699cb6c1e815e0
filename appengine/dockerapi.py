"""Short calls of the Docker Engine API on the reactor, one connection each.

The ``docker`` package does the same with ``requests`` and ``urllib3``, which take 6 MB of a small device's memory, and
a thread for each call. It is still loaded where an archive of images is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore

from appengine.dockerstream import EngineEndpoint, HttpStream
from appengine.runtime import EngineError, NoSuchContainer, NoSuchImage, RuntimeUnavailable

_AT_ONCE = 4
"""Calls under way at the same time. More only make a busy engine slower."""
_LAST = 10.0
"""Seconds for calls that are under way when the agent stops: one that was cut may still be done by the engine."""
_MAX_ANSWER = 64 * 1024 * 1024
"""Bytes; ``docker info`` has 4 KB, a list of a thousand images 1 MB."""


class _Whole:
    """A body that is wanted in one piece."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.stream: HttpStream | None = None
        self.done: Deferred[None] = Deferred(lambda _: self.close())

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()

    def data(self, data: bytes) -> None:
        self.content += data
        if len(self.content) > _MAX_ANSWER:
            self.fail(EngineError(f"the engine's answer is longer than {_MAX_ANSWER >> 20} MB"))

    def ended(self, error: Exception | None) -> None:
        if self.done.called:
            return
        if error is None:
            self.done.callback(None)
        else:
            self.done.errback(error)

    def fail(self, error: EngineError) -> None:
        self.ended(error)
        self.close()


class EngineApi:
    """Calls and their answers.

    :param timeout: seconds that one call may take.
    """

    def __init__(self, reactor: Any, endpoint: EngineEndpoint, timeout: float) -> None:
        self._reactor, self._endpoint, self._timeout = reactor, endpoint, timeout
        self._turns = DeferredSemaphore(_AT_ONCE)
        self._under_way: set[Deferred[bytes]] = set()
        self._closed = False
        self._idle: Deferred[None] | None = None

    async def close(self, patience: float = _LAST) -> None:
        """Wait for what is under way; after ``patience`` seconds it fails with :class:`RuntimeUnavailable`, as does
        what is asked from now on."""
        self._closed = True
        timer = self._reactor.callLater(patience, self._cut)
        while self._under_way:
            ended: Deferred[None] = Deferred()
            self._idle = ended
            await ended
        if timer.active():
            timer.cancel()

    def _cut(self) -> None:
        for exchange in tuple(self._under_way):
            exchange.cancel()

    async def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        content: Any = None,
        data: bytes | None = None,
    ) -> Any:
        """What the engine answers; ``None`` where it has nothing to say.

        :param content: to be sent as JSON.
        :param data: to be sent instead, as it is: an archive.
        :raises NoSuchImage: if the image is not there.
        :raises NoSuchContainer: if something else is not there: a container, a network, a process.
        :raises EngineError: with the engine's own words, if it refuses.
        :raises RuntimeUnavailable: if it does not answer in time.
        """
        if query:
            path = f"{path}?{urlencode(query)}"
        await self._turns.acquire()
        try:
            return _parsed(await self._closable(method, path, content, data))
        except NoSuchContainer as error:
            if "no such image" in str(error).lower():
                raise NoSuchImage(str(error)) from error
            raise
        finally:
            self._turns.release()

    async def _closable(self, method: str, path: str, content: Any, data: bytes | None) -> bytes:
        if self._closed:
            raise RuntimeUnavailable("the engine is stopped")
        exchange = Deferred.fromCoroutine(self._exchange(method, path, content, data))
        self._under_way.add(exchange)
        try:
            return await exchange
        except CancelledError:
            if self._closed:
                raise RuntimeUnavailable("the engine is stopped") from None
            raise
        finally:
            self._under_way.discard(exchange)
            if (idle := self._idle) is not None and not self._under_way:
                self._idle = None
                idle.callback(None)

    async def _exchange(self, method: str, path: str, content: Any, data: bytes | None) -> bytes:
        whole = _Whole()
        whole.stream = await self._endpoint.open(
            method, path, whole, content=content, data=data, patience=self._timeout
        )
        late = RuntimeUnavailable(f"the container engine took longer than {self._timeout:g} s for its answer")
        timer = self._reactor.callLater(self._timeout, whole.fail, late)
        try:
            await whole.done
        finally:
            if timer.active():
                timer.cancel()
        return bytes(whole.content)


def _parsed(answer: bytes) -> Any:
    """The answer's JSON; of several documents (progress of an import), the last.

    :raises EngineError: if one of them tells of an error.
    """
    if not answer.strip():
        return None
    try:
        return json.loads(answer)
    except ValueError:
        pass
    last = None
    for line in answer.splitlines():
        try:
            last = json.loads(line) if line.strip() else last
        except ValueError as error:
            raise EngineError(f"the engine's answer is not JSON: {answer[:100]!r}") from error
        if isinstance(last, dict) and last.get("error"):
            raise EngineError(str(last["error"]))
    return last
