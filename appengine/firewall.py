"""What the node's packet filter must do for pods: masquerade, host ports, and a way past Docker's own rules.

Pods keep their address inside the network and get the node's towards everywhere else. All of it stands in one nftables
table of our own, replaced as a whole. Docker's default rules drop what comes to a pod from elsewhere; where they are
there, accept rules for our interfaces go to ``DOCKER-USER``, Docker's own place for them, and are taken back.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from appengine.interfaces import NodeNetwork
from appengine.network import bridge_name
from appengine.threads import Threads

_USER_CHAIN = "DOCKER-USER"
_SECONDS = 20


@dataclass(frozen=True, slots=True, order=True)
class HostPort:
    """A port of the node that leads to one of a pod. ``host_ip`` empty: on every address of the node."""

    protocol: str
    host_port: int
    pod_ip: str
    port: int
    host_ip: str = ""


def table_name(place: NodeNetwork) -> str:
    return f"kubebus-{place.interface}-pods"


def table(place: NodeNetwork, ports: Sequence[HostPort]) -> str:
    """The commands that replace our table, for ``nft -f -``."""
    name = table_name(place)
    script = f"add table inet {name}\ndelete table inet {name}\n"
    return script + f"table inet {name} {{\n{_masquerade(place)}{_host_ports(ports)}{_no_way_to_loopback(place)}}}\n"


def no_table(place: NodeNetwork) -> str:
    name = table_name(place)
    return f"add table inet {name}\ndelete table inet {name}\n"


def _masquerade(place: NodeNetwork) -> str:
    rules = []
    for family, version in (("ip", 4), ("ip6", 6)):
        own = [subnet for subnet in place.pod_subnets if subnet.version == version]
        if not own:
            continue
        inside = _merged([*own, *(route for route in place.routes if route.version == version)])
        sources = ", ".join(map(str, own))
        rules.append(
            f"    {family} saddr {{ {sources} }} {family} daddr != {{ {', '.join(inside)} }} "
            f'oifname != {{ "{place.interface}", "{bridge_name(place)}" }} masquerade'
        )
    # What the node asks a host port of its loopback address.
    rules.append(f'    ip saddr 127.0.0.0/8 oifname "{bridge_name(place)}" masquerade')
    text = "\n".join(rules)
    return f"  chain postrouting {{\n    type nat hook postrouting priority srcnat;\n{text}\n  }}\n"


def _no_way_to_loopback(place: NodeNetwork) -> str:
    """Pods are kept from the node's loopback addresses, to which ``route_localnet`` would let them (CVE-2020-8558)."""
    rule = f'iifname "{bridge_name(place)}" ip daddr 127.0.0.0/8 drop'
    return f"  chain martians {{\n    type filter hook prerouting priority raw;\n    {rule}\n  }}\n"


def _merged(subnets: Sequence[IPv4Network | IPv6Network]) -> list[str]:
    """Without those that lie in others: a set of nftables takes no overlaps."""
    kept = [
        subnet for subnet in set(subnets) if not any(subnet != other and _within(subnet, other) for other in subnets)
    ]
    return [str(subnet) for subnet in sorted(kept, key=str)]


def _within(inner: IPv4Network | IPv6Network, outer: IPv4Network | IPv6Network) -> bool:
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def _host_ports(ports: Sequence[HostPort]) -> str:
    rules = "".join(f"    {_rule(port)}\n" for port in sorted(ports))
    return (
        f"  chain prerouting {{\n    type nat hook prerouting priority dstnat;\n{rules}  }}\n"
        f"  chain output {{\n    type nat hook output priority -100;\n{rules}  }}\n"
    )


def _rule(port: HostPort) -> str:
    family, target = ("ip", port.pod_ip) if ip_address(port.pod_ip).version == 4 else ("ip6", f"[{port.pod_ip}]")
    where = (
        f"{family} daddr {port.host_ip}" if port.host_ip else f"meta nfproto {_nfproto(family)} fib daddr type local"
    )
    return f"{where} {port.protocol} dport {port.host_port} dnat {family} to {target}:{port.port}"


def _nfproto(family: str) -> str:
    return "ipv4" if family == "ip" else "ipv6"


def accept_rules(place: NodeNetwork) -> list[list[str]]:
    """What ``DOCKER-USER`` must have, in iptables' words."""
    link, bridge = place.interface, bridge_name(place)
    comment = ["-m", "comment", "--comment", f"kubebus {place.network}"]
    return [
        ["-i", link, "-o", bridge, *comment, "-j", "ACCEPT"],
        ["-i", bridge, "-o", link, *comment, "-j", "ACCEPT"],
        ["-o", bridge, "-m", "conntrack", "--ctstate", "DNAT", *comment, "-j", "ACCEPT"],
    ]


class Firewall:
    """Keeps the packet filter in line with the node's place and its pods' host ports.

    A tool that is missing is told once; pods run all the same.
    """

    _log = Logger()

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._place: NodeNetwork | None = None
        self._ports: frozenset[HostPort] = frozenset()
        self._done: tuple[NodeNetwork, frozenset[HostPort]] | None = None
        self._working: Deferred[None] | None = None
        self._told: set[str] = set()

    def place(self, place: NodeNetwork) -> None:
        self._place = place
        self.apply()

    def ports(self, ports: frozenset[HostPort]) -> None:
        """The host ports of all pods that run now."""
        if ports != self._ports:
            self._ports = ports
            self.apply()

    def renew(self) -> None:
        """The container engine has started: its own rules may be new."""
        self._done = None
        self.apply()

    def apply(self) -> None:
        if self._working is None and self._place is not None and self._done != (self._place, self._ports):
            self._working = Deferred()
            Deferred.fromCoroutine(self._work()).addErrback(
                lambda failure: self._log.failure("the packet filter could not be set", failure)
            )

    async def _work(self) -> None:
        try:
            while self._place is not None and self._done != (self._place, self._ports):
                wanted = (self._place, self._ports)
                before = self._done[0] if self._done is not None else None
                for problem in await self._threads.run(_set, *wanted, before):
                    if problem not in self._told:
                        self._told.add(problem)
                        self._log.warn("{problem}", problem=problem)
                self._done = wanted
        finally:
            working, self._working = self._working, None
            if working is not None:
                working.callback(None)

    async def stop(self, pods_left: bool) -> None:
        """Take back what is of no use without us. Pods that go on keep their way out and their host ports."""
        if self._working is not None:
            await self._working
        if self._place is not None:
            await self._threads.run(_unset, self._place, pods_left)


def _set(place: NodeNetwork, ports: frozenset[HostPort], before: NodeNetwork | None) -> list[str]:
    problems = []
    if before is not None and before != place:
        _unset(before, table_name(before) == table_name(place))
    if shutil.which("nft") is None:
        problems.append("pods have no way out of the network, and no host ports: nft is missing (install nftables)")
    else:
        done = _run(["nft", "-f", "-"], table(place, sorted(ports)))
        if done.returncode:
            problems.append(f"pods may have no way out of the network: nft: {done.stderr.strip()[:500]}")
    if any(ip_address(port.pod_ip).version == 4 for port in ports):
        problems.extend(_route_loopback(place))
    for tool in _tools(place):
        for rule in accept_rules(place):
            if _run([tool, "-w", "-C", _USER_CHAIN, *rule]).returncode:
                done = _run([tool, "-w", "-I", _USER_CHAIN, *rule])
                if done.returncode:
                    problems.append(f"pods may not be reached past Docker's rules: {tool}: {done.stderr.strip()[:500]}")
    return problems


def _route_loopback(place: NodeNetwork) -> list[str]:
    """Let what goes to a loopback address of the node out to a pod."""
    setting = Path(f"/proc/sys/net/ipv4/conf/{bridge_name(place)}/route_localnet")
    try:
        if setting.read_text().strip() != "1":
            setting.write_text("1")
    except FileNotFoundError:
        # The bridge comes and goes with the pods' network.
        return []
    except OSError as error:
        return [f"host ports do not answer at 127.0.0.1: {error}"]
    return []


def _unset(place: NodeNetwork, keep_table: bool) -> None:
    if not keep_table and shutil.which("nft") is not None:
        _run(["nft", "-f", "-"], no_table(place))
    for tool in _tools(place):
        for rule in accept_rules(place):
            _run([tool, "-w", "-D", _USER_CHAIN, *rule])


def _tools(place: NodeNetwork) -> list[str]:
    """The commands whose tables have Docker's chain: none where its firewall is off."""
    wanted = ["iptables"] + (["ip6tables"] if any(s.version == 6 for s in place.pod_subnets) else [])
    return [
        tool
        for tool in wanted
        if shutil.which(tool) is not None and _run([tool, "-w", "-S", _USER_CHAIN]).returncode == 0
    ]


def _run(command: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
