"""The edge controller against a real kube-apiserver with a real etcd, and kubectl; the edge is simulated."""

from __future__ import annotations

from dataclasses import replace

from twisted.internet.threads import deferToThread

from edgectl.errors import ApiUnreachable
from edgectl.kubeconfig import load_kubeconfig
from edgectl.kubernetes import NODES, KubernetesClient
from tests.integration.controller_case import RealKubernetesCase, edge, pod, reactor, until


class StoryTests(RealKubernetesCase):
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

    async def test_a_server_with_another_ca_is_not_talked_to(self) -> None:
        config = replace(load_kubeconfig(self.server.admin_kubeconfig), ca=None)
        self.start()
        client = KubernetesClient(reactor, config)
        with self.assertRaises(ApiUnreachable) as raised:
            await client.list(NODES)
        self.assertIn("certificate verify failed", str(raised.exception))
        await client.close()


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
