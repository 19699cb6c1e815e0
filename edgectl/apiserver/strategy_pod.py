"""Defaults and validity of pods, and of the pod templates of workloads."""

from __future__ import annotations

import copy
from typing import Any

from edgectl.apiserver.errors import Cause, denied, required, unsupported, wrong
from edgectl.apiserver.meta import name_causes
from edgectl.apiserver.quantity import parse

Obj = dict[str, Any]

_POLICIES = ("Always", "OnFailure", "Never")
_PULL = ("Always", "IfNotPresent", "Never")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def default_pod(obj: Obj, *, created: bool) -> None:
    """Fill in what was left out of a pod, in place."""
    spec = obj.setdefault("spec", {})
    default_pod_spec(spec)
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    spec.setdefault("priority", 0)
    if created:
        obj["status"] = {"phase": "Pending", "qosClass": qos_class(spec)}


def default_pod_spec(spec: Obj) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    spec.setdefault("terminationGracePeriodSeconds", 30)
    for container in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        _default_container(container)
    for volume in spec.get("volumes", ()):
        _default_volume(volume)


def _default_container(container: Obj) -> None:
    tag = container.get("image", "").rpartition("/")[2].partition(":")[2]
    latest = tag in ("", "latest") and "@" not in container.get("image", "")
    container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    resources = container.setdefault("resources", {})
    for name, amount in resources.get("limits", {}).items():
        resources.setdefault("requests", {}).setdefault(name, amount)
    for port in container.get("ports", ()):
        port.setdefault("protocol", "TCP")
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if probe in container:
            _default_probe(container[probe])
    for variable in container.get("env", ()):
        reference = variable.get("valueFrom", {}).get("fieldRef")
        if reference is not None:
            reference.setdefault("apiVersion", "v1")


def _default_probe(probe: Obj) -> None:
    defaults = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
    for key, value in defaults.items():
        probe.setdefault(key, value)
    if "httpGet" in probe:
        probe["httpGet"].setdefault("path", "/")
        probe["httpGet"].setdefault("scheme", "HTTP")


def _default_volume(volume: Obj) -> None:
    sources = set(volume) - {"name"}
    if not sources:
        volume["emptyDir"] = {}
    for source in ("secret", "configMap", "downwardAPI", "projected"):
        if source in volume:
            volume[source].setdefault("defaultMode", 0o644)
    if "hostPath" in volume:
        volume["hostPath"].setdefault("type", "")


def qos_class(spec: Obj) -> str:
    """``Guaranteed``, ``Burstable`` or ``BestEffort``, by the cpu and memory of all containers."""
    containers = [*spec.get("initContainers", ()), *spec.get("containers", ())]
    amounts = [
        (one.get("resources", {}).get("requests", {}).get(name), one.get("resources", {}).get("limits", {}).get(name))
        for one in containers
        for name in ("cpu", "memory")
    ]
    if all(request is None and limit is None for request, limit in amounts):
        return "BestEffort"
    guaranteed = all(
        limit is not None and (request is None or parse(request) == parse(limit)) for request, limit in amounts
    )
    return "Guaranteed" if guaranteed else "Burstable"


def pod_causes(obj: Obj) -> list[Cause]:
    return pod_spec_causes(obj["spec"], "spec")


def pod_spec_causes(spec: Obj, path: str) -> list[Cause]:
    """What is wrong with a pod's spec."""
    causes = []
    if not spec.get("containers"):
        causes.append(required(f"{path}.containers"))
    if spec["restartPolicy"] not in _POLICIES:
        causes.append(unsupported(f"{path}.restartPolicy", spec["restartPolicy"], _POLICIES))
    if spec["terminationGracePeriodSeconds"] < 0:
        grace = spec["terminationGracePeriodSeconds"]
        causes.append(wrong(f"{path}.terminationGracePeriodSeconds", grace, "must be greater than or equal to 0"))
    if spec.get("nodeName"):
        causes += name_causes(spec["nodeName"], f"{path}.nodeName")
    volumes = {one.get("name") for one in spec.get("volumes", ())}
    causes += _named(spec.get("volumes", []), f"{path}.volumes")
    for index, volume in enumerate(spec.get("volumes", ())):
        if len(set(volume) - {"name"}) > 1:
            causes.append(denied(f"{path}.volumes[{index}]", "may not specify more than 1 volume type"))
    names: list[Obj] = []
    for group in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(group, ())):
            causes += _container_causes(container, f"{path}.{group}[{index}]", volumes)
            names.append(container)
    causes += _duplicates(names, f"{path}.containers")
    for index, toleration in enumerate(spec.get("tolerations", ())):
        causes += _toleration_causes(toleration, f"{path}.tolerations[{index}]")
    return causes


def _named(items: list[Obj], path: str) -> list[Cause]:
    causes = [
        cause
        for index, item in enumerate(items)
        if item.get("name")
        for cause in name_causes(item["name"], f"{path}[{index}].name", "label")
    ]
    return causes + _duplicates(items, path)


def _duplicates(items: list[Obj], path: str) -> list[Cause]:
    seen: set[Any] = set()
    causes = []
    for index, item in enumerate(items):
        name = item.get("name")
        if name in seen:
            causes.append(Cause("FieldValueDuplicate", f'Duplicate value: "{name}"', f"{path}[{index}].name"))
        seen.add(name)
    return causes


def _container_causes(container: Obj, path: str, volumes: set[Any]) -> list[Cause]:
    causes = name_causes(container["name"], f"{path}.name", "label") if container.get("name") else []
    if not container.get("image"):
        causes.append(required(f"{path}.image"))
    if container["imagePullPolicy"] not in _PULL:
        causes.append(unsupported(f"{path}.imagePullPolicy", container["imagePullPolicy"], _PULL))
    for index, mount in enumerate(container.get("volumeMounts", ())):
        if mount.get("name") not in volumes:
            name = mount.get("name")
            causes.append(Cause("FieldValueNotFound", f'Not found: "{name}"', f"{path}.volumeMounts[{index}].name"))
    for index, port in enumerate(container.get("ports", ())):
        if not 0 < port.get("containerPort", 0) < 65536:
            where = f"{path}.ports[{index}].containerPort"
            causes.append(wrong(where, port.get("containerPort"), "must be between 1 and 65535, inclusive"))
        if port["protocol"] not in _PROTOCOLS:
            causes.append(unsupported(f"{path}.ports[{index}].protocol", port["protocol"], _PROTOCOLS))
    return causes + _resource_causes(container["resources"], f"{path}.resources")


def _resource_causes(resources: Obj, path: str) -> list[Cause]:
    limits = resources.get("limits", {})
    causes = []
    for name, amount in resources.get("requests", {}).items():
        if name in limits and parse(amount) > parse(limits[name]):
            message = f"must be less than or equal to {name} limit of {limits[name]}"
            causes.append(wrong(f"{path}.requests", amount, message))
    return causes


def _toleration_causes(toleration: Obj, path: str) -> list[Cause]:
    operator = toleration.get("operator", "Equal")
    if operator not in ("Equal", "Exists"):
        return [unsupported(f"{path}.operator", operator, ("Equal", "Exists"))]
    if not toleration.get("key") and operator != "Exists":
        return [wrong(f"{path}.operator", operator, "operator must be Exists when `key` is empty")]
    effect = toleration.get("effect", "")
    return [unsupported(f"{path}.effect", effect, _EFFECTS)] if effect and effect not in _EFFECTS else []


def pod_update_causes(new: Obj, old: Obj) -> list[Cause]:
    """A pod's spec may change in its images, deadline and added tolerations only; it is bound by ``binding``."""

    def frozen(spec: Obj) -> Obj:
        copied: Obj = copy.deepcopy(spec)
        for group in ("initContainers", "containers"):
            for container in copied.get(group, ()):
                container.pop("image", None)
        for key in ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"):
            copied.pop(key, None)
        return copied

    causes = []
    if frozen(new["spec"]) != frozen(old["spec"]):
        causes.append(
            denied(
                "spec",
                "pod updates may not change fields other than `spec.containers[*].image`, "
                "`spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to "
                "existing tolerations), `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was "
                "previously negative)",
            )
        )
    kept = new["spec"].get("tolerations", [])
    if any(one not in kept for one in old["spec"].get("tolerations", ())):
        causes.append(
            denied("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
        )
    return causes
