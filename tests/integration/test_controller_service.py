"""The whole service towards a cluster, twice: two processes' worth of controllers, of which one leads."""

from __future__ import annotations

from twisted.application.service import MultiService
from twisted.internet.defer import maybeDeferred

from edgectl.leader import LeadingService
from edgectl.service import ClusterOptions, LeaderOptions, cluster_service
from tests.integration.controller_case import RealKubernetesCase, edge, pod, reactor, until


class LeaderTests(RealKubernetesCase):
    def candidate(self, identity: str) -> tuple[MultiService, LeadingService]:
        options = ClusterOptions(leader=LeaderOptions(identity, "default"))
        service = cluster_service(reactor, self.cluster, self.store, "default", self.directory, options)
        self.addCleanup(lambda: maybeDeferred(service.stopService) if service.running else None)
        service.startService()
        leading = next(iter(service))
        assert isinstance(leading, LeadingService)
        return service, leading

    async def stop(self) -> None:
        """The controllers are stopped with their services."""

    async def test_one_leads_and_the_other_takes_over(self) -> None:
        first, leader = self.candidate("first")
        await until(lambda: leader.leading)
        _, follower = self.candidate("second")
        self.directory.set(edge(self.name))
        await until(lambda: follower.leader == "first")
        self.assertFalse(follower.leading)
        await maybeDeferred(first.stopService)
        await until(lambda: follower.leading)
        await self.kubectl("wait", "--for=condition=EdgeConnected", f"node/{self.name}", "--timeout=20s")
        await self.apply(pod(self.name, self.name))
        found = f"/desired/pods/default/{self.name}"
        await until(lambda: any(found in event.kv.key.decode() for event in self.store._events))
        lease = await self.get("lease", "-n", "default", "kubebus-default")
        self.assertEqual("second", lease["spec"]["holderIdentity"])
