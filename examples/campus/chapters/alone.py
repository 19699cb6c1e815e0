"""The site without the cloud: its uplink is cut, or the router is killed."""

from __future__ import annotations

import time
from functools import partial

from examples.campus.chapters.cluster import all_up, cloud_has, site_goes_on, vision_uids
from examples.campus.chapters.frames import Chapter, check_quality, figures, go_on, lately, mark, phase, told
from examples.campus.record import Record
from examples.campus.world import EDGES, CampusWorld
from examples.demo.telling import check
from tests.lab.waiting import wait_until

ALONE = Chapter("The site without the cloud")


@ALONE.step("the uplink is still cut: the nodes reach each other over their LAN, find Services, and share their data")
def cluster_without_uplink(world: CampusWorld, record: Record) -> str:
    seen = site_goes_on(world, "without uplink")
    check(not cloud_has(world, "without uplink"), "the cloud to know nothing of it", world.site_data("hello/"))
    return seen


@ALONE.step("the uplink returns: the cloud helps again, and has what the site's data became meanwhile")
def uplink_returns(world: CampusWorld, record: Record) -> str:
    world.site.nat.mend()
    mark(record, "uplink back")
    began = time.monotonic()
    for index in range(len(EDGES)):
        wait_until(
            partial(all_up, world, index, "cloud", 1), 90, f"{EDGES[index]} to find the cloud again", interval=0.3
        )
    seconds = time.monotonic() - began
    record.figures["seconds to the cloud after the cut"] = round(seconds, 1)
    # The cameras send more by and by; as long as the edge can do it, nothing goes to the cloud.
    wait_until(lambda: lately(world, "cloud") >= 3, 60, "frames to go to the cloud again", interval=0.3)
    with phase(world, record, "uplink back") as now:
        go_on(record.plan.mended)
    found = figures(world, now, settle=0)
    check_quality(found)
    check(found.share("cloud") > 0, "work in the cloud again", found)
    wait_until(partial(cloud_has, world, "without uplink"), 30, "the site's data in the cloud", interval=0.3)
    return f"the balancers had the cloud again after {seconds:.1f} s\n{told(found)}"


@ALONE.step("the router is killed (SIGKILL): the site goes on, with its frames and as a cluster")
def router_killed(world: CampusWorld, record: Record) -> str:
    world.cloud.kill9()
    mark(record, "router killed")
    with phase(world, record, "router killed") as now:
        seen = site_goes_on(world, "without router")
        go_on(record.plan.killed)
    found = figures(world, now, settle=5)
    check_quality(found)
    check(found.places.get("cloud", 0) == 0, "no frame in the cloud", found)
    check(found.share("site") > 0, "neighbours to help each other, directly over their LAN", found)
    check(found.answered_share >= 0.7, "at least 70 % of the frames to be answered", found)
    return f"{seen}\n{told(found)}"


@ALONE.step("the router is started again: all nodes are back, and so is what the site wrote meanwhile")
def router_returns(world: CampusWorld, record: Record) -> str:
    world.start_cloud()
    mark(record, "router back")
    began = time.monotonic()
    for index, name in enumerate(EDGES):
        what = f"{name} to find the cloud again"
        wait_until(partial(all_up, world, index, "cloud", 1), 90, what, interval=0.3)
    seconds = time.monotonic() - began
    record.figures["seconds to the cloud after the router's return"] = round(seconds, 1)
    wait_until(partial(cloud_has, world, "without router"), 30, "the site's data in the cloud", interval=0.3)
    check(vision_uids(world) == record.uids, f"the pods that there were, {record.uids}", vision_uids(world))
    return f"the balancers had the cloud again {seconds:.1f} s after it was up; the cloud has the site's data"
