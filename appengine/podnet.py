"""The name service of a pod: its ``/etc/hosts`` and ``/etc/resolv.conf``, as the kubelet writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from appengine.assemble import pod_fqdn
from appengine.podspec import Pod

# What the resolver in glibc reads: MAXNS and MAXDNSRCH of older ones; Kubernetes 1.28 allows 32.
_MAX_NAMESERVERS = 3
_MAX_SEARCHES = 32


@dataclass(frozen=True, slots=True)
class ClusterDns:
    """The cluster's name service, where there is one."""

    servers: tuple[str, ...] = ()
    domain: str = "cluster.local"


def etc_hosts(pod: Pod, addresses: Sequence[str], domain: str = "cluster.local", host_file: str = "") -> str:
    """The file's text. A pod on the host's network gets the host's entries instead of its own."""
    if pod.host_network:
        text = "# Kubernetes-managed hosts file (host network).\n" + host_file.rstrip("\n") + "\n"
    else:
        text = (
            "# Kubernetes-managed hosts file.\n"
            "127.0.0.1\tlocalhost\n"
            "::1\tlocalhost ip6-localhost ip6-loopback\n"
            "fe00::0\tip6-localnet\n"
            "fe00::0\tip6-mcastprefix\n"
            "fe00::1\tip6-allnodes\n"
            "fe00::2\tip6-allrouters\n"
        )
        names = "\t".join(name for name in (pod_fqdn(pod, domain), pod.hostname) if name)
        text += "".join(f"{address}\t{names}\n" for address in addresses)
    aliases = pod.spec.get("hostAliases") or ()
    if aliases:
        text += "\n# Entries added by HostAliases.\n"
        text += "".join(f"{a.get('ip') or ''}\t" + "\t".join(a.get("hostnames") or ()) + "\n" for a in aliases)
    return text


def resolv_conf(pod: Pod, host_file: str, dns: ClusterDns) -> str:
    """The file's text.

    :param host_file: the host's own; servers on its loopback do not answer in a pod and are left out.
    """
    servers, searches, options = _parse(host_file)
    if not pod.host_network:
        servers = [server for server in servers if not _loopback(server)]
    policy = pod.spec.get("dnsPolicy") or "ClusterFirst"
    clustered = policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not pod.host_network)
    if policy == "None":
        servers, searches, options = [], [], []
    elif clustered and dns.servers:
        servers = list(dns.servers)
        inside = [f"{pod.ref.namespace}.svc.{dns.domain}", f"svc.{dns.domain}", dns.domain]
        searches = inside + searches
        options = ["ndots:5"]
    config = pod.spec.get("dnsConfig") or {}
    servers = _unique([*servers, *(config.get("nameservers") or ())])[:_MAX_NAMESERVERS]
    searches = _unique([*searches, *(config.get("searches") or ())])[:_MAX_SEARCHES]
    given = {item.get("name") or "": item.get("value") for item in config.get("options") or ()}
    kept = [option for option in options if option.partition(":")[0] not in given]
    options = kept + [f"{name}:{value}" if value else name for name, value in given.items() if name]
    lines = [f"nameserver {server}" for server in servers]
    if searches:
        lines.append("search " + " ".join(searches))
    if options:
        lines.append("options " + " ".join(options))
    return "\n".join(lines) + "\n"


def _parse(text: str) -> tuple[list[str], list[str], list[str]]:
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if not words:
            continue
        if words[0] == "nameserver" and len(words) > 1:
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            searches = words[1:]
        elif words[0] == "options":
            options.extend(words[1:])
    return servers, searches, options


def _loopback(server: str) -> bool:
    try:
        return ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _unique(items: list[str]) -> list[str]:
    return list(dict.fromkeys(items))
