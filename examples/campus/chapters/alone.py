"""The site without the cloud: its uplink is cut, or the router is killed."""

from __future__ import annotations

import time
from functools import partial

from examples.campus.chapters.cluster import all_up, cloud_has, site_goes_on, vision_uids
from examples.campus.chapters.frames import Chapter, check_quality, figures, go_on, lately, mark, phase, told
from examples.campus.chapters.handover import HOME, all_cameras_watched, check_in_cloud, handed_over
from examples.campus.record import Record
from examples.campus.world import EDGES, CampusWorld
from examples.demo.telling import check
from tests.lab.waiting import wait_until

OTHERS = [name for name in EDGES if name != HOME]

ALONE = Chapter("The site without the cloud")


@ALONE.step("the uplink is still cut: the nodes reach each other over their LAN, find Services, and share their data")
def cluster_without_uplink(world: CampusWorld, record: Record) -> str:
    seen = site_goes_on(world, "without uplink")
    check(not cloud_has(world, "without uplink"), "the cloud to know nothing of it", world.site_data("hello/"))
    return seen


@ALONE.step(
    "the recorder's node loses its power, without uplink: another node of the site takes the recorder over, once"
)
def taken_over_alone(world: CampusWorld, record: Record) -> str:
    if not record.plan.death_alone:
        return "not in the short form"
    began = time.time()
    world.power_off(HOME)
    mark(record, f"{HOME} dies")
    seen = handed_over(world, record, OTHERS, began, engines=OTHERS, asked=OTHERS)
    return f"{seen}\n{all_cameras_watched(world, OTHERS[0], OTHERS)}"


@ALONE.step("its power is back, the uplink is not: the recorder is given back")
def given_back_alone(world: CampusWorld, record: Record) -> str:
    if not record.plan.death_alone:
        return "not in the short form"
    began = time.time()
    world.power_on(HOME)
    mark(record, f"{HOME} boots")
    return str(handed_over(world, record, [HOME], began, engines=EDGES, asked=EDGES))


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


@ALONE.step(
    "the recorder's node loses its cable: alone, it stops the recorder; then one of the two others takes it over"
)
def lan_is_split(world: CampusWorld, record: Record) -> str:
    began = time.time()
    world.cable(HOME, plugged=False)
    mark(record, f"{HOME} is cut off")
    seen = handed_over(world, record, OTHERS, began, engines=EDGES, asked=OTHERS)
    return f"{seen}\n{all_cameras_watched(world, OTHERS[0], OTHERS)}"


@ALONE.step("the router is started again, with the node still cut off: what the site wrote and did meanwhile is there")
def router_returns(world: CampusWorld, record: Record) -> str:
    world.start_cloud()
    mark(record, "router back")
    began = time.monotonic()
    for index, name in enumerate(OTHERS):
        what = f"{name} to find the cloud again"
        wait_until(partial(all_up, world, index, "cloud", 1), 90, what, interval=0.3)
    seconds = time.monotonic() - began
    record.figures["seconds to the cloud after the router's return"] = round(seconds, 1)
    wait_until(partial(cloud_has, world, "without router"), 30, "the site's data in the cloud", interval=0.3)
    check(vision_uids(world) == record.uids, f"the pods that there were, {record.uids}", vision_uids(world))
    seen = check_in_cloud(world, record, record.keepers[-1])
    return f"the balancers had the cloud again {seconds:.1f} s after it was up; the cloud has the site's data\n{seen}"


@ALONE.step("the cable is plugged in: the node has its site and the cloud again, and the recorder is given back")
def lan_is_whole(world: CampusWorld, record: Record) -> str:
    began = time.time()
    world.cable(HOME, plugged=True)
    mark(record, f"{HOME} is back")
    seen = handed_over(world, record, [HOME], began, engines=EDGES, asked=EDGES)
    wait_until(partial(all_up, world, EDGES.index(HOME), "cloud", 1), 90, f"{HOME} to find the cloud", interval=0.3)
    return f"{seen}\n{check_in_cloud(world, record, None)}\n{site_goes_on(world, 'together')}"
