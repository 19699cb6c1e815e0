"""The rights in examples/kubernetes are enough, and a real kube-apiserver refuses what they do not give."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from edgectl.controller import ControllerOptions
from edgectl.errors import StatusError
from edgectl.kubeconfig import ClusterConfig, load_kubeconfig
from edgectl.kubernetes import CONFIGMAPS, LEASES, SECRETS, KubernetesClient
from tests.integration import controller_case
from tests.integration.controller_case import RealKubernetesCase, reactor
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
