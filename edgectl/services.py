"""Services and their endpoints, as an edge node needs them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgectl.translate import encode
from edgectl.watch import Object

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
OTHER_PROXY_LABEL = "service.kubernetes.io/service-proxy-name"
"""A Service that has it is another proxy's business (kube-proxy leaves it alone too)."""

TOPOLOGY_PREFIX = "topology.kubernetes.io/"

_SERVICE_FIELDS = (
    "type",
    "clusterIP",
    "clusterIPs",
    "ports",
    "externalName",
    "sessionAffinity",
    "sessionAffinityConfig",
    "publishNotReadyAddresses",
    "internalTrafficPolicy",
    "trafficDistribution",
)
_ENDPOINT_FIELDS = ("addresses", "conditions", "hostname", "nodeName", "zone")


def strip_service(item: Mapping[str, Any]) -> Object:
    spec = item.get("spec") or {}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _name(item),
        "spec": {name: spec[name] for name in _SERVICE_FIELDS if name in spec},
    }


def strip_slice(item: Mapping[str, Any]) -> Object:
    """An EndpointSlice in the form of ``discovery.k8s.io/v1``, whichever version it came in."""
    labels = item["metadata"].get("labels") or {}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**_name(item), "labels": {SERVICE_NAME_LABEL: labels.get(SERVICE_NAME_LABEL, "")}},
        "addressType": item.get("addressType"),
        "ports": item.get("ports") or [],
        "endpoints": [_endpoint(endpoint) for endpoint in item.get("endpoints") or ()],
    }


def _endpoint(endpoint: Mapping[str, Any]) -> Object:
    found = {name: endpoint[name] for name in _ENDPOINT_FIELDS if endpoint.get(name) is not None}
    topology = endpoint.get("topology") or {}  # v1beta1
    for name, label in (("nodeName", "kubernetes.io/hostname"), ("zone", f"{TOPOLOGY_PREFIX}zone")):
        if name not in found and label in topology:
            found[name] = topology[label]
    target = endpoint.get("targetRef")
    if isinstance(target, Mapping) and target.get("uid"):
        found["targetRef"] = {"uid": target["uid"]}
    return found


def strip_node(node: Mapping[str, Any], every_label: bool = False) -> Object | None:
    """Where a node stands, for what is to be near; ``None`` if nothing is known of that.

    :param every_label: for a node that may run pods of others, if they are to run on such a node.
    """
    metadata = node["metadata"]
    labels = {k: v for k, v in (metadata.get("labels") or {}).items() if every_label or k.startswith(TOPOLOGY_PREFIX)}
    if not labels:
        return None
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": metadata["name"], "labels": labels}}


class ServiceTable:
    """What every node with pods is told of Services: encoded once, however many nodes there are.

    :param changed: called when that has changed.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.values: dict[str, bytes] = {}
        self._changed = changed

    def service(self, key: str, old: Object | None, new: Object | None) -> None:
        skip = new is None or OTHER_PROXY_LABEL in (new["metadata"].get("labels") or {})
        self._put(f"services/{key}", None if skip or new is None else encode(strip_service(new)))

    def slice(self, key: str, old: Object | None, new: Object | None) -> None:
        named = new is not None and (new["metadata"].get("labels") or {}).get(SERVICE_NAME_LABEL)
        self._put(f"endpointslices/{key}", encode(strip_slice(new)) if named and new is not None else None)

    def _put(self, key: str, value: bytes | None) -> None:
        if value == self.values.get(key):
            return
        if value is None:
            del self.values[key]
        else:
            self.values[key] = value
        self._changed()


def _name(item: Mapping[str, Any]) -> Object:
    return {name: item["metadata"][name] for name in ("name", "namespace")}
