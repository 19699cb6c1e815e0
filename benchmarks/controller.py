"""How the edge controller does with many nodes: ``python -m benchmarks.controller [--nodes 1000] [--pods 10]``.

Against the embedded control plane, or a real kube-apiserver where ``KUBE_APISERVER`` names one, over real sockets. The
nodes are simulated in the store, at which they answer at once: what is measured is the controller and the API.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import time
from contextlib import ExitStack
from ipaddress import IPv4Network, ip_address
from statistics import quantiles
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater

from edgectl.apiserver.pki import ApiPki
from edgectl.apiserver.service import EmbeddedControlPlane, ServingTLS
from edgectl.controller import EdgeController
from edgectl.errors import StatusError
from edgectl.informer import Informer
from edgectl.interfaces import EdgeNode
from edgectl.kubeconfig import ClusterConfig, load_kubeconfig
from edgectl.kubernetes import NODES, PODS, KubernetesClient
from edgectl.testing_control import FakeDirectory, SimulatedEdge
from edgectl.watch import Object
from metasync.interfaces import StoreError
from metasync.keys import node_of, nodes_prefix
from metasync.memory import MemoryStore
from metasync.model import EventType, KeyRange, WatchBatch
from tests.lab.kubernetes import KubeApiServer
from tests.lab.state import Run

reactor: Any = installed_reactor
NETWORK = "default"
CREATIONS_AT_ONCE = 32


class Fleet:
    """Many simulated nodes, fed by one watch."""

    def __init__(self, store: MemoryStore) -> None:
        self.edges: dict[str, SimulatedEdge] = {}
        self._store = store
        self._prefix = nodes_prefix(NETWORK).encode()

    async def add(self, name: str, network: object) -> None:
        edge = self.edges[name] = SimulatedEdge(self._store, NETWORK, name, str(network)[:-1])
        await edge.report_node()

    async def follow(self) -> None:
        keys = KeyRange.prefix(self._prefix)
        now = await self._store.range(keys)
        self._store.watch(keys, now.revision + 1, self)

    def batch(self, batch: WatchBatch) -> None:
        for event in batch.events:
            name = node_of(NETWORK, event.kv.key)
            if name in self.edges and b"/desired/pods/" in event.kv.key:
                value = event.kv.value if event.type is EventType.PUT else None
                self.edges[name].desired(event.kv.key, value)

    def progress(self, revision: int) -> None:
        pass

    def failed(self, error: StoreError) -> None:
        raise error


class Watcher:
    """Sees by a watch of its own, as a user would, when what became true."""

    def __init__(self, client: KubernetesClient) -> None:
        self.ready: set[str] = set()
        self.bound: dict[str, float] = {}
        self.running: dict[str, float] = {}
        self._informers = [
            Informer(reactor, client, NODES, lambda: 0.5),
            Informer(reactor, client, PODS, lambda: 0.5, field_selector="spec.nodeName!="),
        ]
        self._informers[0].subscribe(self._node)
        self._informers[1].subscribe(self._pod)
        for informer in self._informers:
            informer.start()

    def _node(self, key: str, old: Object | None, new: Object | None) -> None:
        conditions = ((new or {}).get("status") or {}).get("conditions") or ()
        if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
            self.ready.add(key)

    def _pod(self, key: str, old: Object | None, new: Object | None) -> None:
        now = reactor.seconds()
        self.bound.setdefault(key, now)
        if new is not None and (new.get("status") or {}).get("phase") == "Running":
            self.running.setdefault(key, now)

    def stop(self) -> None:
        for informer in self._informers:
            informer.stop()


async def until(condition: Any, seconds: float, what: str) -> float:
    """The seconds it took."""
    began = reactor.seconds()
    while not condition():
        if reactor.seconds() - began > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        await deferLater(reactor, 0.05)
    return float(reactor.seconds() - began)


def resident() -> float:
    """MiB of this process now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


class Benchmark:
    def __init__(self, nodes: int, pods: int, cluster: ClusterConfig, store: MemoryStore, limit: float) -> None:
        self.names = [f"edge{number:04}" for number in range(nodes)]
        self.pods = pods
        self.cluster = cluster
        self.store = store
        self.limit = limit
        self.directory = FakeDirectory()
        self.controller = self.make()

    def make(self) -> EdgeController:
        client = KubernetesClient(reactor, self.cluster)
        return EdgeController(reactor, client, self.store, NETWORK, self.directory)

    async def run(self) -> None:
        client = KubernetesClient(reactor, self.cluster)
        watcher = Watcher(client)
        fleet = Fleet(self.store)
        before = resident()
        self.controller.startService()
        await until(lambda: self.controller.ready, 30, "the controller is ready")
        await fleet.follow()
        for number, name in enumerate(self.names):
            await fleet.add(name, _subnet(number).network_address)
            self.directory.set(_edge(name, number))
        took = await until(lambda: len(watcher.ready) == len(self.names), self.limit, "all Nodes Ready")
        say("all Nodes Ready", f"{took:.1f} s for {len(self.names)}")
        await self.create_pods(client)
        whole = len(self.names) * self.pods
        await until(lambda: len(watcher.running) == whole, self.limit, "all Pods Running")
        cuts = quantiles([watcher.running[key] - watcher.bound[key] for key in watcher.bound], n=100)
        say("Pod bound to Running, seen in the API", f"p50 {cuts[49]:.2f} s, p99 {cuts[98]:.2f} s ({whole} pods)")
        say("LIST requests so far", str(self.controller.lists))
        per_node = (resident() - before) * 1024 / len(self.names)
        say("memory a node, everything in this process", f"{per_node:.0f} KiB")
        await self.restart()
        watcher.stop()
        await client.close()
        await self.controller.stopService()

    async def create_pods(self, client: KubernetesClient) -> None:
        tokens = DeferredSemaphore(CREATIONS_AT_ONCE)
        bodies = [_pod(f"{name}-{n}", name) for n in range(self.pods) for name in self.names]
        began = reactor.seconds()

        def create(body: Object) -> Deferred[Any]:
            return Deferred.fromCoroutine(client.create(PODS, "default", body))

        await gatherResults([tokens.run(create, body) for body in bodies])
        say("Pods made by this benchmark", f"{len(bodies) / (reactor.seconds() - began):.0f} a second")

    async def restart(self) -> None:
        """The controller goes and comes back; nothing has changed, so nothing is to be written."""
        await self.controller.stopService()
        revision = self.store.revision
        self.controller = self.make()
        began = time.monotonic()
        self.controller.startService()
        await until(lambda: self.controller.idle, self.limit, "the controller is idle again")
        say("restarted controller idle after", f"{time.monotonic() - began:.1f} s, {self.controller.lists} LISTs")
        say("writes to the store by that", str(self.store.revision - revision))


def _edge(name: str, number: int) -> EdgeNode:
    address = ip_address("10.250.0.2") + number
    return EdgeNode(name, (address,), (_subnet(number),), True, reactor.seconds())


def _subnet(number: int) -> IPv4Network:
    return IPv4Network((int(ip_address("10.192.0.0")) + number * 256, 24))


def _pod(name: str, node: str) -> Object:
    containers = [{"name": "c", "image": "busybox", "command": ["sleep", "1000"]}]
    return {"metadata": {"name": name}, "spec": {"nodeName": node, "containers": containers}}


def say(what: str, value: str) -> None:
    print(f"{what:45} {value}", flush=True)


async def embedded(stack: ExitStack, store: MemoryStore) -> ClusterConfig:
    folder = Run.current().directory("benchmark")
    stack.callback(shutil.rmtree, folder)
    pki = ApiPki.load_or_create(folder, ["127.0.0.1"])
    tls = ServingTLS(pki.server.certificate, pki.server.key, pki.ca.certificate)
    endpoint: Any = TCP4ServerEndpoint
    plane = EmbeddedControlPlane(reactor, store, NETWORK, endpoint(reactor, 0, interface="127.0.0.1"), tls)
    port: Any = await plane.begin()
    url = f"https://127.0.0.1:{port.getHost().port}"
    return ClusterConfig(url, pki.ca.certificate, pki.admin.certificate, pki.admin.key)


async def measure(options: argparse.Namespace) -> None:
    store = MemoryStore(reactor)
    with ExitStack() as stack:
        if os.environ.get("KUBE_APISERVER"):
            server = stack.enter_context(KubeApiServer())
            cluster = load_kubeconfig(server.admin_kubeconfig)
            say("Kubernetes", "kube-apiserver {}.{} with etcd".format(*server.version()))
        else:
            cluster = await embedded(stack, store)
            say("Kubernetes", "embedded control plane, in this process")
        await Benchmark(options.nodes, options.pods, cluster, store, options.limit).run()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.controller", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--pods", type=int, default=10, help="for each node")
    parser.add_argument("--limit", type=float, default=900, help="seconds for each step")
    options = parser.parse_args()
    failed: list[BaseException] = []

    def ended(failure: Any) -> None:
        failed.append(failure.value)
        print(f"FAILED: {failure.getTraceback() if not isinstance(failure.value, StatusError) else failure.value}")

    def begin() -> None:
        running = Deferred.fromCoroutine(measure(options))
        running.addErrback(ended)
        running.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
