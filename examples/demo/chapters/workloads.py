"""What people do with any Kubernetes: logs, exec, Deployments, DaemonSets."""

from __future__ import annotations

import time

from examples.demo.looking import (
    Following,
    fetch,
)
from examples.demo.telling import MANIFESTS, Chapter, Memory, check
from examples.demo.world import World
from tests.lab.waiting import wait_until

WORKLOADS = Chapter("As on any Kubernetes")


@WORKLOADS.step("`kubectl logs -f` follows, and `kubectl exec` runs a command, in a container behind NAT")
def logs_and_exec(world: World, memory: Memory) -> str:
    with Following(world.kubectl.command("logs", "-f", "--tail=0", "web")) as log:
        # The stream is open once it shows a request; how long that takes nobody promises.
        address = world.pod_ip("web")
        wait_until(
            lambda: fetch(world.net.vm, address) and world.net.vm_address in log.text(), 10, "the request in the log"
        )
        line = log.text().splitlines()[0]
    page = world.kubectl("exec", "web", "--", "cat", "/www/index.html")
    check(page == "hello again\n", "the page by exec", page)
    refused = world.kubectl.run("exec", "web", "--", "sh", "-c", "exit 7", check=False)
    check(refused.returncode == 7, "the command's own exit status, 7", refused)
    return f"logs -f: {line}\nexec cat: {page.strip()}; exit status 7 of a command comes back as 7"


@WORKLOADS.step("a Deployment and a DaemonSet spread over both devices")
def workloads_run(world: World, memory: Memory) -> str:
    began = time.monotonic()
    world.kubectl("apply", "-f", str(MANIFESTS / "workloads.yaml"))
    for workload in ("deployment/hello", "daemonset/watcher"):
        world.kubectl("rollout", "status", workload, "--timeout=60s", timeout=70)
    seconds = time.monotonic() - began
    for app in ("hello", "watcher"):
        pods = world.kubectl.json("get", "pods", f"--selector=app={app}")["items"]
        nodes = sorted(pod["spec"]["nodeName"] for pod in pods)
        check(nodes == ["edge-1", "edge-2"], f"a pod of {app} on each device", nodes)
    return f"rolled out after {seconds:.1f} s\n{world.kubectl('get', 'pods', '-o', 'wide')}"


@WORKLOADS.step("a pod finds them by the Service's name, at its own site and at the other one")
def service_by_name(world: World, memory: Memory) -> str:
    client = world.edges[1]
    pods = {each["metadata"]["name"] for each in world.kubectl.json("get", "pods", "--selector=app=hello")["items"]}
    answered: dict[str, int] = dict.fromkeys(pods, 0)

    def all_answered() -> bool:
        page = client.execute("client", "timeout", "5", "wget", "-q", "-O", "-", "http://hello/").strip()
        if page:
            check(page in pods, f"one of {sorted(pods)}", page)
            answered[page] += 1
        return all(answered.values())

    wait_until(all_answered, 30, "every pod of the Service to answer the client", interval=0.1)
    memory.service_address = world.kubectl.json("get", "service", "hello")["spec"]["clusterIP"]
    counts = ", ".join(f"{name} ({count})" for name, count in sorted(answered.items()))
    return f"http://hello/ is {memory.service_address}; {sum(answered.values())} requests were answered by {counts}"
