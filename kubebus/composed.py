# mypy: disallow-untyped-calls=False
"""A daemon made of parts that need time to start: one after the other, in a coroutine; stopped in reverse."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

Cleanup = Callable[[], object]


class CannotStart(Exception):
    """The daemon cannot start as it is told to. The message is for people: what is wrong, and what to do."""


def state_directory(path: Path, mode: int) -> Path:
    """The daemon's own directory, made if it is missing.

    :raises CannotStart: if it cannot be made, or not be written.
    """
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise CannotStart(
            f"--state-dir {path} cannot be used ({error.strerror}): choose a directory that this user can write, with "
            "room for the store"
        ) from error
    return path


class ComposedService(Service):
    """Runs :meth:`compose`, in which parts are started by :meth:`add` or kept for the end by :meth:`at_stop`.

    A failure of it ends the process with exit code 1.

    :param expected: errors whose message tells all; others are logged with a traceback.
    """

    log = Logger()

    def __init__(self, reactor: Any, expected: tuple[type[Exception], ...] = ()) -> None:
        # Twisted tells of each factory's start and end; with a factory per connection that would hide all the rest.
        Factory.noisy = False
        self.reactor = reactor
        self._expected = (CannotStart, *expected)
        self._cleanups: list[Cleanup] = []
        self._starting: Deferred[None] | None = None

    async def compose(self) -> None:
        """Start everything, in order."""
        raise NotImplementedError

    def add(self, part: IService) -> None:
        """Start a part now, and stop it with the daemon."""
        # First kept, then started: what has half started is stopped too.
        self._cleanups.append(part.stopService)
        part.startService()

    def at_stop(self, cleanup: Cleanup) -> None:
        """Call (and await) ``cleanup`` when the daemon stops, before what was kept earlier."""
        self._cleanups.append(cleanup)

    def startService(self) -> None:
        super().startService()
        self._starting = Deferred.fromCoroutine(self.compose())
        self._starting.addErrback(self.fatal)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        if self._starting is not None:
            self._starting.cancel()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        while self._cleanups:
            cleanup = self._cleanups.pop()
            try:
                result = cleanup()
                if isinstance(result, Awaitable):
                    await result
            except Exception:
                # The rest has to be stopped all the same: routes and devices are among it.
                self.log.failure("Stopping {what} failed", what=getattr(cleanup, "__qualname__", cleanup))

    def fatal(self, failure: Failure) -> None:
        """End the process: it cannot do its work."""
        if failure.check(CancelledError) and not self.running:
            return
        if isinstance(failure.value, CannotListenError):
            self.log.critical("Cannot go on: {why}", why=_taken(failure.value))
        elif failure.check(*self._expected):
            self.log.critical("Cannot go on: {why}", why=str(failure.value))
        else:
            self.log.failure("Cannot go on", failure)
        atexit.register(_exit_with_failure)
        if self.reactor.running:
            self.reactor.stop()
        else:
            self.reactor.callWhenRunning(self.reactor.stop)


def _taken(error: CannotListenError) -> str:
    place = f"{error.interface or 'port'}:{error.port}" if isinstance(error.port, int) else str(error.port)
    reason = getattr(error.socketError, "strerror", None) or error.socketError
    return f"cannot listen on {place} ({reason}): stop the process that does, or choose another place in the options"


def _exit_with_failure() -> None:
    """twistd itself ends with 0 whatever happened; a supervisor has to know better."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
