"""Brings one pod to what is wanted, and keeps it there: a loop that looks, does the next steps, and waits.

All decisions are :func:`appengine.lifecycle.plan`'s. Nothing is polled: the loop runs when the store or the runtime
tells of a change, or when a time that the plan named has come.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from appengine import labels
from appengine.ending import Ending
from appengine.environment import ConfigError
from appengine.events import WARNING
from appengine.lifecycle import (
    Action,
    KillContainer,
    RemoveContainer,
    Seen,
    outcome,
    plan,
)
from appengine.node import Node
from appengine.podspec import Json, Pod, PodRef
from appengine.podstate import PodState
from appengine.remembering import age
from appengine.runtime import (
    ContainerState,
    EngineError,
    RuntimeUnavailable,
)
from appengine.starting import prepare_volumes
from appengine.status import rfc3339
from appengine.steps import Steps

_RETRY = 10.0
_FAILED_STEP = 5.0
_HOLD_RETRY = 1.0


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a pod is held back; ``end`` is the reactor's time by which nothing of it may run."""

    reason: str
    message: str
    end: float

    def left(self, now: float) -> float:
        return max(0.0, self.end - now)


class Worker(PodState):
    """The life of one pod (one UID) on this node.

    :param previous: the pod's last PodReport, if there is one.
    """

    _log = Logger()

    def __init__(self, node: Node, ref: PodRef, previous: Json | None) -> None:
        super().__init__(node, ref, previous)
        self.wanted = False
        self.gone = False
        self.after: Worker | None = None
        self.admitted = bool(self.status)
        self._started_at: float | None = None
        self._stopped = False
        self._cleared = False
        self._stale_files = False
        self._hold: Hold | None = None
        self._backing_off: dict[str, tuple[str, int]] = {}
        self._loop: Deferred[None] | None = None
        self._steps = Steps(self)
        self._ending = Ending(self)

    # -- what is told to the worker ---------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        return self._loop is not None

    def start(self) -> None:
        self._loop = Deferred.fromCoroutine(self._run())

    def want(self, pod: Pod) -> None:
        """The pod is wanted so; with a deletion grace it is to be stopped."""
        if self.pod is not None and self.pod.digest == pod.digest and self.pod == pod and self.wanted:
            return
        self.pod, self.refusal, self.wanted = pod, None, True
        if pod.deletion_grace is not None:
            self.terminate(pod.deletion_grace)
        self.wake()

    def refuse(self, reason: str, message: str, deletion_grace: int | None) -> None:
        """The pod is wanted, but cannot run here. What runs of it is stopped."""
        if self.refusal != (reason, message):
            self.event(WARNING, reason, message)
        self.refusal, self.wanted = (reason, message), True
        if deletion_grace is not None:
            self.terminate(deletion_grace)
        self.wake()

    def hold(self, reason: str, message: str, grace: float) -> None:
        """The pod is wanted, but must not run here now. What runs of it is stopped within ``grace`` seconds; its
        containers and volumes are kept. The earliest end ever told counts, until :meth:`free`."""
        end = self.node.now() + max(0.0, grace)
        if self._hold is not None:
            end = min(end, self._hold.end)
            if (reason, message, end) == (self._hold.reason, self._hold.message, self._hold.end):
                return
        if self._hold is None or self._hold.reason != reason:
            self.event(WARNING, reason, message)
        self._hold = Hold(reason, message, end)
        for view in self.views.values():
            if self.killer.busy(view.id):
                self.killer.kill(view, self._hold.left(self.node.now()), message)
        self.wake()

    def free(self) -> None:
        """The pod may run here."""
        if self._hold is not None:
            for container in self.pod.every_container if self.pod is not None else ():
                if self.history.waiting.get(container.name, ("",))[0] == self._hold.reason:
                    del self.history.waiting[container.name]
            self._hold = None
            self.history.retry_at.clear()
            self.wake()

    @property
    def held(self) -> bool:
        return self._hold is not None

    def unwant(self) -> None:
        """The pod is wanted no more."""
        self.wanted = False
        self.terminate(self._own_grace())
        self.wake()

    def terminate(self, grace: float) -> None:
        """Stop the pod. The shortest grace period ever given counts."""
        if self.grace is None:
            self.terminating_since = self.node.now()
            self.grace = grace
        else:
            self.grace = min(self.grace, grace)
        for view in self.views.values():
            if self.killer.busy(view.id):
                self.killer.kill(view, self._ending.left(), "the pod is to be stopped")

    def _own_grace(self) -> float:
        if self.pod is not None:
            return float(self.pod.grace)
        graces = [labels.number(v.labels, labels.GRACE, labels.DEFAULT_GRACE) for v in self.views.values()]
        return float(max(graces, default=labels.DEFAULT_GRACE))

    @property
    def active(self) -> bool:
        """Whether the pod has a place on the node: it runs, or is to run."""
        return self.pod is not None and self.refusal is None and not self.terminating and not self.history.phase

    def evict(self, message: str) -> None:
        """The node cannot keep the pod: it fails, at once."""
        if not self.active:
            return
        self._log.warn("pod {pod} is evicted: {why}", pod=str(self.ref), why=message)
        self.history.phase, self.history.reason, self.history.message = "Failed", "Evicted", message
        self.history.final_grace = 0
        self.event(WARNING, "Evicted", message)
        self.wake()

    async def drop_superseded(self) -> None:
        """Remove dead containers that newer ones have followed: their logs go, to free disk."""
        for view in list(self.views.values()):
            newer = any(other.name == view.name and other.attempt > view.attempt for other in self.views.values())
            if newer and view.state is ContainerState.EXITED:
                await self.remove(view)

    def try_again(self, files: bool = False) -> None:
        """What held the pod up may be over; with ``files``, its volumes may have changed."""
        self.history.retry_at.clear()
        self._stale_files = self._stale_files or files
        self.wake()

    async def stop(self) -> None:
        """The agent goes down; the pod goes on."""
        self._stopped = True
        self.killer.stop()
        self.prober.stop()
        self.wake()
        if self._loop is not None:
            self._loop.cancel()
            with suppress(CancelledError):
                await self._loop

    # -- the loop ---------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._stopped and not self.gone:
            self._dirty = False
            wake: float | None = None
            try:
                wake = await self._step()
            except RuntimeUnavailable as error:
                wake = self.node.now() + _RETRY
                self._log.info("pod {pod} waits for the engine: {error}", pod=str(self.ref), error=str(error))
            except EngineError as error:
                wake = self.node.now() + _FAILED_STEP
                self._log.warn("pod {pod}: {error}", pod=str(self.ref), error=str(error))
            except CancelledError:
                raise
            except Exception:
                # A fault of ours must cost this pod only, and be seen.
                wake = self.node.now() + _RETRY
                self._log.failure("pod {pod}: the next step failed", pod=str(self.ref))
            if not self._dirty and not self.gone and not self._stopped:
                await self._wait(wake)

    async def _wait(self, until: float | None) -> None:
        self._woken = Deferred()
        timer = None
        if until is not None:
            timer = self.node.reactor.callLater(max(0.05, until - self.node.now()), self.wake)
        try:
            await self._woken
        finally:
            self._woken = None
            if timer is not None and timer.active():
                timer.cancel()

    async def _step(self) -> float | None:
        if self.after is not None:
            if not self.after.gone:
                return None
            self.after = None
        if self.terminating:
            return await self._terminate()
        if self.refusal is not None:
            return await self._refused()
        if self._hold is not None:
            return await self._held(self._hold)
        assert self.pod is not None
        if not self.admitted and (why := self.node.admit(self.pod)) is not None:
            self.history.phase, self.history.reason, self.history.message = "Failed", *why
            self.event(WARNING, *why)
        self.admitted = True
        await self._ending.note_ends()
        self.prober.sync(self.pod, self.views.values())
        if not self.history.start_time:
            self.history.start_time = rfc3339(self.node.wall())
        deadline = self._check_deadline(self.pod)
        if not self.history.phase:
            self.history.phase = outcome(self.pod, Seen(self.views.values()))
        await self._drop_misplaced(self.pod)
        await self._refresh_files(self.pod)
        next_steps = plan(self.pod, tuple(self.views.values()), self.history, self.node.now())
        actions = [
            a for a in next_steps.actions if not (isinstance(a, RemoveContainer) and a.view.id in self._steps.kept)
        ]
        for action in actions:
            if self.terminating or self._stopped or self.held:
                break
            await self._steps.do(self.pod, action)
        await self._ending.note_ends()
        self.report()
        self._tell_back_off()
        return self._when(actions, next_steps.wake, deadline)

    def _tell_back_off(self) -> None:
        for status in (*self.status.get("initContainerStatuses", ()), *self.status.get("containerStatuses", ())):
            waiting = status["state"].get("waiting") or {}
            if waiting.get("reason") == "CrashLoopBackOff":
                message = str(waiting.get("message") or "")
                if self._backing_off.get(status["name"]) != (message, status["restartCount"]):
                    self._backing_off[status["name"]] = (message, status["restartCount"])
                    self.event(WARNING, "BackOff", message, status["name"])

    def _when(self, actions: Sequence[Action], wake: float | None, deadline: float | None) -> float | None:
        if any(not isinstance(action, KillContainer) for action in actions):
            self._dirty = True
        now = self.node.now()
        times = [t for t in (wake, deadline, *self.history.retry_at.values()) if t and t > now]
        return min(times, default=None)

    def _check_deadline(self, pod: Pod) -> float | None:
        """activeDeadlineSeconds counts from the pod's start time."""
        if pod.active_deadline is None or self.history.phase:
            return None
        if self._started_at is None:
            self._started_at = self.node.now() - age(self.history.start_time, self.node.wall())
        end = self._started_at + pod.active_deadline
        if end > self.node.now():
            return end
        self.history.phase, self.history.reason = "Failed", "DeadlineExceeded"
        self.history.message = "Pod was active on the node longer than the specified deadline"
        return None

    async def _drop_misplaced(self, pod: Pod) -> None:
        """A sandbox whose address is of another subnet than the node has now is replaced."""
        sandbox = Seen(self.views.values()).sandbox
        if sandbox is None or pod.host_network or not sandbox.addresses:
            return
        if not all(self.node.pod_network.holds(address) for address in sandbox.addresses):
            self._log.info("pod {pod} gets a new address: the node's subnet has changed", pod=str(self.ref))
            await self.remove(sandbox)

    async def _refresh_files(self, pod: Pod) -> None:
        """Changed ConfigMaps and Secrets appear in the running pod."""
        sandbox = Seen(self.views.values()).sandbox
        if not self._stale_files or sandbox is None:
            return
        self._stale_files = False
        try:
            await prepare_volumes(self.node, pod, sandbox.addresses)
        except ConfigError as error:
            self._log.warn("pod {pod} keeps its old files: {error}", pod=str(self.ref), error=str(error))

    # -- the end ----------------------------------------------------------------------------------------------

    async def _refused(self) -> float | None:
        """Nothing of a refused pod runs."""
        await self._ending.kill_everything("the pod cannot run on this node")
        self.report()
        return None

    async def _held(self, hold: Hold) -> float | None:
        """Nothing of a pod that is held back runs."""
        self.prober.stop()
        for container in self.pod.every_container if self.pod is not None else ():
            self.history.waiting[container.name] = (hold.reason, hold.message)
        self.report()
        await self._ending.kill_everything(hold.message, lambda: (self._hold or hold).left(self.node.now()))
        await self._ending.note_ends()
        self.report()
        if any(view.running for view in self.views.values()):
            return self.node.now() + _HOLD_RETRY
        for view in [view for view in self.views.values() if view.id in self.node.uncertain]:
            # The engine may start it yet; one that is removed it cannot.
            await self.remove(view)
        if self._hold is not None:
            self.node.takeovers.held(self.ref)
        return None

    async def _terminate(self) -> float | None:
        if not self._cleared:
            if (wake := await self._ending.clear()) is not None:
                return wake
            self._cleared = True
        if self.wanted:
            self.report(gone=True)
            return None
        self.node.reports.forget_pod(self.ref)
        self.gone = True
        self._log.info("pod {pod} is gone", pod=str(self.ref))
        self.node.changed(self.ref)
        return None
