"""The tables of ``kubectl get``: the server says the columns, so that they are the familiar ones.

Columns: ``pkg/printers/internalversion/printers.go`` of Kubernetes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgectl.apiserver.meta import seconds_of
from edgectl.apiserver.resources import Resource
from edgectl.apiserver.table_pods import NONE, pod_cells

Obj = dict[str, Any]
Cell = str | int | bool


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    wide: bool = False
    type: str = "string"

    def definition(self) -> Obj:
        return {
            "name": self.name,
            "type": self.type,
            "format": "name" if self.name == "Name" else "",
            "description": "",
            "priority": 1 if self.wide else 0,
        }


@dataclass(frozen=True, slots=True)
class Printer:
    """``cells`` makes a row of an object and the time now (UNIX seconds), one cell a column."""

    columns: tuple[Column, ...]
    cells: Callable[[Obj, float], Sequence[Cell]]


def _columns(narrow: str, wide: str = "") -> tuple[Column, ...]:
    return (
        *(Column(name) for name in narrow.split("|")),
        *(Column(name, wide=True) for name in wide.split("|") if name),
    )


def human_duration(seconds: float) -> str:
    """A duration as ``kubectl`` shows it: two units at most, fewer the longer it is."""
    if seconds < -1:
        return "<invalid>"
    whole = max(int(seconds), 0)
    if whole < 120:
        return f"{whole}s"
    minutes, hours = whole // 60, whole // 3600
    if minutes < 10:
        return _two(minutes, "m", whole % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return _two(hours // 24, "d", hours % 24, "h")
    if hours < 24 * 365 * 2:
        return f"{hours // 24}d"
    years, days = divmod(hours // 24, 365)
    return _two(years, "y", days, "d") if years < 8 else f"{years}y"


def _two(big: int, big_unit: str, small: int, small_unit: str) -> str:
    return f"{big}{big_unit}" + (f"{small}{small_unit}" if small else "")


def age(stamp: str | None, now: float) -> str:
    since = seconds_of(stamp)
    return "<unknown>" if since is None else human_duration(now - since)


def _age(obj: Obj, now: float) -> str:
    return age(obj["metadata"].get("creationTimestamp"), now)


def _name(obj: Obj) -> str:
    return str(obj["metadata"]["name"])


def _namespace(obj: Obj, now: float) -> list[Cell]:
    return [_name(obj), obj.get("status", {}).get("phase", ""), _age(obj, now)]


def _node(obj: Obj, now: float) -> list[Cell]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    ready = next((one for one in status.get("conditions", ()) if one["type"] == "Ready"), None)
    words = [{"True": "Ready"}.get(ready["status"], "NotReady") if ready else "Unknown"]
    if spec.get("unschedulable"):
        words.append("SchedulingDisabled")
    labels = obj["metadata"].get("labels", {})
    prefix = "node-role.kubernetes.io/"
    roles = sorted({key.removeprefix(prefix) for key in labels if key.startswith(prefix)} - {""})
    addresses = {one["type"]: one["address"] for one in reversed(status.get("addresses", ()))}
    info = status.get("nodeInfo", {})
    return [
        _name(obj),
        ",".join(words),
        ",".join(roles) or NONE,
        _age(obj, now),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP", NONE),
        addresses.get("ExternalIP", NONE),
        info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    ]


def _configmap(obj: Obj, now: float) -> list[Cell]:
    return [_name(obj), len(obj.get("data", {})) + len(obj.get("binaryData", {})), _age(obj, now)]


def _secret(obj: Obj, now: float) -> list[Cell]:
    return [_name(obj), obj.get("type", ""), len(obj.get("data", {})), _age(obj, now)]


def _service_port(port: Obj) -> str:
    node = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port['port']}{node}/{port.get('protocol', 'TCP')}"


def _service(obj: Obj, now: float) -> list[Cell]:
    spec = obj.get("spec", {})
    external = ",".join(spec.get("externalIPs", ())) or (
        spec.get("externalName", "") if spec.get("type") == "ExternalName" else NONE
    )
    return [
        _name(obj),
        spec.get("type", ""),
        spec.get("clusterIP") or NONE,
        external,
        ",".join(_service_port(one) for one in spec.get("ports", ())) or NONE,
        _age(obj, now),
        format_labels(spec.get("selector")),
    ]


def _limited(items: Sequence[str], most: int = 3) -> str:
    if not items:
        return NONE
    more = f" + {len(items) - most} more..." if len(items) > most else ""
    return ",".join(items[:most]) + more


def _endpoints(obj: Obj, now: float) -> list[Cell]:
    pairs = [
        f"{address['ip']}:{port['port']}"
        for subset in obj.get("subsets", ())
        for port in subset.get("ports", ())
        for address in subset.get("addresses", ())
    ]
    return [_name(obj), _limited(pairs), _age(obj, now)]


def _slice(obj: Obj, now: float) -> list[Cell]:
    ports = [str(one.get("port", "*")) for one in obj.get("ports", ())]
    addresses = [address for one in obj.get("endpoints", ()) for address in one.get("addresses", ())]
    return [
        _name(obj),
        obj.get("addressType", ""),
        _limited(ports) if ports else "<unset>",
        _limited(addresses) if addresses else "<unset>",
        _age(obj, now),
    ]


def _service_account(obj: Obj, now: float) -> list[Cell]:
    return [_name(obj), len(obj.get("secrets", ())), _age(obj, now)]


def _lease(obj: Obj, now: float) -> list[Cell]:
    return [_name(obj), obj.get("spec", {}).get("holderIdentity", ""), _age(obj, now)]


def _event(obj: Obj, now: float) -> list[Cell]:
    involved, source = obj.get("involvedObject", {}), obj.get("source", {})
    first = obj.get("firstTimestamp") or obj.get("eventTime")
    series = obj.get("series", {})
    last = series.get("lastObservedTime") or obj.get("lastTimestamp") or first
    count = series.get("count") or obj.get("count") or 1
    seen = age(last, now)
    if count > 1:
        seen = f"{seen} (x{count} over {age(first, now)})"
    where = "/".join(part for part in (involved.get("kind", "").lower(), involved.get("name", "")) if part)
    sources = [source.get("component") or obj.get("reportingComponent", ""), source.get("host", "")]
    return [
        seen,
        obj.get("type", ""),
        obj.get("reason", ""),
        where,
        obj.get("message", "").strip(),
        involved.get("fieldPath", ""),
        ", ".join(part for part in sources if part),
        age(first, now),
        count,
        _name(obj),
    ]


def format_labels(labels: dict[str, str] | None) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or NONE


def format_selector(selector: Obj | None) -> str:
    words = [f"{key}={value}" for key, value in sorted((selector or {}).get("matchLabels", {}).items())]
    for one in (selector or {}).get("matchExpressions", ()):
        values = ",".join(one.get("values", ()))
        words.append(
            {"Exists": one["key"], "DoesNotExist": f"!{one['key']}"}.get(
                one["operator"], f"{one['key']} {one['operator'].lower()} ({values})"
            )
        )
    return ",".join(words) or NONE


def _containers(obj: Obj) -> list[Cell]:
    containers = obj.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ())
    names, images = (",".join(one.get(key, "") for one in containers) for key in ("name", "image"))
    return [names, images, format_selector(obj.get("spec", {}).get("selector"))]


def _deployment(obj: Obj, now: float) -> list[Cell]:
    status = obj.get("status", {})
    ready = f"{status.get('readyReplicas', 0)}/{obj.get('spec', {}).get('replicas', 0)}"
    counts = [status.get("updatedReplicas", 0), status.get("availableReplicas", 0)]
    return [_name(obj), ready, *counts, _age(obj, now), *_containers(obj)]


def _replica_set(obj: Obj, now: float) -> list[Cell]:
    status = obj.get("status", {})
    counts = [obj.get("spec", {}).get("replicas", 0), status.get("replicas", 0), status.get("readyReplicas", 0)]
    return [_name(obj), *counts, _age(obj, now), *_containers(obj)]


def _daemon_set(obj: Obj, now: float) -> list[Cell]:
    status = obj.get("status", {})
    keys = "desiredNumberScheduled currentNumberScheduled numberReady updatedNumberScheduled numberAvailable"
    selector = format_labels(obj["spec"]["template"].get("spec", {}).get("nodeSelector"))
    counts = [status.get(key, 0) for key in keys.split()]
    return [_name(obj), *counts, selector, _age(obj, now), *_containers(obj)]


def _disruption_budget(obj: Obj, now: float) -> list[Cell]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    bounds = [str(spec.get(key, "N/A")) for key in ("minAvailable", "maxUnavailable")]
    return [_name(obj), *bounds, status.get("disruptionsAllowed", 0), _age(obj, now)]


def _plain(obj: Obj, now: float) -> list[Cell]:
    return [_name(obj), _age(obj, now)]


_WORKLOAD = "Containers|Images|Selector"
_PRINTERS: dict[str, Printer] = {
    "Namespace": Printer(_columns("Name|Status|Age"), _namespace),
    "Node": Printer(
        _columns("Name|Status|Roles|Age|Version", "Internal-IP|External-IP|OS-Image|Kernel-Version|Container-Runtime"),
        _node,
    ),
    "Pod": Printer(
        _columns("Name|Ready|Status|Restarts|Age", "IP|Node|Nominated Node|Readiness Gates"),
        lambda obj, now: pod_cells(obj, lambda stamp: age(stamp, now)),
    ),
    "ConfigMap": Printer(_columns("Name|Data|Age"), _configmap),
    "Secret": Printer(_columns("Name|Type|Data|Age"), _secret),
    "Service": Printer(_columns("Name|Type|Cluster-IP|External-IP|Port(s)|Age", "Selector"), _service),
    "Endpoints": Printer(_columns("Name|Endpoints|Age"), _endpoints),
    "EndpointSlice": Printer(_columns("Name|AddressType|Ports|Endpoints|Age"), _slice),
    "ServiceAccount": Printer(_columns("Name|Secrets|Age"), _service_account),
    "Lease": Printer(_columns("Name|Holder|Age"), _lease),
    "Event": Printer(
        _columns("Last Seen|Type|Reason|Object|Message", "Subobject|Source|First Seen|Count|Name"), _event
    ),
    "Deployment": Printer(_columns("Name|Ready|Up-to-date|Available|Age", _WORKLOAD), _deployment),
    "ReplicaSet": Printer(_columns("Name|Desired|Current|Ready|Age", _WORKLOAD), _replica_set),
    "DaemonSet": Printer(
        _columns("Name|Desired|Current|Ready|Up-to-date|Available|Node Selector|Age", _WORKLOAD), _daemon_set
    ),
    "PodDisruptionBudget": Printer(
        _columns("Name|Min Available|Max Unavailable|Allowed Disruptions|Age"), _disruption_budget
    ),
}
_DEFAULT = Printer(_columns("Name|Age"), _plain)


def table(
    resource: Resource, items: Sequence[Obj], now: float, *, include: str = "Metadata", columns: bool = True
) -> Obj:
    """A ``meta.k8s.io/v1 Table`` of objects. ``include`` is how much of each goes along: None, Metadata, Object."""
    printer = _PRINTERS.get(resource.kind, _DEFAULT)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": [column.definition() for column in printer.columns] if columns else None,
        "rows": [_row(printer, obj, now, include) for obj in items],
    }


def _row(printer: Printer, obj: Obj, now: float, include: str) -> Obj:
    row: Obj = {"cells": list(printer.cells(obj, now))}
    if include == "Object":
        row["object"] = obj
    elif include != "None":
        row["object"] = partial_metadata(obj)
    return row


def partial_metadata(obj: Obj) -> Obj:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
