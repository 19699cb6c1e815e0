"""One pod: from kubectl to a container behind NAT, and on the network."""

from __future__ import annotations

import re
import time

from examples.demo.looking import (
    PhaseWatch,
    fetch,
    in_subnet,
)
from examples.demo.matrix import crossings, endpoints, seen_from, table, telling_who
from examples.demo.telling import MANIFESTS, Chapter, Memory, check
from examples.demo.world import World, memory_of
from tests.lab.waiting import wait_until

POD = Chapter("A pod, from kubectl to a container behind NAT")


@POD.step("`kubectl apply` of a ConfigMap and two Pods; both run, each at its site")
def pods_run(world: World, memory: Memory) -> str:
    with PhaseWatch(world, "web") as phases:
        began = time.monotonic()
        applied = world.kubectl("apply", "-f", str(MANIFESTS / "web.yaml"))
        world.wait_running("web")
        world.wait_running("client")
        memory.seconds_to_running = phases.first("Running") - began
    for edge, name in ((world.edges[0], "web"), (world.edges[1], "client")):
        memory.uids[name] = world.pod(name)["metadata"]["uid"]
        (memory.containers[name],) = edge.containers(name)
    for process, daemon in [("router", world.cloud), *((edge.name, edge.agent) for edge in world.edges)]:
        assert daemon is not None
        memory.megabytes[process] = memory_of(daemon.pid)
    return (
        f"{'; '.join(applied.splitlines())}\n"
        f"kubectl get -w saw web Running {memory.seconds_to_running:.1f} s after the apply"
    )


@POD.step("`kubectl get pods -o wide` shows them with IPs of their nodes' pod subnets")
def pods_have_addresses(world: World, memory: Memory) -> str:
    for edge, name in ((world.edges[0], "web"), (world.edges[1], "client")):
        address = world.pod_ip(name)
        check(in_subnet(address, "10.192.0.0/12"), "a pod IP of 10.192.0.0/12", address)
        inside = edge.execute(name, "ip", "-o", "-4", "address")
        check(f" {address}/" in inside, f"{address} inside the container", inside)
    check(world.pod("web")["status"]["hostIP"], "a hostIP")
    return world.kubectl("get", "pods", "-o", "wide")


@POD.step("its IP answers from the whole cloud, with the content of the ConfigMap")
def web_answers_the_cloud(world: World, memory: Memory) -> str:
    address = world.pod_ip("web")
    net = world.net
    for where, namespace in (("EIP VM", net.eip), ("second VM", net.vm), ("cloud container", net.pod)):
        check(namespace.ping(address, timeout=3), f"a ping to be answered to the {where}")
        page = fetch(namespace, address)
        check(page == "hello from the edge\n", f"the page at the {where}", page)
    return f"ping and HTTP to {address} from the EIP VM, the second VM, and the cloud container: {page.strip()!r}"


@POD.step("and from the pod at the other site, which is seen with its own IP")
def web_answers_the_other_site(world: World, memory: Memory) -> str:
    web, client = world.edges
    address, source = world.pod_ip("web"), world.pod_ip("client")
    page = client.execute("client", "timeout", "5", "wget", "-q", "-O", "-", f"http://{address}/")
    check(page == "hello from the edge\n", "the page at the other site", page)
    log = web.log("web")
    check(source in log, f"requests from {source} in the web server's log", log)
    sources = sorted(set(re.findall(r"\b10\.\d+\.\d+\.\d+\b", log)))
    return f"the web server's log has the sources {', '.join(sources)}: no address was translated"


@POD.step("every kind of endpoint reaches every other by ping and TCP, and is seen with its own address")
def one_network(world: World, memory: Memory) -> str:
    pods = [(world.edges[0], "web"), (world.edges[1], "client")]
    with telling_who(world, pods):
        found = endpoints(world, pods)
        tried = crossings(found)
        outside = [(edge, pod, seen_from(edge, pod, world.net.host_address)) for edge, pod in pods]
    bad = [f"{each.source.name} → {each.destination.name} ({each.address})" for each in tried if not each.good]
    tables = [table(found, tried, version) for version in (4, 6)]
    check(not bad, "every crossing to work", "\n".join([*bad, *tables]))
    for edge, pod, seen in outside:
        expected = f"the Internet to see pod {pod} with the address of its site, {edge.site.public_address}"
        check(str(seen) == edge.site.public_address, expected, seen)
    internet = "The Internet sees both pods with the public addresses of their sites: that traffic takes no detour."
    return "\n\n".join(["the source address that each saw, over IPv4 and IPv6:", *tables, internet])


@POD.step("a ConfigMap changed in the cloud changes the file in the running pod")
def configmap_changes(world: World, memory: Memory) -> str:
    began = time.monotonic()
    patch = '{"data": {"index.html": "hello again\\n"}}'
    world.kubectl("patch", "configmap", "web", "--type=merge", "-p", patch)
    address = world.pod_ip("web")
    wait_until(lambda: fetch(world.net.eip, address) == "hello again\n", 30, "the changed page", interval=0.2)
    (now,) = world.edges[0].containers("web")
    check(now == memory.containers["web"], "the same container as before", now)
    return f"after {time.monotonic() - began:.1f} s, in the same container"


@POD.step("`kubectl delete` stops a pod: no container is left on the device")
def pod_is_deleted(world: World, memory: Memory) -> str:
    world.kubectl("apply", "-f", str(MANIFESTS / "brief.yaml"))
    world.wait_running("brief")
    edge = world.edges[0]
    check(len(edge.containers("brief")) == 1, "its container on the device")
    began = time.monotonic()
    world.kubectl("delete", "pod", "brief", "--timeout=30s")
    seconds = time.monotonic() - began
    wait_until(lambda: not edge.containers("brief", everything=True), 10, "its container to be removed")
    return f"gone after {seconds:.1f} s (grace period 1 s)"
