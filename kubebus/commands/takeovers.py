"""``kubebus takeovers``: which pods the nodes of this site may run for each other, and who does."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from kubebus.adminclient import AdminClient, AdminError
from kubebus.output import Output, duration

if TYPE_CHECKING:
    from kubebus.commands import Subparsers


def add_commands(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "takeovers",
        help="show which pods this site's nodes run for each other (on the device)",
        description="Show the members of this device's site and, of each pod with the annotation "
        "'kubebus.io/takeover: site', its owner, who has its lease and for how long, and who runs it in place of its "
        "owner. It is what this device knows; another one may know more. Works without the cloud.",
    )
    parser.set_defaults(run=_takeovers)


def _takeovers(args: argparse.Namespace, client: AdminClient, out: Output) -> None:
    try:
        answer = client.get("/v1/takeover")
    except AdminError as error:
        if error.status != 404:
            raise
        message = "this daemon runs no pods: ask a device that does ('kubectl describe pod' shows takeovers as well)"
        raise AdminError(message, error.status) from error
    if out.json(answer):
        return
    if answer["site"] is None:
        out.line("This device is of no site, as far as it knows: no other node runs its pods.")
        return
    out.line(f"Site {answer['site']}: {', '.join(answer['members']) or 'its members are not known yet'}")
    if answer["waitingFor"]:
        out.line(f"  ! no lease can be had now: {answer['waitingFor']}")
    out.line()
    head = ("POD", "OWNER", "LEASE", "FOR", "TAKEN OVER BY", "READY")
    out.table(head, [_row(pod) for pod in answer["pods"]], "no pods that may be taken over")


def _row(pod: dict[str, Any]) -> tuple[object, ...]:
    taken = pod["takenOver"]
    return (
        f"{pod['namespace']}/{pod['name']}" if "name" in pod else pod["uid"],
        pod["owner"] or "-",
        pod["holder"] or "nobody",
        "-" if pod["seconds"] is None else duration(pod["seconds"]),
        taken["node"] if taken else "-",
        ("yes" if taken["ready"] else "no") if taken else "-",
    )
