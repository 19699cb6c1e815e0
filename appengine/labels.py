"""What is written on a container, so that it is known again by an agent that has forgotten everything.

Kubernetes' own labels are those dockershim used; tools for Docker know them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from appengine.podspec import Container, Json, Kind, Pod, PodRef

NETWORK = "io.kubebus.network"
NODE = "io.kubebus.node"
KIND = "io.kubebus.container.kind"
SANDBOX = "io.kubebus.sandbox"
ATTEMPT = "io.kubebus.container.attempt"
SPEC_HASH = "io.kubebus.container.hash"
GRACE = "io.kubebus.pod.grace"
PRE_STOP = "io.kubebus.container.pre-stop"
POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"

PAUSE = "POD"
"""The pause container's name, as dockershim had it."""

DEFAULT_GRACE = 30


def pod_labels(network: str, node: str, ref: PodRef, grace: int) -> dict[str, str]:
    return {
        NETWORK: network,
        NODE: node,
        POD_NAME: ref.name,
        POD_NAMESPACE: ref.namespace,
        POD_UID: ref.uid,
        GRACE: str(grace),
    }


def container_labels(pod: Pod, container: Container, attempt: int, sandbox: str) -> dict[str, str]:
    labels = {
        KIND: container.kind.value,
        CONTAINER_NAME: container.name,
        ATTEMPT: str(attempt),
        SPEC_HASH: container.spec_hash,
        SANDBOX: sandbox,
    }
    pre_stop = (container.get("lifecycle") or {}).get("preStop")
    if pre_stop:
        labels[PRE_STOP] = json.dumps(
            {"handler": pre_stop, "ports": container.get("ports") or []}, separators=(",", ":")
        )
    return labels


def container_name(ref: PodRef, name: str, attempt: int) -> str:
    """Unique among all containers ever: making one twice is refused by the engine itself."""
    return f"k8s_{name}_{ref.name}_{ref.namespace}_{ref.uid}_{attempt}"


def ref_of(labels: Mapping[str, str]) -> PodRef:
    return PodRef(labels.get(POD_NAMESPACE, ""), labels.get(POD_NAME, ""), labels.get(POD_UID, ""))


def kind_of(labels: Mapping[str, str]) -> Kind:
    try:
        return Kind(labels.get(KIND, ""))
    except ValueError:
        return Kind.APP


def number(labels: Mapping[str, str], key: str, default: int = 0) -> int:
    text = labels.get(key, "")
    return int(text) if text.isascii() and text.isdigit() else default


def pre_stop_of(labels: Mapping[str, str]) -> Json | None:
    """The hook, of a container whose pod may no longer be known."""
    try:
        value = json.loads(labels.get(PRE_STOP) or "null")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
