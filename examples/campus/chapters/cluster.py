"""What makes the nodes of the site a cluster, asked from inside its pods."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial

from examples.campus.world import EDGES, CampusWorld
from examples.demo.telling import check
from tests.lab.waiting import wait_until


def vision_uids(world: CampusWorld) -> dict[str, str]:
    """The UIDs of the pods at the edge, by their nodes."""
    pods = world.kubectl.json("get", "pods", "--selector=app=vision")["items"]
    return {pod["spec"]["nodeName"]: pod["metadata"]["uid"] for pod in pods}


def all_up(world: CampusWorld, index: int, place: str, count: int) -> bool:
    return world.workers_up(index, place) == count


def await_links(world: CampusWorld, names: Sequence[str] = EDGES) -> None:
    """Every one of these nodes has a link of its own to each other one."""
    for name in names:
        others = set(names) - {name}
        ready = partial(lambda name, others: world.neighbours(name) >= others, name, others)
        wait_until(ready, 60, f"{name}'s links to {', '.join(sorted(others))}", interval=0.3)


def site_goes_on(world: CampusWorld, word: str) -> str:
    """What makes the nodes of the site a cluster, asked from inside the pod of each of them; checked.

    :param word: written by every node into the site's data, and read by all others.
    """
    began = time.monotonic()
    await_links(world)
    world.errands({name: ("put", f"hello/{name}", word) for name in EDGES})
    hellos = [f"hello/{name}={word}" for name in EDGES]
    found = world.errands(dict.fromkeys(EDGES, ("await", "15", *hellos)))
    for name, answer in found.items():
        check("seconds" in answer, f"{name} to read what every node wrote into the site's data", answer)
    services = ("detectors:9000", "recorder:8080")
    recorders = set()
    for name, answer in world.errands(dict.fromkeys(EDGES, ("get", *services))).items():
        detectors, recorder = (answer[each] for each in services)
        all_there = len(detectors) == len(EDGES) and all(text == "{}" for text in detectors.values())
        check(all_there, f"'detectors' to be three addresses at {name}, and each to answer its pod", detectors)
        check(len(recorder) == 1, f"'recorder' to be one address at {name}", recorder)
        (text,) = recorder.values()
        check(text.startswith("{"), f"'recorder' to answer the pod at {name}", recorder)
        recorders.add(json.loads(text)["uid"])
    check(len(recorders) == 1, "one recorder, the same for all", recorders)
    return (
        "each node reaches the others by links of its own; in each one's pod the name 'detectors' leads to three pods\n"
        "that answer, and 'recorder' to one; what each wrote into the site's data was read by all others\n"
        f"(all asked within {time.monotonic() - began:.1f} s)"
    )


def cloud_has(world: CampusWorld, word: str) -> bool:
    """Whether the cloud has, of the site's data, what every node wrote there."""
    return [json.loads(each) for each in world.site_data("hello/").values()] == [word] * len(EDGES)
