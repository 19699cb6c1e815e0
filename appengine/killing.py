"""Stopping containers: the hook, the signal, the grace period, and SIGKILL at its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from appengine import labels
from appengine.podspec import Json, Kind
from appengine.runtime import ContainerView, Runtime

_AFTER_KILL = 10.0
_MINIMUM_GRACE = 2.0

Hook = Callable[[ContainerView, Json], Awaitable[None]]


class _Abandoned(Exception):
    """The agent stops."""


class Killer:
    """Stops the containers of one pod. A container is stopped once, however often that is asked for.

    :param running: tells whether a container still runs, by what was last seen.
    :param hook: runs a ``preStop`` handler.
    """

    _log = Logger()

    def __init__(self, reactor: Any, runtime: Runtime, running: Callable[[str], bool], hook: Hook) -> None:
        self._reactor = reactor
        self._runtime = runtime
        self._running = running
        self._hook = hook
        self._tasks: dict[str, Deferred[None]] = {}
        self._deadlines: dict[str, float] = {}
        self._waiters: dict[str, list[Deferred[None]]] = {}
        self._stopped = False

    def busy(self, container_id: str) -> bool:
        return container_id in self._tasks

    def changed(self, container_id: str) -> None:
        """The container was looked at again."""
        if not self._running(container_id):
            self._wake(container_id)

    def _wake(self, container_id: str) -> None:
        for waiter in self._waiters.pop(container_id, ()):
            waiter.callback(None)

    def kill(self, view: ContainerView, grace: float, reason: str) -> Deferred[None]:
        """Stop a container within ``grace`` seconds; asked again, the earlier end counts. Never fails."""
        deadline = self._reactor.seconds() + grace
        if view.id in self._tasks:
            if deadline < self._deadlines[view.id]:
                self._deadlines[view.id] = deadline
                self._wake(view.id)
        else:
            self._deadlines[view.id] = deadline
            self._log.info(
                "stopping container {name} of pod {pod} within {grace:g} s: {reason}",
                name=view.name,
                pod=str(view.pod),
                grace=grace,
                reason=reason,
            )
            self._tasks[view.id] = Deferred()
            Deferred.fromCoroutine(self._stop(view)).addBoth(self._done, view)
        over: Deferred[None] = Deferred()
        task = self._tasks.get(view.id)
        if task is None:
            # It failed at once.
            over.callback(None)
            return over
        task.chainDeferred(over)
        task.addErrback(lambda _: None)
        return over

    def _done(self, result: Any, view: ContainerView) -> None:
        task = self._tasks.pop(view.id)
        self._deadlines.pop(view.id, None)
        if result is not None and not self._stopped:
            self._log.warn(
                "stopping container {name} of pod {pod}: {error}",
                name=view.name,
                pod=str(view.pod),
                error=result.getErrorMessage(),
            )
        task.callback(None)

    async def _stop(self, view: ContainerView) -> None:
        marked = labels.pre_stop_of(view.labels)
        if marked is not None and self._left(view) > 0:
            await self._run_hook(view, marked)
        if not self._running(view.id):
            return
        if self._left(view) > 0 or marked is not None:
            if self._left(view) < _MINIMUM_GRACE and marked is not None:
                # The kubelet leaves a container at least two seconds after its hook.
                self._deadlines[view.id] = max(self._deadlines[view.id], self._reactor.seconds() + _MINIMUM_GRACE)
            await self._runtime.signal(view.id, view.stop_signal)
            while self._running(view.id) and self._left(view) > 0:
                await self._exit(view, self._left(view))
        if self._running(view.id):
            await self._runtime.signal(view.id, "SIGKILL")
            if self._running(view.id):
                # Its end may have been seen before the answer was: nobody would tell of it again.
                await self._exit(view, _AFTER_KILL)

    def _left(self, view: ContainerView) -> float:
        return max(0.0, self._deadlines[view.id] - float(self._reactor.seconds()))

    async def _run_hook(self, view: ContainerView, marked: Json) -> None:
        hook = Deferred.fromCoroutine(_awaited(self._hook(view, marked)))
        hook.addErrback(
            lambda failure: self._log.warn(
                "preStop of container {name} of pod {pod} failed: {error}",
                name=view.name,
                pod=str(view.pod),
                error=failure.getErrorMessage(),
            )
        )
        hook.addBoth(lambda _: self._wake(view.id))
        while not hook.called and self._running(view.id) and self._left(view) > 0:
            await self._exit(view, self._left(view))

    async def _exit(self, view: ContainerView, seconds: float) -> None:
        """Wait until it may have stopped, or so long."""
        if self._stopped:
            raise _Abandoned
        woken: Deferred[None] = Deferred()
        waiters = self._waiters.setdefault(view.id, [])
        waiters.append(woken)
        timer = self._reactor.callLater(seconds, self._wake, view.id)
        await woken
        if timer.active():
            timer.cancel()
        if self._stopped:
            raise _Abandoned

    def stop(self) -> None:
        """Leave everything as it is: the agent goes down, not the containers."""
        self._stopped = True
        for container_id in list(self._waiters):
            self._wake(container_id)


async def _awaited(awaitable: Awaitable[None]) -> None:
    await awaitable


async def kill_all(killer: Killer, views: Sequence[ContainerView], grace: Callable[[], float], reason: str) -> None:
    """Stop a pod's containers: first the ordinary ones together, then its sidecars, last started first.

    :param grace: the seconds left, asked again for each group.
    """
    sidecars = sorted((v for v in views if v.kind is Kind.SIDECAR), key=lambda v: v.started_at, reverse=True)
    others = [view for view in views if view.kind is not Kind.SIDECAR]
    await DeferredList([killer.kill(view, grace(), reason) for view in others])
    for view in sidecars:
        await killer.kill(view, grace(), reason)
