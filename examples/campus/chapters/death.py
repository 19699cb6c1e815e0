"""A node of the site dies, with the cloud there."""

from __future__ import annotations

import time

from examples.campus.chapters.cluster import vision_uids
from examples.campus.chapters.frames import SETTLE, Chapter, check_quality, figures, go_on, mark, phase, told
from examples.campus.chapters.handover import check_in_cloud, handed_over
from examples.campus.record import Record
from examples.campus.world import EDGES, CampusWorld
from examples.demo.telling import check

DEATH = Chapter("A node of the site dies")


@DEATH.step("edge-3 loses its power: its camera goes to a neighbour's balancer")
def node_dies(world: CampusWorld, record: Record) -> str:
    with phase(world, record, "node dead") as now:
        world.power_off(EDGES[2])
        mark(record, "edge-3 dies")
        go_on(record.plan.death)
    frames = [each for each in world.by_camera()["camera-3"] if now.start + SETTLE <= each["time"] < now.end]
    elsewhere = [each for each in frames if each["outcome"] == "answered" and each["balancer"] != 0]
    check(elsewhere, "camera 3 to be served by a neighbour", frames[-5:])
    first = min(each["time"] + each["seconds"] for each in elsewhere) - now.start
    found = figures(world, now)
    check_quality(found)
    check(found.answered_share >= 0.75, "at least three quarters of the frames to be answered", found)
    return f"camera 3 is served by a neighbour at the latest {first:.1f} s later\n{told(found)}"


@DEATH.step("the recorder, marked for it, is taken over; Kubernetes shows by whom")
def taken_over(world: CampusWorld, record: Record) -> str:
    died = record.phase("node dead").start
    seen = handed_over(world, record, EDGES[:2], died, engines=EDGES[:2], asked=EDGES[:2])
    return f"{seen}\n{check_in_cloud(world, record, seen.node)}"


@DEATH.step("edge-3 boots: its pod is the one that there was, and its camera comes home")
def node_returns(world: CampusWorld, record: Record) -> str:
    began = time.monotonic()
    agent = world.power_on(EDGES[2])
    mark(record, "edge-3 boots")

    def home() -> bool:
        last = world.by_camera()["camera-3"][-1]
        return bool(last["outcome"] == "answered" and last["balancer"] == 0)

    agent.wait_for(home, 120)
    seconds = time.monotonic() - began
    record.figures["seconds from power to the camera's return"] = round(seconds, 1)
    with phase(world, record, "node back") as now:
        go_on(record.plan.back)
    found = figures(world, now, settle=0)
    check_quality(found)
    check(found.answered_share >= 0.75, "at least three quarters of the frames to be answered", found)
    check(vision_uids(world) == record.uids, f"the pods that there were, {record.uids}", vision_uids(world))
    return f"camera 3 is home {seconds:.1f} s after the power came back\n{told(found)}"


@DEATH.step("the recorder is given back; its journal has no gap but the two handovers, and no second writer")
def given_back(world: CampusWorld, record: Record) -> str:
    booted = world.powered_since[EDGES[2]]
    seen = handed_over(world, record, [EDGES[2]], booted, engines=EDGES, asked=EDGES)
    return f"{seen}\n{check_in_cloud(world, record, None)}"
