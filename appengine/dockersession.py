"""Conversations with processes in containers, and logs, over one connection to the Docker Engine API each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from appengine.dockerstream import Demultiplexer, HttpStream
from appengine.runtime import Output


class OutputBody:
    """Hands an answer's body to an :class:`Output`, split into its streams where it is multiplexed."""

    def __init__(self, output: Output, tty: bool) -> None:
        self._output = output
        self._split = None if tty else Demultiplexer(output.output)

    def data(self, data: bytes) -> None:
        if self._split is not None:
            self._split.feed(data)
        else:
            self._output.output(1, data)

    def ended(self, error: Exception | None) -> None:
        self._output.ended(error)


class DockerSession:
    """A :class:`appengine.runtime.Session` over one connection to the engine."""

    def __init__(
        self,
        resize: Callable[[int, int], Awaitable[Any]] | None,
        exit_code: Callable[[], Awaitable[int | None]] | None,
    ) -> None:
        self.stream: HttpStream | None = None
        self._resize = resize
        self._exit_code = exit_code

    def write(self, data: bytes) -> None:
        if self.stream is not None:
            self.stream.write(data)

    def close_write(self) -> None:
        if self.stream is not None:
            self.stream.close_write()

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()

    def _producer(self) -> Any:
        return self.stream.transport if self.stream is not None else None

    def pauseProducing(self) -> None:
        if (producer := self._producer()) is not None:
            producer.pauseProducing()

    def resumeProducing(self) -> None:
        if (producer := self._producer()) is not None:
            producer.resumeProducing()

    def stopProducing(self) -> None:
        self.close()

    async def resize(self, width: int, height: int) -> None:
        if self._resize is not None:
            await self._resize(width, height)

    async def exit_code(self) -> int | None:
        return None if self._exit_code is None else await self._exit_code()
