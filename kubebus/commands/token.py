"""``kubebus token``: join tokens for new nodes."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kubebus.adminclient import AdminClient
from kubebus.output import Output, ago, until

if TYPE_CHECKING:
    from kubebus.commands import Subparsers

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_commands(commands: Subparsers) -> None:
    group = commands.add_parser(
        "token",
        help="make, list and revoke join tokens (on the router's host)",
        description="Join tokens let new nodes in. Each is good for one node, until it expires.",
    )
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = actions.add_parser(
        "create",
        help="print a join string for one new node",
        description="Make a token and print its join string. Whoever has the join string can enrol one node: keep it "
        "secret. It is shown only now. On the device: twistd edgenode --join JOIN-STRING",
    )
    create.add_argument("--node", metavar="NAME", help="let only a node of this name use it (default: any name)")
    create.add_argument(
        "--site",
        metavar="NAME",
        help="the node's site: nodes of one site reach each other directly over their LAN, also without the cloud "
        "(default: none, or where the node was before)",
    )
    create.add_argument(
        "--expires",
        metavar="DURATION",
        type=_duration,
        default=86400.0,
        help="how long it is good, like 30m, 24h or 7d (default: 24h)",
    )
    create.set_defaults(run=_create)
    listing = actions.add_parser("list", help="show all tokens", description="Show all tokens, without secrets.")
    listing.set_defaults(run=_list)
    revoke = actions.add_parser(
        "revoke", help="make tokens useless", description="Make tokens useless. Nodes that used them stay."
    )
    revoke.add_argument("id", metavar="TOKEN", nargs="+", help="the token's ID, from 'kubebus token list'")
    revoke.set_defaults(run=_revoke)


def _duration(text: str) -> float:
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        seconds = float(number) * _UNITS[unit]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration: use a number with s, m, h or d") from None
    if not 0 < seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is out of range")
    return seconds


def _create(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    token = client.post("/v1/tokens", {"node": args.node, "site": args.site, "lifetime": args.expires})
    if not out.json(token):
        out.line(token["joinString"])


def _list(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    answer = client.get("/v1/tokens")
    if out.json(answer):
        return
    now = time.time()
    rows = [
        (token["id"], token["node"] or "any", token["site"] or "-", _state(token, now), ago(now, token["createdAt"]))
        for token in answer["tokens"]
    ]
    out.table(("TOKEN", "NODE", "SITE", "STATE", "MADE"), rows, "no tokens")


def _state(token: dict[str, Any], now: float) -> str:
    if token["usedBy"] is not None:
        return f"used by {token['usedBy']}"
    if now >= token["expiresAt"]:
        return "expired"
    return f"good for {until(now, token['expiresAt'])}"


def _revoke(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    for token in args.id:
        answer = client.delete(f"/v1/tokens/{quote(token, safe='')}")
        if not out.json(answer):
            out.line(f"token {token} revoked")
