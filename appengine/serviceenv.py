"""The variables by which containers find Services, as a kubelet makes them (``pkg/kubelet/envvars``). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any, Protocol

from appengine.podspec import Json, Pod

API = ("default", "kubernetes")
"""Namespace and name of the Service of the API, of which every container is told."""


class ServiceObjects(Protocol):
    """The Services that the cloud has told this node of."""

    def services(self, namespace: str) -> Iterable[Json]: ...


def service_variables(pod: Pod, objects: ServiceObjects) -> dict[str, str]:
    """Where the API is; and the Services of the pod's namespace, unless ``enableServiceLinks`` is false.

    Services without an address (headless ones, ``ExternalName``) have none, and those that cannot be read.
    """
    found = {name: service for name, service in _named(objects.services(API[0])) if name == API[1]}
    if pod.spec.get("enableServiceLinks") is not False:
        # A Service named ``kubernetes`` of the pod's own namespace comes before the API's, as with a kubelet.
        found.update(_named(objects.services(pod.ref.namespace)))
    variables: dict[str, str] = {}
    for name, service in sorted(found.items()):
        variables.update(_variables(_spelled(name), service.get("spec")))
    return variables


def _named(services: Iterable[Json]) -> Iterable[tuple[str, Json]]:
    for service in services:
        metadata, spec = service.get("metadata"), service.get("spec")
        name = metadata.get("name") if isinstance(metadata, Mapping) else None
        if isinstance(name, str) and isinstance(spec, Mapping) and _address(spec) and _ports(spec):
            yield name, service


def _variables(prefix: str, spec: Any) -> Iterable[tuple[str, str]]:
    address, ports = _address(spec), _ports(spec)
    yield f"{prefix}_SERVICE_HOST", address
    yield f"{prefix}_SERVICE_PORT", str(ports[0]["port"])
    for port in ports:
        if name := port.get("name"):
            yield f"{prefix}_SERVICE_PORT_{_spelled(str(name))}", str(port["port"])
    # What Docker's container links gave: old applications read these.
    for index, port in enumerate(ports):
        number, protocol = port["port"], str(port.get("protocol") or "TCP")
        url = f"{protocol.lower()}://{f'[{address}]' if ':' in address else address}:{number}"
        if index == 0:
            yield f"{prefix}_PORT", url
        link = f"{prefix}_PORT_{number}_{protocol.upper()}"
        yield link, url
        yield f"{link}_PROTO", protocol.lower()
        yield f"{link}_PORT", str(number)
        yield f"{link}_ADDR", address


def _spelled(name: str) -> str:
    return name.upper().replace("-", "_")


def _address(spec: Mapping[str, Any]) -> str:
    try:
        return str(ip_address(str(spec.get("clusterIP"))))
    except ValueError:
        return ""


def _ports(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    ports = spec.get("ports")
    given = ports if isinstance(ports, list) else []
    return [port for port in given if isinstance(port, Mapping) and isinstance(port.get("port"), int)]
