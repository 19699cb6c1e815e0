"""``kubebus meta``: the metadata store of this host, and how far its sync has come."""

from __future__ import annotations

import argparse
import json
import sys
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from kubebus.adminclient import AdminClient, AdminError
from kubebus.output import Output, duration

if TYPE_CHECKING:
    from kubebus.commands import Subparsers


def add_commands(commands: Subparsers) -> None:
    group = commands.add_parser(
        "meta",
        help="read, change and watch the metadata store; see how the sync stands",
        description="The metadata store of this host: the cloud's on the router, its own on an edge node.",
    )
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    get = actions.add_parser(
        "get", help="print a key's value, or a range", description="Print what stands in the store."
    )
    _add_range(get)
    get.add_argument("--keys-only", action="store_true", help="do not print values")
    get.add_argument("--limit", type=int, metavar="N", help="print at most N keys (1000)")
    get.set_defaults(run=_get)
    put = actions.add_parser("put", help="set a key", description="Set a key.")
    put.add_argument("key", metavar="KEY")
    put.add_argument("value", metavar="VALUE", nargs="?", help="the value; '-' or none reads it from standard input")
    put.add_argument("--file", metavar="PATH", help="read the value from a file")
    put.set_defaults(run=_put)
    delete = actions.add_parser("del", help="delete a key, or a range", description="Delete keys.")
    delete.add_argument("key", metavar="KEY")
    delete.add_argument("--prefix", action="store_true", help="all keys that begin with KEY")
    delete.set_defaults(run=_delete)
    watch = actions.add_parser("watch", help="print changes as they happen", description="Print changes until Ctrl-C.")
    _add_range(watch)
    watch.set_defaults(run=_watch)
    token = actions.add_parser(
        "token",
        help="print a namespace's token for the local data API (on an edge node)",
        description="Print the token with which applications of a namespace reach their data on this node.",
    )
    token.add_argument("namespace", metavar="NAMESPACE")
    token.set_defaults(run=_token)
    status = actions.add_parser(
        "status",
        help="show what is pending, the last synced revision, the lag",
        description="Show how far each direction of the sync has come.",
    )
    status.set_defaults(run=_status)


def _add_range(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY")
    parser.add_argument("--prefix", action="store_true", help="all keys that begin with KEY")
    parser.add_argument("--revision", type=int, metavar="N", help="as of, or from, this revision of the store")


def _query(args: argparse.Namespace, **more: object) -> str:
    fields = {"prefix" if args.prefix else "key": args.key, **more}
    return urlencode({name: value for name, value in fields.items() if value}) if args.key else "prefix="


def _get(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    query = _query(args, revision=args.revision, limit=args.limit, keys_only=int(args.keys_only))
    answer = client.get(f"/v1/meta/keys?{query}")
    if out.json(answer):
        return
    for kv in answer["kvs"]:
        if args.prefix or args.keys_only:
            out.line(_text(kv, "key"))
        if not args.keys_only:
            out.line(_text(kv, "value"))
    if answer["more"]:
        out.line(f"… {answer['count'] - len(answer['kvs'])} more; ask for a longer prefix, or raise --limit")
    if not answer["kvs"] and not args.prefix:
        raise AdminError(f"there is no key {args.key!r}")


def _put(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    if args.file is not None:
        try:
            value = Path(args.file).read_bytes()
        except OSError as error:
            raise AdminError(f"{args.file}: {error.strerror}") from error
    elif args.value in (None, "-"):
        value = sys.stdin.buffer.read()
    else:
        value = args.value.encode()
    with client.open("PUT", f"/v1/meta/keys?{urlencode({'key': args.key})}", value) as response:
        answer = json.loads(response.read())
    if not out.json(answer):
        out.line(f"revision {answer['revision']}")


def _delete(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    answer = client.delete(f"/v1/meta/keys?{_query(args)}")
    if not out.json(answer):
        out.line(f"{answer['deleted']} deleted at revision {answer['revision']}")


def _watch(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    for line in client.lines("GET", f"/v1/meta/watch?{_query(args, revision=args.revision)}"):
        answer = json.loads(line)
        if "error" in answer:
            raise AdminError(answer["error"])
        if out.json(answer):
            continue
        for event in answer["events"]:
            value = "" if event["type"] == "delete" else _text(event, "value")
            out.line(f"{answer['revision']} {event['type']} {_text(event, 'key')} {value}".rstrip())


def _token(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    answer = client.post(f"/v1/meta/token?{urlencode({'namespace': args.namespace})}")
    if not out.json(answer):
        out.line(answer["token"])


def _status(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    answer = client.get("/v1/meta/status")
    if out.json(answer):
        return
    if answer["role"] == "node":
        state = "connected" if answer["connected"] else f"away ({answer['error'] or 'not connected yet'})"
        out.line(
            f"node {answer['node']} of network {answer['network']}: {state} for {duration(answer['sinceSeconds'])}"
        )
    rows = [
        (node, feed["feed"], feed["direction"], feed["state"], *_numbers(feed))
        for node, each in _nodes(answer).items()
        for feed in each["feeds"]
    ]
    out.table(
        ("NODE", "FEED", "DIRECTION", "STATE", "PENDING", "REVISION", "LAG", "LAST SYNCED"), rows, "no sync session"
    )
    conflicts = answer.get("conflicts", {"count": 0})
    if conflicts["count"]:
        out.line(f"{conflicts['count']} conflicts; what lost: kubebus meta get --prefix {conflicts['prefix']}")
    for node, each in _nodes(answer).items():
        for feed in each["feeds"]:
            if feed["error"]:
                out.line(f"{node} {feed['feed']}: {feed['error']}")


def _nodes(answer: Mapping[str, Any]) -> dict[str, Any]:
    if answer["role"] == "node":
        return {answer["node"]: answer}
    nodes: dict[str, Any] = answer["nodes"]
    return nodes


def _numbers(feed: Mapping[str, Any]) -> tuple[str, str, str, str]:
    revision, behind = feed["syncedRevision"], feed["lagRevisions"]
    lag = "-" if behind is None else f"{behind} rev, {feed['lagSeconds']:.0f} s"
    last = "-" if feed["lastSyncedSeconds"] is None else f"{duration(feed['lastSyncedSeconds'])} ago"
    return str(feed["pending"]), "-" if revision is None else str(revision), lag, last


def _text(kv: Mapping[str, Any], name: str) -> str:
    """A key or value for a terminal: binary ones with escapes."""
    if name in kv:
        return str(kv[name])
    return repr(b64decode(kv[f"{name}64"]))[2:-1]
