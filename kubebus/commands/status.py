"""``kubebus status``: the network as this host sees it, the router's side or the edge's."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from kubebus.adminclient import AdminClient
from kubebus.output import Output, ago, duration, size

if TYPE_CHECKING:
    from kubebus.commands import Subparsers

_ROUTER_KEYS = {"network", "router", "addresses", "pools", "advertised", "refused", "tun", "routers", "nodes"}
_EDGE_KEYS = {"network", "node", "connected", "router", "since", "error", "addresses", "pod_subnets", "routes"}
_EDGE_KEYS |= {"refused", "tun", "link", "foreign", "malformed", "lost", "site"}


def add_commands(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "status",
        help="show the network as this host sees it",
        description="On the router's host: every node with its addresses, since when it is connected or away, when it "
        "was last heard of, the round trip, bytes received and sent, and packets dropped. On an edge node: its link, "
        "addresses and routes, and its links to the other nodes of its site.",
    )
    parser.set_defaults(run=_status)


def _status(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    status = client.get("/v1/status")
    if out.json(status):
        return
    now = time.time()
    if "nodes" in status:
        _router(status, now, out)
        others = status.keys() - _ROUTER_KEYS
    else:
        _edge(status, now, out)
        others = status.keys() - _EDGE_KEYS
    for name in sorted(others):
        out.line()
        _section(name, status[name], out)


def _router(status: dict[str, Any], now: float, out: Output) -> None:
    nodes = status["nodes"]
    connected = sum(node["connected"] for node in nodes)
    out.line(f"Router {status['router']} of network {status['network']}: {connected} of {len(nodes)} nodes connected")
    _facts(
        out,
        ("addresses", " ".join(status["addresses"])),
        ("advertised", " ".join(status["advertised"]) or "nothing"),
        ("interface", _tun(status["tun"])),
    )
    for refused in status["refused"]:
        out.line(f"  ! {refused}")
    for peer in status.get("routers", ()):
        state = f"connected, {_rtt(peer)}" if peer["connected"] else "not connected"
        out.line(f"  router {peer['name']} at {' '.join(peer['addresses'])}: {state}")
    out.line()
    head = ("NODE", "STATE", "SINCE", "ADDRESS", "POD SUBNETS", "LAST SEEN", "RTT", "RECEIVED", "SENT", "DROPPED")
    out.table(head, [_node_row(node, now) for node in nodes], "no nodes: 'kubebus token create' lets one in")


def _node_row(node: dict[str, Any], now: float) -> tuple[object, ...]:
    link = node["link"]
    state = "revoked" if node["revoked"] else "connected" if node["connected"] else "away"
    if node.get("router") and link is None and node["connected"]:
        state = f"at {node['router']}"
    last_seen = link["last_seen"] if link else node["last_seen"]
    return (
        node["name"],
        state,
        ago(now, node["since"]),
        ",".join(node["addresses"]),
        ",".join(node["pod_subnets"]),
        ago(now, last_seen),
        _rtt(link),
        size(link["received_bytes"]) if link else "-",
        size(link["sent_bytes"]) if link else "-",
        _dropped(node),
    )


def _dropped(node: dict[str, Any]) -> int:
    link = node["link"]
    counts = [int(node[name]) for name in ("spoofed", "malformed", "unroutable", "away")]
    return sum(counts) + (int(link["dropped"]) if link else 0)


def _edge(status: dict[str, Any], now: float, out: Output) -> None:
    state = f"connected to router {status['router']}" if status["connected"] else "not connected"
    length = duration(now - status["since"])
    out.line(f"Node {status['node']} of network {status['network']}: {state} for {length}")
    link = status["link"]
    facts = [
        ("addresses", " ".join(status["addresses"])),
        ("pod subnets", " ".join(status["pod_subnets"])),
        ("routes", " ".join(status["routes"])),
        ("interface", _tun(status["tun"])),
    ]
    if status["error"] and not status["connected"]:
        facts.insert(0, ("reason", status["error"]))
    if link:
        facts.append(("last seen", ago(now, link["last_seen"])))
        facts.append(("round trip", _rtt(link)))
        facts.append(("traffic", f"{size(link['received_bytes'])}B received, {size(link['sent_bytes'])}B sent"))
        facts.append(("backlog", f"{size(link['backlog'])}B waiting, {link['dropped']} packets dropped"))
    _facts(out, *facts)
    for refused in status["refused"]:
        out.line(f"  ! {refused}")
    if status.get("site"):
        _site(status["site"], now, out)


def _site(site: dict[str, Any], now: float, out: Output) -> None:
    """The links to nodes of the same site."""
    listens = f"listens at {' '.join(site['endpoints'])}" if site["endpoints"] else "listens nowhere"
    out.line()
    out.line(f"Site {site['name']}, roster {site['revision'] or 'not known yet'}: this node {listens}")
    head = ("NODE", "STATE", "ADDRESS", "SINCE", "RTT", "RECEIVED", "SENT", "DROPPED")
    out.table(head, [_neighbour_row(each, now) for each in site["neighbours"]], "no other nodes")
    for each in site["neighbours"]:
        if each["error"] and not each["connected"]:
            out.line(f"  {each['name']}: {each['error']}")


def _neighbour_row(neighbour: dict[str, Any], now: float) -> tuple[object, ...]:
    link = neighbour["link"]
    refused = int(neighbour["spoofed"]) + int(neighbour["malformed"])
    if link is None:
        return (neighbour["name"], "by router", "-", "-", "-", "-", "-", refused)
    return (
        neighbour["name"],
        "direct",
        link["address"],
        ago(now, link["since"]),
        _rtt(link),
        size(link["received_bytes"]),
        size(link["sent_bytes"]),
        refused + int(link["dropped"]),
    )


def _tun(tun: dict[str, Any] | None) -> str:
    if tun is None:
        return "none"
    return f"{tun['name']}, MTU {tun['mtu']}, {size(tun['read_bytes'])}B in, {size(tun['written_bytes'])}B out"


def _rtt(link: dict[str, Any] | None) -> str:
    return f"{link['rtt'] * 1000:.1f} ms" if link and link["rtt"] is not None else "-"


def _section(name: str, value: object, out: Output) -> None:
    """What other parts of the daemon add to the status, as it is."""
    if isinstance(value, dict):
        out.line(f"{name}:")
        _facts(out, *((_title(key), _plain(key, item)) for key, item in value.items()))
    else:
        out.line(f"{name}: {_plain(name, value)}")


def _title(key: str) -> str:
    return key.removesuffix("_seconds").replace("_", " ")


def _plain(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and name.endswith(("seconds", "lag")):
        return duration(value)
    if isinstance(value, dict | list):
        return ", ".join(map(str, value)) or "none"
    return "-" if value is None else str(value)


def _facts(out: Output, *facts: tuple[str, str]) -> None:
    width = max((len(name) for name, _ in facts), default=0) + 1
    for name, text in facts:
        out.line(f"  {name + ':':<{width}} {text}")
