"""The cloud comes up, and the devices join it."""

from __future__ import annotations

import time
from functools import partial

from examples.demo.looking import (
    in_subnet,
)
from examples.demo.telling import Chapter, Memory, check
from examples.demo.world import World

CLOUD = Chapter("A cloud VM with a public address")


@CLOUD.step("`twistd kubebus --standalone` starts on it, and kubectl has an API to talk to")
def cloud_starts(world: World, memory: Memory) -> str:
    seconds = world.start_cloud()
    namespaces = world.kubectl("get", "namespaces", "-o", "name").split()
    check("namespace/default" in namespaces, "the namespace default", namespaces)
    return f"up after {seconds:.1f} s; kubectl get namespaces: {', '.join(namespaces)}"


@CLOUD.step("its router has the TUN device kb0")
def router_has_tun(world: World, memory: Memory) -> str:
    addresses = world.net.eip.run(["ip", "-brief", "address", "show", "dev", "kb0"]).stdout.split()
    check("10.250.0.1" in " ".join(addresses), "10.250.0.1 on kb0", addresses)
    return " ".join(addresses)


DEVICES = Chapter("Two devices, each behind a NAT that lets nothing in")


@DEVICES.step("from the Internet, the devices cannot be reached")
def nothing_inbound(world: World, memory: Memory) -> str:
    for site in world.net.sites:
        lan = "192.168.1.11"
        world.net.host.ip(f"route replace {lan} via {site.public_address}")
        reached = world.net.host.ping(lan, timeout=1)
        world.net.host.ip(f"route del {lan}")
        check(not reached, f"no answer from the device at {site.name}", "it answered")
    return "both sites have the same LAN, 192.168.1.0/24, masqueraded; a ping from outside stays unanswered"


@DEVICES.step("`kubebus token create` makes a join string for each; `twistd edgenode --join` enrols and links up")
def devices_join(world: World, memory: Memory) -> str:
    began = time.monotonic()
    for edge in world.edges:
        join_string = world.kubebus("token", "create", "--node", edge.name).strip().splitlines()[-1]
        edge.join(join_string)
    for edge in world.edges:
        assert edge.agent is not None
        edge.agent.wait_for(partial(world.node_ready, edge.name), 40)
    seconds = time.monotonic() - began
    return f"both Ready after {seconds:.1f} s\n{world.kubectl('get', 'nodes', '-o', 'wide')}"


@DEVICES.step("each has its address and the routes to the whole network in its own kb0")
def devices_have_network(world: World, memory: Memory) -> str:
    seen = []
    for edge in world.edges:
        node = edge.site.node
        address = node.run(["ip", "-brief", "address", "show", "dev", "kb0"]).stdout.split()
        check(any(in_subnet(each, "10.250.0.0/16") for each in address), "an address of 10.250.0.0/16", address)
        routes = node.run(["ip", "route", "show", "dev", "kb0"]).stdout
        for cidr in ("10.10.0.0/24", "10.20.0.0/24"):
            check(cidr in routes, f"a route to {cidr} in kb0 of {edge.name}", routes)
        check(node.ping(world.net.vm_address), f"the second cloud VM to answer {edge.name}")
        seen.append(f"{edge.name}: {' '.join(address[2:])}")
    return "\n".join([*seen, "both reach the second cloud VM, which knows nothing of NAT"])
