"""The balancers at work: calm, overload, a poor uplink, none."""

from __future__ import annotations

from examples.campus.chapters.frames import Chapter, check_quality, figures, go_on, mark, phase, told
from examples.campus.record import Record
from examples.campus.world import POOR, UPLINK, CampusWorld
from examples.demo.telling import check

WORK = Chapter("Frames are worked on where it is best")


@WORK.step("a calm day: every camera has its frames looked at by its own node")
def calm(world: CampusWorld, record: Record) -> str:
    world.rates(record.plan.low)
    with phase(world, record, "calm") as now:
        go_on(record.plan.calm)
    found = figures(world, now, settle=0)
    check_quality(found)
    check(found.answered_share >= 0.95, "at least 95 % of the frames to be answered", found)
    check(found.share("here", "site") >= 0.8, "the work at the edge", found)
    return told(found)


@WORK.step("something happens: the cameras send more than the edge can do; neighbours help, then the cloud")
def overload(world: CampusWorld, record: Record) -> str:
    world.rates(record.plan.high)
    with phase(world, record, "overload") as now:
        go_on(record.plan.overload)
    found = figures(world, now)
    check_quality(found)
    check(found.share("cloud") >= 0.1, "at least a tenth of the work in the cloud", found)
    check(found.share("site") > 0, "neighbours to help each other", found)
    check(found.answered_share >= 0.85, "at least 85 % of the frames to be answered", found)
    return told(found)


@WORK.step("the uplink is poor: less goes to the cloud, and nothing waits for it")
def poor_uplink(world: CampusWorld, record: Record) -> str:
    if not record.plan.poor:
        return "not in the short form"
    before = figures(world, record.phase("overload"))
    world.uplink(POOR)
    mark(record, f"uplink {POOR}")
    with phase(world, record, "poor uplink") as now:
        go_on(record.plan.poor)
    world.uplink(UPLINK)
    mark(record, f"uplink {UPLINK}")
    found = figures(world, now, settle=6)
    check_quality(found)
    less = found.places.get("cloud", 0) / found.seconds < 0.7 * before.places.get("cloud", 0) / before.seconds
    check(less, "clearly less work in the cloud", (found, before))
    check(found.answered_share >= 0.7, "at least 70 % of the frames to be answered", found)
    return told(found)


@WORK.step("the uplink is cut: the site is on its own, at a lower frame rate instead of a growing delay")
def uplink_cut(world: CampusWorld, record: Record) -> str:
    before = figures(world, record.phase("overload"))
    world.site.nat.cut()
    mark(record, "uplink cut")
    with phase(world, record, "uplink cut") as now:
        go_on(record.plan.cut)
    found = figures(world, now, settle=5)
    check_quality(found)
    check(found.places.get("cloud", 0) == 0, "no frame in the cloud", found)
    check(found.share("site") > 0, "neighbours to help each other, directly over their LAN", found)
    check(found.taken / found.seconds < 0.95 * before.taken / before.seconds, "cameras to send less", (found, before))
    check(found.answered_share >= 0.7, "at least 70 % of the frames to be answered", found)
    return told(found)
