"""The story of the water utility in its order. Each step does something, and checks what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from examples.demo.telling import ChapterIn, StepIn, check
from examples.demo.world import DATA, Edge
from examples.water.apps.registers import VALUES
from examples.water.record import Phase, Record
from examples.water.world import MANIFESTS, NAMESPACE, SITES, WaterWorld
from tests.lab.waiting import LabError, wait_until

Chapter = ChapterIn[WaterWorld, Record]
Step = StepIn[WaterWorld, Record]

HOUR = 3600.0
LOWEST, HIGHEST = 5.0, 95.0
"""Percent of the tank between which the whole run must stay: beyond the limits of the rule, within the walls."""

SET_POINTS = f"all/{NAMESPACE}/set-points/"


def clock(seconds: float) -> str:
    """By the plant's clock."""
    return f"day {int(seconds // 86_400) + 1} {int(seconds // 3600 % 24):02}:{int(seconds // 60 % 60):02}"


def pass_hours(world: WaterWorld, hours: float) -> None:
    """Wait while the plant's time goes by."""
    until = world.now() + hours * HOUR
    # A loaded machine's plant is slow, not wrong.
    world.plant.process.wait_for(lambda: world.now() >= until, 60 + 4 * hours * HOUR / world.scale)


@contextmanager
def phase(world: WaterWorld, record: Record, name: str) -> Iterator[Phase]:
    now = Phase(name, world.now())
    record.phases.append(now)
    yield now
    now.end = world.now()


def mark(world: WaterWorld, record: Record, what: str) -> float:
    """Note that something happened just now; when, by the plant's clock."""
    now = world.now()
    record.events.append((now, what))
    return now


def levels(world: WaterWorld, start: float, end: float | None = None) -> tuple[float, float]:
    """The lowest and the highest level of the tank between two times, by the plant's own record."""
    found = [
        each["values"]["tank"]["level"] for each in world.record() if start <= each["time"] <= (end or float("inf"))
    ]
    return min(found), max(found)


def check_levels(world: WaterWorld, now: Phase) -> str:
    low, high = levels(world, now.start, now.end)
    check(low > LOWEST and high < HIGHEST, f"a level between {LOWEST:g} and {HIGHEST:g} %", (low, high))
    return f"{clock(now.start)} to {clock(now.end)}: the tank stood between {low:.0f} and {high:.0f} %"


def sources(decisions: list[dict[str, Any]], start: float, end: float) -> set[tuple[str, str]]:
    """Where level and pressure came from in all that was decided from ``start`` to ``end``, and before."""
    before = [each for each in decisions if each["time"] <= start]
    within = [each for each in decisions if start < each["time"] <= end]
    return {(each["level-source"], each["pressure-source"]) for each in [*before[-1:], *within]}


def put(place: Callable[..., str], name: str, value: float) -> None:
    place("meta", "put", f"{DATA}/{SET_POINTS}{name}", f"{value:g}")


def decided(world: WaterWorld, edge: Edge | None, level: str, pressure: str) -> bool:
    """Whether the controller's last decision rests on these."""
    last = world.decisions(edge)[-1]
    return bool(last["level-source"] == level and last["pressure-source"] == pressure)


def set_points_of(world: WaterWorld, edge: Edge | None) -> dict[str, str]:
    found = world.in_cloud(SET_POINTS) if edge is None else world.at_site(edge, SET_POINTS)
    return {key.rpartition("/")[2]: value for key, value in found.items()}


UTILITY = Chapter("A water utility: tank, pressure station, valve; each an edge node behind NAT")


@UTILITY.step("the cloud starts on its etcd, the three nodes join it")
def nodes_join(world: WaterWorld, record: Record) -> str:
    began = time.monotonic()
    world.start_cloud()
    for edge in world.edges:
        edge.join(world.kubebus("token", "create", "--node", edge.name).strip().splitlines()[-1])
    for edge in world.edges:
        assert edge.agent is not None
        edge.agent.wait_for(partial(world.node_ready, edge.name), 90)
    return f"all Ready after {time.monotonic() - began:.1f} s\n{world.kubectl('get', 'nodes')}"


@UTILITY.step("the operator writes the set-points in the cloud and applies the manifests; drivers and controller run")
def utility_runs(world: WaterWorld, record: Record) -> str:
    for name, value in (("level-low", 45), ("level-high", 65), ("pressure-min", 2.0)):
        put(world.kubebus, name, value)
    world.kubectl("create", "namespace", NAMESPACE)
    for edge in world.edges:
        token = edge.kubebus("meta", "token", NAMESPACE).strip()
        secret = ("create", "secret", "generic", f"metadata-{edge.name}", f"--from-literal=token={token}")
        world.kubectl("-n", NAMESPACE, *secret)
    began = time.monotonic()
    world.kubectl("-n", NAMESPACE, "apply", "-f", str(MANIFESTS / "water.yaml"))
    for name in (*(f"driver-{site}" for site in SITES), "controller"):
        world.kubectl("-n", NAMESPACE, "rollout", "status", f"deployment/{name}", "--timeout=120s", timeout=130)
    seconds = time.monotonic() - began
    wait_until(lambda: decided(world, None, "tank", "station"), 60, "the controller to hear from both sites")
    pods = world.kubectl("-n", NAMESPACE, "get", "pods", "-o", "wide")
    return f"rolled out after {seconds:.1f} s; the controller asks tank:8080 and pressure:8080\n{pods}"


DAY = Chapter("A normal day")


@DAY.step("the plant is let go; level and pressure are held, and the operator sees the readings in the cloud")
def normal_day(world: WaterWorld, record: Record) -> str:
    with phase(world, record, "normal") as now:
        world.plant.go()
        pass_hours(world, record.plan.day * 0.6)
        put(world.kubebus, "level-high", 70)
        changed = mark(world, record, "level-high 65 → 70 in the cloud")
        wait_until(lambda: world.decisions()[-1]["set-points"][1] == 70, 30, "the new set-point at the controller")
        used = world.now()
        pass_hours(world, record.plan.day * 0.4)
    seen = sources(world.decisions(), now.start, now.end)
    check(seen == {("tank", "station")}, "only news from tank and station", seen)
    latest = max(world.readings("tank"))
    behind = world.record()[-1]["number"] - latest
    check(behind < 50, "the newest readings in the cloud", f"the last {behind} are not there")
    return (
        f"{check_levels(world, now)}\n"
        f"a set-point changed in the cloud ruled {used - changed:.0f} s later by the plant's clock; "
        f"the cloud has reading {latest} of the tank"
    )


SERVICES = Chapter("The cloud's services are gone, its router is not: etcd is killed")


@SERVICES.step("kubectl and the metadata cannot be written; the sites go on, edge to edge")
def services_gone(world: WaterWorld, record: Record) -> str:
    valve = world.edge("valve")
    with phase(world, record, "services gone") as now:
        world.etcd.kill9()
        mark(world, record, "etcd killed")
        check(_fails(lambda: put(world.kubebus, "level-high", 50)), "no metadata to be written in the cloud")
        create = ("-n", NAMESPACE, "create", "configmap", "not-now", "--request-timeout=10s")
        check(_fails(lambda: world.kubectl(*create, timeout=20)), "no object to be made by kubectl")
        pass_hours(world, record.plan.services)
    seen = sources(world.decisions(valve), now.start, now.end)
    check(seen == {("tank", "station")}, "the controller to go on with news from tank and station", seen)
    missing = world.record()[-1]["number"] - len(world.at_site(world.edge("tank"), f"node.tank/{NAMESPACE}/readings/"))
    check(missing < 50, "the site's own store to have all readings", f"{missing} are missing")
    return f"{check_levels(world, now)}\nall that time the controller had level and pressure from the other sites"


@SERVICES.step("etcd is back: the cloud is what it was, and gets the readings that it missed")
def services_back(world: WaterWorld, record: Record) -> str:
    world.etcd.start()
    mark(world, record, "etcd is back")
    began = time.monotonic()
    number = world.record()[-1]["number"]
    world.cloud.wait_for(lambda: all(max(world.readings(site), default=0) >= number for site in SITES), 120)
    ready = [edge.name for edge in world.edges if not world.node_ready(edge.name)]
    check(not ready, "all nodes Ready", f"{ready} are not")
    return f"all readings up to {number} are in the cloud {time.monotonic() - began:.1f} s later"


def _fails(act: Callable[[], object]) -> bool:
    try:
        act()
    except LabError:
        return True
    return False


CUT = Chapter("The tank's site is cut off from everything")


@CUT.step(
    "the valve goes on by its local rule for the level, and still hears the station; set-points change on both sides"
)
def tank_is_cut(world: WaterWorld, record: Record) -> str:
    tank, valve = world.edge("tank"), world.edge("valve")
    with phase(world, record, "tank cut off") as now:
        tank.site.nat.cut()
        mark(world, record, "the tank's uplink is cut")
        wait_until(lambda: decided(world, valve, "local", "station"), 60, "the local rule, with the station's pressure")
        fallen = world.now()
        # Both sides from the same version: level-high twice at the site, level-low twice in the cloud.
        _put_in_turn(world, tank, "level-high", "site", (68, 62))
        _put_in_turn(world, tank, "level-high", "cloud", (75,))
        _put_in_turn(world, tank, "level-low", "site", (35,))
        _put_in_turn(world, tank, "level-low", "cloud", (50, 48))
        mark(world, record, "set-points change on both sides")
        here, there = set_points_of(world, tank), set_points_of(world, None)
        check(here["level-high"] == "62" and there["level-high"] == "75", "each side to have its own", (here, there))
        pass_hours(world, record.plan.site)
    seen = sources(world.decisions(valve), fallen, now.end)
    check(seen == {("local", "station")}, "the local rule for the level all the time, and the station heard", seen)
    return (
        f"{check_levels(world, now)}\n"
        f"the controller took the local rule {fallen - now.start:.0f} s after the cut by the plant's clock\n"
        "level-high: 68, then 62 at the site, 75 in the cloud; level-low: 35 at the site, 50, then 48 in the cloud"
    )


def _put_in_turn(world: WaterWorld, tank: Edge, name: str, side: str, values: tuple[float, ...]) -> None:
    """Write a set-point at one side, each value once the one before has been stamped as a write of its own."""
    where = tank if side == "site" else None
    for value in values:
        before = world.stamp(f"{SET_POINTS}{name}", where)
        put(where.kubebus if where else world.kubebus, name, value)

        def counted(before: object = before) -> bool:
            return world.stamp(f"{SET_POINTS}{name}", where) != before

        wait_until(counted, 30, f"{name} = {value:g} to be counted")


@CUT.step("the link returns: both sides agree, by the written rule; what lost is kept")
def tank_is_back(world: WaterWorld, record: Record) -> str:
    tank, valve = world.edge("tank"), world.edge("valve")
    tank.site.nat.mend()
    mark(world, record, "the tank's uplink is mended")
    began = time.monotonic()
    # The side that wrote more often knew no less: two writes beat one, whatever the clocks say.
    expected = {"level-high": "62", "level-low": "48", "pressure-min": "2"}
    everybody = [None, *world.edges]
    wait_until(lambda: all(set_points_of(world, each) == expected for each in everybody), 120, f"{expected} everywhere")
    seconds = time.monotonic() - began
    lost = _conflicts(world.kubebus) + _conflicts(tank.kubebus)
    for loser in ("75", "35"):
        check(loser in lost, f"the losing value {loser} to be kept", lost)
    wait_until(lambda: decided(world, valve, "tank", "station"), 60, "the controller to hear from the tank again")
    rules = world.decisions(valve)[-1]["set-points"]
    check(rules[:2] == [48, 62], "the controller to follow what was agreed", rules)
    record.figures["seconds to agree"] = round(seconds, 1)
    return (
        f"after {seconds:.1f} s the cloud and all three sites have level-high 62 (the site's second write against "
        "the cloud's first)\nand level-low 48 (the cloud's second against the site's first); 75 and 35 are kept\n"
        "as conflicts"
    )


def _conflicts(place: Callable[..., str]) -> str:
    return place("meta", "get", "--prefix", "/kubebus/default/sync/conflicts/all/")


ROUTER = Chapter("The whole cloud is gone for half a day: its machine's process is killed")


@ROUTER.step("each site is alone; the valve goes on by its local rule")
def router_dies(world: WaterWorld, record: Record) -> str:
    valve = world.edge("valve")
    record.phases.append(Phase("cloud gone", world.now()))
    world.cloud.kill9()
    now = mark(world, record, "the cloud is killed")
    wait_until(lambda: decided(world, valve, "local", "local"), 60, "the local rule for everything")
    fallen = world.now()
    pass_hours(world, record.plan.router * 0.35)
    return f"the controller took the local rule {fallen - now:.0f} s after the end of the cloud by the plant's clock"


@ROUTER.step("the valve's node loses its power; it boots without a cloud and takes up control by itself")
def valve_power_cycle(world: WaterWorld, record: Record) -> str:
    valve = world.edge("valve")
    assert valve.agent is not None
    before = world.decisions(valve)
    off = mark(world, record, "the valve's node loses power")
    valve.agent.kill9()
    valve.engine.power_cut()
    began = time.monotonic()
    valve.engine.start(90)
    agent = valve.boot()
    agent.wait_for(lambda: len(world.decisions(valve)) > len(before), 120)
    seconds = time.monotonic() - began
    first = world.decisions(valve)[len(before)]
    check(first["time"] >= off, "a decision after the boot", first)
    mark(world, record, "the valve is controlled again")
    whole = record.phases[-1]
    pass_hours(world, max(0.5, record.plan.router - (world.now() - whole.start) / HOUR))
    whole.end = world.now()
    seen = sources(world.decisions(valve), first["time"], whole.end)
    check(seen == {("local", "local")}, "the local rule until the end of the outage", seen)
    record.figures["seconds to control after a boot"] = round(seconds, 1)
    return (
        f"{check_levels(world, whole)}\n"
        f"control was back {seconds:.1f} s after the power, {(first['time'] - off) / HOUR:.1f} h by the plant's clock"
    )


@ROUTER.step("the cloud returns: the sites find each other again")
def cloud_returns(world: WaterWorld, record: Record) -> str:
    valve = world.edge("valve")
    seconds = world.start_cloud()
    mark(world, record, "the cloud is back")
    began = time.monotonic()
    wait_until(lambda: decided(world, valve, "tank", "station"), 150, "the controller to hear from both sites again")
    back = mark(world, record, "the sites hear each other")
    pass_hours(world, record.plan.after)
    seen = sources(world.decisions(valve), back, world.now())
    check(("tank", "station") in seen, "control with news from tank and station", seen)
    return f"cloud up after {seconds:.1f} s; the controller hears from all sites {time.monotonic() - began:.1f} s later"


ACCOUNT = Chapter("The account")


@ACCOUNT.step("no reading was lost: every sample of every device is in the cloud, with the device's own values")
def nothing_lost(world: WaterWorld, record: Record) -> str:
    samples = world.record()
    number: int = samples[-1]["number"]
    world.cloud.wait_for(lambda: all(max(world.readings(site), default=0) >= number for site in SITES), 120)
    told = []
    for site in SITES:
        readings = world.readings(site)
        missing = sorted(set(range(1, number + 1)) - set(readings))
        check(not missing, f"readings 1 to {number} of {site} in the cloud", f"missing: {missing[:20]}")
        wrong = [each["number"] for each in samples if not _same(site, each, readings[each["number"]])]
        check(not wrong, f"the values that {site}'s device measured", f"others in {wrong[:20]}")
        told.append(f"{site}: 1 to {number}, all {number} there and equal")
    record.figures["readings"] = {"of each site": number, "lost": 0}
    return "\n".join(told)


def _same(site: str, sample: dict[str, Any], reading: dict[str, float]) -> bool:
    measured = sample["values"][site]
    close = [abs(measured[value.name] - reading[value.name]) <= value.resolution for value in VALUES[site]]
    return reading["time"] == sample["time"] and all(close)


@ACCOUNT.step("the tank never overflowed nor ran dry; the pressure was held")
def tank_held(world: WaterWorld, record: Record) -> str:
    samples = world.record()
    last = samples[-1]
    low, high = levels(world, 0)
    pressure = min(each["values"]["pressure"]["pressure"] for each in samples[1:])
    check(last["overflowed"] == 0 and last["missing"] == 0, "no water lost or missing", last)
    check(low > LOWEST and high < HIGHEST, f"a level between {LOWEST:g} and {HIGHEST:g} %", (low, high))
    check(pressure > 1.5, "at least 1.5 bar at the station", pressure)
    record.decisions = world.decisions()
    record.figures.update(
        {
            "hours": round((last["time"] - samples[0]["time"]) / HOUR, 1),
            "level": [round(low, 1), round(high, 1)],
            "pressure": round(pressure, 2),
            "decisions": len(record.decisions),
        }
    )
    return (
        f"{record.figures['hours']} h by the plant's clock; level from {low:.0f} to {high:.0f} %, "
        f"at least {pressure:.2f} bar at the station; {len(record.decisions)} decisions of the controller"
    )


WITHOUT = Chapter("The same with the controller disabled")


@WITHOUT.step("`kubectl scale --replicas=0`, and the same day from its beginning: the tank runs dry or over")
def without_controller(world: WaterWorld, record: Record) -> str:
    world.kubectl("-n", NAMESPACE, "scale", "deployment/controller", "--replicas=0")
    gone = ("-n", NAMESPACE, "wait", "pod", "--selector=app=controller", "--for=delete", "--timeout=60s")
    world.kubectl(*gone, timeout=70)
    record.samples = world.record()
    number: int = record.samples[-1]["number"]
    world.plant.close()
    # Nobody has to keep pace with this one but the drivers, which read what they missed.
    world.plant = world.new_plant(4 * world.scale, number + 1)
    world.plant.go()
    end = 2 * 86_400.0
    world.plant.process.wait_for(lambda: _failed(world) or world.now() > end, 120)
    record.without = world.record()
    last = record.without[-1]
    check(_failed(world), "the tank to overflow or run dry without its controller", last)
    what = "dry" if last["missing"] > 0 else "over"
    record.figures["without the controller"] = f"{what} on {clock(last['time'])}"
    world.cloud.wait_for(lambda: max(world.readings("tank")) >= last["number"], 60)
    level = world.readings("tank")[last["number"]]["level"]
    return f"{what} on {clock(last['time'])}; the operator sees it in the cloud: the tank's level is {level:g} %"


def _failed(world: WaterWorld) -> bool:
    last = world.record()[-1]
    return bool(last["missing"] > 0 or last["overflowed"] > 0)


CHAPTERS = (UTILITY, DAY, SERVICES, CUT, ROUTER, ACCOUNT, WITHOUT)
STEPS = [step for chapter in CHAPTERS for step in chapter.steps]
