"""The story, step by step. Each step does something, checks what came of it, and tells what it saw.

Steps depend on those before them. The demo plays them in order; each is an integration test too.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path

from examples.demo.matrix import crossings, endpoints, table, telling_who
from examples.demo.world import ContainerView, Edge, World, memory_of
from tests.lab.namespace import Namespace
from tests.lab.waiting import LabError, wait_until

MANIFESTS = Path(__file__).parent


class NotAsTold(Exception):
    """A step's check failed. The message says what was expected and what was seen."""


def check(condition: object, expected: str, seen: object = "") -> None:
    if not condition:
        raise NotAsTold(f"expected {expected}" + (f"; seen: {seen}" if seen != "" else ""))


@dataclass
class Memory:
    """What one step saw and a later one needs."""

    seconds_to_running: float = 0.0
    uids: dict[str, str] = field(default_factory=dict)
    containers: dict[str, ContainerView] = field(default_factory=dict)
    megabytes: dict[str, tuple[float, float]] = field(default_factory=dict)
    """RSS and PSS of each process with one pod on each device."""


@dataclass(frozen=True)
class Step:
    name: str
    chapter: str
    title: str
    play: Callable[[World, Memory], str]
    """Does and checks it; returns what was observed, in lines."""


STEPS: list[Step] = []
_chapter = ""


def chapter(title: str) -> None:
    global _chapter
    _chapter = title


def step(title: str) -> Callable[[Callable[[World, Memory], str]], Callable[[World, Memory], str]]:
    def add(play: Callable[[World, Memory], str]) -> Callable[[World, Memory], str]:
        STEPS.append(Step(play.__name__, _chapter, title, play))
        return play

    return add


class Telling:
    """One telling of the story in one world: each step is played once, after all before it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.memory = Memory()
        self._observed: dict[str, str | Exception] = {}

    def play(self, wanted: Step) -> str:
        """Play a step (and first whatever stands before it); what was observed.

        :raises NotAsTold: if its check fails, or a step before it has failed.
        """
        for each in STEPS:
            if each.name not in self._observed:
                self._observed[each.name] = self._try(each)
            outcome = self._observed[each.name]
            if each is wanted and isinstance(outcome, str):
                return outcome
            if isinstance(outcome, Exception):
                if each is wanted:
                    raise outcome
                raise NotAsTold(f"not reached: {each.name} failed before")
        raise AssertionError(f"{wanted.name} is no step of the story")

    def _try(self, each: Step) -> str | Exception:
        try:
            return each.play(self.world, self.memory)
        except (NotAsTold, LabError) as error:
            failure = NotAsTold(str(error))
            failure.__cause__ = error.__cause__
            failure.add_note(self.world.logs(but=str(error)))
            return failure


# --- 1 -----------------------------------------------------------------------------------------------------------
chapter("A cloud VM with a public address")


@step("`twistd kubebus --standalone` starts on it, and kubectl has an API to talk to")
def cloud_starts(world: World, memory: Memory) -> str:
    seconds = world.start_cloud()
    namespaces = world.kubectl("get", "namespaces", "-o", "name").split()
    check("namespace/default" in namespaces, "the namespace default", namespaces)
    return f"up after {seconds:.1f} s; kubectl get namespaces: {', '.join(namespaces)}"


@step("its router has the TUN device kb0")
def router_has_tun(world: World, memory: Memory) -> str:
    addresses = world.net.eip.run(["ip", "-brief", "address", "show", "dev", "kb0"]).stdout.split()
    check("10.250.0.1" in " ".join(addresses), "10.250.0.1 on kb0", addresses)
    return " ".join(addresses)


# --- 2 -----------------------------------------------------------------------------------------------------------
chapter("Two devices, each behind a NAT that lets nothing in")


@step("from the Internet, the devices cannot be reached")
def nothing_inbound(world: World, memory: Memory) -> str:
    for site in world.net.sites:
        lan = "192.168.1.11"
        world.net.host.ip(f"route replace {lan} via {site.public_address}")
        reached = world.net.host.ping(lan, timeout=1)
        world.net.host.ip(f"route del {lan}")
        check(not reached, f"no answer from the device at {site.name}", "it answered")
    return "both sites have the same LAN, 192.168.1.0/24, masqueraded; a ping from outside stays unanswered"


@step("`kubebus token create` makes a join string for each; `twistd edgenode --join` enrols and links up")
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


@step("each has its address and the routes to the whole network in its own kb0")
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


def in_subnet(text: str, subnet: str) -> bool:
    try:
        return ip_address(text.partition("/")[0]) in ip_network(subnet)
    except ValueError:
        return False


# --- 3 -----------------------------------------------------------------------------------------------------------
chapter("A pod, from kubectl to a container behind NAT")


@step("`kubectl apply` of a ConfigMap and two Pods; both run, each at its site")
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


class PhaseWatch:
    """``kubectl get pod NAME -w`` in the background, with the time of every phase it prints."""

    def __init__(self, world: World, name: str) -> None:
        self._command = world.kubectl.command(
            "get", "pods", "-w", f"--field-selector=metadata.name={name}", "-o", 'jsonpath={.status.phase}{"\\n"}'
        )
        self._seen: dict[str, float] = {}

    def __enter__(self) -> PhaseWatch:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._seen.setdefault(line.strip(), time.monotonic())

    def first(self, phase: str) -> float:
        """When the phase was first seen.

        :raises LabError: if it is not within two seconds.
        """
        return wait_until(lambda: self._seen.get(phase), 2, f"kubectl get -w to show {phase}") or 0.0

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()


@step("`kubectl get pods -o wide` shows them with IPs of their nodes' pod subnets")
def pods_have_addresses(world: World, memory: Memory) -> str:
    for edge, name in ((world.edges[0], "web"), (world.edges[1], "client")):
        address = world.pod_ip(name)
        check(in_subnet(address, "10.192.0.0/12"), "a pod IP of 10.192.0.0/12", address)
        inside = edge.execute(name, "ip", "-o", "-4", "address")
        check(f" {address}/" in inside, f"{address} inside the container", inside)
    check(world.pod("web")["status"]["hostIP"], "a hostIP")
    return world.kubectl("get", "pods", "-o", "wide")


@step("its IP answers from the whole cloud, with the content of the ConfigMap")
def web_answers_the_cloud(world: World, memory: Memory) -> str:
    address = world.pod_ip("web")
    net = world.net
    for where, namespace in (("EIP VM", net.eip), ("second VM", net.vm), ("cloud container", net.pod)):
        check(namespace.ping(address, timeout=3), f"a ping to be answered to the {where}")
        page = fetch(namespace, address)
        check(page == "hello from the edge\n", f"the page at the {where}", page)
    return f"ping and HTTP to {address} from the EIP VM, the second VM, and the cloud container: {page.strip()!r}"


def fetch(namespace: Namespace, address: str) -> str:
    """GET / of ``address`` from a machine."""
    return namespace.run(["timeout", "5", "busybox", "wget", "-q", "-O", "-", f"http://{address}/"]).stdout


@step("and from the pod at the other site, which is seen with its own IP")
def web_answers_the_other_site(world: World, memory: Memory) -> str:
    web, client = world.edges
    address, source = world.pod_ip("web"), world.pod_ip("client")
    page = client.execute("client", "timeout", "5", "wget", "-q", "-O", "-", f"http://{address}/")
    check(page == "hello from the edge\n", "the page at the other site", page)
    log = web.log("web")
    check(source in log, f"requests from {source} in the web server's log", log)
    sources = sorted(set(re.findall(r"\b10\.\d+\.\d+\.\d+\b", log)))
    return f"the web server's log has the sources {', '.join(sources)}: no address was translated"


@step("every kind of endpoint reaches every other by ping and TCP, and is seen with its own address")
def one_network(world: World, memory: Memory) -> str:
    pods = [(world.edges[0], "web"), (world.edges[1], "client")]
    with telling_who(world, pods):
        found = endpoints(world, pods)
        tried = crossings(found)
    bad = [f"{each.source.name} → {each.destination.name} ({each.address})" for each in tried if not each.good]
    tables = [table(found, tried, version) for version in (4, 6)]
    check(not bad, "every crossing to work", "\n".join([*bad, *tables]))
    return "\n\n".join(["the source address that each saw, over IPv4 and IPv6:", *tables])


@step("a ConfigMap changed in the cloud changes the file in the running pod")
def configmap_changes(world: World, memory: Memory) -> str:
    began = time.monotonic()
    patch = '{"data": {"index.html": "hello again\\n"}}'
    world.kubectl("patch", "configmap", "web", "--type=merge", "-p", patch)
    address = world.pod_ip("web")
    wait_until(lambda: fetch(world.net.eip, address) == "hello again\n", 30, "the changed page", interval=0.2)
    (now,) = world.edges[0].containers("web")
    check(now == memory.containers["web"], "the same container as before", now)
    return f"after {time.monotonic() - began:.1f} s, in the same container"


@step("`kubectl delete` stops a pod: no container is left on the device")
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


# --- 4 -----------------------------------------------------------------------------------------------------------
chapter("As on any Kubernetes")


@step("`kubectl logs -f` follows, and `kubectl exec` runs a command, in a container behind NAT")
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


@step("a Deployment and a DaemonSet spread over both devices")
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


class Following:
    """A command in the background, and what it has printed."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._lines: list[str] = []

    def text(self) -> str:
        return "".join(self._lines)

    def __enter__(self) -> Following:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        self._lines.extend(iter(self._process.stdout.readline, ""))

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()


# --- 5 -----------------------------------------------------------------------------------------------------------
chapter("One metadata store, on both sides")

KEY = "/kubebus/default/data/all/set-point"


@step("a key put in the cloud appears on the devices, and one put on a device appears everywhere")
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


# --- 6 -----------------------------------------------------------------------------------------------------------
chapter("Site 1 is cut off: its NAT drops every packet, silently")


@step("both sides write the same key; the cloud notices the cut, shows it, and evicts nothing")
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


@step("the link returns: both sides agree, and the pods are the same")
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


# --- 7 -----------------------------------------------------------------------------------------------------------
chapter("The cloud is gone")


@step("kill -9 of the cloud: the pods go on")
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


def pod_address_at(edge: Edge, pod: str) -> str:
    """The pod's IP as it is inside its container: without the cloud."""
    inside = edge.execute(pod, "ip", "-o", "-4", "address", "show", "eth0")
    found = re.search(r"inet (\S+)/", inside)
    if found is None:
        raise NotAsTold(f"expected an address in pod {pod}; seen: {inside}")
    return found.group(1)


@step("on the device, `kubebus pods` and `kubebus logs` need no cloud")
def device_looks_after_itself(world: World, memory: Memory) -> str:
    edge = world.edges[0]
    pods = edge.kubebus("pods")
    check(re.search(r"\bweb\b.*\bRunning\b", pods), "web Running", pods)
    log = edge.kubebus("logs", "web")
    check("response:200" in log, "web's log", log)
    return pods


@step("site 1: the agent is killed, its containers are killed and removed; the pod comes back from the local store")
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


def wait_serving(edge: Edge, pod: str) -> str:
    """Wait until the pod's web server answers its own device; the page."""

    def serving() -> str:
        return fetch(edge.site.node, pod_address_at(edge, pod)) if edge.containers(pod) else ""

    assert edge.agent is not None
    edge.agent.wait_for(serving, 40)
    return serving()


@step("site 2: the power fails; after a cold boot with no cloud in sight, its pod runs again")
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
    (memory.containers["client"],) = edge.containers("client")
    return f"engine, agent and pod are up {time.monotonic() - began:.1f} s after the power came back"


# --- 8 -----------------------------------------------------------------------------------------------------------
chapter("The cloud returns")


@step("both nodes are Ready again, and all status is right")
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


def told_running(world: World, pod: str, container: str) -> bool:
    """Whether the pod's status says that it is Running, ready, and in this container."""
    status = world.pod(pod)["status"]
    told = [(each["ready"], each.get("containerID")) for each in status.get("containerStatuses", [])]
    return status["phase"] == "Running" and told == [(True, container)]


def back(world: World, edge: Edge) -> bool:
    """Whether the node is Ready and packets pass between the router and the device."""
    if not world.node_ready(edge.name):
        return False
    address = edge.site.node.run(["ip", "-o", "-4", "address", "show", "dev", "kb0"]).stdout
    found = re.search(r"inet (\S+)/", address)
    return found is not None and world.net.eip.ping(found.group(1), timeout=1)


@step("the pods are the same: same UIDs, and the containers that ran when it returned run on")
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


@step("and answer the cloud and each other as before")
def network_is_back(world: World, memory: Memory) -> str:
    address = world.pod_ip("web")
    for namespace in (world.net.eip, world.net.vm, world.net.pod):
        page = fetch(namespace, address)
        check(page == "hello again\n", f"the page from {address}", page)
    page = world.edges[1].execute("client", "timeout", "5", "wget", "-q", "-O", "-", f"http://{address}/")
    check(page == "hello again\n", "the page at the other site", page)
    return f"http://{address}/ answers the EIP VM, the second VM, the cloud container and the pod at site 2"


# --- 9 -----------------------------------------------------------------------------------------------------------
chapter("In figures")


@step("what it costs")
def figures(world: World, memory: Memory) -> str:
    lines = [f"kubectl apply to Running: {memory.seconds_to_running:.1f} s"]
    for name, (rss, pss) in memory.megabytes.items():
        lines.append(f"{name}: RSS {rss:.0f} MB (PSS {pss:.0f} MB)" + ("" if name == "router" else " with one pod"))
    return "\n".join(lines)


@step("`kubebus status`")
def status(world: World, memory: Memory) -> str:
    told = world.kubebus("status")
    for edge in world.edges:
        check(edge.name in told, f"{edge.name} in the status", told)
    return told
