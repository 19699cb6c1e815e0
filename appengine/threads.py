"""Blocking work off the reactor thread, on a pool of its own: it waits for nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """At most ``size`` threads; what is more waits in line. They are made when first needed."""

    def __init__(self, reactor: Any, size: int, name: str) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, size, name=name)

    def start(self) -> None:
        self._pool.start()

    def stop(self) -> None:
        """Wait for what is under way, and end."""
        if self._pool.started:
            self._pool.stop()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await deferToThreadPool(self._reactor, self._pool, function, *args, **kwargs)
