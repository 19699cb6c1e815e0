"""The names of the cluster's Services, as the Kubernetes DNS specification has them. Pure.

https://github.com/kubernetes/dns/blob/master/docs/specification.md (version 1.1.0)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from appengine.services.table import EdgeService, IPAddress

_LINK_LOCAL = "254.169.in-addr.arpa"
"""Nobody else knows these addresses (RFC 6303); ``nslookup`` asks whose the name server's own is."""


@dataclass(frozen=True, slots=True)
class ServiceLocation:
    """An SRV record's content; weight and priority do not differ."""

    port: int
    target: str


@dataclass(slots=True)
class _Node:
    """What a name has. A name that only others stand under exists and has nothing."""

    addresses: list[IPAddress] = field(default_factory=list)
    locations: list[ServiceLocation] = field(default_factory=list)
    alias: str = ""
    texts: list[str] = field(default_factory=list)
    pointers: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Found:
    """A name that exists; what it lacks is empty. ``alias`` is another name to look up instead."""

    addresses: Sequence[IPAddress] = ()
    locations: Sequence[ServiceLocation] = ()
    alias: str = ""
    texts: Sequence[str] = ()
    pointers: Sequence[str] = ()


class ClusterNames:
    """All names below a domain, built anew whenever Services change.

    :param domain: the cluster's, without a final dot: ``cluster.local``.
    """

    def __init__(self, services: Iterable[EdgeService], domain: str) -> None:
        self.domain = domain.lower().rstrip(".")
        self._nodes: dict[str, _Node] = {}
        self._node(f"dns-version.{self.domain}").texts.append("1.1.0")
        for service in services:
            self._add(service)

    def covers(self, name: str) -> bool:
        """Whether a name is for us to answer: below our domain, or the address of one of our Services."""
        lowered = name.lower().rstrip(".")
        return is_below(lowered, self.domain) or lowered in self._nodes or is_below(lowered, _LINK_LOCAL)

    def find(self, name: str) -> Found | None:
        """What there is of a name (in any case, with or without a final dot); ``None`` if it does not exist."""
        lowered = name.lower().rstrip(".")
        node = self._nodes.get(lowered) or self._pod_node(lowered)
        if node is None:
            return None
        return Found(node.addresses, node.locations, node.alias, node.texts, node.pointers)

    def _add(self, service: EdgeService) -> None:
        base = f"{service.name}.{service.namespace}.svc.{self.domain}"
        node = self._node(base)
        if service.external_name:
            node.alias = service.external_name.rstrip(".")
        elif service.cluster_ips:
            self._add_addressed(service, base, node)
        else:
            self._add_headless(service, base, node)

    def _add_addressed(self, service: EdgeService, base: str, node: _Node) -> None:
        node.addresses += service.cluster_ips
        for address in service.cluster_ips:
            self._node(address.reverse_pointer).pointers.append(base)
        for port in service.ports:
            if port.name:
                self._location(base, port.name, port.protocol, ServiceLocation(port.port, base))

    def _add_headless(self, service: EdgeService, base: str, node: _Node) -> None:
        for endpoint in service.endpoints:
            node.addresses.append(endpoint.address)
            name = f"{endpoint.hostname or _dashed(endpoint.address)}.{base}"
            self._node(name).addresses.append(endpoint.address)
            self._node(endpoint.address.reverse_pointer).pointers.append(name)
            for port in service.ports:
                # Of a headless Service, the port of the endpoint is the one that counts.
                numbers = {target.port for target in port.targets if target.address == endpoint.address}
                for number in numbers if port.name else ():
                    self._location(base, port.name, port.protocol, ServiceLocation(number, name))

    def _location(self, base: str, port: str, protocol: str, location: ServiceLocation) -> None:
        self._node(f"_{port}._{protocol.lower()}.{base}").locations.append(location)

    def _node(self, name: str) -> _Node:
        """The node of a name; it and those above it exist from now on."""
        lowered = name.lower()
        node = self._nodes.get(lowered)
        if node is None:
            node = self._nodes[lowered] = _Node()
            above = lowered.partition(".")[2]
            if above and is_below(above, self.domain):
                self._node(above)
        return node

    def _pod_node(self, name: str) -> _Node | None:
        """``10-192-0-2.namespace.pod.cluster.local`` is what it says, whether there is such a pod or not."""
        dashed, _, rest = name.partition(".")
        _, _, kind = rest.partition(".")
        if kind != f"pod.{self.domain}":
            return None
        for separator in (".", ":"):
            try:
                return _Node(addresses=[ip_address(dashed.replace("-", separator))])
            except ValueError:
                continue
        return None


def is_below(name: str, domain: str) -> bool:
    """Whether a name is a domain's own, or below it; in any case, with or without a final dot."""
    lowered = name.lower().rstrip(".")
    return lowered == domain or lowered.endswith(f".{domain}")


def _dashed(address: IPAddress) -> str:
    return str(address).replace(".", "-").replace(":", "-")
