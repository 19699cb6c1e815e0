"""``kubebus pods``, ``logs``, ``exec``, ``attach``, ``stats``, ``describe``: the pods of this device, with or without
the cloud."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from kubebus.adminclient import AdminClient, AdminError
from kubebus.output import Output, ago, size

if TYPE_CHECKING:
    from kubebus.commands import Subparsers

_API = "/v1/kubelet"


def add_commands(commands: Subparsers) -> None:
    pods = commands.add_parser(
        "pods",
        help="list the pods of this device (on the device)",
        description="List the pods that this device runs or is to run. Works without the cloud.",
    )
    pods.add_argument("-n", "--namespace", metavar="NAMESPACE", help="of this namespace only")
    pods.set_defaults(run=_pods)
    describe = commands.add_parser(
        "describe",
        help="tell all of one pod (on the device)",
        description="Tell what this device knows of one pod: states, reasons, restarts, conditions.",
    )
    _pod_argument(describe)
    describe.set_defaults(run=_describe)
    logs = commands.add_parser(
        "logs", help="print a container's log (on the device)", description="Print a container's log."
    )
    _container_arguments(logs)
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    logs.add_argument("-p", "--previous", action="store_true", help="of the run before the present one")
    logs.add_argument("-t", "--timestamps", action="store_true", help="begin each line with its time")
    logs.add_argument("--tail", type=int, metavar="LINES", help="so many of the last lines")
    logs.add_argument("--since", type=_seconds, metavar="DURATION", help="lines since then, like 90s, 5m or 2h")
    logs.set_defaults(run=_logs)
    execute = commands.add_parser(
        "exec",
        help="run a command in a container (on the device)",
        description="Run a command in a container. Its exit status is passed on. Put -- before a command with options.",
    )
    _container_arguments(execute)
    _terminal_arguments(execute)
    execute.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER)
    execute.set_defaults(run=_exec)
    attach = commands.add_parser(
        "attach",
        help="join a container's own process (on the device)",
        description="Join the standard streams of a container's own process.",
    )
    _container_arguments(attach)
    _terminal_arguments(attach)
    attach.set_defaults(run=_attach)
    stats = commands.add_parser(
        "stats",
        help="show what the pods use (on the device)",
        description="Show the CPU and memory that each container uses, measured over one second.",
    )
    stats.set_defaults(run=_stats)


def _pod_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pod", metavar="POD", help="NAME or NAMESPACE/NAME")
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", default="default", help="default: default")


def _container_arguments(parser: argparse.ArgumentParser) -> None:
    _pod_argument(parser)
    parser.add_argument("-c", "--container", metavar="NAME", help="default: the pod's first")


def _terminal_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", "--stdin", action="store_true", help="pass our input on")
    parser.add_argument("-t", "--tty", action="store_true", help="with a terminal")


def _seconds(text: str) -> int:
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:], 0)
    if not unit or not text[:-1].isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no duration like 90s, 5m or 2h")
    return int(text[:-1]) * unit


def _name(args: argparse.Namespace) -> tuple[str, str]:
    namespace, slash, name = args.pod.partition("/")
    return (namespace, name) if slash else (args.namespace, args.pod)


def _find(args: argparse.Namespace, client: AdminClient) -> dict[str, Any]:
    namespace, name = _name(args)
    for pod in client.get(f"{_API}/pods")["items"]:
        metadata = pod["metadata"]
        if (metadata["namespace"], metadata["name"]) == (namespace, name):
            found: dict[str, Any] = pod
            return found
    raise AdminError(f"there is no pod {namespace}/{name} on this device ('kubebus pods' lists them)")


def _container_path(args: argparse.Namespace, client: AdminClient, what: str) -> str:
    container = args.container
    if container is None:
        names = [c["name"] for c in _find(args, client)["spec"].get("containers") or ()]
        if not names:
            raise AdminError(f"pod {args.pod} has no containers: name one with -c")
        container = names[0]
    namespace, name = _name(args)
    return "/".join([f"{_API}/{what}", *(quote(part, safe="") for part in (namespace, name, container))])


def _statuses(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*(pod["status"].get("initContainerStatuses") or ()), *(pod["status"].get("containerStatuses") or ())]


def _state(pod: dict[str, Any]) -> str:
    """As the STATUS column of ``kubectl get pods``."""
    status = pod["status"]
    shown = status.get("reason") or status.get("phase") or "Unknown"
    for container in status.get("containerStatuses") or ():
        state = container.get("state") or {}
        for kind in ("waiting", "terminated"):
            if state.get(kind, {}).get("reason") and shown not in ("Failed", "Succeeded"):
                shown = state[kind]["reason"]
    return str(shown)


def _pods(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    answer = client.get(f"{_API}/pods")
    items = [pod for pod in answer["items"] if args.namespace in (None, pod["metadata"]["namespace"])]
    if out.json({**answer, "items": items}):
        return
    rows = []
    for pod in items:
        containers = pod["status"].get("containerStatuses") or []
        rows.append(
            (
                pod["metadata"]["namespace"],
                pod["metadata"]["name"],
                f"{sum(bool(c.get('ready')) for c in containers)}/{len(containers)}",
                _state(pod),
                str(sum(int(c.get("restartCount") or 0) for c in containers)),
                pod["status"].get("podIP") or "-",
                ago(time.time(), _when(pod["status"].get("startTime"))),
            )
        )
    out.table(("NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "IP", "STARTED"), rows, "no pods")


def _when(text: str | None) -> float | None:
    from calendar import timegm

    return timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")) if text else None


def _describe(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    pod = _find(args, client)
    if out.json(pod):
        return
    metadata, status = pod["metadata"], pod["status"]
    out.line(f"Name:       {metadata['name']}")
    out.line(f"Namespace:  {metadata['namespace']}")
    out.line(f"UID:        {metadata['uid']}")
    out.line(f"Status:     {_state(pod)} ({status.get('phase')})")
    for label, key in (("Message", "message"), ("IP", "podIP"), ("Node IP", "hostIP"), ("Started", "startTime")):
        if status.get(key):
            out.line(f"{label + ':':<11} {status[key]}")
    for container in _statuses(pod):
        out.line(f"Container {container['name']}:")
        out.line(f"  Image:     {container.get('image')}")
        out.line(f"  State:     {_told(container.get('state'))}")
        if container.get("lastState"):
            out.line(f"  Before:    {_told(container['lastState'])}")
        out.line(f"  Ready:     {container.get('ready')}")
        out.line(f"  Restarts:  {container.get('restartCount')}")
        if container.get("containerID"):
            out.line(f"  ID:        {container['containerID']}")
    out.line("Conditions:")
    for condition in status.get("conditions") or ():
        why = f" ({condition['reason']}: {condition.get('message', '')})" if condition.get("reason") else ""
        out.line(f"  {condition['type']}: {condition['status']} since {condition['lastTransitionTime']}{why}")
    _events(pod, out)


def _events(pod: dict[str, Any], out: Output) -> None:
    if pod.get("events"):
        out.line("Events:")
    for event in pod.get("events") or ():
        count = f" ({event['count']} times)" if event["count"] > 1 else ""
        out.line(f"  {event['lastTimestamp']} {event['type']} {event['reason']}: {event['message']}{count}")


def _told(state: dict[str, Any] | None) -> str:
    for kind, details in (state or {}).items():
        return f"{kind} ({', '.join(f'{k} {v}' for k, v in details.items() if k != 'containerID')})"
    return "unknown"


def _logs(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    query = {
        "follow": "true" if args.follow else None,
        "previous": "true" if args.previous else None,
        "timestamps": "true" if args.timestamps else None,
        "tailLines": args.tail,
        "sinceSeconds": args.since,
    }
    path = _container_path(args, client, "containerLogs")
    path += "?" + urlencode({key: value for key, value in query.items() if value is not None})
    with client.open("GET", path) as response:
        while data := response.read1(65536):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def _exec(args: argparse.Namespace, client: AdminClient, out: Output) -> int:
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise AdminError("name the command to run, after the pod")
    return _converse(args, client, _container_path(args, client, "exec"), command)


def _attach(args: argparse.Namespace, client: AdminClient, out: Output) -> int:
    return _converse(args, client, _container_path(args, client, "attach"), [])


def _converse(args: argparse.Namespace, client: AdminClient, path: str, command: list[str]) -> int:
    from kubebus.terminal import PROTOCOL, converse

    query = [("command", word) for word in command] + [("output", "1")]
    query += [("error", "1")] if not args.tty else [("tty", "1")]
    query += [("input", "1")] if args.stdin else []
    connection = client.upgrade("POST", f"{path}?{urlencode(query)}", PROTOCOL)
    with connection:
        status = json.loads(converse(connection, args.stdin, args.tty) or b"{}")
    if status.get("status") == "Success":
        return 0
    for cause in (status.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise AdminError(status.get("message") or "the connection broke")


def _stats(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    before = client.get(f"{_API}/stats/summary")
    began = time.monotonic()
    time.sleep(1)
    after = client.get(f"{_API}/stats/summary")
    elapsed = time.monotonic() - began
    if out.json(after):
        return
    earlier = {
        (pod["podRef"]["uid"], c["name"]): c["cpu"]["usageCoreNanoSeconds"]
        for pod in before["pods"]
        for c in pod["containers"]
    }
    rows = []
    for pod in after["pods"]:
        for container in pod["containers"]:
            used = container["cpu"]["usageCoreNanoSeconds"]
            spent = used - earlier.get((pod["podRef"]["uid"], container["name"]), used)
            rows.append(
                (
                    f"{pod['podRef']['namespace']}/{pod['podRef']['name']}",
                    container["name"],
                    f"{spent / elapsed / 1e6:.0f}m",
                    size(container["memory"]["workingSetBytes"]),
                )
            )
    out.table(("POD", "CONTAINER", "CPU", "MEMORY"), rows, "nothing runs")
