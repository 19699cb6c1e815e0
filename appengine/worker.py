"""Brings one pod to what is wanted, and keeps it there: a loop that looks, does the next steps, and waits.

All decisions are :func:`appengine.lifecycle.plan`'s. Nothing is polled: the loop runs when the store or the runtime
tells of a change, or when a time that the plan named has come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from appengine import labels
from appengine.environment import ConfigError, environment
from appengine.events import NORMAL, WARNING
from appengine.firewall import HostPort
from appengine.hooks import run_hook
from appengine.images import ImageWaiting
from appengine.killing import Killer, kill_all
from appengine.lastlog import log_tail
from appengine.lifecycle import (
    Action,
    CreateSandbox,
    KillContainer,
    RemoveContainer,
    ResumeContainer,
    ResumeSandbox,
    Seen,
    StartContainer,
    outcome,
    plan,
)
from appengine.node import Node, NotYet
from appengine.podspec import Container, Json, Kind, Pod, PodRef
from appengine.prober import Prober
from appengine.remembering import age, remembered
from appengine.runtime import (
    ContainerState,
    ContainerView,
    EngineError,
    NoSuchContainer,
    RuntimeUnavailable,
)
from appengine.starting import make_container, make_sandbox, prepare_mounts, prepare_volumes
from appengine.status import pod_status, refused_status, rfc3339

_RETRY = 10.0
_FAILED_STEP = 5.0


class Worker:
    """The life of one pod (one UID) on this node.

    :param previous: the pod's last PodReport, if there is one.
    """

    _log = Logger()

    def __init__(self, node: Node, ref: PodRef, previous: Json | None) -> None:
        self.ref = ref
        self.node = node
        self.pod: Pod | None = None
        self.refusal: tuple[str, str] | None = None
        self.wanted = False
        self.views: dict[str, ContainerView] = {}
        self.status: Json = (previous or {}).get("status") or {}
        self.history = remembered(self.status)
        self.gone = False
        self.after: Worker | None = None
        self._grace: float | None = None
        self._terminating_since = 0.0
        self._started_at: float | None = None
        self.admitted = bool(self.status)
        self._dirty = True
        self._stopped = False
        self._cleared = self._told_killing = False
        self._stale_files = False
        self._kept: set[str] = set()
        self._backing_off: dict[str, tuple[str, int]] = {}
        self._woken: Deferred[None] | None = None
        self._loop: Deferred[None] | None = None
        self.prober = Prober(node, self.history, self._address, self.wake, self.event)
        self.killer = Killer(node.reactor, node.runtime, self._runs, self._pre_stop)

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

    def unwant(self) -> None:
        """The pod is wanted no more."""
        self.wanted = False
        self.terminate(self._own_grace())
        self.wake()

    def terminate(self, grace: float) -> None:
        """Stop the pod. The shortest grace period ever given counts."""
        if self._grace is None:
            self._terminating_since = self.node.now()
            self._grace = grace
        else:
            self._grace = min(self._grace, grace)
        for view in self.views.values():
            if self.killer.busy(view.id):
                self.killer.kill(view, self._left(), "the pod is to be stopped")

    def _own_grace(self) -> float:
        if self.pod is not None:
            return float(self.pod.grace)
        graces = [labels.number(v.labels, labels.GRACE, labels.DEFAULT_GRACE) for v in self.views.values()]
        return float(max(graces, default=labels.DEFAULT_GRACE))

    @property
    def terminating(self) -> bool:
        return self._grace is not None

    def seen(self, view: ContainerView) -> None:
        """A container of the pod was looked at."""
        if self.views.get(view.id) == view:
            return
        self.views[view.id] = view
        if view.state is ContainerState.EXITED:
            self.history.ended.setdefault(view.id, self.node.now())
        else:
            self.history.ended.pop(view.id, None)
        self.killer.changed(view.id)
        if self.pod is not None and not self.terminating:
            self.prober.sync(self.pod, self.views.values())
        self.wake()

    def lost(self, container_id: str) -> None:
        """A container of the pod is gone."""
        if self.views.pop(container_id, None) is not None:
            self.killer.changed(container_id)
            self.wake()

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
                await self._remove(view)

    def event(self, kind: str, reason: str, message: str, container: str = "") -> None:
        """Something happened that people ask for with ``kubectl describe``."""
        self.node.events.pod(self.ref, kind, reason, message, container)

    def try_again(self, files: bool = False) -> None:
        """What held the pod up may be over; with ``files``, its volumes may have changed."""
        self.history.retry_at.clear()
        self._stale_files = self._stale_files or files
        self.wake()

    def wake(self) -> None:
        """Look again."""
        self._dirty = True
        if self._woken is not None and not self._woken.called:
            self._woken.callback(None)

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
        assert self.pod is not None
        if not self.admitted and (why := self.node.admit(self.pod)) is not None:
            self.history.phase, self.history.reason, self.history.message = "Failed", *why
            self.event(WARNING, *why)
        self.admitted = True
        await self._note_ends()
        self.prober.sync(self.pod, self.views.values())
        if not self.history.start_time:
            self.history.start_time = rfc3339(self.node.wall())
        deadline = self._check_deadline(self.pod)
        if not self.history.phase:
            self.history.phase = outcome(self.pod, Seen(self.views.values()))
        await self._drop_misplaced(self.pod)
        await self._refresh_files(self.pod)
        next_steps = plan(self.pod, tuple(self.views.values()), self.history, self.node.now())
        actions = [a for a in next_steps.actions if not (isinstance(a, RemoveContainer) and a.view.id in self._kept)]
        for action in actions:
            if self.terminating or self._stopped:
                break
            await self._do(self.pod, action)
        await self._note_ends()
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
            await self._remove(sandbox)

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

    # -- steps ------------------------------------------------------------------------------------------------

    async def _do(self, pod: Pod, action: Action) -> None:
        if isinstance(action, KillContainer):
            if not self.killer.busy(action.view.id):
                grace = pod.grace if action.grace is None else action.grace
                self.event(
                    NORMAL, "Killing", f"Stopping container {action.view.name}: {action.reason}", action.view.name
                )
                self.killer.kill(action.view, grace, action.reason).addCallback(lambda _: self.wake())
        elif isinstance(action, RemoveContainer):
            await self._discard(action.view)
        elif isinstance(action, CreateSandbox | ResumeSandbox):
            await self._sandbox(pod, action)
        else:
            await self._container(pod, action)

    async def _sandbox(self, pod: Pod, action: CreateSandbox | ResumeSandbox) -> None:
        history = self.history
        try:
            await prepare_volumes(self.node, pod, ())
            if isinstance(action, ResumeSandbox):
                await self._resume_sandbox(pod, action.view)
            else:
                self.seen(await make_sandbox(self.node, pod, action.attempt))
        except RuntimeUnavailable:
            raise
        except (NotYet, ConfigError, EngineError) as error:
            history.retry_at[""] = self.node.now() + _FAILED_STEP
            for container in pod.every_container:
                history.waiting[container.name] = ("ContainerCreating", str(error))
            self._log.info("pod {pod} cannot start yet: {error}", pod=str(self.ref), error=str(error))
            reason = "FailedMount" if isinstance(error, ConfigError) else "FailedCreatePodSandBox"
            self.event(WARNING, reason, str(error))
            return
        history.retry_at.pop("", None)
        history.waiting.clear()

    async def _resume_sandbox(self, pod: Pod, pause: ContainerView) -> None:
        if not pod.host_network:
            await self.node.pod_network.ready()
        dead = {view.id for view in self.views.values() if view.state is ContainerState.EXITED}
        try:
            await self.node.runtime.start_container(pause.id)
        except RuntimeUnavailable:
            raise
        except EngineError as error:
            self.history.beyond_resuming.add(pause.id)
            self._log.info("pod {pod} gets a new sandbox: {error}", pod=str(self.ref), error=str(error))
            return
        self.history.interrupted.update(dead)
        await self._look(pause.id)

    async def _container(self, pod: Pod, action: StartContainer | ResumeContainer) -> None:
        container, history = action.container, self.history
        sandbox = Seen(self.views.values()).sandbox
        if sandbox is None:
            return
        try:
            if isinstance(action, ResumeContainer):
                identity = await self._resume(pod, container, action.view, sandbox)
            else:
                await prepare_volumes(self.node, pod, sandbox.addresses)
                identity = await make_container(
                    self.node, pod, container, action.attempt, sandbox, self._image_ready(container.name)
                )
                if action.after is not None and action.after.sandbox == sandbox.id:
                    history.backoff.failed(container.name, history.ended.get(action.after.id, 0.0), self.node.now())
                history.restarts[container.name] = action.attempt
        except ImageWaiting as waiting:
            self._wait_for(container, waiting.reason or "ContainerCreating", waiting.message, waiting.retry_at)
            return
        except ConfigError as error:
            self._wait_for(container, "CreateContainerConfigError", str(error), self.node.now() + _RETRY)
            return
        except RuntimeUnavailable:
            raise
        except EngineError as error:
            self._wait_for(container, "CreateContainerError", str(error), self.node.now() + _RETRY)
            return
        try:
            await self.node.runtime.start_container(identity)
        except RuntimeUnavailable:
            raise
        except EngineError as error:
            self._wait_for(container, "RunContainerError", str(error), self.node.now() + _RETRY)
            await self._look(identity)
            return
        history.waiting.pop(container.name, None)
        history.retry_at.pop(container.name, None)
        history.interrupted.discard(identity)
        await self._look(identity)
        self._log.info("started container {name} of pod {pod}", name=container.name, pod=str(self.ref))
        self.event(NORMAL, "Started", f"Started container {container.name}", container.name)
        self._post_start(container, identity)

    async def _resume(self, pod: Pod, container: Container, view: ContainerView, sandbox: ContainerView) -> str:
        """Make again what a container has mounted, which a boot may have cleared."""
        addresses = self.node.addresses.addresses if pod.host_network else sandbox.addresses
        await prepare_volumes(self.node, pod, sandbox.addresses)
        variables = environment(pod, container, self.node.objects, self.node.facts(addresses))
        await prepare_mounts(self.node, pod, container, view.attempt, variables, addresses)
        self.history.messages.pop(view.id, None)
        self.history.unhealthy.pop(view.id, None)
        return view.id

    def _image_ready(self, name: str) -> Callable[[], None]:
        def ready() -> None:
            self.history.retry_at.pop(name, None)
            self.wake()

        return ready

    def _wait_for(self, container: Container, reason: str, message: str, retry_at: float | None) -> None:
        self.history.waiting[container.name] = (reason, message)
        # Without a time somebody wakes us; the far one is for safety.
        self.history.retry_at[container.name] = retry_at or self.node.now() + 300
        if reason == "ContainerCreating":
            self.event(NORMAL, "Pulling", message, container.name)
        else:
            self.event(
                WARNING, "BackOff" if reason == "ImagePullBackOff" else "Failed", f"{reason}: {message}", container.name
            )
            self._log.info(
                "container {name} of pod {pod}: {reason}: {message}",
                name=container.name,
                pod=str(self.ref),
                reason=reason,
                message=message,
            )

    def _post_start(self, container: Container, identity: str) -> None:
        handler = (container.get("lifecycle") or {}).get("postStart")
        view = self.views.get(identity)
        if not handler or view is None:
            return

        def failed(failure: object) -> None:
            self.history.unhealthy[identity] = f"postStart failed: {failure}"
            self.event(WARNING, "FailedPostStartHook", str(failure), container.name)
            self.wake()

        host = self._address()
        ports = container.get("ports") or []
        Deferred.fromCoroutine(run_hook(self.node, view, handler, ports, host)).addErrback(
            lambda failure: failed(failure.getErrorMessage())
        )

    async def _pre_stop(self, view: ContainerView, marked: Json) -> None:
        handler, ports = marked.get("handler") or {}, marked.get("ports") or []
        await run_hook(self.node, view, handler, ports, self._address())

    def _address(self) -> str:
        """The pod's own, as it is reached from the node."""
        if self.pod is not None and self.pod.host_network:
            return next(iter(self.node.addresses.addresses), "127.0.0.1")
        sandbox = Seen(self.views.values()).sandbox
        return sandbox.addresses[0] if sandbox is not None and sandbox.addresses else "127.0.0.1"

    def sandbox(self) -> ContainerView | None:
        """The running pause container."""
        return Seen(self.views.values()).sandbox

    def host_ports(self) -> frozenset[HostPort]:
        """The node's ports that lead to the pod while it runs."""
        sandbox = self.sandbox()
        if sandbox is None or self.pod is None or self.pod.host_network:
            return frozenset()
        return frozenset(
            HostPort(protocol, host_port, address, port, host_ip)
            for protocol, host_ip, host_port, port in self.pod.host_ports
            for address in sandbox.addresses
            if not host_ip or ip_address(host_ip).version == ip_address(address).version
        )

    def _runs(self, container_id: str) -> bool:
        view = self.views.get(container_id)
        return view is not None and view.running

    async def _look(self, container_id: str) -> None:
        try:
            self.seen(await self.node.runtime.inspect(container_id))
        except NoSuchContainer:
            self.lost(container_id)

    async def _discard(self, view: ContainerView) -> None:
        """Remove what has been superseded, if the engine lets us: others may depend on it as long as they exist."""
        try:
            await self._remove(view)
        except RuntimeUnavailable:
            raise
        except EngineError as error:
            self._kept.add(view.id)
            self._log.info(
                "container {name} of pod {pod} is kept: {error}", name=view.name, pod=str(self.ref), error=str(error)
            )

    async def _remove(self, view: ContainerView) -> None:
        await self.node.runtime.remove(view.id)
        self.views.pop(view.id, None)
        history = self.history
        known: dict[str, Any]
        for known in (history.messages, history.started, history.ready, history.unhealthy, history.ended):
            known.pop(view.id, None)
        if view.kind is not Kind.PAUSE:
            await self.node.files.run(self.node.volumes.forget_message, self.ref.uid, view.name, view.attempt)

    async def _note_ends(self) -> None:
        """Read the last words of all containers that have ended: when it returns, none lacks them."""
        while ended := [v for v in self.views.values() if self._unnoted(v)]:
            for view in ended:
                self.history.unhealthy.pop(view.id, None)
                self.history.messages[view.id] = await self._last_words(view)

    def _unnoted(self, view: ContainerView) -> bool:
        ended = view.state is ContainerState.EXITED and view.kind is not Kind.PAUSE
        return ended and view.id not in self.history.messages

    async def _last_words(self, view: ContainerView) -> str:
        """The termination message: from its file, or (if the container asks for that) the log's end."""
        message = await self.node.files.run(self.node.volumes.message, self.ref.uid, view.name, view.attempt)
        if message or not view.exit_code or self.pod is None:
            return message
        container = next((c for c in self.pod.every_container if c.name == view.name), None)
        if container is None or container.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            return message
        try:
            return await log_tail(self.node.runtime, view)
        except RuntimeUnavailable:
            raise
        except EngineError:
            return message

    # -- the end ----------------------------------------------------------------------------------------------

    def _left(self) -> float:
        grace = self._grace if self._grace is not None else 0.0
        return max(0.0, self._terminating_since + grace - self.node.now())

    async def _refused(self) -> float | None:
        """Nothing of a refused pod runs."""
        await self._kill_everything("the pod cannot run on this node")
        self.report()
        return None

    async def _terminate(self) -> float | None:
        if not self._cleared:
            if (wake := await self._clear()) is not None:
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

    async def _clear(self) -> float | None:
        """Stop and remove all there is of the pod; a time to look again if it would not stop."""
        self.prober.stop()
        self.report()
        if not self._told_killing and any(v.running and v.kind is not Kind.PAUSE for v in self.views.values()):
            self._told_killing = True
            self.event(NORMAL, "Killing", "Stopping the pod")
        await self._kill_everything("the pod is to be stopped")
        await self._note_ends()
        if any(view.running and view.kind is not Kind.PAUSE for view in self.views.values()):
            return self.node.now() + _RETRY
        self.report()
        # The pause container last: an engine may refuse to remove what others depend on.
        for view in sorted(self.views.values(), key=lambda view: view.kind is Kind.PAUSE):
            await self._remove(view)
        await self.node.files.run(self.node.volumes.remove, self.ref.uid)
        return None

    async def _kill_everything(self, reason: str) -> None:
        running = [view for view in self.views.values() if view.running and view.kind is not Kind.PAUSE]
        await kill_all(self.killer, running, self._left, reason)
        for view in [view for view in self.views.values() if view.kind is Kind.PAUSE and view.running]:
            await self.node.runtime.signal(view.id, "SIGKILL")

    def report(self, gone: bool = False) -> None:
        """Write the pod's status, if it has changed."""
        self.node.changed_ports()
        now, wall = self.node.now(), self.node.wall()
        if self.refusal is not None:
            self.status = refused_status(*self.refusal, wall, self.status)
        elif self.pod is not None and not (gone and not self.views and self.status):
            views = tuple(self.views.values())
            self.status = pod_status(
                self.pod, views, self.history, self.node.addresses, now, wall, self.status, self.terminating
            )
        elif self.terminating and not self.status:
            return
        self.node.reports.pod(self.ref, self.status, gone)
