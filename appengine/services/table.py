"""What the Services of the local store come to on this node. Pure.

A Service's endpoints are those of its EndpointSlices, but for pods of this very node: these are as the node itself
reports them, so that a pod which got another address while the cloud was away is still found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

Json = Mapping[str, Any]
IPAddress = IPv4Address | IPv6Address

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
_DEFAULT_AFFINITY_SECONDS = 10800
"""Of ``sessionAffinityConfig`` in the Service API: three hours."""


@dataclass(frozen=True, slots=True)
class LocalPod:
    """A pod of this node, as it reports itself."""

    addresses: tuple[IPAddress, ...]
    ready: bool


@dataclass(frozen=True, slots=True)
class Substitute:
    """Where a pod of this node's site runs while its own node is away, as the node that runs it says."""

    node: str
    addresses: tuple[IPAddress, ...]
    ready: bool


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """Where a connection can go."""

    address: IPAddress
    port: int


@dataclass(frozen=True, slots=True)
class NamedEndpoint:
    """An endpoint, for names: ``hostname`` is the pod's own within a headless Service, if it has one."""

    address: IPAddress
    hostname: str


@dataclass(frozen=True, slots=True)
class ServicePort:
    """``targets`` are those that connections from this node shall go to, by address family; none: refuse them."""

    name: str
    protocol: str
    port: int
    targets: tuple[Target, ...]

    def of_family(self, version: int) -> tuple[Target, ...]:
        return tuple(target for target in self.targets if target.address.version == version)


@dataclass(frozen=True, slots=True)
class EdgeService:
    """One Service on this node. ``affinity`` is whether a client keeps its endpoint."""

    namespace: str
    name: str
    cluster_ips: tuple[IPAddress, ...]
    ports: tuple[ServicePort, ...]
    endpoints: tuple[NamedEndpoint, ...]
    external_name: str = ""
    affinity: bool = False


@dataclass(frozen=True, slots=True)
class _Endpoint:
    addresses: tuple[IPAddress, ...]
    hostname: str
    node: str
    zone: str
    ready: bool
    serving: bool
    ports: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where this node is. ``zone`` is its site (label ``topology.kubernetes.io/zone``), if it is known."""

    node: str
    zone: str = ""


_NO_SUBSTITUTES: Mapping[str, Substitute] = {}


def services_of(
    services: Iterable[Json],
    slices: Iterable[Json],
    pods: Mapping[str, LocalPod],
    place: Place,
    substitutes: Mapping[str, Substitute] = _NO_SUBSTITUTES,
) -> list[EdgeService]:
    """All Services, by namespace and name. What cannot be read of an object is left out: it harms only itself.

    :param pods: the pods of this node, by UID.
    :param substitutes: of pods that another node of the site has taken over, by their original UID.
    """
    endpoints: dict[tuple[str, str], list[_Endpoint]] = {}
    for item in slices:
        metadata = _object(item.get("metadata"))
        key = (str(metadata.get("namespace")), str(_object(metadata.get("labels")).get(SERVICE_NAME_LABEL)))
        endpoints.setdefault(key, []).extend(_endpoints(item, pods, substitutes))
    found = []
    for service in services:
        metadata = _object(service.get("metadata"))
        namespace, name = str(metadata.get("namespace")), str(metadata.get("name"))
        found.append(_service(service, namespace, name, endpoints.get((namespace, name), []), place))
    return sorted(found, key=lambda each: (each.namespace, each.name))


def _service(service: Json, namespace: str, name: str, endpoints: list[_Endpoint], place: Place) -> EdgeService:
    spec = _object(service.get("spec"))
    cluster_ips = tuple(_addresses(spec.get("clusterIPs") or [spec.get("clusterIP")]))
    published = [e for e in endpoints if e.ready or spec.get("publishNotReadyAddresses") is True]
    near = _near(spec, _usable(endpoints), place)
    ports = tuple(
        ServicePort(port_name, protocol, number, _targets(near, port_name, protocol))
        for port_name, protocol, number in _ports(spec.get("ports"), "port")
    )
    named = [NamedEndpoint(address, e.hostname) for e in published for address in e.addresses]
    external = str(spec.get("externalName") or "") if spec.get("type") == "ExternalName" else ""
    affinity = spec.get("sessionAffinity") == "ClientIP"
    return EdgeService(namespace, name, cluster_ips, ports, tuple(dict.fromkeys(named)), external, affinity)


def _usable(endpoints: list[_Endpoint]) -> list[_Endpoint]:
    """The ready ones; where there is none, those that end but still serve, as kube-proxy does."""
    ready = [endpoint for endpoint in endpoints if endpoint.ready]
    return ready or [endpoint for endpoint in endpoints if endpoint.serving]


def _near(spec: Json, endpoints: list[_Endpoint], place: Place) -> list[_Endpoint]:
    """Those that the Service wants connections from this node to go to."""
    here = [endpoint for endpoint in endpoints if endpoint.node == place.node]
    if spec.get("internalTrafficPolicy") == "Local":
        return here
    preference = spec.get("trafficDistribution")
    site = [endpoint for endpoint in endpoints if place.zone and endpoint.zone == place.zone]
    if preference == "PreferSameNode":
        return here or site or endpoints
    if preference in ("PreferClose", "PreferSameZone"):
        # Without a zone, the node is all that is known of what is close.
        return site or (here if not place.zone else []) or endpoints
    return endpoints


def _targets(endpoints: list[_Endpoint], name: str, protocol: str) -> tuple[Target, ...]:
    found = {
        Target(address, number)
        for endpoint in endpoints
        for port_name, port_protocol, number in endpoint.ports
        if port_name == name and port_protocol == protocol
        for address in endpoint.addresses
    }
    return tuple(sorted(found, key=lambda target: (target.address.version, int(target.address), target.port)))


def _endpoints(item: Json, pods: Mapping[str, LocalPod], substitutes: Mapping[str, Substitute]) -> Iterable[_Endpoint]:
    version = {"IPv4": 4, "IPv6": 6}.get(str(item.get("addressType")))
    ports = tuple(_ports(item.get("ports"), "port"))
    for entry in _list(item.get("endpoints")):
        conditions = _object(entry.get("conditions"))
        addresses = tuple(_addresses(entry.get("addresses")))
        # What is not said counts as ready (the API's own rule for ``nil``).
        ready = conditions.get("ready") is not False
        serving = conditions.get("serving") is True
        uid, node = str(_object(entry.get("targetRef")).get("uid")), str(entry.get("nodeName") or "")
        ends = conditions.get("terminating") is True
        if (substitute := substitutes.get(uid)) is not None:
            # It is of the same site, and so of the same zone. Whatever the cloud last saw of the original is over.
            node, addresses, ready = substitute.node, substitute.addresses, substitute.ready and not ends
            serving = ready
        elif (local := pods.get(uid)) is not None:
            addresses, ready = local.addresses, local.ready and not ends
        yield _Endpoint(
            tuple(address for address in addresses if address.version == version),
            str(entry.get("hostname") or ""),
            node,
            str(entry.get("zone") or ""),
            ready,
            serving,
            ports,
        )


def _ports(items: Any, field: str) -> Iterable[tuple[str, str, int]]:
    for item in _list(items):
        number = item.get(field)
        if isinstance(number, int) and 0 < number < 65536:
            protocol = str(item.get("protocol") or "TCP")
            if protocol in ("TCP", "UDP", "SCTP"):
                yield str(item.get("name") or ""), protocol, number


def local_pods(reports: Iterable[Json]) -> dict[str, LocalPod]:
    """The pods of this node by UID, from what it reports (``metasync.keys``: PodReport)."""
    pods = {}
    for report in reports:
        status = _object(report.get("status"))
        addresses = tuple(_addresses([_object(each).get("ip") for each in _list(status.get("podIPs"))]))
        conditions = {str(each.get("type")): each.get("status") for each in _list(status.get("conditions"))}
        ready = conditions.get("Ready") == "True" and report.get("gone") is not True
        pods[str(_object(report.get("metadata")).get("uid"))] = LocalPod(addresses, ready)
    return pods


def _addresses(texts: Any) -> Iterable[IPAddress]:
    for text in texts if isinstance(texts, list) else ():
        try:
            yield ip_address(str(text))
        except ValueError:
            continue


def _object(value: Any) -> Json:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
