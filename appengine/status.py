"""The v1 PodStatus of a pod, from its specification, its containers and its history (as kubelet_pods.go has it)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from appengine.lifecycle import History, Seen, initialized, restart_wanted
from appengine.podspec import Container, Json, Kind, Pod, RestartPolicy
from appengine.qos import qos_class
from appengine.runtime import ContainerState, ContainerView

PENDING, RUNNING, SUCCEEDED, FAILED = "Pending", "Running", "Succeeded", "Failed"

# Exit code of a container of which nothing is known any more (kubelet's ContainerStatusUnknown).
_EXIT_UNKNOWN = 137
_MAX_MESSAGE = 4096


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """The node's own, IPv4 first: ``hostIP`` and, for pods on the host's network, ``podIP``."""

    addresses: tuple[str, ...] = ()


def rfc3339(seconds: float) -> str:
    """A time as Kubernetes writes it: UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def pod_status(
    pod: Pod,
    views: Sequence[ContainerView],
    history: History,
    node: NodeAddresses,
    now: float,
    wall: float,
    previous: Json | None = None,
    terminating: bool = False,
) -> Json:
    """The status; times of conditions are taken from ``previous`` where nothing changed.

    :param now: the time that back-offs go by.
    :param wall: the time of day, as it is shown.
    """
    seen = Seen(views)
    through = initialized(pod, seen, history) or history.phase == SUCCEEDED
    init = [_container_status(pod, c, seen, history, through, now) for c in pod.init_containers]
    main = [_container_status(pod, c, seen, history, through, now) for c in pod.containers]
    phase = history.phase or _phase(pod, init, main, through)
    if terminating and phase in (PENDING, RUNNING) and not seen.running() and seen.views:
        phase = _final_phase(main)
    status: Json = {
        "phase": phase,
        "conditions": _conditions(pod, phase, through, [*init, *main], wall, previous),
        "qosClass": qos_class(pod),
        "startTime": history.start_time,
    }
    if node.addresses:
        status["hostIP"] = node.addresses[0]
        status["hostIPs"] = [{"ip": address} for address in node.addresses]
    addresses = node.addresses if pod.host_network else _pod_addresses(seen)
    if addresses and seen.pause is not None:
        status["podIP"] = addresses[0]
        status["podIPs"] = [{"ip": address} for address in addresses]
    if history.reason:
        status["reason"] = history.reason
    if history.message:
        status["message"] = history.message[:_MAX_MESSAGE]
    if init:
        status["initContainerStatuses"] = init
    status["containerStatuses"] = main
    return status


def refused_status(reason: str, message: str, wall: float, previous: Json | None = None) -> Json:
    """The status of a pod that this node does not run."""
    start = previous.get("startTime") if previous else None
    return {
        "phase": FAILED,
        "reason": reason,
        "message": message[:_MAX_MESSAGE],
        "startTime": start or rfc3339(wall),
    }


def _pod_addresses(seen: Seen) -> tuple[str, ...]:
    return seen.pause.addresses if seen.pause is not None else ()


def container_id(view: ContainerView) -> str:
    return f"docker://{view.id}"


def _terminated(view: ContainerView, message: str) -> Json:
    reason = "OOMKilled" if view.oom_killed else "Completed" if view.exit_code == 0 else "Error"
    if view.exit_code and view.error:
        reason, message = "ContainerCannotRun", message or view.error
    state: Json = {
        "exitCode": view.exit_code,
        "reason": reason,
        "startedAt": rfc3339(view.started_at),
        "finishedAt": rfc3339(view.finished_at),
        "containerID": container_id(view),
    }
    if message:
        state["message"] = message[:_MAX_MESSAGE]
    return {"terminated": state}


def _state(view: ContainerView, history: History) -> Json:
    if view.running:
        return {"running": {"startedAt": rfc3339(view.started_at)}}
    if view.state is ContainerState.EXITED:
        return _terminated(view, history.messages.get(view.id, ""))
    return {"waiting": {"reason": "ContainerCreating"}}


def _container_status(pod: Pod, container: Container, seen: Seen, history: History, through: bool, now: float) -> Json:
    view = seen.latest(container.name)
    waiting = history.waiting.get(container.name)
    attempts = [history.restarts.get(container.name, 0)] + ([view.attempt] if view else [])
    status: Json = {
        "name": container.name,
        "image": container.image,
        "imageID": "",
        "ready": False,
        "started": False,
        "restartCount": max(attempts),
        "state": {},
        "lastState": {},
    }
    if view is None:
        status["lastState"] = history.last_states.get(container.name, {})
        status["state"] = _waiting(pod, container, waiting, through)
        return status
    status["containerID"] = container_id(view)
    status["imageID"] = view.image_id
    status["state"] = _state(view, history)
    before = _before(seen, view)
    if before is not None:
        status["lastState"] = _state(before, history)
    elif view.attempt:
        status["lastState"] = history.last_states.get(container.name, {})
    if view.running:
        started = history.started.get(view.id, True)
        status["started"] = started
        status["ready"] = started and history.ready.get(view.id, True)
    elif container.kind is Kind.INIT:
        status["ready"] = view.state is ContainerState.EXITED and view.exit_code == 0
    if not view.running and not history.phase:
        _between_runs(pod, container, seen, view, history, waiting, status, now)
    return status


def _between_runs(
    pod: Pod,
    container: Container,
    seen: Seen,
    view: ContainerView,
    history: History,
    waiting: tuple[str, str] | None,
    status: Json,
    now: float,
) -> None:
    """A container that is to start again shows why it does not run now, and its end as the last state."""
    if waiting is None and view.state is ContainerState.EXITED:
        until = history.backoff.until(container.name, history.ended.get(view.id, 0.0), now)
        if until is not None and restart_wanted(pod, container, view.exit_code):
            wait = int(history.backoff.wait(container.name))
            waiting = (
                "CrashLoopBackOff",
                f"back-off {_duration(wait)} restarting failed container={container.name} "
                f"pod={pod.ref.name}_{pod.ref.namespace}({pod.ref.uid})",
            )
    if waiting is not None:
        if view.state is ContainerState.EXITED:
            status["lastState"] = status["state"]
        status["state"] = {"waiting": _reason(waiting)}


def _duration(seconds: int) -> str:
    """As Go prints a duration: ``10s``, ``1m20s``, ``5m0s``."""
    return f"{seconds // 60}m{seconds % 60}s" if seconds >= 60 else f"{seconds}s"


def _reason(waiting: tuple[str, str]) -> Json:
    reason, message = waiting
    return {"reason": reason, "message": message[:_MAX_MESSAGE]} if message else {"reason": reason}


def _before(seen: Seen, view: ContainerView) -> ContainerView | None:
    earlier = [
        other
        for other in seen.views
        if other.name == view.name
        and other.kind is not Kind.PAUSE
        and other.attempt < view.attempt
        and other.state is ContainerState.EXITED
    ]
    return earlier[-1] if earlier else None


def _waiting(pod: Pod, container: Container, waiting: tuple[str, str] | None, through: bool) -> Json:
    if waiting is not None:
        return {"waiting": _reason(waiting)}
    if pod.init_containers and not through and container.kind is not Kind.APP:
        return {"waiting": {"reason": "PodInitializing"}}
    if pod.init_containers and not through:
        return {"waiting": {"reason": "PodInitializing"}}
    return {"waiting": {"reason": "ContainerCreating"}}


def _phase(pod: Pod, init: Sequence[Json], main: Sequence[Json], through: bool) -> str:
    for container, status in zip(pod.init_containers, init, strict=True):
        ended = status["state"].get("terminated")
        broken = ended and ended["exitCode"] and container.kind is Kind.INIT
        if broken and pod.restart_policy is RestartPolicy.NEVER:
            return FAILED
    if not through:
        return PENDING
    running = stopped = succeeded = waiting = 0
    for status in main:
        state = status["state"]
        if "running" in state:
            running += 1
        elif "terminated" in state:
            stopped += 1
            succeeded += state["terminated"]["exitCode"] == 0
        elif status["lastState"].get("terminated"):
            stopped += 1
        else:
            waiting += 1
    if waiting:
        return PENDING
    if running or pod.restart_policy is RestartPolicy.ALWAYS:
        return RUNNING
    if stopped == succeeded:
        return SUCCEEDED
    return FAILED if pod.restart_policy is RestartPolicy.NEVER else RUNNING


def _final_phase(main: Sequence[Json]) -> str:
    ended = [status["state"].get("terminated") for status in main]
    return SUCCEEDED if all(end and end["exitCode"] == 0 for end in ended) else FAILED


def _conditions(
    pod: Pod,
    phase: str,
    through: bool,
    statuses: Iterable[Json],
    wall: float,
    previous: Json | None,
) -> list[Json]:
    sidecars = {container.name for container in pod.init_containers if container.kind is Kind.SIDECAR}
    apps = {container.name for container in pod.containers}
    unready = [s["name"] for s in statuses if s["name"] in apps | sidecars and not s["ready"]]
    finished = phase in (SUCCEEDED, FAILED)
    not_initialized = {} if through else {"reason": "ContainersNotInitialized"}
    if finished:
        not_ready = {"reason": "PodCompleted" if phase == SUCCEEDED else "PodFailed"}
    else:
        not_ready = {
            "reason": "ContainersNotReady",
            "message": f"containers with unready status: [{' '.join(unready)}]",
        }
    ready = not unready and not finished and through
    wanted: list[tuple[str, bool, Json]] = [
        ("Initialized", through, not_initialized),
        ("Ready", ready, not_ready),
        ("ContainersReady", ready, not_ready),
    ]
    before = {c.get("type"): c for c in (previous or {}).get("conditions") or ()}
    conditions = []
    for kind, true, why in wanted:
        value = "True" if true else "False"
        old = before.get(kind)
        changed = old["lastTransitionTime"] if old and old.get("status") == value else rfc3339(wall)
        condition: Json = {"type": kind, "status": value, "lastProbeTime": None, "lastTransitionTime": changed}
        conditions.append(condition if true else {**condition, **why})
    return conditions
