"""The rights in examples/kubernetes are enough, and a real kube-apiserver refuses what they do not give."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from twisted.application.service import MultiService
from twisted.internet.defer import maybeDeferred

from edgectl.controller import ControllerOptions
from edgectl.errors import StatusError
from edgectl.kubeconfig import ClusterConfig, load_kubeconfig
from edgectl.kubernetes import CONFIGMAPS, LEASES, SECRETS, KubernetesClient
from edgectl.leader import LeadingService
from edgectl.service import ClusterOptions, LeaderOptions, cluster_service
from tests.integration import controller_case
from tests.integration.controller_case import RealKubernetesCase, edge, pod, reactor, until
from tests.lab.kubernetes import KubeApiServer

MANIFESTS = Path(__file__).parents[2] / "examples" / "kubernetes"
ACCOUNT = "system:serviceaccount:kubebus:kubebus"


class LeastRightsTests(RealKubernetesCase, controller_case.Story):
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

    async def test_other_namespaces_secrets_stay_closed(self) -> None:
        self.start()
        client = KubernetesClient(reactor, self.account)
        for resource, namespace in ((SECRETS, "kube-system"), (CONFIGMAPS, "kube-system"), (SECRETS, "")):
            with self.assertRaises(StatusError) as raised:
                await client.list(resource, namespace)
            self.assertEqual(403, raised.exception.code)
        with self.assertRaises(StatusError):
            await client.list(LEASES, "kube-system")
        await client.close()

    async def test_the_cluster_wide_manifest_is_accepted(self) -> None:
        self.start()
        await self.kubectl("apply", "--dry-run=server", "-f", str(MANIFESTS / "cluster-wide-access.yaml"))

    def candidate(self, identity: str) -> tuple[MultiService, LeadingService]:
        options = ClusterOptions(ControllerOptions(namespaces=["default"]), leader=LeaderOptions(identity))
        service = cluster_service(reactor, self.cluster, self.store, "default", self.directory, options)
        self.addCleanup(lambda: maybeDeferred(service.stopService) if service.running else None)
        service.startService()
        leading = next(iter(service))
        assert isinstance(leading, LeadingService)
        return service, leading

    async def test_one_leads_and_the_other_takes_over(self) -> None:
        first, leader = self.candidate("first")
        await until(lambda: leader.leading)
        _, follower = self.candidate("second")
        self.directory.set(edge(self.name))
        await until(lambda: follower.leader == "first")
        self.assertFalse(follower.leading)
        await maybeDeferred(first.stopService)
        await until(lambda: follower.leading)
        await self.appears("node", self.name)
        await self.kubectl("wait", "--for=condition=EdgeConnected", f"node/{self.name}", "--timeout=20s")
        await self.apply(pod(self.name, self.name))
        found = f"/desired/pods/default/{self.name}"
        await until(lambda: any(found in event.kv.key.decode() for event in self.store._events))
        lease = await self.get("lease", "-n", "kubebus", "kubebus-default")
        self.assertEqual("second", lease["spec"]["holderIdentity"])
