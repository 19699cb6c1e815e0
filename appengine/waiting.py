"""Waiting for time to pass, in coroutines."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred


async def sleep(reactor: Any, seconds: float) -> None:
    """Return after so long. Cancelling the coroutine leaves no timer behind."""
    done: Deferred[None] = Deferred(lambda _: timer.cancel() if timer.active() else None)
    timer = reactor.callLater(seconds, done.callback, None)
    await done
