"""The cloud goes, devices recover without it, the cloud returns."""

from __future__ import annotations

import re
import time
from functools import partial

from examples.demo.looking import (
    back,
    fetch,
    pod_address_at,
    told_running,
    wait_serving,
)
from examples.demo.telling import Chapter, Memory, NotAsTold, check
from examples.demo.world import World
from tests.lab.waiting import LabError, wait_until

OUTAGE = Chapter("The cloud is gone")


@OUTAGE.step("kill -9 of the cloud: the pods go on")
def cloud_dies(world: World, memory: Memory) -> str:
    # Whatever happens from here on, these are to be the pods in the end.
    memory.uids = {each["metadata"]["name"]: each["metadata"]["uid"] for each in world.pods()}
    world.cloud.kill9()
    try:
        world.kubectl("get", "nodes", timeout=10)
    except LabError:
        pass
    else:
        raise NotAsTold("expected no Kubernetes API any more; seen: it answers")
    web = world.edges[0]
    address = pod_address_at(web, "web")
    check(fetch(web.site.node, address) == "hello again\n", "the web server to answer its own device")
    for edge, name in zip(world.edges, ("web", "client"), strict=True):
        (now,) = edge.containers(name)
        check(now == memory.containers[name], f"{name}'s container as before", now)
    return "no API any more; the web server answers at its site; both containers are the same runs as before"


@OUTAGE.step("on the device, `kubebus pods` and `kubebus logs` need no cloud")
def device_looks_after_itself(world: World, memory: Memory) -> str:
    edge = world.edges[0]
    pods = edge.kubebus("pods")
    check(re.search(r"\bweb\b.*\bRunning\b", pods), "web Running", pods)
    log = edge.kubebus("logs", "web")
    check("response:200" in log, "web's log", log)
    return pods


@OUTAGE.step(
    "site 1: the agent is killed, its containers are killed and removed; the pod comes back from the local store"
)
def edge_recovers(world: World, memory: Memory) -> str:
    edge = world.edges[0]
    assert edge.agent is not None
    edge.agent.kill9()
    removed = edge.remove_containers()
    check(not edge.containers("web", everything=True), "no container left")
    began = time.monotonic()
    edge.boot()
    page = wait_serving(edge, "web")
    check(page == "hello again\n", "the page as last changed in the cloud", page)
    (memory.containers["web"],) = edge.containers("web")
    return (
        f"{removed} containers removed; {time.monotonic() - began:.1f} s after its start the agent has it serving again"
    )


@OUTAGE.step("site 2: the power fails; after a cold boot with no cloud in sight, its pod runs again")
def edge_boots_cold(world: World, memory: Memory) -> str:
    edge = world.edges[1]
    assert edge.agent is not None
    edge.agent.kill9()
    edge.engine.power_cut()
    check(not edge.engine.dockerd.alive, "no engine")
    began = time.monotonic()
    edge.engine.start()
    agent = edge.boot()
    agent.wait_for(lambda: edge.containers("client"), 40)
    seconds = time.monotonic() - began
    (memory.containers["client"],) = edge.containers("client")
    agent.wait_for(lambda: memory.service_address in edge.execute("client", "nslookup", "hello"), 20)
    return (
        f"engine, agent and pod are up {seconds:.1f} s after the power came back\n"
        f"the name hello is still {memory.service_address} to it"
    )


RETURN = Chapter("The cloud returns")


@RETURN.step("both nodes are Ready again, and all status is right")
def cloud_returns(world: World, memory: Memory) -> str:
    seconds = world.start_cloud()
    began = time.monotonic()
    for edge in world.edges:
        assert edge.agent is not None
        # The longest wait between two attempts of a device is a minute.
        edge.agent.wait_for(partial(back, world, edge), 75)
    for name in ("web", "client"):
        container = f"docker://{memory.containers[name].id}"
        expected = f"pod {name} with the container that runs, {container[:21]}, in the Kubernetes API"
        wait_until(partial(told_running, world, name, container), 60, expected, interval=0.2)
    return (
        f"cloud up after {seconds:.1f} s, status right {time.monotonic() - began:.1f} s later\n"
        f"{world.kubectl('get', 'pods', '-o', 'wide')}"
    )


@RETURN.step("the pods are the same: same UIDs, and the containers that ran when it returned run on")
def pods_are_the_same(world: World, memory: Memory) -> str:
    for workload in ("deployment/hello", "daemonset/watcher"):
        world.kubectl("rollout", "status", workload, "--timeout=60s", timeout=70)
    pods = {each["metadata"]["name"]: each for each in world.pods()}
    uids = {name: pod["metadata"]["uid"] for name, pod in pods.items()}
    check(uids == memory.uids, f"the pods that there were, {memory.uids}", uids)
    for edge, name in zip(world.edges, ("web", "client"), strict=True):
        pod = pods[name]
        (now,) = edge.containers(name)
        check(now == memory.containers[name], f"{name}'s container untouched", now)
        check(told_running(world, name, f"docker://{now.id}"), f"docker://{now.id} in the status", pod["status"])
    width = max(map(len, memory.uids))
    return "\n".join(f"{name:{width}} UID {uid}" for name, uid in sorted(memory.uids.items()))


@RETURN.step("and answer the cloud and each other as before")
def network_is_back(world: World, memory: Memory) -> str:
    address = world.pod_ip("web")
    for namespace in (world.net.eip, world.net.vm, world.net.pod):
        page = fetch(namespace, address)
        check(page == "hello again\n", f"the page from {address}", page)
    page = world.edges[1].execute("client", "timeout", "5", "wget", "-q", "-O", "-", f"http://{address}/")
    check(page == "hello again\n", "the page at the other site", page)
    return f"http://{address}/ answers the EIP VM, the second VM, the cloud container and the pod at site 2"
