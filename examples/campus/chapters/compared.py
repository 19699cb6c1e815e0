"""The same cameras under fixed placements, and the account of the run."""

from __future__ import annotations

from functools import partial

from examples.campus.chapters.frames import Chapter, check_quality, figures, go_on, phase, told
from examples.campus.chapters.handover import check_journal
from examples.campus.record import Figures, Record, table, tenures
from examples.campus.world import EDGES, POOR, UPLINK, CampusWorld
from examples.demo.telling import check
from tests.lab.waiting import wait_until

COMPARED = Chapter("Compared with fixed placements, by the same balancer with some of its places")


def _compare(world: CampusWorld, record: Record, placement: str) -> None:
    plan = record.plan
    world.place_work(placement)
    for name in plan.compare:
        world.rates(plan.low if name == "calm" else plan.high)
        if name == "poor":
            world.uplink(POOR)
        if name == "cut":
            world.site.nat.cut()
        titles = {"poor": "poor uplink", "cut": "uplink cut"}
        with phase(world, record, titles.get(name, name), placement):
            go_on(getattr(plan, name))
        world.uplink(UPLINK)
        world.site.nat.mend()
        world.rates(plan.low)
    for name in EDGES:
        wait_until(partial(world.node_ready, name), 120, f"{name} to be Ready again", interval=0.5)


@COMPARED.step("all at the edge: in an overload fewer frames are looked at")
def all_edge(world: CampusWorld, record: Record) -> str:
    _compare(world, record, "all edge")
    ours, edge = (figures(world, record.phase("overload", each)) for each in ("balanced", "all edge"))
    check(edge.share("cloud") == 0, "nothing in the cloud", edge)
    check(ours.rate > 1.1 * edge.rate, "the balanced placement to do clearly more in an overload", (ours, edge))
    return f"overload: {told(edge)}\nbalanced: {told(ours)}"


@COMPARED.step("all in the cloud: without an uplink nothing is looked at")
def all_cloud(world: CampusWorld, record: Record) -> str:
    _compare(world, record, "all cloud")
    found = figures(world, record.phase("overload", "all cloud"))
    check(found.share("cloud") == 1, "everything in the cloud", found)
    lines = [f"overload: {told(found)}"]
    if "cut" in record.plan.compare:
        ours, cloud = (figures(world, record.phase("uplink cut", each), settle=5) for each in ("balanced", "all cloud"))
        check(cloud.answered == 0, "no answer without the cloud", cloud)
        lines.append(f"uplink cut: {cloud.answered} frames answered; balanced: {ours.answered}")
    if "poor" in record.plan.compare:
        ours, cloud = (figures(world, record.phase("poor uplink", each)) for each in ("balanced", "all cloud"))
        check(
            ours.rate > 1.5 * cloud.rate, "the balanced placement to do clearly more with a poor uplink", (ours, cloud)
        )
        lines.append(f"poor uplink: {told(cloud)}")
    world.place_work("balanced")
    return "\n".join(lines)


@COMPARED.step("the account")
def account(world: CampusWorld, record: Record) -> str:
    frames = world.frames()
    whole = Figures.of(frames, record.phases[0].start, record.phases[-1].end)
    check_quality(whole)
    lost = [each for each in frames if each["outcome"] == "error"]
    check(not lost, "no errors in the cameras", lost[:3])
    check_journal(world, record)
    record.kept = tenures(world.site_data("journal/"))
    record.figures["table"] = table(record.phases, frames)
    kept = ", ".join(f"{each.node} ({each.entries})" for each in record.kept)
    return f"{whole.taken} frames; the journal in the cloud, by keepers and entries: {kept}\n{record.figures['table']}"
