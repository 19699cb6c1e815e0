"""What each kind adds to the common rules: defaults, what may change, what is valid.

The rules are kube-apiserver's own for these kinds (``pkg/apis/*/v1/defaults.go`` and ``validation``), for the
fields that matter at the edge.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

from edgectl.apiserver.disruption import budget_causes
from edgectl.apiserver.errors import Cause, denied, required, wrong
from edgectl.apiserver.meta import label_causes
from edgectl.apiserver.resources import (
    CONFIGMAP,
    DAEMON_SET,
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    NAMESPACE,
    POD,
    REPLICA_SET,
    SECRET,
    SERVICE,
    Resource,
)
from edgectl.apiserver.selectors import selects
from edgectl.apiserver.strategy_pod import default_pod, default_pod_spec, pod_causes, pod_spec_causes, pod_update_causes
from edgectl.apiserver.strategy_service import default_service, service_causes

Obj = dict[str, Any]


class Strategy:
    """The rules of a kind that has none of its own."""

    name_rule = "subdomain"

    def default(self, obj: Obj, *, created: bool) -> None:
        """Fill in what was left out, in place. ``created`` tells a new object from a changed one."""

    def causes(self, obj: Obj) -> list[Cause]:
        """What is wrong with an object, beyond its shape."""
        return []

    def update_causes(self, new: Obj, old: Obj) -> list[Cause]:
        """What of the change is not allowed."""
        return []

    def apply_status(self, new: Obj, old: Obj) -> Obj:
        """What an update of the ``status`` subresource makes of the old object."""
        return {**old, "status": new.get("status", {})}


class _WithMetadataStatus(Strategy):
    """Kinds whose status updates may change labels and annotations as well (Node and Pod)."""

    def apply_status(self, new: Obj, old: Obj) -> Obj:
        kept = {"labels", "annotations"}
        meta = {key: value for key, value in old["metadata"].items() if key not in kept}
        meta.update({key: value for key, value in new["metadata"].items() if key in kept})
        return {**old, "metadata": meta, "status": new.get("status", {})}


class NodeStrategy(_WithMetadataStatus):
    def update_causes(self, new: Obj, old: Obj) -> list[Cause]:
        causes = []
        for key in ("podCIDR", "providerID"):
            before = old.get("spec", {}).get(key)
            if before and new.get("spec", {}).get(key) != before:
                causes.append(denied(f"spec.{key}", "node updates may only change it from empty"))
        return causes


class PodStrategy(_WithMetadataStatus):
    def default(self, obj: Obj, *, created: bool) -> None:
        default_pod(obj, created=created)

    def causes(self, obj: Obj) -> list[Cause]:
        return pod_causes(obj)

    def update_causes(self, new: Obj, old: Obj) -> list[Cause]:
        return pod_update_causes(new, old)


class NamespaceStrategy(Strategy):
    name_rule = "label"

    def default(self, obj: Obj, *, created: bool) -> None:
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
        if created:
            obj["spec"] = {"finalizers": ["kubernetes"]}
            obj["status"] = {"phase": "Active"}


_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
MAX_DATA = 1024 * 1024
"""The most bytes of the data of a ConfigMap or Secret (Kubernetes' own limit)."""


class _DataStrategy(Strategy):
    def causes(self, obj: Obj) -> list[Cause]:
        parts = {key: obj.get(key, {}) for key in ("data", "binaryData")}
        causes = [
            wrong(f"{part}[{key[:64]}]", key[:64], "a valid config key must consist of alphanumerics, '-', '_' or '.'")
            for part, data in parts.items()
            for key in data
            if not _DATA_KEY.fullmatch(key) or key in (".", "..")
        ]
        if sum(len(value.encode()) for data in parts.values() for value in data.values()) > MAX_DATA:
            causes.append(Cause("FieldValueTooLong", f"Too long: must have at most {MAX_DATA} bytes", "data"))
        return causes

    def update_causes(self, new: Obj, old: Obj) -> list[Cause]:
        if not old.get("immutable"):
            return []
        causes = []
        if not new.get("immutable"):
            causes.append(denied("immutable", "field is immutable when `immutable` is set"))
        causes += [
            denied(key, "field is immutable when `immutable` is set")
            for key in ("data", "binaryData")
            if new.get(key, {}) != old.get(key, {})
        ]
        return causes


class SecretStrategy(_DataStrategy):
    def default(self, obj: Obj, *, created: bool) -> None:
        for key, value in obj.pop("stringData", {}).items():
            obj.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()
        obj.setdefault("type", "Opaque")

    def update_causes(self, new: Obj, old: Obj) -> list[Cause]:
        causes = super().update_causes(new, old)
        if new.get("type") != old.get("type"):
            causes.append(wrong("type", new.get("type"), "field is immutable"))
        return causes


class ServiceStrategy(Strategy):
    name_rule = "label1035"

    def default(self, obj: Obj, *, created: bool) -> None:
        default_service(obj)

    def causes(self, obj: Obj) -> list[Cause]:
        return service_causes(obj)


class WorkloadStrategy(Strategy):
    """Deployment, ReplicaSet and DaemonSet: a selector and a pod template."""

    def __init__(self, defaults: Callable[[Obj], None]) -> None:
        self._defaults = defaults

    def default(self, obj: Obj, *, created: bool) -> None:
        spec = obj.setdefault("spec", {})
        self._defaults(spec)
        template = spec.setdefault("template", {})
        template.setdefault("metadata", {}).pop("creationTimestamp", None)
        default_pod_spec(template.setdefault("spec", {}))
        if created:
            obj["status"] = {}

    def causes(self, obj: Obj) -> list[Cause]:
        spec = obj["spec"]
        labels = spec["template"]["metadata"].get("labels", {})
        causes = label_causes(labels, "spec.template.metadata.labels")
        selector = spec.get("selector")
        if not selector:
            causes.append(required("spec.selector"))
        elif not selects(selector, labels):
            message = "`selector` does not match template `labels`"
            causes.append(wrong("spec.template.metadata.labels", labels, message))
        causes += pod_spec_causes(spec["template"]["spec"], "spec.template.spec")
        if spec["template"]["spec"].get("restartPolicy") != "Always":
            policy = spec["template"]["spec"].get("restartPolicy")
            causes.append(wrong("spec.template.spec.restartPolicy", policy, "must be Always"))
        if spec.get("replicas", 0) < 0:
            causes.append(wrong("spec.replicas", spec["replicas"], "must be greater than or equal to 0"))
        return causes

    def update_causes(self, new: Obj, old: Obj) -> list[Cause]:
        if new["spec"].get("selector") != old["spec"].get("selector"):
            return [wrong("spec.selector", new["spec"].get("selector"), "field is immutable")]
        return []


class DisruptionBudgetStrategy(Strategy):
    def default(self, obj: Obj, *, created: bool) -> None:
        obj.setdefault("spec", {})
        if created:
            # Nothing may be evicted before it has been worked out.
            obj["status"] = {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}

    def causes(self, obj: Obj) -> list[Cause]:
        return budget_causes(obj)


def _deployment(spec: Obj) -> None:
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    strategy = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")


def _replica_set(spec: Obj) -> None:
    spec.setdefault("replicas", 1)


def _daemon_set(spec: Obj) -> None:
    spec.setdefault("revisionHistoryLimit", 10)
    strategy = spec.setdefault("updateStrategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)


_PLAIN = Strategy()
_STRATEGIES: dict[str, Strategy] = {
    NAMESPACE.kind: NamespaceStrategy(),
    "Node": NodeStrategy(),
    POD.kind: PodStrategy(),
    CONFIGMAP.kind: _DataStrategy(),
    SECRET.kind: SecretStrategy(),
    SERVICE.kind: ServiceStrategy(),
    DEPLOYMENT.kind: WorkloadStrategy(_deployment),
    REPLICA_SET.kind: WorkloadStrategy(_replica_set),
    DAEMON_SET.kind: WorkloadStrategy(_daemon_set),
    DISRUPTION_BUDGET.kind: DisruptionBudgetStrategy(),
}


def strategy_of(resource: Resource) -> Strategy:
    return _STRATEGIES.get(resource.kind, _PLAIN)
