"""What an edge node looks like in Kubernetes: the Node object, its status, its Lease. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from edgectl.interfaces import EdgeNode
from edgectl.podcidr import NETWORK_UNAVAILABLE, NOT_ADOPTING, REASONS, Verdict
from edgectl.translate import merge_conditions, merge_patch
from edgectl.watch import Object

ROLE_LABEL = "node-role.kubernetes.io/edge"
NETWORK_ANNOTATION = "kubebus.io/network"
"""On every Node of ours: the network whose node it is."""

POD_SUBNETS_ANNOTATION = "kubebus.io/pod-subnets"
"""The node's container subnets, comma-separated, IPv4 first."""

AUTONOMY_ANNOTATION = "kubebus.io/autonomy-seconds"
"""How long a disconnected node's Lease is kept. Absent: for ever. ``0``: not at all, as ordinary Kubernetes does."""

DISCONNECTED_TAINT = "kubebus.io/disconnected"
EDGE_CONNECTED = "EdgeConnected"

_LOST = ("Unknown", "NodeStatusUnknown", "the node is away, and its autonomy has run out")
"""In the words of Kubernetes' own node lifecycle controller, which may have said the same already."""

LEASE_NAMESPACE = "kube-node-lease"
LEASE_SECONDS = 40
"""The kubelet's own lease duration (``nodeLeaseDurationSeconds``)."""

RENEW_SECONDS = 13.0
"""Between renewals. Kubernetes takes a node for lost after 40 s (``node-monitor-grace-period``): two may fail."""

_REPORTED = ("capacity", "allocatable", "nodeInfo")
_NODE_INFO = (
    "architecture",
    "bootID",
    "containerRuntimeVersion",
    "kernelVersion",
    "kubeletVersion",
    "kubeProxyVersion",
    "machineID",
    "operatingSystem",
    "osImage",
    "systemUUID",
)
"""The fields of NodeSystemInfo: all are strings, all are required to be present."""

_MAX_INFO = 256

_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

_GO_ARCH = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386"}


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How Nodes are registered.

    :ivar labels: put on every Node beside the standard ones.
    :ivar taints: ``v1 Taint`` objects put on a Node when it is registered. Later changes to them are the cluster's.
    :ivar set_pod_cidr: set ``spec.podCIDRs``. Only for clusters that do not allocate node CIDRs themselves:
        kube-controller-manager stops on one that is out of its range.
    :ivar adopt_pod_cidr: let nodes have the pod subnets that the cluster allocates (:mod:`edgectl.podcidr`).
    :ivar kubelet_port: the port of the kubelet API at the node's address, if it is served.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Mapping[str, Any]] = ()
    set_pod_cidr: bool = False
    kubelet_port: int | None = None
    adopt_pod_cidr: bool = False


def new_node(network: str, edge: EdgeNode, report: Mapping[str, Any] | None, options: NodeOptions) -> Object:
    """The Node to register."""
    spec: Object = {}
    if options.set_pod_cidr and edge.pod_subnets:
        spec["podCIDR"] = str(edge.pod_subnets[0])
        spec["podCIDRs"] = [str(subnet) for subnet in edge.pod_subnets]
    if taints := wanted_taints(options.taints, edge):
        spec["taints"] = taints
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": edge.name,
            "labels": _labels(edge, report, options),
            "annotations": _annotations(network, edge),
        },
        "spec": spec,
    }


def node_patch(
    network: str,
    edge: EdgeNode,
    report: Mapping[str, Any] | None,
    options: NodeOptions,
    current: Mapping[str, Any],
) -> Object:
    """The merge patch that brings a registered Node's metadata and taints in line; empty if they are.

    Labels and annotations that are not ours stay, and so do taints.
    """
    metadata, spec = current["metadata"], current.get("spec") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    own = {
        "metadata": {
            "labels": {**labels, **_labels(edge, report, options)},
            "annotations": {**annotations, **_annotations(network, edge)},
        },
        "spec": {"taints": wanted_taints(spec.get("taints") or (), edge)},
    }
    old = {
        "metadata": {"labels": labels, "annotations": annotations},
        "spec": {"taints": spec.get("taints") or []},
    }
    return _guarded(merge_patch(old, own), metadata)


def is_ours(network: str, node: Mapping[str, Any]) -> bool:
    """Whether a Node is one we may write: registered by us, or made beforehand by a person and run by no kubelet."""
    annotations = node["metadata"].get("annotations") or {}
    if NETWORK_ANNOTATION in annotations:
        return bool(annotations[NETWORK_ANNOTATION] == network)
    info = (node.get("status") or {}).get("nodeInfo") or {}
    return not info.get("kubeletVersion")


def status_patch(
    edge: EdgeNode,
    report: Mapping[str, Any] | None,
    current: Mapping[str, Any],
    now: float,
    kubelet_port: int | None = None,
    network: Verdict | None = None,
) -> Object:
    """The merge patch of a Node's status; empty if nothing but times would change.

    :param network: how it stands with the pod subnets, where the cluster allocates them.
    """
    old = current.get("status") or {}
    new = {**old, **_from_report(report, old)}
    new["addresses"] = [
        *({"type": "InternalIP", "address": str(address)} for address in edge.addresses),
        {"type": "Hostname", "address": edge.name},
    ]
    if kubelet_port is not None:
        new["daemonEndpoints"] = {"kubeletEndpoint": {"Port": kubelet_port}}
    conditions = old.get("conditions") or []
    wanted = _conditions(edge, report, conditions, now, is_lost(edge, current, now))
    network = network or (NOT_ADOPTING if any(_left_by_adoption(c) for c in conditions) else None)
    if network is not None:
        wanted = [c for c in wanted if c.get("type") != NETWORK_UNAVAILABLE]
        wanted.append(_condition(NETWORK_UNAVAILABLE, network, conditions, now))
    new["conditions"] = merge_conditions(conditions, wanted)
    patch = merge_patch(old, new)
    return _guarded({"status": patch}, current["metadata"]) if patch else {}


def wanted_taints(taints: Sequence[Mapping[str, Any]], edge: EdgeNode) -> list[Mapping[str, Any]]:
    """``taints`` with the one that says a node is disconnected exactly if it is."""
    others = [taint for taint in taints if taint.get("key") != DISCONNECTED_TAINT]
    if edge.connected and not edge.revoked:
        return others
    mine = [taint for taint in taints if taint.get("key") == DISCONNECTED_TAINT]
    return [*others, *(mine or [{"key": DISCONNECTED_TAINT, "effect": "NoSchedule"}])]


def keeps_lease(edge: EdgeNode, node: Mapping[str, Any] | None, now: float) -> bool:
    """Whether a node is to count as alive: it is connected, or its autonomy has not run out."""
    if edge.revoked:
        return False
    if edge.connected:
        return True
    seconds = autonomy(node)
    return seconds is None or now < edge.since + seconds


def is_lost(edge: EdgeNode, node: Mapping[str, Any], now: float) -> bool:
    """Whether a node that is away has run out of its autonomy, and of the Lease renewed last within it."""
    return not edge.connected and not keeps_lease(edge, node, now - LEASE_SECONDS)


def lost_in(edge: EdgeNode, node: Mapping[str, Any] | None, now: float) -> float | None:
    """Seconds until :func:`is_lost` comes true, if it is to."""
    seconds = autonomy(node)
    if edge.connected or seconds is None:
        return None
    left = edge.since + seconds + LEASE_SECONDS - now
    return left if left > 0 else None


def autonomy(node: Mapping[str, Any] | None) -> float | None:
    """Seconds for which a disconnected node is kept (``None``: for ever; also for what is no number)."""
    annotations = (node["metadata"].get("annotations") or {}) if node is not None else {}
    try:
        return max(0.0, float(annotations[AUTONOMY_ANNOTATION]))
    except (KeyError, ValueError, TypeError):
        return None


def new_lease(edge: EdgeNode, node: Mapping[str, Any], now: float) -> Object:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": edge.name,
            "namespace": LEASE_NAMESPACE,
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": edge.name, "uid": node["metadata"]["uid"]}
            ],
        },
        "spec": {
            "holderIdentity": edge.name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": micro_time(now),
        },
    }


def rfc3339(now: float) -> str:
    """``v1 Time``: whole seconds."""
    return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_time(now: float) -> str:
    """``v1 MicroTime``."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _guarded(patch: Object, metadata: Mapping[str, Any]) -> Object:
    """The patch, on the condition that the object is still the one that was looked at."""
    if not patch:
        return {}
    guards = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
    return {**patch, "metadata": {**patch.get("metadata", {}), **guards}}


def _labels(edge: EdgeNode, report: Mapping[str, Any] | None, options: NodeOptions) -> Object:
    info = _dict(_dict(_dict(report).get("status")).get("nodeInfo"))
    labels: Object = {"kubernetes.io/hostname": edge.name, ROLE_LABEL: "", **options.labels}
    system, machine = info.get("operatingSystem") or "linux", info.get("architecture")
    labels["kubernetes.io/os"] = str(system)
    if machine:
        labels["kubernetes.io/arch"] = _GO_ARCH.get(str(machine), str(machine))
    return {name: value for name, value in labels.items() if _LABEL_VALUE.fullmatch(value)}


def _annotations(network: str, edge: EdgeNode) -> Object:
    subnets = ",".join(str(subnet) for subnet in edge.pod_subnets)
    return {NETWORK_ANNOTATION: network, POD_SUBNETS_ANNOTATION: subnets}


def _from_report(report: Mapping[str, Any] | None, old: Mapping[str, Any]) -> Object:
    status = _dict(_dict(report).get("status"))
    fields = {name: _dict(status[name]) for name in _REPORTED if _dict(status.get(name))}
    if "nodeInfo" in fields:
        info = fields["nodeInfo"]
        fields["nodeInfo"] = {
            **_dict(old.get("nodeInfo")),
            **{name: str(info.get(name, ""))[:_MAX_INFO] for name in _NODE_INFO},
        }
    if "capacity" in fields and "allocatable" not in fields:
        fields["allocatable"] = fields["capacity"]
    return fields


def _conditions(
    edge: EdgeNode,
    report: Mapping[str, Any] | None,
    current: Sequence[Mapping[str, Any]],
    now: float,
    lost: bool,
) -> list[Mapping[str, Any]]:
    """What we say of a node: what it reports while it is connected, and whether it is."""
    reported = _dict(_dict(report).get("status")).get("conditions")
    conditions = [c for c in reported if isinstance(c, Mapping)] if isinstance(reported, list) else []
    if not any(condition.get("type") == "Ready" for condition in conditions):
        missing = ("False", "NodeReportMissing", "the node has not reported yet")
        conditions.append(_condition("Ready", missing, current, now))
    if lost:
        conditions = [_condition("Ready", _LOST, current, now)]
    elif not edge.connected and current:
        # Its last word stands, unless Kubernetes has since declared the node lost: that is not ours to take back.
        unknown = {c.get("type") for c in current if c.get("status") == "Unknown"}
        conditions = [condition for condition in conditions if condition.get("type") not in unknown]
    return [*conditions, _condition(EDGE_CONNECTED, _connection(edge), current, now)]


def _left_by_adoption(condition: Mapping[str, Any]) -> bool:
    """Written when the cluster's allocation was waited for."""
    return condition.get("type") == NETWORK_UNAVAILABLE and condition.get("reason") in REASONS


def _connection(edge: EdgeNode) -> tuple[str, str, str]:
    if edge.revoked:
        return "False", "NodeRevoked", "the node's certificate is revoked"
    if edge.connected:
        return "True", "LinkUp", "the node's link to the router is up"
    return "False", "LinkDown", f"the node has had no link since {rfc3339(edge.since)}"


def _condition(
    kind: str, value: tuple[str, str, str], current: Sequence[Mapping[str, Any]], now: float
) -> Mapping[str, Any]:
    status, reason, message = value
    before = next((c for c in current if c.get("type") == kind), None)
    since = before.get("lastTransitionTime") if before is not None and before.get("status") == status else None
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": rfc3339(now),
        "lastTransitionTime": since or rfc3339(now),
    }


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
