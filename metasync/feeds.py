"""What the two ends of a feed have in common."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from metasync.interfaces import StoreError
from metasync.wire import FeedMessage


class Outlet(Protocol):
    """A feed's way to the other end."""

    def send(self, message: FeedMessage) -> None: ...

    async def ready(self) -> None:
        """Returns once the connection takes more. To be awaited between large messages."""

    async def admit(self) -> None:
        """Returns once the other end may write again. To be awaited before every write in its name."""

    def hold(self) -> None:
        """Take nothing more from the other end, until :meth:`go_on` was called as often."""

    def go_on(self) -> None: ...

    def broken(self, error: Exception) -> None:
        """The session cannot go on."""

    def more(self, kind: str) -> str | None:
        """Whether the log takes another line of that kind about the other end (:mod:`metasync.loglimit`)."""

    def seconds(self) -> float: ...

    def later(self, delay: float, call: Callable[[], None]) -> IDelayedCall: ...


class Rate:
    """A bucket of tokens: ``burst`` at once, then so many a second. Time is passed in."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst
        self._at: float | None = None

    def take(self, now: float) -> float:
        """Take one token. Returns the seconds to wait until it is there."""
        passed = max(0.0, now - self._at) if self._at is not None else 0.0
        self._at = now
        self._tokens = min(self._burst, self._tokens + passed * self._per_second) - 1
        return max(0.0, -self._tokens / self._per_second)


class Overtaken(StoreError):
    """Another session of the same feed has moved the cursor."""


@dataclass(slots=True)
class FeedStatus:
    """How a feed stands, for people. Times are the reactor's seconds; revisions are the source's."""

    feed: str
    direction: str
    state: str = "waiting"
    synced_revision: int | None = None
    source_revision: int | None = None
    pending: int = 0
    pending_since: float | None = None
    last_synced: float | None = None
    error: str | None = None

    def snapshot(self, now: float) -> dict[str, Any]:
        lag = None
        if self.synced_revision is not None and self.source_revision is not None:
            lag = max(0, self.source_revision - self.synced_revision) if self.pending else 0
        return {
            "feed": self.feed,
            "direction": self.direction,
            "state": self.state,
            "syncedRevision": self.synced_revision,
            "pending": self.pending,
            "lagRevisions": lag,
            "lagSeconds": round(now - self.pending_since, 3) if self.pending_since is not None else 0,
            "lastSyncedSeconds": round(now - self.last_synced, 3) if self.last_synced is not None else None,
            "error": self.error,
        }


def spawn(work: Coroutine[Any, Any, None], failed: Callable[[Exception], None]) -> None:
    """Run a coroutine by itself. Whatever it raises goes to ``failed``."""

    def report(failure: Failure) -> None:
        error = failure.value
        failed(error if isinstance(error, Exception) else StoreError(str(error)))

    Deferred.fromCoroutine(work).addErrback(report)
