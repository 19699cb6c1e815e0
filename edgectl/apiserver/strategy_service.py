"""Defaults and validity of services."""

from __future__ import annotations

from typing import Any

from edgectl.apiserver.errors import Cause, required, unsupported, wrong

Obj = dict[str, Any]

_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")


def default_service(obj: Obj) -> None:
    """Fill in what was left out of a service, in place, but for its address."""
    spec = obj.setdefault("spec", {})
    kind = spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if kind != "ExternalName":
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if kind in ("NodePort", "LoadBalancer"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    for port in spec.get("ports", ()):
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port", 0))
    if spec.get("clusterIP"):
        spec["clusterIPs"] = [spec["clusterIP"]]
    obj.setdefault("status", {}).setdefault("loadBalancer", {})


def service_causes(obj: Obj) -> list[Cause]:
    """What is wrong with a service."""
    spec = obj["spec"]
    if spec["type"] not in _TYPES:
        return [unsupported("spec.type", spec["type"], _TYPES)]
    causes = []
    if spec["type"] == "ExternalName" and not spec.get("externalName"):
        causes.append(required("spec.externalName"))
    if not spec.get("ports") and spec["type"] != "ExternalName" and spec.get("clusterIP") != "None":
        causes.append(required("spec.ports"))
    ports = spec.get("ports", [])
    for index, port in enumerate(ports):
        if not 0 < port.get("port", 0) < 65536:
            causes.append(
                wrong(f"spec.ports[{index}].port", port.get("port"), "must be between 1 and 65535, inclusive")
            )
        if len(ports) > 1 and not port.get("name"):
            causes.append(required(f"spec.ports[{index}].name"))
    return causes
