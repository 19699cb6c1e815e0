"""The rights in examples/kubernetes are enough, and a real kube-apiserver refuses what they do not give."""

from __future__ import annotations

from twisted.application.service import MultiService
from twisted.internet.defer import maybeDeferred

from edgectl.controller import ControllerOptions
from edgectl.errors import StatusError
from edgectl.kubernetes import CONFIGMAPS, LEASES, SECRETS, KubernetesClient
from edgectl.leader import LeadingService
from edgectl.service import ClusterOptions, LeaderOptions, cluster_service
from tests.integration import controller_case
from tests.integration.controller_case import MANIFESTS, LeastRightsCase, edge, pod, reactor, until


class LeastRightsTests(LeastRightsCase, controller_case.Story):
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
