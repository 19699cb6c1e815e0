"""What is to be done next for a pod: decided from its specification, its containers and its history alone.

:func:`plan` is asked again after every action and every event, so it need only ever say the next steps. It follows
the kubelet's ``computePodActions`` (pkg/kubelet/kuberuntime/kuberuntime_manager.go).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from appengine.backoff import Backoff
from appengine.podspec import Container, Json, Kind, Pod, RestartPolicy
from appengine.runtime import ContainerState, ContainerView


@dataclass(frozen=True, slots=True)
class CreateSandbox:
    attempt: int


@dataclass(frozen=True, slots=True)
class ResumeSandbox:
    """Start the dead pause container and, with it, what died with it (:class:`ResumeContainer` follows)."""

    view: ContainerView


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Make and start a container. ``after`` is the dead one that it follows."""

    container: Container
    attempt: int
    after: ContainerView | None = None


@dataclass(frozen=True, slots=True)
class ResumeContainer:
    """Start a container that exists: it never ran, or the engine or the machine died under it."""

    container: Container
    view: ContainerView


@dataclass(frozen=True, slots=True)
class KillContainer:
    """``grace`` ``None``: the pod's own."""

    view: ContainerView
    reason: str
    grace: int | None = None


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    view: ContainerView


Action = CreateSandbox | ResumeSandbox | StartContainer | ResumeContainer | KillContainer | RemoveContainer


@dataclass(frozen=True, slots=True)
class Plan:
    """``actions`` are for now; with none, look again at ``wake`` (the time of ``now``) or when something happens."""

    actions: tuple[Action, ...] = ()
    wake: float | None = None


@dataclass(slots=True)
class History:
    """What is remembered of a pod beside its containers. It outlives them, not all of it the process."""

    backoff: Backoff = field(default_factory=Backoff)
    restarts: dict[str, int] = field(default_factory=dict)
    """Container name → restart count as last reported."""
    ended: dict[str, float] = field(default_factory=dict)
    """Container ID → when its end was noticed, in the time that back-offs go by. The engine's own time may be set."""
    last_states: dict[str, Json] = field(default_factory=dict)
    """Container name → v1 ContainerState, as last reported while no container of it existed here."""
    started: dict[str, bool] = field(default_factory=dict)
    """Container ID → whether its startup probe has passed (absent: it has none)."""
    ready: dict[str, bool] = field(default_factory=dict)
    """Container ID → what its readiness probe says (absent: it has none)."""
    unhealthy: dict[str, str] = field(default_factory=dict)
    """Container ID → why it must be replaced: a probe or a hook failed."""
    graces: dict[str, int] = field(default_factory=dict)
    """Container ID → its own grace period (of the probe that failed)."""
    interrupted: set[str] = field(default_factory=set)
    """IDs of containers that died with their sandbox, which has been started again: they are to follow."""
    beyond_resuming: set[str] = field(default_factory=set)
    """IDs of pause containers that would not start again."""
    messages: dict[str, str] = field(default_factory=dict)
    """Container ID → termination message."""
    waiting: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Container name → (reason, message) why it cannot be started now; cleared when it is."""
    retry_at: dict[str, float] = field(default_factory=dict)
    """Container name (empty: the sandbox) → when to try again what failed."""
    phase: str = ""
    """``Succeeded`` or ``Failed`` once it is so: a pod never comes back from there."""
    reason: str = ""
    message: str = ""
    start_time: str = ""
    final_grace: int | None = None
    """The grace period of a finished pod's containers; ``None``: the pod's own."""


class Seen:
    """The containers of one pod, in order."""

    def __init__(self, views: Iterable[ContainerView]) -> None:
        self.views = sorted(views, key=lambda view: (view.attempt, view.created_at))
        pauses = [view for view in self.views if view.kind is Kind.PAUSE]
        running = [view for view in pauses if view.running]
        self.pause = running[-1] if running else (pauses[-1] if pauses else None)

    @property
    def sandbox(self) -> ContainerView | None:
        """The running pause container."""
        return self.pause if self.pause is not None and self.pause.running else None

    def latest(self, name: str, sandbox: ContainerView | None = None) -> ContainerView | None:
        """The last container of a name; in one sandbox only, where one is given."""
        found = None
        for view in self.views:
            mine = view.kind is not Kind.PAUSE and view.name == name
            if mine and (sandbox is None or view.sandbox == sandbox.id):
                found = view
        return found

    def running(self) -> list[ContainerView]:
        return [view for view in self.views if view.running and view.kind is not Kind.PAUSE]

    def newest_attempt(self, name: str) -> int | None:
        attempts = [view.attempt for view in self.views if view.kind is not Kind.PAUSE and view.name == name]
        return max(attempts, default=None)


def restart_wanted(pod: Pod, container: Container, exit_code: int) -> bool:
    """Whether a container that exited so is to be started again."""
    if container.kind is Kind.SIDECAR:
        return True
    policy = pod.restart_policy
    if container.kind is Kind.INIT:
        return exit_code != 0 and policy is not RestartPolicy.NEVER
    return policy is RestartPolicy.ALWAYS or (policy is RestartPolicy.ON_FAILURE and exit_code != 0)


def initialized(pod: Pod, seen: Seen, history: History) -> bool:
    """Whether the init containers are through in the present sandbox, and its sidecars have started."""
    sandbox = seen.sandbox
    if sandbox is None:
        return not pod.init_containers
    if any(seen.latest(container.name, sandbox) for container in pod.containers):
        return True
    for container in pod.init_containers:
        view = seen.latest(container.name, sandbox)
        if view is None:
            return False
        if container.kind is Kind.SIDECAR:
            if not (view.running and history.started.get(view.id, True)):
                return False
        elif view.state is not ContainerState.EXITED or view.exit_code != 0:
            return False
    return True


def outcome(pod: Pod, seen: Seen) -> str:
    """``Succeeded`` or ``Failed`` when all is over, else an empty string."""
    if pod.restart_policy is not RestartPolicy.ALWAYS:
        for container in pod.init_containers:
            view = seen.latest(container.name)
            if container.kind is not Kind.INIT or view is None or view.state is not ContainerState.EXITED:
                continue
            if view.exit_code != 0 and pod.restart_policy is RestartPolicy.NEVER:
                return "Failed"
    failed = False
    for container in pod.containers:
        view = seen.latest(container.name)
        if view is None or view.state is not ContainerState.EXITED:
            return ""
        if restart_wanted(pod, container, view.exit_code):
            return ""
        failed = failed or view.exit_code != 0
    return "Failed" if failed else "Succeeded"


def plan(pod: Pod, views: Sequence[ContainerView], history: History, now: float) -> Plan:
    """The next steps of a pod that is to run."""
    seen = Seen(views)
    if history.phase:
        return Plan(tuple(_finish(seen, history)))
    removals = tuple(_superseded(pod, seen))
    if seen.sandbox is None:
        actions, wake = _without_sandbox(pod, seen, history, now)
    else:
        actions, wake = _in_sandbox(pod, seen, seen.sandbox, history, now)
    return Plan(removals + tuple(actions), wake)


def _finish(seen: Seen, history: History) -> Iterable[Action]:
    """A finished pod keeps its dead containers, for their logs, and nothing that runs."""
    for view in seen.running():
        yield KillContainer(view, history.message or "the pod is finished", history.final_grace)
    if not seen.running():
        for view in seen.views:
            if view.kind is Kind.PAUSE:
                yield RemoveContainer(view)


def _superseded(pod: Pod, seen: Seen) -> Iterable[Action]:
    """Dead containers that a newer one follows: only the last dead one is kept, for ``logs --previous``."""
    names = {container.name for container in pod.every_container}
    for name in names:
        views = [view for view in seen.views if view.name == name and view.kind is not Kind.PAUSE]
        dead = [view for view in views[:-1] if not view.running]
        keep = 1 if views and (views[-1].running or views[-1].state is ContainerState.CREATED) else 0
        for view in dead[: len(dead) - keep]:
            yield RemoveContainer(view)
    for view in seen.views:
        if (view.kind is Kind.PAUSE and view is not seen.pause) or (
            view.kind is not Kind.PAUSE and view.name not in names
        ):
            yield RemoveContainer(view)


def _without_sandbox(pod: Pod, seen: Seen, history: History, now: float) -> tuple[list[Action], float | None]:
    retry = history.retry_at.get("", 0.0)
    if retry > now:
        return [], retry
    orphans: list[Action] = [KillContainer(view, "the pod's sandbox is gone") for view in seen.running()]
    if orphans:
        return orphans, None
    if seen.pause is not None and _resumable(pod, seen, seen.pause, history):
        return [ResumeSandbox(seen.pause)], None
    attempt = seen.pause.attempt + 1 if seen.pause is not None else 0
    return [CreateSandbox(attempt)], None


def _resumable(pod: Pod, seen: Seen, pause: ContainerView, history: History) -> bool:
    """Whether everything died together: the engine or the machine went down, no container failed of itself.

    Then the same containers are started again: what they are is unchanged, nothing is copied or pulled.
    """
    if pause.state is ContainerState.CREATED:
        return True
    if pause.id in history.beyond_resuming:
        return False
    return all(
        view is not None and view.sandbox == pause.id and view.spec_hash == container.spec_hash
        for container in pod.containers
        for view in [seen.latest(container.name)]
    )


def _in_sandbox(
    pod: Pod, seen: Seen, sandbox: ContainerView, history: History, now: float
) -> tuple[list[Action], float | None]:
    actions: list[Action] = []
    wakes: list[float] = []
    stranded = [view for view in seen.running() if view.sandbox != sandbox.id]
    actions.extend(KillContainer(view, "it belongs to an earlier sandbox") for view in stranded)
    ready = initialized(pod, seen, history)
    for container in pod.init_containers:
        if container.kind is Kind.INIT and ready:
            continue
        view = seen.latest(container.name, sandbox)
        if view is not None and container.kind is Kind.INIT and _succeeded(view):
            continue
        step, wake = _container_step(pod, container, seen, sandbox, history, now)
        actions.extend(step)
        wakes.extend([wake] if wake is not None else [])
        if not ready and not _passed(container, view, history):
            return actions, min(wakes, default=None)
    if ready:
        for container in pod.containers:
            step, wake = _container_step(pod, container, seen, sandbox, history, now)
            actions.extend(step)
            wakes.extend([wake] if wake is not None else [])
    return actions, min(wakes, default=None)


def _succeeded(view: ContainerView) -> bool:
    return view.state is ContainerState.EXITED and view.exit_code == 0


def _passed(container: Container, view: ContainerView | None, history: History) -> bool:
    return container.kind is Kind.SIDECAR and view is not None and view.running and history.started.get(view.id, True)


def _container_step(
    pod: Pod, container: Container, seen: Seen, sandbox: ContainerView, history: History, now: float
) -> tuple[list[Action], float | None]:
    """What one container needs, and when to look again."""
    view = seen.latest(container.name, sandbox)
    previous = view or seen.latest(container.name)
    if view is not None and view.running:
        if view.spec_hash != container.spec_hash:
            return [KillContainer(view, "its specification has changed")], None
        if view.id in history.unhealthy:
            return [KillContainer(view, history.unhealthy[view.id], history.graces.get(view.id))], None
        return [], None
    retry = history.retry_at.get(container.name, 0.0)
    if retry > now:
        return [], retry
    if view is not None and view.spec_hash == container.spec_hash:
        if view.state is ContainerState.CREATED:
            return [ResumeContainer(container, view)], None
        if view.id in history.interrupted and restart_wanted(pod, container, view.exit_code):
            return [ResumeContainer(container, view)], None
    if previous is None:
        return [StartContainer(container, _first_attempt(container, history))], None
    if previous.state is ContainerState.EXITED:
        outdated = previous.spec_hash != container.spec_hash
        rerun = container.kind is Kind.INIT and view is None
        if not (outdated or rerun or restart_wanted(pod, container, previous.exit_code)):
            return [], None
        if not outdated and view is not None:
            until = history.backoff.until(container.name, history.ended.get(view.id, 0.0), now)
            if until is not None:
                return [], until
    attempt = max(previous.attempt + 1, _first_attempt(container, history))
    return [StartContainer(container, attempt, previous)], None


def _first_attempt(container: Container, history: History) -> int:
    """Restart counts outlive the containers: the next one follows the last that was reported."""
    return history.restarts[container.name] + 1 if container.name in history.restarts else 0
