"""What the workload controllers ask of pods and of their owners. Pure."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from edgectl.apiserver.meta import seconds_of

Obj = dict[str, Any]

_SAFE = "bcdfghjklmnpqrstvwxz2456789"
"""Letters of hashes in names: no vowels, so that no words come out."""


def controller_of(obj: Obj) -> Obj | None:
    """The owner reference that manages an object."""
    return next((one for one in obj["metadata"].get("ownerReferences", ()) if one.get("controller")), None)


def owned_by(obj: Obj, owner: Obj) -> bool:
    reference = controller_of(obj)
    return reference is not None and reference["uid"] == owner["metadata"]["uid"]


def reference_to(owner: Obj) -> Obj:
    """What an object says of the one that manages it."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def is_active(pod: Obj) -> bool:
    """Whether a pod counts: neither ended nor ending."""
    ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return not ended and "deletionTimestamp" not in pod["metadata"]


def _ready_condition(pod: Obj) -> Obj:
    conditions = pod.get("status", {}).get("conditions", ())
    found: Obj = next((one for one in conditions if one["type"] == "Ready"), {})
    return found


def is_ready(pod: Obj) -> bool:
    return bool(_ready_condition(pod).get("status") == "True")


def is_available(pod: Obj, min_ready: int, now: float) -> bool:
    """Whether a pod has been ready for ``min_ready`` seconds."""
    if not is_ready(pod):
        return False
    since = seconds_of(_ready_condition(pod).get("lastTransitionTime"))
    return min_ready == 0 or (since is not None and since + min_ready <= now)


def template_hash(template: Obj) -> str:
    """A short name for a pod template: equal for equal templates."""
    digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).digest()
    return "".join(_SAFE[byte % len(_SAFE)] for byte in digest[:10])


def from_template(template: Obj, owner: Obj, labels: dict[str, str] | None = None) -> Obj:
    """A pod that an owner makes of its template; the server ends its name."""
    meta = copy.deepcopy(template.get("metadata", {}))
    kept = {key: meta[key] for key in ("labels", "annotations", "finalizers") if key in meta}
    kept["labels"] = {**kept.get("labels", {}), **(labels or {})}
    kept["generateName"] = f"{owner['metadata']['name']}-"
    kept["ownerReferences"] = [reference_to(owner)]
    return {"metadata": kept, "spec": copy.deepcopy(template["spec"])}


def first_to_go(pods: Iterable[Obj]) -> list[Obj]:
    """Pods in the order in which to delete them: unbound, not running, not ready, newest first."""

    def rank(pod: Obj) -> tuple[bool, bool, bool, float]:
        created = seconds_of(pod["metadata"].get("creationTimestamp")) or 0.0
        running = pod.get("status", {}).get("phase") == "Running"
        return bool(pod["spec"].get("nodeName")), running, is_ready(pod), -created

    return sorted(pods, key=rank)


def share(value: int | str | None, total: int, *, up: bool) -> int:
    """A number of pods given as such or as a percentage of ``total``; unreadable text counts as 0."""
    if isinstance(value, int):
        return value
    digits = (value or "").removesuffix("%")
    if not digits.isdigit():
        return 0
    return -(-total * int(digits) // 100) if up else total * int(digits) // 100


def set_condition(conditions: Sequence[Obj], new: Obj, now: str) -> list[Obj]:
    """The conditions with one set; its time of transition moves only with its status."""
    old = next((one for one in conditions if one["type"] == new["type"]), None)
    changed = old is None or old["status"] != new["status"]
    stamp = now if changed or old is None else old.get("lastTransitionTime", now)
    made = {**new, "lastTransitionTime": stamp}
    if "lastUpdateTime" in new:
        same = old is not None and not changed and old.get("reason") == new.get("reason")
        made["lastUpdateTime"] = old.get("lastUpdateTime", now) if same and old is not None else now
    return [*(one for one in conditions if one["type"] != new["type"]), made]
