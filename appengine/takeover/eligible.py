"""Which pods another node of the site may run, and which node. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appengine.podspec import CONFIG_SOURCE, Json
from metasync.keys import TAKEN_OVER_FROM, TAKEN_OVER_UID, TAKEOVER, TAKEOVER_SITE

OF_THE_NODE = ("hostPath", "local", "persistentVolumeClaim", "ephemeral")
"""Volumes whose content is one node's own."""


def opted_in(pod: Json) -> bool:
    """Whether the pod's annotation asks for takeover within the site."""
    return _object(_object(pod.get("metadata")).get("annotations")).get(TAKEOVER) == TAKEOVER_SITE


def obstacle(pod: Json) -> str | None:
    """Why a pod that has opted in runs on its own node only, as ever; ``None`` if it can be taken over.

    The owner and the others of the site judge by the same Pod, so that they come to the same.
    """
    metadata, spec = _object(pod.get("metadata")), _object(pod.get("spec"))
    if _object(metadata.get("annotations")).get(CONFIG_SOURCE) is not None:
        return "it is a static pod of its node"
    if any(owner.get("kind") == "DaemonSet" for owner in _objects(metadata.get("ownerReferences"))):
        return "it belongs to a DaemonSet, which has a pod of its own on every node"
    if spec.get("restartPolicy") not in (None, "Always"):
        return f"its restartPolicy is {str(spec['restartPolicy'])[:20]}: what has ended would run a second time"
    for volume in _objects(spec.get("volumes")):
        kind = next((kind for kind in OF_THE_NODE if volume.get(kind) is not None), None)
        if kind is not None:
            return f"its volume {str(volume.get('name'))[:80]!r} ({kind}) is on its node only"
    return None


def fits(pod: Json, node: str, labels: Mapping[str, Any]) -> bool:
    """Whether ``nodeSelector`` and the required node affinity of a pod let it run on a node with these labels."""
    spec = _object(pod.get("spec"))
    if any(labels.get(key) != value for key, value in _object(spec.get("nodeSelector")).items()):
        return False
    affinity = _object(_object(spec.get("affinity")).get("nodeAffinity"))
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    fields = {"metadata.name": node}
    return any(
        _all_hold(term, "matchExpressions", labels) and _all_hold(term, "matchFields", fields)
        for term in _objects(_object(required).get("nodeSelectorTerms"))
        # An empty term matches nothing (the API's own rule).
        if term.get("matchExpressions") or term.get("matchFields")
    )


def _all_hold(term: Mapping[str, Any], name: str, labels: Mapping[str, Any]) -> bool:
    return all(_holds(each, labels) for each in _objects(term.get(name)))


def _holds(requirement: Mapping[str, Any], labels: Mapping[str, Any]) -> bool:
    """A v1 NodeSelectorRequirement. An operator that is not known holds for no node."""
    value = labels.get(str(requirement.get("key")))
    listed = requirement.get("values")
    values = listed if isinstance(listed, list) else []
    match requirement.get("operator"):
        case "In":
            return value is not None and value in values
        case "NotIn":
            return value is None or value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            try:
                have, bound = int(str(value)), int(str(values[0]))
            except (ValueError, IndexError):
                return False
            return have > bound if operator == "Gt" else have < bound
    return False


def owner_of(pod: Json) -> str:
    """The node that the pod is bound to; empty for none."""
    return str(_object(pod.get("spec")).get("nodeName") or "")


def uid_of(pod: Json) -> str:
    return str(_object(pod.get("metadata")).get("uid") or "")


def copy_of(pod: Json, uid: str, node: str) -> Json:
    """The pod as its taker runs it: under a UID of its own, with what it was."""
    metadata = _object(pod.get("metadata"))
    annotations = {
        **_object(metadata.get("annotations")),
        TAKEN_OVER_UID: uid_of(pod),
        TAKEN_OVER_FROM: owner_of(pod),
    }
    return {
        **pod,
        "metadata": {**metadata, "uid": uid, "annotations": annotations},
        "spec": {**_object(pod.get("spec")), "nodeName": node},
    }


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []
