"""Does the steps that :func:`appengine.lifecycle.plan` names for one pod."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from appengine.environment import ConfigError, environment
from appengine.events import NORMAL, WARNING
from appengine.hooks import run_hook
from appengine.images import ImageWaiting
from appengine.lifecycle import (
    Action,
    CreateSandbox,
    KillContainer,
    RemoveContainer,
    ResumeContainer,
    ResumeSandbox,
    Seen,
    StartContainer,
)
from appengine.node import NotYet
from appengine.podspec import Container, Pod
from appengine.podstate import PodState
from appengine.runtime import ContainerState, ContainerView, EngineError, RuntimeUnavailable
from appengine.starting import make_container, make_sandbox, prepare_mounts, prepare_volumes

_RETRY = 10.0
_FAILED_STEP = 5.0


class Steps:
    """What cannot be done now is noted in the pod's history, with the time to try again.

    :ivar kept: IDs of containers that the engine would not remove.
    """

    _log = Logger()

    def __init__(self, state: PodState) -> None:
        self._state = state
        self.kept: set[str] = set()

    async def do(self, pod: Pod, action: Action) -> None:
        if isinstance(action, KillContainer):
            if not self._state.killer.busy(action.view.id):
                grace = pod.grace if action.grace is None else action.grace
                self._state.event(
                    NORMAL, "Killing", f"Stopping container {action.view.name}: {action.reason}", action.view.name
                )
                self._state.killer.kill(action.view, grace, action.reason).addCallback(lambda _: self._state.wake())
        elif isinstance(action, RemoveContainer):
            await self._discard(action.view)
        elif isinstance(action, CreateSandbox | ResumeSandbox):
            await self._sandbox(pod, action)
        else:
            await self._container(pod, action)

    async def _sandbox(self, pod: Pod, action: CreateSandbox | ResumeSandbox) -> None:
        history = self._state.history
        try:
            await prepare_volumes(self._state.node, pod, ())
            if isinstance(action, ResumeSandbox):
                await self._resume_sandbox(pod, action.view)
            else:
                self._state.seen(await make_sandbox(self._state.node, pod, action.attempt))
        except RuntimeUnavailable:
            raise
        except (NotYet, ConfigError, EngineError) as error:
            history.retry_at[""] = self._state.node.now() + _FAILED_STEP
            for container in pod.every_container:
                history.waiting[container.name] = ("ContainerCreating", str(error))
            self._log.info("pod {pod} cannot start yet: {error}", pod=str(self._state.ref), error=str(error))
            reason = "FailedMount" if isinstance(error, ConfigError) else "FailedCreatePodSandBox"
            self._state.event(WARNING, reason, str(error))
            return
        history.retry_at.pop("", None)
        history.waiting.clear()

    async def _resume_sandbox(self, pod: Pod, pause: ContainerView) -> None:
        if not pod.host_network:
            await self._state.node.pod_network.ready()
        dead = {view.id for view in self._state.views.values() if view.state is ContainerState.EXITED}
        try:
            await self._state.node.start_container(pod.ref, pause.id)
        except RuntimeUnavailable:
            raise
        except EngineError as error:
            self._state.history.beyond_resuming.add(pause.id)
            self._log.info("pod {pod} gets a new sandbox: {error}", pod=str(self._state.ref), error=str(error))
            return
        self._state.history.interrupted.update(dead)
        await self._state.look(pause.id)

    async def _container(self, pod: Pod, action: StartContainer | ResumeContainer) -> None:
        container, history = action.container, self._state.history
        sandbox = Seen(self._state.views.values()).sandbox
        if sandbox is None:
            return
        try:
            if isinstance(action, ResumeContainer):
                identity = await self._resume(pod, container, action.view, sandbox)
            else:
                await prepare_volumes(self._state.node, pod, sandbox.addresses)
                identity = await make_container(
                    self._state.node, pod, container, action.attempt, sandbox, self._image_ready(container.name)
                )
                if action.after is not None and action.after.sandbox == sandbox.id:
                    history.backoff.failed(
                        container.name, history.ended.get(action.after.id, 0.0), self._state.node.now()
                    )
                history.restarts[container.name] = action.attempt
        except ImageWaiting as waiting:
            self._wait_for(container, waiting.reason or "ContainerCreating", waiting.message, waiting.retry_at)
            return
        except ConfigError as error:
            self._wait_for(container, "CreateContainerConfigError", str(error), self._state.node.now() + _RETRY)
            return
        except RuntimeUnavailable:
            raise
        except EngineError as error:
            self._wait_for(container, "CreateContainerError", str(error), self._state.node.now() + _RETRY)
            return
        try:
            await self._state.node.start_container(pod.ref, identity)
        except RuntimeUnavailable:
            raise
        except EngineError as error:
            # It has failed as one that ends at once has: the next tries come at longer and longer intervals.
            now = self._state.node.now()
            history.backoff.failed(container.name, now, now)
            self._wait_for(container, "RunContainerError", str(error), now + history.backoff.wait(container.name))
            await self._state.look(identity)
            return
        history.waiting.pop(container.name, None)
        history.retry_at.pop(container.name, None)
        history.interrupted.discard(identity)
        await self._state.look(identity)
        self._log.info("started container {name} of pod {pod}", name=container.name, pod=str(self._state.ref))
        self._state.event(NORMAL, "Started", f"Started container {container.name}", container.name)
        self._post_start(container, identity)

    async def _resume(self, pod: Pod, container: Container, view: ContainerView, sandbox: ContainerView) -> str:
        """Make again what a container has mounted, which a boot may have cleared."""
        addresses = self._state.node.addresses.addresses if pod.host_network else sandbox.addresses
        await prepare_volumes(self._state.node, pod, sandbox.addresses)
        variables = environment(pod, container, self._state.node.objects, self._state.node.facts(addresses))
        await prepare_mounts(self._state.node, pod, container, view.attempt, variables, addresses)
        self._state.history.messages.pop(view.id, None)
        self._state.history.unhealthy.pop(view.id, None)
        return view.id

    def _image_ready(self, name: str) -> Callable[[], None]:
        def ready() -> None:
            self._state.history.retry_at.pop(name, None)
            self._state.wake()

        return ready

    def _wait_for(self, container: Container, reason: str, message: str, retry_at: float | None) -> None:
        self._state.history.waiting[container.name] = (reason, message)
        # Without a time somebody wakes us; the far one is for safety.
        self._state.history.retry_at[container.name] = retry_at or self._state.node.now() + 300
        if reason == "ContainerCreating":
            self._state.event(NORMAL, "Pulling", message, container.name)
        else:
            self._state.event(
                WARNING, "BackOff" if reason == "ImagePullBackOff" else "Failed", f"{reason}: {message}", container.name
            )
            self._log.info(
                "container {name} of pod {pod}: {reason}: {message}",
                name=container.name,
                pod=str(self._state.ref),
                reason=reason,
                message=message,
            )

    def _post_start(self, container: Container, identity: str) -> None:
        handler = (container.get("lifecycle") or {}).get("postStart")
        view = self._state.views.get(identity)
        if not handler or view is None:
            return

        def failed(failure: object) -> None:
            self._state.history.unhealthy[identity] = f"postStart failed: {failure}"
            self._state.event(WARNING, "FailedPostStartHook", str(failure), container.name)
            self._state.wake()

        host = self._state.address()
        ports = container.get("ports") or []
        Deferred.fromCoroutine(run_hook(self._state.node, view, handler, ports, host)).addErrback(
            lambda failure: failed(failure.getErrorMessage())
        )

    async def _discard(self, view: ContainerView) -> None:
        """Remove what has been superseded, if the engine lets us: others may depend on it as long as they exist."""
        try:
            await self._state.remove(view)
        except RuntimeUnavailable:
            raise
        except EngineError as error:
            self.kept.add(view.id)
            self._log.info(
                "container {name} of pod {pod} is kept: {error}",
                name=view.name,
                pod=str(self._state.ref),
                error=str(error),
            )
