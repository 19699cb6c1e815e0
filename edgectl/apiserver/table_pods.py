"""The row of a pod: the word in its STATUS column is gathered from all of its containers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Obj = dict[str, Any]
NONE = "<none>"


def _terminated_word(state: Obj) -> str:
    if state.get("reason"):
        return str(state["reason"])
    if state.get("signal"):
        return f"Signal:{state['signal']}"
    return f"ExitCode:{state.get('exitCode', 0)}"


def _init_word(spec: Obj, status: Obj) -> str | None:
    """What an unfinished init container says, or ``None`` if none is unfinished."""
    declared = {one["name"]: one for one in spec.get("initContainers", ())}
    for index, one in enumerate(status.get("initContainerStatuses", ())):
        state = one.get("state", {})
        sidecar = declared.get(one["name"], {}).get("restartPolicy") == "Always"
        terminated = state.get("terminated")
        if (terminated is not None and terminated.get("exitCode", 0) == 0) or (sidecar and one.get("started")):
            continue
        if terminated is not None:
            return f"Init:{_terminated_word(terminated)}"
        reason = state.get("waiting", {}).get("reason", "")
        if reason and reason != "PodInitializing":
            return f"Init:{reason}"
        return f"Init:{index}/{len(declared)}"
    return None


def _container_word(word: str, statuses: list[Obj], pod_ready: bool) -> str:
    running = False
    for one in reversed(statuses):
        state = one.get("state", {})
        if state.get("waiting", {}).get("reason"):
            word = state["waiting"]["reason"]
        elif "terminated" in state:
            word = _terminated_word(state["terminated"])
        elif one.get("ready") and "running" in state:
            running = True
    if word == "Completed" and running:
        word = "Running" if pod_ready else "NotReady"
    return word


def status_word(obj: Obj) -> str:
    """The STATUS column."""
    spec, status = obj.get("spec", {}), obj.get("status", {})
    word = status.get("reason") or status.get("phase") or "Unknown"
    conditions = {one["type"]: one for one in status.get("conditions", ())}
    if conditions.get("PodScheduled", {}).get("reason") == "SchedulingGated":
        word = "SchedulingGated"
    init = _init_word(spec, status)
    if init is not None:
        word = init
    else:
        ready = conditions.get("Ready", {}).get("status") == "True"
        word = _container_word(word, status.get("containerStatuses", []), ready)
    if "deletionTimestamp" in obj["metadata"]:
        word = "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return str(word)


def _restarts(statuses: list[Obj], age: Callable[[str | None], str]) -> str:
    count = sum(one.get("restartCount", 0) for one in statuses)
    ended = [one.get("lastState", {}).get("terminated", {}).get("finishedAt") for one in statuses]
    last = max((stamp for stamp in ended if stamp), default=None)
    return f"{count} ({age(last)} ago)" if count and last else str(count)


def pod_cells(obj: Obj, age: Callable[[str | None], str]) -> list[str | int | bool]:
    """The cells of a pod's row; ``age`` tells how long ago a time was."""
    spec, status = obj.get("spec", {}), obj.get("status", {})
    statuses = status.get("containerStatuses", [])
    ready = sum(1 for one in statuses if one.get("ready") and "running" in one.get("state", {}))
    gates = [one["conditionType"] for one in spec.get("readinessGates", ())]
    met = {one["type"] for one in status.get("conditions", ()) if one["status"] == "True"}
    pod_ips = [one["ip"] for one in status.get("podIPs", ())]
    return [
        obj["metadata"]["name"],
        f"{ready}/{len(spec.get('containers', ()))}",
        status_word(obj),
        _restarts(statuses, age),
        age(obj["metadata"].get("creationTimestamp")),
        pod_ips[0] if pod_ips else status.get("podIP") or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        f"{sum(1 for one in gates if one in met)}/{len(gates)}" if gates else NONE,
    ]
