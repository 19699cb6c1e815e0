"""The whole with many nodes: ``python -m benchmarks.fleet [--nodes 100] [--pods 10]``. Needs root.

A real ``twistd kubebus --standalone`` in a namespace, and nodes that are real but for their engine and network device
(:mod:`benchmarks.fleet_nodes`): each enrols, has a TLS link of its own and syncs its own store over it. Pods are made
through the API and seen there. Then the router is killed and started again: all of it has to come back as it was.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import quantiles
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults

from benchmarks.controller import Watcher, say, until
from benchmarks.fleet_nodes import __name__ as NODES_MODULE
from benchmarks.processes import cpu_seconds, pss
from edgectl.errors import StatusError
from edgectl.kubeconfig import ClusterConfig, load_kubeconfig
from edgectl.kubernetes import PODS, KubernetesClient
from edgectl.watch import Object
from kubebus.adminclient import AdminClient
from tests.lab.daemon import Daemon
from tests.lab.namespace import Namespace
from tests.lab.state import Run

reactor: Any = installed_reactor
CHECKOUT = Path(__file__).parents[1]
CREATIONS_AT_ONCE = 16
_CLONE_NEWNET = 0x40000000


class Fleet:
    def __init__(self, stack: ExitStack, options: argparse.Namespace) -> None:
        self.options = options
        self.names = [f"edge{number:04}" for number in range(options.nodes)]
        self.net = stack.enter_context(Namespace("fleet"))
        enter(self.net)
        self.path = Run.current().directory("fleet")
        kubeconfig, self.socket = self.path / "kubeconfig", self.path / "socket"
        twistd = [str(Path(sys.executable).parent / "twistd"), "--nodaemon", "--pidfile="]
        if options.profile:
            twistd += [f"--profile={options.profile}", "--profiler=cprofile", "--savestats"]
        command = [
            *(*twistd, "kubebus", "--standalone"),
            *("--state-dir", str(self.path / "cloud")),
            *("--public-address", "127.0.0.1", "--listen-address", "127.0.0.1"),
            *("--kubeconfig-out", str(kubeconfig), "--socket", str(self.socket), "--router-name", "fleet"),
        ]
        environment = {"PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}
        self.router = Daemon("kubebus", command, namespace=self.net, cwd=CHECKOUT, env=environment)
        stack.callback(self.router.close)
        self.router.start()
        self.router.wait_for("Kubernetes API is up", 60)
        self.router.wait_for(self.socket.exists, 30)
        self.cluster = load_kubeconfig(kubeconfig)
        self.processes = [self._nodes(stack, names) for names in in_parts(self.names, options.processes)]

    def _nodes(self, stack: ExitStack, names: list[str]) -> Daemon:
        folder = Run.current().directory("nodes")
        admin = AdminClient(str(self.socket))
        made = [f"{name} {admin.post('/v1/tokens', {'node': name})['joinString']}" for name in names]
        (folder / "nodes").write_text("\n".join(made))
        command = [sys.executable, "-m", NODES_MODULE, str(folder)]
        daemon = Daemon("nodes", command, namespace=self.net, cwd=CHECKOUT, env={"PYTHONPATH": str(CHECKOUT)})
        stack.callback(daemon.close)
        return daemon

    async def run(self) -> None:
        client = KubernetesClient(reactor, self.cluster)
        watcher = Watcher(client)
        count, whole, limit = len(self.names), len(self.names) * self.options.pods, self.options.limit
        empty = pss(self.router.pid)
        for process in self.processes:
            process.start()
        took = await until(lambda: len(watcher.ready) == count, limit, "all Nodes Ready")
        say("enrolled, linked, synced and Ready", f"{took:.1f} s for {count} nodes")
        say("router's CPU for that", f"{cpu_seconds(self.router.pid):.1f} s")
        began = reactor.seconds()
        await create_pods(self.cluster, self.names, self.options.pods)
        say("Pods made by this benchmark", f"{whole / (reactor.seconds() - began):.0f} a second")
        await until(lambda: len(watcher.running) == whole, limit, "all Pods Running")
        cuts = quantiles([watcher.running[key] - watcher.bound[key] for key in watcher.bound], n=100)
        say("Pod bound to Running, seen in the API", f"p50 {cuts[49]:.2f} s, p99 {cuts[98]:.2f} s ({whole} pods)")
        say("router's memory a node", f"{(pss(self.router.pid) - empty) / 1024 / count:.0f} KiB")
        together = sum(pss(process.pid) for process in self.processes)
        say("a simulated node's memory", f"{together / 1024 / count:.0f} KiB")
        say("LISTs of the edge controller so far", str(self.lists()))
        watcher.stop()
        await client.close()
        if self.options.profile:
            self.router.stop(60)
        else:
            await self.restart(count, whole)

    async def restart(self, count: int, whole: int) -> None:
        """The router is killed and started again. All Nodes are connected and all Pods Running as before."""
        client = KubernetesClient(reactor, self.cluster)
        before = await uids(client)
        self.router.kill9()
        began = time.monotonic()
        self.router.start()
        self.router.wait_for("Kubernetes API is up", 300)
        say("router killed; its API is up after", f"{time.monotonic() - began:.1f} s")
        watcher = Watcher(client)
        expected = "Node (\\S+) is connected"
        await until(
            lambda: len(set(re.findall(expected, self.router.text()))) >= count, self.options.limit, "all links"
        )
        say("all nodes are linked again after", f"{time.monotonic() - began:.1f} s")
        await until(lambda: len(watcher.running) == whole, self.options.limit, "all Pods Running again")
        say("all Pods Running after", f"{time.monotonic() - began:.1f} s")
        if await uids(client) != before:
            raise AssertionError("the Pods are not those of before")
        watcher.stop()
        await client.close()
        self.router.stop(60)
        say("LISTs of the edge controller since then", str(self.lists()))

    def lists(self) -> int:
        """How many it has made in its present life: those of its start, and those of lost places since."""
        life = self.router.text().rpartition("edge controller is up after ")[2]
        return int(life.partition(" ")[0]) + life.count("listing all of it anew")


async def create_pods(cluster: ClusterConfig, names: list[str], pods: int) -> None:
    client, tokens = KubernetesClient(reactor, cluster), DeferredSemaphore(CREATIONS_AT_ONCE)

    def create(body: Object) -> Deferred[Any]:
        return Deferred.fromCoroutine(client.create(PODS, "default", body))

    bodies = [pod_for(f"{name}-{number}", name) for number in range(pods) for name in names]
    await gatherResults([tokens.run(create, body) for body in bodies])
    await client.close()


def pod_for(name: str, node: str) -> Object:
    containers = [{"name": "c", "image": "busybox", "command": ["sleep", "1000"]}]
    # Tokens are another matter: each would be asked for and synced too.
    spec = {"nodeName": node, "containers": containers, "automountServiceAccountToken": False}
    return {"metadata": {"name": name}, "spec": spec}


async def uids(client: KubernetesClient) -> dict[str, str]:
    page = await client.list(PODS)
    return {each["metadata"]["name"]: each["metadata"]["uid"] for each in page["items"]}


def in_parts(names: list[str], number: int) -> list[list[str]]:
    return [names[start::number] for start in range(number)]


def enter(namespace: Namespace) -> None:
    """Be in the namespace from now on, as are the sockets that this thread opens."""
    with open(namespace.path) as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--pods", type=int, default=10, help="for each node")
    parser.add_argument("--processes", type=int, default=4, help="that the nodes are in")
    parser.add_argument("--limit", type=float, default=600, help="seconds for each step")
    parser.add_argument("--profile", metavar="FILE", help="write cProfile's statistics of the router; no restart then")
    options = parser.parse_args()
    failed: list[BaseException] = []

    def ended(failure: Any) -> None:
        failed.append(failure.value)
        print(f"FAILED: {failure.value if failure.check(StatusError) else failure.getTraceback()}")

    with ExitStack() as stack:
        fleet = Fleet(stack, options)

        def begin() -> None:
            running = Deferred.fromCoroutine(fleet.run()).addErrback(ended)
            running.addBoth(lambda _: reactor.stop())

        reactor.callWhenRunning(begin)
        reactor.run()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
