"""``kubebus ca``: the certificate authorities that the network trusts."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from kubebus.adminclient import AdminClient
from kubebus.output import Output, until

if TYPE_CHECKING:
    from kubebus.commands import Subparsers


def add_commands(commands: Subparsers) -> None:
    group = commands.add_parser(
        "ca",
        help="list, rotate and retire certificate authorities (on the router's host)",
        description="The certificate authorities that the network trusts.",
    )
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list",
        help="show all trusted authorities",
        description="Show all trusted authorities, and how many nodes have their certificate from each.",
    )
    listing.set_defaults(run=_list)
    rotate = actions.add_parser(
        "rotate",
        help="make a new authority",
        description="Make a new authority. It issues from now on, and is accepted at once by nodes that trust the "
        "present one, whenever they come back; they get certificates of it when they renew. Then retire the old one. "
        "If there are several routers, copy the file ca.pem to the others and restart them.",
    )
    rotate.set_defaults(run=_rotate)
    retire = actions.add_parser(
        "retire",
        help="trust an authority no more",
        description="Trust an authority no more. Nodes that have no certificate of another one are shut out and must "
        "enrol again.",
    )
    retire.add_argument("hash", metavar="HASH", help="from 'kubebus ca list'")
    retire.add_argument("--force", action="store_true", help="even if nodes depend on it")
    retire.set_defaults(run=_retire)


def _list(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    answer = client.get("/v1/ca")
    if out.json(answer):
        return
    now = time.time()
    rows = [
        (each["hash"], "issues" if each["issues"] else "trusted", each["nodes"], f"in {until(now, each['expiresAt'])}")
        for each in answer["authorities"]
    ]
    out.table(("HASH", "STATE", "NODES", "EXPIRES"), rows, "no authorities")


def _rotate(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    answer = client.post("/v1/ca/rotate")
    if not out.json(answer):
        out.line(f"the new authority is {answer['hash']}")


def _retire(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    force = "?force=yes" if args.force else ""
    answer = client.delete(f"/v1/ca/{quote(args.hash, safe='')}{force}")
    if not out.json(answer):
        out.line(f"authority {args.hash} retired")
