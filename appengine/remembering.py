"""What the reports of an earlier run of the agent tell of a pod."""

from __future__ import annotations

from datetime import datetime

from appengine.lifecycle import History
from appengine.podspec import Json
from appengine.status import SUCCEEDED

_NEVER_SET = 1_577_836_800.0
"""2020-01-01: a clock that shows an earlier time has not been set since the device booted."""


def age(start_time: str, wall: float) -> float:
    """Seconds since a time that was reported; 0 where the clock was wrong then, or is now."""
    try:
        started = datetime.fromisoformat(start_time).timestamp()
    except ValueError:
        return 0.0
    return max(0.0, wall - started) if started >= _NEVER_SET else 0.0


def remembered(status: Json) -> History:
    """What an earlier run of the agent reported, as far as it matters for what follows."""
    history = History()
    phase = status.get("phase")
    history.start_time = str(status.get("startTime") or "")
    if phase in (SUCCEEDED, "Failed"):
        history.phase = phase
        history.reason, history.message = str(status.get("reason") or ""), str(status.get("message") or "")
    for key in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(key) or ():
            name = str(container.get("name"))
            identity = str(container.get("containerID") or "").rpartition("/")[2]
            if identity and (container.get("state") or {}).get("running"):
                # A probe that had passed need not pass again for what ran on without the agent.
                history.started.update({identity: True} if container.get("started") else {})
                history.ready.update({identity: True} if container.get("ready") else {})
            if identity or container.get("lastState"):
                history.restarts[name] = int(container.get("restartCount") or 0)
                ended = container.get("state") or {}
                history.last_states[name] = ended if "terminated" in ended else container.get("lastState") or {}
    return history
