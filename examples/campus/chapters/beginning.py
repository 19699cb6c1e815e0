"""The machines join, the pods run."""

from __future__ import annotations

import json
import time
from functools import partial

from examples.campus.chapters.cluster import all_up, await_links, site_goes_on, vision_uids
from examples.campus.chapters.frames import Chapter, go_on
from examples.campus.chapters.handover import HOME
from examples.campus.record import Record
from examples.campus.world import CLOUD, EDGES, MANIFEST, SITE, CampusWorld
from examples.demo.telling import check
from tests.lab.waiting import wait_until

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
    record.uids = vision_uids(world)
    pods = world.kubectl.json("get", "pods", "--selector=app=vision")["items"]
    (recorder,) = world.kubectl.json("get", "pods", "--selector=app=recorder")["items"]
    record.recorder, record.recorder_uid = recorder["metadata"]["name"], recorder["metadata"]["uid"]
    record.keepers = [recorder["spec"]["nodeName"]]
    check(record.keepers == [HOME], f"the recorder at {HOME}", record.keepers)
    world.vision = {pod["spec"]["nodeName"]: pod["metadata"]["name"] for pod in pods}
    world.policy = json.loads(world.kubectl.json("get", "configmap", "balancing")["data"]["policy.json"])
    for index in range(len(EDGES)):
        for place, count in (("here", 1), ("site", 2), ("cloud", 1)):
            ready = partial(all_up, world, index, place, count)
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
