"""A controller in this process, towards a real kube-apiserver; for the tests beside this file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, ClassVar

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from edgectl.apiserver.kubeconfig import write_kubeconfig
from edgectl.apiserver.pki import ApiPki
from edgectl.apiserver.service import EmbeddedControlPlane, ServingTLS
from edgectl.controller import ControllerOptions, EdgeController
from edgectl.interfaces import EdgeNode
from edgectl.kubeconfig import ClusterConfig, load_kubeconfig
from edgectl.kubernetes import KubernetesClient
from edgectl.testing_control import FakeDirectory, SimulatedEdge
from metasync.memory import MemoryStore
from tests.lab.kubernetes import KubeApiServer, Kubectl
from tests.lab.state import Run
from tests.lab.world import SharedWorld

reactor: Any = installed_reactor

MANIFESTS = Path(__file__).parents[2] / "examples" / "kubernetes"
ACCOUNT = "system:serviceaccount:kubebus:kubebus"


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


class ControllerCase(TestCase):
    """:ivar tool: kubectl for the Kubernetes that the controller stands towards, as :attr:`cluster` says."""

    timeout = 60
    tool: Kubectl
    cluster: ClusterConfig
    controller: Any = None

    def prepare(self) -> None:
        self.store = MemoryStore(reactor)
        self.directory = FakeDirectory()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.stop()))
        self.name = self.id().rpartition(".")[2].removeprefix("test_").replace("_", "-")[:40].strip("-")

    def start(self, options: ControllerOptions | None = None) -> None:
        client = KubernetesClient(reactor, self.cluster)
        self.controller = EdgeController(reactor, client, self.store, "default", self.directory, options)
        self.controller.startService()

    async def stop(self) -> None:
        if self.controller is not None and self.controller.running:
            await self.controller.stopService()

    async def appears(self, *what: str) -> None:
        """Until ``kubectl get`` finds it."""
        while not await self.kubectl("get", *what, "-o", "name", "--ignore-not-found"):
            await deferLater(reactor, 0.05)

    async def kubectl(self, *arguments: str) -> str:
        return await deferToThread(self.tool, *arguments)

    async def get(self, *arguments: str) -> Any:
        return await deferToThread(self.tool.json, "get", *arguments)

    async def apply(self, *objects: dict[str, Any]) -> None:
        await deferToThread(self.tool.apply, *objects)

    async def enrol(self, node: EdgeNode | None = None) -> SimulatedEdge:
        """This test's own node, registered and ready."""
        self.directory.set(node or edge(self.name))
        simulated = SimulatedEdge(self.store, "default", self.name)
        self.addCleanup(simulated.stop)
        await simulated.start()
        await until(lambda: self.controller.idle)
        await self.kubectl("wait", "--for=condition=EdgeConnected", f"node/{self.name}", "--timeout=20s")
        await self.kubectl("wait", "--for=condition=Ready", f"node/{self.name}", "--timeout=20s")
        return simulated


class RealKubernetesCase(SharedWorld, ControllerCase):
    """Towards a real kube-apiserver with a real etcd."""

    server: ClassVar[KubeApiServer]

    @classmethod
    def build_world(cls) -> None:
        cls.server = cls.keep(KubeApiServer())

    def setUp(self) -> None:
        super().setUp()
        self.prepare()
        self.tool = self.server.kubectl
        self.cluster = load_kubeconfig(self.server.admin_kubeconfig)


class LeastRightsCase(RealKubernetesCase):
    """The same, with the rights in examples/kubernetes for one namespace and no more."""

    account: ClassVar[ClusterConfig]

    @classmethod
    def build_world(cls) -> None:
        cls.server = cls.keep(KubeApiServer())
        kubectl = cls.server.kubectl
        kubectl("apply", "-f", str(MANIFESTS / "rbac.yaml"))
        kubectl("apply", "-n", "default", "-f", str(MANIFESTS / "namespace-access.yaml"))
        pair = cls.server.authority.issue(ACCOUNT)
        cls.account = load_kubeconfig(cls.server.write_kubeconfig("kubebus", pair))

    def setUp(self) -> None:
        super().setUp()
        self.cluster = self.account

    def start(self, options: ControllerOptions | None = None) -> None:
        super().start(options or ControllerOptions(namespaces=["default"]))


class EmbeddedCase(ControllerCase):
    """Towards the embedded control plane, in this process and on the same store."""

    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        self.prepare()
        folder = Run.current().directory("embedded")
        self.addCleanup(shutil.rmtree, folder)
        pki = ApiPki.load_or_create(folder, ["127.0.0.1"])
        tls = ServingTLS(pki.server.certificate, pki.server.key, pki.ca.certificate)
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        plane = EmbeddedControlPlane(reactor, self.store, "default", endpoint, tls)
        # After the controller's own end: cleanups run backwards.
        self._cleanups.insert(0, (lambda: Deferred.fromCoroutine(plane.stopService()), (), {}))
        port = await plane.begin()
        url = f"https://127.0.0.1:{port.getHost().port}"  # type: ignore[attr-defined]
        path = folder / "admin.kubeconfig"
        write_kubeconfig(path, url, pki.ca.certificate, client=pki.admin)
        self.tool = Kubectl(path)
        self.cluster = ClusterConfig(url, pki.ca.certificate, pki.admin.certificate, pki.admin.key)


class Story(ControllerCase):
    """What must hold whatever Kubernetes it is."""

    async def test_a_node_and_its_pods_live_and_end(self) -> None:
        self.start()
        await until(lambda: self.controller.ready)
        simulated = await self.enrol()
        node = await self.get("node", self.name)
        self.assertEqual("10.192.1.0/24", node["metadata"]["annotations"]["kubebus.io/pod-subnets"])
        self.assertEqual("v1.29.0", node["status"]["nodeInfo"]["kubeletVersion"])
        configmap = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self.name, "namespace": "default"},
            "data": {"a": "1"},
        }
        await self.apply(
            configmap, pod(self.name, self.name, volumes=[{"name": "v", "configMap": {"name": self.name}}])
        )
        await self.kubectl("wait", "--for=condition=Ready", f"pod/{self.name}", "--timeout=20s")
        seen = await self.get("pod", self.name)
        self.assertEqual("Running", seen["status"]["phase"])
        self.assertEqual({seen["metadata"]["uid"]: 1}, simulated.started)
        lease = await self.get("lease", "-n", "kube-node-lease", self.name)
        self.assertEqual(self.name, lease["spec"]["holderIdentity"])
        await self.kubectl("delete", "pod", self.name, "--timeout=20s")
        self.assertEqual("", await self.kubectl("get", "pods", "-o", "name"))

    async def test_a_node_shows_that_it_is_away_and_comes_back_with_the_same_pods(self) -> None:
        self.start()
        simulated = await self.enrol()
        await self.apply(pod(self.name, self.name))
        await self.kubectl("wait", "--for=condition=Ready", f"pod/{self.name}", "--timeout=20s")
        before = await self.get("pod", self.name)
        self.directory.set(edge(self.name, connected=False))
        await self.kubectl("wait", "--for=condition=EdgeConnected=False", f"node/{self.name}", "--timeout=20s")
        node = await self.get("node", self.name)
        self.assertIn(
            ("kubebus.io/disconnected", "NoSchedule"), [(t["key"], t["effect"]) for t in node["spec"]["taints"]]
        )
        self.directory.set(edge(self.name))
        await self.kubectl("wait", "--for=condition=EdgeConnected", f"node/{self.name}", "--timeout=20s")
        after = await self.get("pod", self.name)
        self.assertEqual(before["metadata"]["uid"], after["metadata"]["uid"])
        self.assertEqual(1, simulated.started[after["metadata"]["uid"]])
        await self.kubectl("delete", "pod", self.name, "--timeout=20s")

    async def test_deleted_and_made_again_under_the_same_name_while_the_node_is_away(self) -> None:
        self.start()
        simulated = await self.enrol()
        await self.apply(pod(self.name, self.name))
        await self.kubectl("wait", "--for=condition=Ready", f"pod/{self.name}", "--timeout=20s")
        first = (await self.get("pod", self.name))["metadata"]["uid"]
        simulated.stop()
        self.directory.set(edge(self.name, connected=False))
        await self.kubectl("delete", "pod", self.name, "--grace-period=0", "--force")
        await self.apply(pod(self.name, self.name))
        second = (await self.get("pod", self.name))["metadata"]["uid"]
        self.directory.set(edge(self.name))
        await simulated.start()
        await self.kubectl("wait", "--for=condition=Ready", f"pod/{self.name}", "--timeout=20s")
        self.assertEqual({first: 1, second: 1}, simulated.started)
        await self.kubectl("delete", "pod", self.name, "--timeout=20s")

    async def test_a_node_removed_for_good_is_removed_with_its_lease(self) -> None:
        self.start()
        await self.enrol()
        await until(lambda: self.controller.idle)
        self.directory.remove(self.name)
        await self.kubectl("wait", "--for=delete", f"node/{self.name}", "--timeout=20s")
        self.assertNotIn(self.name, await self.kubectl("get", "leases", "-n", "kube-node-lease", "-o", "name"))
