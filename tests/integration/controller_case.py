"""A controller in this process, towards a real kube-apiserver; for the tests beside this file."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any, ClassVar

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from edgectl.controller import ControllerOptions, EdgeController
from edgectl.interfaces import EdgeNode
from edgectl.kubeconfig import load_kubeconfig
from edgectl.kubernetes import KubernetesClient
from edgectl.testing_control import FakeDirectory, SimulatedEdge
from metasync.memory import MemoryStore
from tests.lab.kubernetes import KubeApiServer
from tests.lab.world import SharedWorld

reactor: Any = installed_reactor


def edge(name: str, connected: bool = True) -> EdgeNode:
    subnet = ip_network("10.192.1.0/24")
    return EdgeNode(name, (ip_address("10.250.0.2"),), (subnet,), connected, reactor.seconds())


def pod(name: str, node: str, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "c", "image": "busybox", "command": ["sleep", "1000"]}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": node, "containers": containers, **spec},
    }


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Look again and again until ``condition()`` is true; what it looks at may raise ``KeyError`` until then."""
    deadline = reactor.seconds() + seconds
    while True:
        try:
            if condition():
                return
        except (KeyError, StopIteration):
            pass
        if reactor.seconds() > deadline:
            raise TimeoutError("it did not come true in time")
        await deferLater(reactor, 0.05)


class RealKubernetesCase(SharedWorld, TestCase):
    timeout = 60
    server: ClassVar[KubeApiServer]

    @classmethod
    def build_world(cls) -> None:
        cls.server = cls.keep(KubeApiServer())

    def setUp(self) -> None:
        super().setUp()
        self.store = MemoryStore(reactor)
        self.directory = FakeDirectory()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.stop()))
        self.name = self.id().rpartition(".")[2].removeprefix("test_").replace("_", "-")[:40].strip("-")

    def start(self, options: ControllerOptions | None = None) -> None:
        client = KubernetesClient(reactor, load_kubeconfig(self.server.admin_kubeconfig))
        self.controller = EdgeController(reactor, client, self.store, "default", self.directory, options)
        self.controller.startService()

    async def stop(self) -> None:
        if self.controller.running:
            await self.controller.stopService()

    async def kubectl(self, *arguments: str) -> str:
        return await deferToThread(self.server.kubectl, *arguments)

    async def get(self, *arguments: str) -> Any:
        return await deferToThread(self.server.kubectl.json, "get", *arguments)

    async def apply(self, *objects: dict[str, Any]) -> None:
        await deferToThread(self.server.kubectl.apply, *objects)

    async def enrol(self, node: EdgeNode | None = None) -> SimulatedEdge:
        """This test's own node, registered and ready."""
        self.directory.set(node or edge(self.name))
        simulated = SimulatedEdge(self.store, "default", self.name)
        self.addCleanup(simulated.stop)
        await simulated.start()
        await self.kubectl("wait", "--for=condition=EdgeConnected", f"node/{self.name}", "--timeout=20s")
        await self.kubectl("wait", "--for=condition=Ready", f"node/{self.name}", "--timeout=20s")
        return simulated
