"""Writes the addresses behind each Service with a selector, as Endpoints and as EndpointSlices."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from edgectl.apiserver.resources import ENDPOINT_SLICE, ENDPOINTS, NODE, POD, SERVICE, Resource
from edgectl.workloads.controller import Controller, Key, key_of
from edgectl.workloads.pods import is_ready, reference_to, template_hash

Obj = dict[str, Any]

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
ZONE = "topology.kubernetes.io/zone"

SLICE_SIZE = 100
"""The most endpoints of one slice (kube-controller-manager's default)."""


def _selected(service: Obj, pod: Obj) -> bool:
    selector = service.get("spec", {}).get("selector") or {}
    return bool(selector) and selector.items() <= pod["metadata"].get("labels", {}).items()


def port_number(port: Obj, pod: Obj) -> int | None:
    """The number of a service's target port in a pod; ``None`` if the pod has no port of that name."""
    target = port.get("targetPort") or port["port"]
    if isinstance(target, int):
        return target
    for container in pod["spec"].get("containers", ()):
        for one in container.get("ports", ()):
            if one.get("name") == target and one.get("protocol", "TCP") == port.get("protocol", "TCP"):
                return int(one["containerPort"])
    return None


def _ports(service: Obj, pod: Obj) -> tuple[tuple[str, int, str], ...]:
    found = []
    for port in service["spec"].get("ports", ()):
        number = port_number(port, pod)
        if number is not None:
            found.append((port.get("name", ""), number, port.get("protocol", "TCP")))
    return tuple(found)


def _named(ports: Iterable[tuple[str, int, str]]) -> list[Obj]:
    return [
        {**({"name": name} if name else {}), "port": number, "protocol": protocol} for name, number, protocol in ports
    ]


def _reference(pod: Obj) -> Obj:
    meta = pod["metadata"]
    return {"kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}


def _counts(service: Obj, pod: Obj) -> bool:
    """Whether a pod is ready for its service's purposes."""
    ending = "deletionTimestamp" in pod["metadata"]
    return bool(service["spec"].get("publishNotReadyAddresses")) or (is_ready(pod) and not ending)


def subsets(service: Obj, pods: Iterable[Obj]) -> list[Obj]:
    """The subsets of an Endpoints object: pods by the ports they serve."""
    groups: dict[tuple[tuple[str, int, str], ...], dict[str, list[Obj]]] = {}
    for pod in sorted(pods, key=lambda one: one["status"]["podIP"]):
        if "deletionTimestamp" in pod["metadata"]:
            continue
        address: Obj = {"ip": pod["status"]["podIP"], "targetRef": _reference(pod)}
        if pod["spec"].get("nodeName"):
            address["nodeName"] = pod["spec"]["nodeName"]
        if pod["spec"].get("hostname") and pod["spec"].get("subdomain") == service["metadata"]["name"]:
            address["hostname"] = pod["spec"]["hostname"]
        group = groups.setdefault(_ports(service, pod), {})
        group.setdefault("addresses" if _counts(service, pod) else "notReadyAddresses", []).append(address)
    return [{**addresses, **({"ports": _named(ports)} if ports else {})} for ports, addresses in sorted(groups.items())]


def endpoint(service: Obj, pod: Obj, addresses: list[str], zone: str) -> Obj:
    """A pod as an EndpointSlice has it."""
    ending = "deletionTimestamp" in pod["metadata"]
    made: Obj = {
        "addresses": addresses,
        "conditions": {"ready": _counts(service, pod), "serving": is_ready(pod), "terminating": ending},
        "targetRef": _reference(pod),
        "nodeName": pod["spec"].get("nodeName", ""),
    }
    if pod["spec"].get("hostname") and pod["spec"].get("subdomain") == service["metadata"]["name"]:
        made["hostname"] = pod["spec"]["hostname"]
    if zone:
        made["zone"] = zone
    return made


class EndpointsController(Controller):
    follows = (SERVICE, POD)

    def keys(self, resource: Resource, obj: Obj) -> Iterable[Key]:
        if resource == SERVICE:
            return (key_of(obj),)
        services = self.api.cache.current(SERVICE, obj["metadata"]["namespace"])
        return [key_of(one) for one in services if _selected(one, obj)]

    async def reconcile(self, key: Key) -> None:
        service = self.api.cache.get(SERVICE, *key)
        if service is None or "deletionTimestamp" in service["metadata"] or not service["spec"].get("selector"):
            return
        pods = [
            one
            for one in self.api.cache.current(POD, key[0])
            if _selected(service, one)
            and one.get("status", {}).get("podIP")
            and one["status"].get("phase") not in ("Succeeded", "Failed")
        ]
        await self._write_endpoints(key, service, pods)
        await self._write_slices(key, service, pods)

    async def _write_endpoints(self, key: Key, service: Obj, pods: list[Obj]) -> None:
        wanted = subsets(service, pods)
        found = self.api.cache.get(ENDPOINTS, *key)
        labels = service["metadata"].get("labels", {})
        if found is None:
            meta = {"name": key[1], "labels": labels, "ownerReferences": [reference_to(service)]}
            await self.create(ENDPOINTS, key[0], {"metadata": meta, "subsets": wanted})
        elif found.get("subsets", []) != wanted:
            await self.rewrite(ENDPOINTS, key, lambda obj: {**obj, "subsets": wanted})

    async def _write_slices(self, key: Key, service: Obj, pods: list[Obj]) -> None:
        wanted = self._slices(service, pods)
        for found in self.api.cache.current(ENDPOINT_SLICE, key[0]):
            labels = found["metadata"].get("labels", {})
            if labels.get(SERVICE_NAME) != key[1] or labels.get(MANAGED_BY) != MANAGER:
                continue
            name = found["metadata"]["name"]
            if name not in wanted:
                await self.delete(ENDPOINT_SLICE, found)
            elif any(found.get(part) != wanted[name].get(part) for part in ("endpoints", "ports", "addressType")):
                changed = wanted.pop(name)
                del changed["metadata"]
                await self.rewrite(ENDPOINT_SLICE, key_of(found), _replaced(changed))
            else:
                del wanted[name]
        for obj in wanted.values():
            await self.create(ENDPOINT_SLICE, key[0], obj)

    def _zone(self, pod: Obj) -> str:
        node = self.api.cache.get(NODE, "", pod["spec"].get("nodeName", ""))
        return str(node["metadata"].get("labels", {}).get(ZONE, "")) if node is not None else ""

    def _slices(self, service: Obj, pods: list[Obj]) -> dict[str, Obj]:
        """The slices there should be, by name: of one address family and one set of ports each."""
        groups: dict[tuple[str, tuple[tuple[str, int, str], ...]], list[Obj]] = {}
        for family in service["spec"].get("ipFamilies", ["IPv4"]):
            version = 6 if family == "IPv6" else 4
            for pod in sorted(pods, key=lambda one: one["metadata"]["name"]):
                addresses = _addresses(pod, version)
                if addresses:
                    group = groups.setdefault((family, _ports(service, pod)), [])
                    group.append(endpoint(service, pod, addresses, self._zone(pod)))
        if not groups:
            groups[(service["spec"].get("ipFamilies", ["IPv4"])[0], ())] = []
        made = {}
        for (family, ports), endpoints in groups.items():
            for start in range(0, max(len(endpoints), 1), SLICE_SIZE):
                obj = self._slice(service, family, ports, start)
                if endpoints:
                    obj["endpoints"] = endpoints[start : start + SLICE_SIZE]
                made[obj["metadata"]["name"]] = obj
        return made

    def _slice(self, service: Obj, family: str, ports: tuple[tuple[str, int, str], ...], start: int) -> Obj:
        meta = service["metadata"]
        suffix = template_hash({"uid": meta["uid"], "family": family, "ports": ports, "start": start})[:5]
        obj: Obj = {
            "metadata": {
                "name": f"{meta['name'][:57]}-{suffix}",
                "labels": {**meta.get("labels", {}), SERVICE_NAME: meta["name"], MANAGED_BY: MANAGER},
                "ownerReferences": [reference_to(service)],
            },
            "addressType": family,
        }
        if ports:
            obj["ports"] = _named(ports)
        return obj


def _addresses(pod: Obj, version: int) -> list[str]:
    listed = [one["ip"] for one in pod["status"].get("podIPs", ())] or [pod["status"]["podIP"]]
    return [one for one in listed if ip_address(one).version == version][:1]


def _replaced(changed: Obj) -> Any:
    def edit(obj: Obj) -> Obj:
        kept = {key: value for key, value in obj.items() if key not in ("endpoints", "ports")}
        return {**kept, **changed}

    return edit
