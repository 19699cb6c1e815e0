"""Whether an eviction is within the disruption budgets of its pod. Pure.

The rules are kube-apiserver's (``pkg/registry/core/pod/storage/eviction.go``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from edgectl.apiserver.errors import ApiError, Cause, forbidden, internal, unsupported, wrong
from edgectl.apiserver.meta import timestamp
from edgectl.apiserver.resources import DISRUPTION_BUDGET
from edgectl.apiserver.selectors import selects

Obj = dict[str, Any]

UNHEALTHY_POLICIES = ("IfHealthyBudget", "AlwaysAllow")

_MAX_DISRUPTED = 2000
"""Evictions under way of one budget; kube-apiserver's ``MaxDisruptedPodSize``."""

_SETTLE_SECONDS = 10
"""What a client is told to wait while the budget has not been worked out."""

_AMOUNT = re.compile(r"[0-9]{1,9}%")


def budget_causes(budget: Obj) -> list[Cause]:
    """What is wrong with a ``policy/v1 PodDisruptionBudget``."""
    spec = budget.get("spec", {})
    causes = []
    if "minAvailable" in spec and "maxUnavailable" in spec:
        causes.append(wrong("spec", "", "minAvailable and maxUnavailable cannot be both set"))
    for name in ("minAvailable", "maxUnavailable"):
        value = spec.get(name)
        if isinstance(value, int) and value < 0:
            causes.append(wrong(f"spec.{name}", value, "must be greater than or equal to 0"))
        elif isinstance(value, str) and not _AMOUNT.fullmatch(value):
            message = "a valid percent string must be a numeric string followed by an ending '%'"
            causes.append(wrong(f"spec.{name}", value, message))
        elif isinstance(value, str) and int(value[:-1]) > 100:
            causes.append(wrong(f"spec.{name}", value, "must not be greater than 100%"))
    policy = spec.get("unhealthyPodEvictionPolicy")
    if policy is not None and policy not in UNHEALTHY_POLICIES:
        causes.append(unsupported("spec.unhealthyPodEvictionPolicy", policy, UNHEALTHY_POLICIES))
    return causes


def covers(budget: Obj, pod: Obj) -> bool:
    """Whether a pod is one of the budget's."""
    same = budget["metadata"]["namespace"] == pod["metadata"]["namespace"]
    return same and selects(budget.get("spec", {}).get("selector"), pod["metadata"].get("labels"))


def budget_of(budgets: Iterable[Obj], pod: Obj) -> Obj | None:
    """The budget to ask before this pod is evicted.

    :raises ApiError: (500) if there are several: Kubernetes does not choose either.
    """
    if _is_none_of_theirs(pod):
        return None
    found = [budget for budget in budgets if covers(budget, pod)]
    if len(found) > 1:
        raise internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        )
    return found[0] if found else None


def spent(budget: Obj, pod: Obj, now: float) -> Obj | None:
    """The budget after the eviction of this pod; ``None`` if that costs it nothing.

    :raises ApiError: (429) if the eviction must wait.
    """
    name, status = budget["metadata"]["name"], budget.get("status", {})
    if not _is_ready(pod) and _lets_unhealthy_go(budget):
        return None
    if status.get("observedGeneration", 0) < budget["metadata"].get("generation", 1):
        message = f"The disruption budget {name} is still being processed by the server."
        raise _wait(f"{_REFUSAL} {message}", message, _SETTLE_SECONDS)
    disrupted = status.get("disruptedPods", {})
    if len(disrupted) > _MAX_DISRUPTED:
        raise forbidden(DISRUPTION_BUDGET.group, DISRUPTION_BUDGET.plural, name, "DisruptedPods map too big")
    if status.get("disruptionsAllowed", 0) <= 0:
        healthy, needed = status.get("currentHealthy", 0), status.get("desiredHealthy", 0)
        raise _wait(_REFUSAL, f"The disruption budget {name} needs {needed} healthy pods and has {healthy} currently")
    changed = {
        **status,
        "disruptionsAllowed": status["disruptionsAllowed"] - 1,
        "disruptedPods": {**disrupted, pod["metadata"]["name"]: timestamp(now)},
    }
    return {**budget, "status": changed}


_REFUSAL = "Cannot evict pod as it would violate the pod's disruption budget."


def _wait(message: str, why: str, seconds: int = 0) -> ApiError:
    details: Obj = {"causes": [{"reason": "DisruptionBudget", "message": why}]}
    if seconds:
        details["retryAfterSeconds"] = seconds
    return ApiError(429, "TooManyRequests", message, details)


def _is_none_of_theirs(pod: Obj) -> bool:
    """A pod that does not run, or ends already, is missed by nobody."""
    phase = pod.get("status", {}).get("phase")
    return phase in ("Pending", "Succeeded", "Failed") or "deletionTimestamp" in pod["metadata"]


def _is_ready(pod: Obj) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _lets_unhealthy_go(budget: Obj) -> bool:
    if budget.get("spec", {}).get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    status = budget.get("status", {})
    return bool(status.get("currentHealthy", 0) >= status.get("desiredHealthy", 0) > 0)
