"""The story of the campus in its order. Each step does something, and checks what came of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from examples.campus.record import DEADLINE, Figures, Phase, Record, table
from examples.campus.world import CLOUD, EDGES, MANIFEST, POOR, SITE, UPLINK, CampusWorld
from examples.demo.telling import ChapterIn, StepIn, check
from tests.lab.waiting import wait_until

Chapter = ChapterIn[CampusWorld, Record]
Step = StepIn[CampusWorld, Record]

SETTLE = 3.0
"""Seconds at the beginning of a phase that its checks leave out: the balancers find out by what happens to frames."""


@contextmanager
def phase(world: CampusWorld, record: Record, name: str, placement: str = "balanced") -> Iterator[Phase]:
    now = Phase(name, placement, time.time())
    record.phases.append(now)
    yield now
    now.end = time.time()
    # Every frame of the phase has its outcome before anything is said of it.
    wait_until(lambda: world.settled(now.end), 20, "the outcome of every frame", interval=0.3)


def go_on(seconds: float) -> None:
    """Let it run for so long: here the time itself is what is awaited."""
    time.sleep(seconds)


def mark(record: Record, what: str) -> None:
    record.events.append((time.time(), what))


def figures(world: CampusWorld, now: Phase, settle: float = SETTLE) -> Figures:
    return Figures.of(world.frames(), now.start + settle, now.end)


def told(found: Figures) -> str:
    median, high, highest = found.latency
    shares = ", ".join(f"{place} {100 * found.share(place):.0f} %" for place in ("here", "site", "cloud"))
    return (
        f"{found.rate:.1f} frames/s answered of {found.taken / found.seconds:.1f} taken ({shares}); "
        f"latency {1000 * median:.0f} ms, 95 % {1000 * high:.0f} ms, 99 % {1000 * highest:.0f} ms"
    )


def check_quality(found: Figures) -> None:
    """What holds always, whatever happens."""
    check(found.answered > 10, "frames to be answered", found)
    check(found.latency[2] <= DEADLINE + 0.3, f"99 % of the answers within {DEADLINE + 0.3:g} s", told(found))
    check(found.recall >= 0.97 and found.precision >= 0.97, "things found as they truly were", found)


CAMPUS = Chapter("A campus: three edge nodes on one LAN behind NAT, a node in the cloud")


@CAMPUS.step("the cloud starts; the four nodes join, three of them as the site 'campus'")
def nodes_join(world: CampusWorld, record: Record) -> str:
    began = time.monotonic()
    world.start_cloud()
    for edge in world.edges:
        site = ("--site", SITE) if edge.name in EDGES else ()
        edge.join(world.kubebus("token", "create", "--node", edge.name, *site).strip().splitlines()[-1])
    for edge in world.edges:
        assert edge.agent is not None
        edge.agent.wait_for(partial(world.node_ready, edge.name), 90)
    for name in EDGES:
        world.kubectl("label", "node", name, "campus/place=edge")
    world.kubectl("label", "node", CLOUD, "campus/place=cloud")
    seconds = time.monotonic() - began
    await_links(world)
    return f"all Ready after {seconds:.1f} s\n{world.kubectl('get', 'nodes', '-L', 'campus/place')}"


@CAMPUS.step(
    "`kubectl apply` of the manifest: a balancer and a detector on each edge node, a detector in the cloud, a recorder"
)
def pods_run(world: CampusWorld, record: Record) -> str:
    tokens = [f"--from-literal={name}={world.edge(name).kubebus('meta', 'token', 'default').strip()}" for name in EDGES]
    world.kubectl("create", "secret", "generic", "metadata", *tokens)
    began = time.monotonic()
    world.kubectl("apply", "-f", str(MANIFEST))
    for workload in ("daemonset/vision", "deployment/vision-cloud", "deployment/recorder"):
        world.kubectl("rollout", "status", workload, "--timeout=180s", timeout=190)
    seconds = time.monotonic() - began
    record.uids = _vision(world)
    pods = world.kubectl.json("get", "pods", "--selector=app=vision")["items"]
    world.vision = {pod["spec"]["nodeName"]: pod["metadata"]["name"] for pod in pods}
    world.policy = json.loads(world.kubectl.json("get", "configmap", "balancing")["data"]["policy.json"])
    for index in range(len(EDGES)):
        for place, count in (("here", 1), ("site", 2), ("cloud", 1)):
            ready = partial(_all_up, world, index, place, count)
            wait_until(ready, 60, f"{EDGES[index]} to know {count} detectors {place}", interval=0.3)
    # Cold workers are slow ones: let each be asked once before anything is measured.
    world.rates(record.plan.low)
    go_on(3)
    pods = world.kubectl("get", "pods", "-o", "wide")
    seen = site_goes_on(world, "begin")
    return (
        f"rolled out after {seconds:.1f} s; each balancer knows its own, two others' and the cloud's detector\n"
        f"{seen}\n{pods}"
    )


def _vision(world: CampusWorld) -> dict[str, str]:
    """The UIDs of the pods at the edge, by their nodes."""
    pods = world.kubectl.json("get", "pods", "--selector=app=vision")["items"]
    return {pod["spec"]["nodeName"]: pod["metadata"]["uid"] for pod in pods}


def _all_up(world: CampusWorld, index: int, place: str, count: int) -> bool:
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
            partial(_all_up, world, index, "cloud", 1), 90, f"{EDGES[index]} to find the cloud again", interval=0.3
        )
    seconds = time.monotonic() - began
    record.figures["seconds to the cloud after the cut"] = round(seconds, 1)
    # The cameras send more by and by; as long as the edge can do it, nothing goes to the cloud.
    wait_until(lambda: _lately(world, "cloud") >= 3, 60, "frames to go to the cloud again", interval=0.3)
    with phase(world, record, "uplink back") as now:
        go_on(record.plan.mended)
    found = figures(world, now, settle=0)
    check_quality(found)
    check(found.share("cloud") > 0, "work in the cloud again", found)
    wait_until(partial(cloud_has, world, "without uplink"), 30, "the site's data in the cloud", interval=0.3)
    return f"the balancers had the cloud again after {seconds:.1f} s\n{told(found)}"


def _lately(world: CampusWorld, place: str, seconds: float = 2.0) -> int:
    """How many of the last frames were worked on at a place."""
    since = time.time() - seconds
    return sum(each.get("place") == place and each["time"] >= since for each in world.frames())


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
        wait_until(partial(_all_up, world, index, "cloud", 1), 90, what, interval=0.3)
    seconds = time.monotonic() - began
    record.figures["seconds to the cloud after the router's return"] = round(seconds, 1)
    wait_until(partial(cloud_has, world, "without router"), 30, "the site's data in the cloud", interval=0.3)
    check(_vision(world) == record.uids, f"the pods that there were, {record.uids}", _vision(world))
    return f"the balancers had the cloud again {seconds:.1f} s after it was up; the cloud has the site's data"


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
    check(_vision(world) == record.uids, f"the pods that there were, {record.uids}", _vision(world))
    return f"camera 3 is home {seconds:.1f} s after the power came back\n{told(found)}"


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
    record.figures["table"] = table(record.phases, frames)
    return f"{whole.taken} frames\n{record.figures['table']}"


CHAPTERS = (CAMPUS, WORK, ALONE, DEATH, COMPARED)
STEPS = [step for chapter in CHAPTERS for step in chapter.steps]
