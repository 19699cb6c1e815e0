"""Application data on both sides, also while a site is cut off."""

from __future__ import annotations

import time

from examples.demo.telling import Chapter, Memory, check
from examples.demo.world import Edge, World
from tests.lab.waiting import wait_until

METADATA = Chapter("One metadata store, on both sides")

KEY = "/kubebus/default/data/all/set-point"


@METADATA.step("a key put in the cloud appears on the devices, and one put on a device appears everywhere")
def metadata_both_ways(world: World, memory: Memory) -> str:
    first, second = world.edges
    began = time.monotonic()
    world.kubebus("meta", "put", KEY, "5")
    wait_until(lambda: reads(first, "5") and reads(second, "5"), 20, "the key on both devices")
    down = time.monotonic() - began
    began = time.monotonic()
    first.kubebus("meta", "put", KEY, "6")
    wait_until(lambda: world.kubebus("meta", "get", KEY) == "6\n" and reads(second, "6"), 20, "the key everywhere")
    return (
        f"5 was on both devices after {down:.1f} s; 6, put at site 1, everywhere after {time.monotonic() - began:.1f} s"
    )


def reads(edge: Edge, value: str) -> bool:
    return edge.kubebus("meta", "get", KEY) == f"{value}\n"


CUT = Chapter("Site 1 is cut off: its NAT drops every packet, silently")


@CUT.step("both sides write the same key; the cloud notices the cut, shows it, and evicts nothing")
def site_is_cut(world: World, memory: Memory) -> str:
    edge = world.edges[0]
    edge.site.nat.cut()
    began = time.monotonic()
    edge.kubebus("meta", "put", KEY, "7 (at the site)")
    world.kubebus("meta", "put", KEY, "8 (in the cloud)")
    check(reads(edge, "7 (at the site)"), "the site to have its own value", edge.kubebus("meta", "get", KEY))
    wait_until(
        lambda: world.condition("node", edge.name, "EdgeConnected") == "False", 30, f"{edge.name} EdgeConnected=False"
    )
    seconds = time.monotonic() - began
    taints = [taint["key"] for taint in world.kubectl.json("get", "node", edge.name)["spec"].get("taints", [])]
    check("kubebus.io/disconnected" in taints, "the taint kubebus.io/disconnected", taints)
    pod = world.pod("web")
    check(pod["metadata"]["uid"] == memory.uids["web"] and pod["status"]["phase"] == "Running", "web untouched", pod)
    return f"EdgeConnected=False after {seconds:.1f} s, with a NoSchedule taint; its pods stay"


@CUT.step("the link returns: both sides agree, and the pods are the same")
def site_is_back(world: World, memory: Memory) -> str:
    edge = world.edges[0]
    edge.site.nat.mend()
    began = time.monotonic()
    wait_until(lambda: world.condition("node", edge.name, "EdgeConnected") == "True", 75, f"{edge.name} connected")

    def agreed() -> bool:
        values = {world.kubebus("meta", "get", KEY), *(each.kubebus("meta", "get", KEY) for each in world.edges)}
        return len(values) == 1

    wait_until(agreed, 30, "one value on all three")
    seconds = time.monotonic() - began
    (now,) = edge.containers("web")
    check(now == memory.containers["web"], "the same container as before", now)
    value = world.kubebus("meta", "get", KEY).strip()
    return f"after {seconds:.1f} s all three have {value!r}; web's container is untouched"
