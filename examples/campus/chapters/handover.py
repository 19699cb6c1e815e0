"""Who runs the recorder: taken over when its node is away, given back when that returns, never by two at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from examples.campus.record import Record, missing_entries, tenures
from examples.campus.world import CampusWorld
from examples.demo.telling import check
from tests.lab.waiting import wait_until

HOME = "edge-3"
"""The recorder's own node, as in the manifest."""

WITHIN = 90.0
"""Seconds for a handover: a lease of the site has to end, and the pod to stop and to start, on a busy machine."""

_LABELS = ("io.kubernetes.pod.name={}", "io.kubernetes.container.name=recorder")


@dataclass(frozen=True)
class Handover:
    """What was seen of one."""

    node: str
    """Who has the recorder now."""
    started: float
    """Seconds until its container was started."""
    answered: float
    """Seconds until the Service led to it from all nodes that were asked."""
    silent: float
    """Seconds between two entries of the journal."""

    def __str__(self) -> str:
        return (
            f"{self.node} runs the recorder {self.started:.1f} s later, and the Service leads to it after "
            f"{self.answered:.1f} s; the journal pauses for {self.silent:.1f} s"
        )


def handed_over(
    world: CampusWorld, record: Record, to: Sequence[str], since: float, *, engines: Sequence[str], asked: Sequence[str]
) -> Handover:
    """Wait until the recorder runs at one of these nodes, and check that there never were two.

    :param since: when what leads to it began, seconds since the epoch.
    :param engines: whose containers count: all that have power.
    :param asked: the nodes from whose pods it must be reached.
    """
    wait_until(partial(_is_at, world, record, to, engines), WITHIN, f"the recorder at {' or '.join(to)}", interval=0.2)
    (node,) = running_at(world, record, engines)
    wait_until(partial(_answers, world, node, asked), WITHIN, f"the Service to lead to {node}", interval=0.3)
    answered = time.time() - since
    started = check_one_at_a_time(world, record, node, since, engines)
    record.keepers.append(node)
    home = node == HOME
    uid = _asked(world, node)["uid"]
    check((uid == record.recorder_uid) == home, f"a UID of its own{'' if not home else ' again'} at {node}", uid)
    return Handover(node, started - since, answered, check_journal(world, record, node))


def running_at(world: CampusWorld, record: Record, engines: Sequence[str]) -> list[str]:
    """The nodes that run the recorder's container, as their engines say."""
    return [name for name in engines if world.edge(name).containers(record.recorder, "recorder")]


def _is_at(world: CampusWorld, record: Record, to: Sequence[str], engines: Sequence[str]) -> bool:
    found = running_at(world, record, engines)
    return len(found) == 1 and found[0] in to


def _asked(world: CampusWorld, by: str) -> dict[str, Any]:
    """The latest entry of the journal, as the Service tells it to a pod."""
    (text,) = world.errand(by, "get", "recorder:8080")["recorder:8080"].values()
    latest: dict[str, Any] = json.loads(text)
    return latest


def _answers(world: CampusWorld, node: str, asked: Sequence[str]) -> bool:
    return all(_asked(world, each)["node"] == node for each in asked)


def all_cameras_watched(world: CampusWorld, by: str, among: Sequence[str]) -> str:
    """Wait until the journal says that these nodes have the frames of all cameras; what it says, asked from a pod.

    :param by: the node whose pod asks.
    """
    everyone = set(world.by_camera())

    def watched() -> str | None:
        cameras = _asked(world, by)["cameras"]
        found = {camera for node in among for camera in cameras.get(node, ())}
        return f"by the journal, {' and '.join(among)} have the frames of all cameras" if found >= everyone else None

    told = wait_until(
        watched, 30, f"the journal to have {', '.join(sorted(everyone))} at {', '.join(among)}", interval=1
    )
    assert told is not None
    return told


def check_one_at_a_time(world: CampusWorld, record: Record, to: str, since: float, engines: Sequence[str]) -> float:
    """By what the engines saw start and end since then; when it was last started at ``to``, by the engine's clock."""
    seen = sorted(event for name in engines for event in _events(world, record, name, since))
    # A keeper without power runs nothing, and its engine could not write that down.
    running = {name for name in record.keepers[-1:] if name in engines}
    check_turns(seen, running, to)
    return max((at for at, node, what in seen if (node, what) == (to, "start")), default=since)


Event = tuple[float, str, str]
"""When a container of a node was started, or ended (``die``)."""


def check_turns(seen: Sequence[Event], running: Collection[str], to: str) -> None:
    """One at any time, and ``to`` at the end.

    :param seen: in order of time.
    :param running: the nodes that ran it before.
    """
    now = set(running)
    for _, node, what in seen:
        (now.add if what == "start" else now.discard)(node)
        check(len(now) <= 1, "one recorder at any time", seen)
    check(now == {to}, f"the recorder at {to} only", (sorted(now), seen))


def _events(world: CampusWorld, record: Record, name: str, since: float) -> list[Event]:
    labels = [each.format(record.recorder) for each in _LABELS]
    wanted = {"type": "container", "event": ["start", "die"], "label": labels}
    with closing(world.edge(name).engine.client()) as client:
        # Whole seconds; the engine goes on to the end of the last one.
        found = client.api.events(since=int(since), until=int(time.time()) + 1, filters=wanted, decode=True)
        events = [(event["timeNano"] / 1e9, name, str(event["Action"])) for event in found]
    return [event for event in events if event[0] >= since]


def check_journal(world: CampusWorld, record: Record, at: str = "") -> float:
    """One writer after the other, as the recorder went from node to node; the seconds of the last change.

    :param at: the node whose store is read, else the cloud's.
    """
    journal = world.site_data("journal/", at)
    kept = tenures(journal)
    seen = [(each.node, each.entries) for each in kept]
    check([each.node for each in kept] == record.keepers, f"the journal to be kept by {record.keepers} in turn", seen)
    missing = missing_entries(journal)
    check(not missing, "no entry of the journal to be missing", missing[:5])
    return kept[-1].first - kept[-2].last if len(kept) > 1 else 0.0


def check_in_cloud(world: CampusWorld, record: Record, taker: str | None) -> str:
    """What Kubernetes shows: the pod that there was, Ready, and who runs it instead of its node (``None``: nobody)."""
    wait_until(partial(_cloud_shows, world, record, taker), WITHIN, f"kubectl to show {taker or HOME}", interval=0.5)
    pod = world.pod(record.recorder)
    check(pod["metadata"]["uid"] == record.recorder_uid, f"the pod that there was, {record.recorder_uid}", pod)
    check(pod["spec"]["nodeName"] == HOME, f"its node to be {HOME}", pod["spec"]["nodeName"])
    log = world.kubectl("logs", record.recorder)
    check(f"records at {taker or HOME}" in log, f"`kubectl logs` to come from {taker or HOME}", log)
    field = ("--field-selector", f"involvedObject.name={record.recorder}")
    events = {event["reason"] for event in world.kubectl.json("get", "events", *field)["items"]}
    wanted = {"TakenOver"} if taker else {"TakenOver", "GivenBack"}
    check(wanted <= events, f"the events {sorted(wanted)}", sorted(events))
    return f"kubectl: {record.recorder} is Ready at {pod['status']['podIP']}" + (
        f", taken over by {taker}; `kubectl logs` comes from there" if taker else ", at home"
    )


def _cloud_shows(world: CampusWorld, record: Record, taker: str | None) -> bool:
    annotations = world.pod(record.recorder)["metadata"].get("annotations", {})
    ready = world.condition("pod", record.recorder, "Ready") == "True"
    return ready and annotations.get("kubebus.io/taken-over-by") == taker
