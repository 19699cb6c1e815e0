"""``kubebus node``: the enrolled nodes."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kubebus.adminclient import AdminClient
from kubebus.output import Output, ago

if TYPE_CHECKING:
    from kubebus.commands import Subparsers


def add_commands(commands: Subparsers) -> None:
    group = commands.add_parser(
        "node",
        help="list, revoke and remove nodes (on the router's host)",
        description="The nodes that were enrolled.",
    )
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="show all nodes", description="Show all nodes with addresses and sites.")
    listing.set_defaults(run=_list)
    revoke = actions.add_parser(
        "revoke",
        help="shut nodes out at once",
        description="Shut nodes out: their links are closed at once and their keys never accepted again. Their names "
        "and addresses stay theirs; a new join string lets a node of the same name in with a new key.",
    )
    revoke.add_argument("name", metavar="NAME", nargs="+")
    revoke.set_defaults(run=_revoke)
    remove = actions.add_parser(
        "remove",
        help="forget revoked nodes",
        description="Forget revoked nodes, so that their addresses can be given to others.",
    )
    remove.add_argument("name", metavar="NAME", nargs="+")
    remove.set_defaults(run=_remove)


def _list(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    answer = client.get("/v1/nodes")
    if out.json(answer):
        return
    now = time.time()
    rows = [
        (
            node["name"],
            _state(node),
            ",".join(node["addresses"]),
            ",".join(node["podSubnets"]),
            node["site"] or "-",
            ago(now, node["enrolledAt"]),
        )
        for node in answer["nodes"]
    ]
    out.table(("NODE", "STATE", "ADDRESSES", "POD SUBNETS", "SITE", "ENROLLED"), rows, "no nodes")


def _state(node: dict[str, Any]) -> str:
    if node["revokedAt"] is not None:
        return "revoked"
    if "connected" in node:
        return "connected" if node["connected"] else "away"
    return "enrolled"


def _revoke(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    for name in args.name:
        answer = client.post(f"/v1/nodes/{quote(name, safe='')}/revoke")
        if not out.json(answer):
            out.line(f"node {name} revoked")


def _remove(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    for name in args.name:
        answer = client.delete(f"/v1/nodes/{quote(name, safe='')}")
        if not out.json(answer):
            out.line(f"node {name} removed")
