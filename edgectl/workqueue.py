"""Work by key: what a controller has to look at again. No I/O in :class:`WorkQueue`.

The contract is client-go's workqueue: a key that is added while it waits is done once; a key that is added while it
is being done is done again afterwards, and never twice at the same time; a key that failed comes back later, and
later each time.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from edgectl.errors import ApiError, StatusError
from edgectl.watch import Backoff

Key = TypeVar("Key")

MIN_RETRY, MAX_RETRY = 0.25, 60.0
"""Seconds before a failed key is tried again."""


class WorkQueue(Generic[Key]):
    """Keys to do, in order of arrival. Duplicates are folded."""

    def __init__(self) -> None:
        self._waiting: dict[Key, None] = {}
        self._busy: set[Key] = set()
        self._again: set[Key] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._busy

    def add(self, key: Key) -> None:
        if key in self._busy:
            self._again.add(key)
        else:
            self._waiting[key] = None

    def take(self) -> Key | None:
        """The next key to do (then call :meth:`done`), or ``None``."""
        for key in self._waiting:
            del self._waiting[key]
            self._busy.add(key)
            return key
        return None

    def done(self, key: Key) -> None:
        self._busy.discard(key)
        if key in self._again:
            self._again.discard(key)
            self._waiting[key] = None


class Workers(Generic[Key]):
    """Does the keys of a queue, at most ``concurrency`` at a time.

    ``handler(key)`` brings the outside in line with what should be, from scratch: it may be called at any time, any
    number of times. When it raises, the key is tried again after a growing, jittered delay.

    :param random: uniform over [0, 1).
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        name: str,
        handler: Callable[[Key], Coroutine[Deferred[Any], Any, None]],
        random: Callable[[], float],
        concurrency: int = 16,
    ) -> None:
        self._reactor = reactor
        self._name = name
        self._handler = handler
        self._random = random
        self._concurrency = concurrency
        self._queue: WorkQueue[Key] = WorkQueue()
        self._running: dict[Key, Deferred[None]] = {}
        self._backoffs: dict[Key, Backoff] = {}
        self._later: dict[Key, IDelayedCall] = {}
        self._pending: set[Key] = set()
        """Those of them for which something is left to do until then."""
        self._open = False
        self._wake: IDelayedCall | None = None

    @property
    def idle(self) -> bool:
        """Nothing to do, nothing under way, nothing to be tried again."""
        return self._queue.idle and not self._pending

    def start(self) -> None:
        self._open = True
        self._schedule()

    async def stop(self) -> None:
        """Take up nothing more, cancel what is under way and wait until it has ended."""
        self._open = False
        for call in (*self._later.values(), *((self._wake,) if self._wake else ())):
            call.cancel()
        self._later.clear()
        self._pending.clear()
        self._wake = None
        running = list(self._running.values())
        for deferred in running:
            deferred.cancel()
        await DeferredList(running)

    def add(self, key: Key) -> None:
        """Do ``key`` soon. Adds before :meth:`start` are kept for then."""
        self._queue.add(key)
        self._schedule()

    def add_after(self, key: Key, delay: float, pending: bool = True) -> None:
        """Do ``key`` in ``delay`` seconds, unless something else has it done sooner.

        :param pending: whether something is left to do until then; if not, only time can make it so.
        """
        if not self._open:
            return
        if pending:
            self._pending.add(key)
        waiting = self._later.get(key)
        due = self._reactor.seconds() + delay
        if waiting is not None:
            if waiting.getTime() <= due:
                return
            waiting.cancel()
        self._later[key] = self._reactor.callLater(delay, self._due, key)

    def _due(self, key: Key) -> None:
        del self._later[key]
        self._pending.discard(key)
        self.add(key)

    def _schedule(self) -> None:
        """Work begins in a later turn of the reactor, so that a burst of changes is folded first."""
        if self._open and self._wake is None and len(self._queue):
            self._wake = self._reactor.callLater(0, self._begin)

    def _begin(self) -> None:
        self._wake = None
        while len(self._running) < self._concurrency and (key := self._queue.take()) is not None:
            deferred = Deferred.fromCoroutine(self._handler(key))
            self._running[key] = deferred
            deferred.addBoth(self._finished, key)

    def _finished(self, result: object, key: Key) -> None:
        self._running.pop(key, None)
        self._queue.done(key)
        if not isinstance(result, Failure):
            self._backoffs.pop(key, None)
        elif self._open:
            self._failed(key, result)
        self._schedule()

    def _failed(self, key: Key, failure: Failure) -> None:
        backoff = self._backoffs.setdefault(key, Backoff(self._random, MIN_RETRY, MAX_RETRY))
        error = failure.value
        delay = backoff.next(error.retry_after if isinstance(error, StatusError) else None)
        if isinstance(error, ApiError):
            self._log.info(
                "{name} {key}: {error}; trying again in {delay:.1f} s",
                name=self._name, key=key, error=error, delay=delay,
            )  # fmt: skip
        else:
            self._log.failure(
                "{name} {key}: trying again in {delay:.1f} s", failure, name=self._name, key=key, delay=delay
            )
        self.add_after(key, delay)
