"""The edge controller against a real kube-apiserver with a real etcd, and kubectl; the edge is simulated."""

from __future__ import annotations

from dataclasses import replace

from twisted.internet.threads import deferToThread

from edgectl.errors import ApiUnreachable
from edgectl.kubernetes import NODES, KubernetesClient
from tests.integration import controller_case
from tests.integration.controller_case import EmbeddedCase, RealKubernetesCase, pod, reactor


class StoryTests(RealKubernetesCase, controller_case.Story):
    async def test_a_server_with_another_ca_is_not_talked_to(self) -> None:
        config = replace(self.cluster, ca=None)
        self.start()
        client = KubernetesClient(reactor, config)
        with self.assertRaises(ApiUnreachable) as raised:
            await client.list(NODES)
        self.assertIn("certificate verify failed", str(raised.exception))
        await client.close()


class EmbeddedStoryTests(EmbeddedCase, controller_case.Story):
    """The same story."""


class OutageTests(RealKubernetesCase):
    async def test_the_api_server_killed_and_its_etcd_compacted(self) -> None:
        self.start()
        simulated = await self.enrol()
        await self.apply(pod(self.name, self.name))
        await self.kubectl("wait", "--for=condition=Ready", f"pod/{self.name}", "--timeout=20s")
        lists = self.controller.lists
        await deferToThread(self.server.kill9)
        await deferToThread(self.server.etcd.compact)
        await deferToThread(self.server.start)
        await self.apply(pod(f"{self.name}-2", self.name))
        await self.kubectl("wait", "--for=condition=Ready", f"pod/{self.name}-2", "--timeout=60s")
        await self.kubectl("delete", "pod", self.name, f"{self.name}-2", "--timeout=20s")
        self.assertEqual([1, 1], list(simulated.started.values()))
        self.assertLessEqual(self.controller.lists, lists + 4)
