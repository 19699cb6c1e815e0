"""From Kubernetes objects to what an edge node is told, and from what it reports to Kubernetes status. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from edgectl.watch import Object

Reference = tuple[str, str, str]
"""``(plural, namespace, name)`` of an object a pod uses."""

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

_POD_METADATA = (
    "name",
    "namespace",
    "uid",
    "labels",
    "annotations",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
_SCHEDULING = (
    "affinity",
    "nodeSelector",
    "overhead",
    "preemptionPolicy",
    "schedulerName",
    "schedulingGates",
    "tolerations",
    "topologySpreadConstraints",
)
"""Fields of a PodSpec that only a scheduler or an admission controller reads. (Of ``priority`` eviction makes use.)"""

_STATUS_FIELDS = (
    "phase",
    "conditions",
    "message",
    "reason",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
)
"""What of a PodStatus is a node's to say. ``qosClass`` and ``nominatedNodeName`` are the cloud's."""

TERMINAL = ("Succeeded", "Failed")
"""Phases of a pod that has ended."""


def encode(item: Object) -> bytes:
    """The one spelling of an object: equal objects give equal bytes."""
    return json.dumps(item, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def strip_pod(pod: Mapping[str, Any]) -> Object:
    """What a node needs of a Pod to run it. A change of anything else is none to the node."""
    metadata = _pick(pod["metadata"], _POD_METADATA)
    if annotations := {k: v for k, v in metadata.get("annotations", {}).items() if k != LAST_APPLIED}:
        metadata["annotations"] = annotations
    else:
        metadata.pop("annotations", None)
    spec = {name: value for name, value in pod["spec"].items() if name not in _SCHEDULING}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def strip_configmap(item: Mapping[str, Any]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _pick(item["metadata"], ("name", "namespace", "uid")),
        **_pick(item, ("data", "binaryData", "immutable")),
    }


def strip_secret(item: Mapping[str, Any]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _pick(item["metadata"], ("name", "namespace", "uid")),
        **_pick(item, ("type", "data", "immutable")),
    }


def references(pod: Mapping[str, Any]) -> frozenset[Reference]:
    """The ConfigMaps and Secrets that a Pod uses: in env, envFrom, volumes and to pull its images."""
    namespace, spec = pod["metadata"]["namespace"], pod["spec"]
    found = {("secrets", namespace, str(entry.get("name", ""))) for entry in _dicts(spec.get("imagePullSecrets"))}
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for container in _dicts(spec.get(field)):
            found |= {(plural, namespace, name) for plural, name in _of_container(container)}
    for volume in _dicts(spec.get("volumes")):
        found |= {(plural, namespace, name) for plural, name in _of_volume(volume)}
    return frozenset(reference for reference in found if reference[2])


def _of_container(container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for source in _dicts(container.get("envFrom")):
        yield "configmaps", _name(source.get("configMapRef"))
        yield "secrets", _name(source.get("secretRef"))
    for variable in _dicts(container.get("env")):
        value = variable.get("valueFrom")
        if isinstance(value, Mapping):
            yield "configmaps", _name(value.get("configMapKeyRef"))
            yield "secrets", _name(value.get("secretKeyRef"))


def _of_volume(volume: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "configmaps", _name(volume.get("configMap"))
    yield "secrets", _name(volume.get("secret"), "secretName")
    projected = volume.get("projected")
    if isinstance(projected, Mapping):
        for source in _dicts(projected.get("sources")):
            yield "configmaps", _name(source.get("configMap"))
            yield "secrets", _name(source.get("secret"))


def pod_status(current: Mapping[str, Any], reported: Mapping[str, Any]) -> Object:
    """The status a Pod should have, given the one it has and the one its node reports.

    Conditions the node does not speak of (``PodScheduled``, readiness gates) stay; a pod that has ended stays ended.
    """
    status = dict(current)
    if current.get("phase") in TERMINAL and reported.get("phase") not in TERMINAL:
        return status
    for name in _STATUS_FIELDS:
        if name == "conditions":
            continue
        if name in reported:
            status[name] = reported[name]
        else:
            status.pop(name, None)
    if "phase" not in reported and "phase" in current:
        status["phase"] = current["phase"]
    status["conditions"] = merge_conditions(_dicts(current.get("conditions")), _dicts(reported.get("conditions")))
    return status


def with_own_addresses(reported: Mapping[str, Any], owns: Callable[[str], bool]) -> Object:
    """A reported status without addresses that the node does not own: traffic to a Service follows these."""
    status = dict(reported)
    addresses = [entry for entry in _dicts(status.get("podIPs")) if owns(str(entry.get("ip")))]
    if "podIPs" in status:
        status["podIPs"] = addresses
    if "podIP" in status and not owns(str(status["podIP"])):
        status["podIP"] = str(addresses[0]["ip"]) if addresses else ""
    return {name: value for name, value in status.items() if value not in ("", [])}


def merge_conditions(
    current: Sequence[Mapping[str, Any]], reported: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """``current`` with the conditions of ``reported`` put in by type; a time that tells nothing new stays."""
    merged = {condition.get("type"): condition for condition in current}
    for condition in reported:
        old = merged.get(condition.get("type"))
        merged[condition.get("type")] = _without_news(old, condition) if old is not None else condition
    return list(merged.values())


def _without_news(old: Mapping[str, Any], new: Mapping[str, Any]) -> Mapping[str, Any]:
    """``old`` where ``new`` differs in times only, so that a heartbeat alone is no change."""
    same = all(old.get(name) == new.get(name) for name in ("status", "reason", "message"))
    return old if same else new


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> Object:
    """The JSON merge patch (RFC 7396) that turns ``old`` into ``new``; empty if they say the same.

    What is empty, zero or false says the same as what is absent: the API server writes some such fields out (a
    container's ``lastState``) and leaves others away, whatever it was sent.
    """
    patch: Object = {name: None for name, value in old.items() if name not in new and _plain(value)}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            if inner := merge_patch(before, value):
                patch[name] = inner
        elif _plain(before) != _plain(value):
            patch[name] = value
    return patch


def _plain(value: Any) -> Any:
    """A value without its empty parts, for comparison; ``None`` if nothing is left."""
    if isinstance(value, Mapping):
        return {name: plain for name, part in value.items() if (plain := _plain(part)) is not None} or None
    if isinstance(value, list):
        return [_plain(part) for part in value] or None
    return value or None


def _pick(holder: Mapping[str, Any], names: Sequence[str]) -> Object:
    return {name: holder[name] for name in names if name in holder}


def _name(reference: object, field: str = "name") -> str:
    return str(reference.get(field) or "") if isinstance(reference, Mapping) else ""


def _dicts(value: object) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []
