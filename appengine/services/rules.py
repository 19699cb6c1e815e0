"""The nftables rules for Services' cluster IPs, as text for one transaction. Pure.

One table per address family: a map from (address, protocol, port) to the chain of the Service's port, which picks an
endpoint at random, or, for session affinity, by the client's address. So a connection costs one look-up, however many
Services there are, and what happens to a packet is the kernel's business alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network

from appengine.services.table import EdgeService, ServicePort, Target

TABLE = "kubebus-services"

IPNetwork = IPv4Network | IPv6Network

_FAMILIES = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}


def remove_rules() -> str:
    """Takes the tables away, whether they are there or not."""
    return "".join(f"table {family} {TABLE}\ndelete table {family} {TABLE}\n" for family, _ in _FAMILIES.values())


def rules(
    services: Iterable[EdgeService], interface: str, pod_subnets: Iterable[IPNetwork], *, ipv6: bool = True
) -> str:
    """Replaces all rules of ours by those for ``services``.

    :param interface: of the tunnel: what this host sends into it must come from the host's address there.
    :param pod_subnets: of this node.
    """
    known, subnets = list(services), list(pod_subnets)
    families = _FAMILIES if ipv6 else {4: _FAMILIES[4]}
    return remove_rules() + "".join(_table(known, version, interface, subnets) for version in families)


def _table(services: list[EdgeService], version: int, interface: str, pod_subnets: list[IPNetwork]) -> str:
    family, address_type = _FAMILIES[version]
    ports, refused, chains = [], [], []
    for service, port, cluster_ip in _cluster_ports(services, version):
        key = f"{cluster_ip} . {port.protocol.lower()} . {port.port}"
        targets = port.of_family(version)
        if not targets:
            refused.append(key)
            continue
        chain = _chain_name(service, port)
        ports.append(f"{key} : goto {chain}")
        chains.append(_chain(chain, family, port.protocol.lower(), targets, affinity=service.affinity))
    subnets = [str(subnet) for subnet in pod_subnets if subnet.version == version]
    lines = [
        f"table {family} {TABLE} {{",
        *dict.fromkeys(chains),
        f"  map ports {{ type {address_type} . inet_proto . inet_service : verdict;{_elements(ports)} }}",
        f"  set refused {{ type {address_type} . inet_proto . inet_service;{_elements(refused)} }}",
        *_hooks(family, interface, subnets),
        "}",
        "",
    ]
    return "\n".join(lines)


def _cluster_ports(services: list[EdgeService], version: int) -> Iterator[tuple[EdgeService, ServicePort, object]]:
    seen = set()
    for service in services:
        for cluster_ip in service.cluster_ips:
            for port in service.ports:
                key = (cluster_ip, port.protocol, port.port)
                # Two Services with one address are an error elsewhere; they must not cost all others their rules.
                if cluster_ip.version == version and key not in seen:
                    seen.add(key)
                    yield service, port, cluster_ip


def _elements(elements: list[str]) -> str:
    return f" elements = {{ {', '.join(elements)} }}" if elements else ""


def _chain_name(service: EdgeService, port: ServicePort) -> str:
    full = f"{service.namespace}/{service.name}/{port.protocol}/{port.port}"
    return f"svc-{hashlib.sha256(full.encode()).hexdigest()[:16]}"


def _chain(name: str, family: str, protocol: str, targets: tuple[Target, ...], *, affinity: bool) -> str:
    choices = [f"{target.address} . {target.port}" for target in targets]
    if len(choices) == 1:
        shown = str(targets[0].address) if family == "ip" else f"[{targets[0].address}]"
        return f"  chain {name} {{ meta l4proto {protocol} dnat to {shown}:{targets[0].port}; }}"
    pick = f"jhash {family} saddr mod" if affinity else "numgen random mod"
    mapped = ", ".join(f"{number} : {choice}" for number, choice in enumerate(choices))
    return f"  chain {name} {{ meta l4proto {protocol} dnat {family} to {pick} {len(choices)} map {{ {mapped} }}; }}"


def _hooks(family: str, interface: str, pod_subnets: list[str]) -> list[str]:
    look_up = f"{family} daddr . meta l4proto . th dport"
    # Between two pods of one bridge the answer would go straight to the client, who never asked there: with the
    # bridge's address as its source, a connection comes back this way. It is so for a pod that reaches itself, too.
    # Priorities: just before other users of dstnat (-100) and srcnat (100).
    bridged = [
        f"    ct status dnat {family} saddr {subnet} {family} daddr {subnet} masquerade" for subnet in pod_subnets
    ]
    return [
        "  chain refuse { meta l4proto tcp reject with tcp reset; reject; }",
        f"  chain prerouting {{ type nat hook prerouting priority -105; {look_up} vmap @ports; }}",
        f"  chain output {{ type nat hook output priority -105; {look_up} vmap @ports; }}",
        f"  chain refuse-in {{ type filter hook prerouting priority filter; {look_up} @refused goto refuse; }}",
        f"  chain refuse-out {{ type filter hook output priority filter; {look_up} @refused goto refuse; }}",
        "  chain postrouting { type nat hook postrouting priority 95;",
        *bridged,
        # The source was chosen for the way to the cluster IP: by the default route.
        f'    ct status dnat oifname "{interface}" fib saddr type local masquerade',
        "  }",
    ]
