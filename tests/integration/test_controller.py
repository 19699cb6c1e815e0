"""The edge controller against a real kube-apiserver with a real etcd, and kubectl; the edge is simulated."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

from twisted.internet.threads import deferToThread

from edgectl.errors import ApiUnreachable, StatusError
from edgectl.kubernetes import NODES, KubernetesClient
from edgectl.nodes import rfc3339
from metasync.keys import NodeKeys
from metasync.model import KeyRange, Put
from tests.integration import controller_case
from tests.integration.controller_case import EmbeddedCase, RealKubernetesCase, pod, reactor, until


class StoryTests(RealKubernetesCase, controller_case.Story):
    async def test_a_pods_token_is_one_the_api_server_accepts(self) -> None:
        self.start()
        await self.enrol()
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot", "namespace": "default"}}
        sources = [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]
        volumes = [{"name": "v", "projected": {"sources": sources}}]
        await self.apply(account, pod(self.name, self.name, serviceAccountName="robot", volumes=volumes))
        await self.kubectl("wait", "--for=condition=Ready", f"pod/{self.name}", "--timeout=20s")
        uid = (await self.get("pod", self.name))["metadata"]["uid"]
        key = NodeKeys("default", self.name).desired_object("secrets", "default", f"kubebus-token-{uid}-0")
        stored = json.loads((await self.store.range(KeyRange.single(key))).kvs[0].value)
        token = base64.b64decode(stored["data"]["token"]).decode()
        client = KubernetesClient(reactor, replace(self.cluster, client_certificate=None, client_key=None, token=token))
        with self.assertRaises(StatusError) as raised:
            await client.list(NODES)
        await client.close()
        self.assertIn("system:serviceaccount:default:robot", raised.exception.message)
        await self.kubectl("delete", "pod", self.name, "--timeout=20s")

    async def test_an_event_of_a_node_shows(self) -> None:
        self.start()
        await self.enrol()
        await self.apply(pod(self.name, self.name))
        await self.kubectl("wait", "--for=condition=Ready", f"pod/{self.name}", "--timeout=20s")
        uid = (await self.get("pod", self.name))["metadata"]["uid"]
        event = {
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": self.name, "uid": uid},
            "reason": "BackOff",
            "message": "back-off restarting the container",
            "type": "Warning",
            "lastTimestamp": rfc3339(reactor.seconds()),
        }
        key = f"{NodeKeys('default', self.name).reported}events/default/{self.name}.1".encode()
        await self.store.txn([], [Put(key, json.dumps(event).encode())])
        await until(lambda: self.controller.idle)
        described = await self.kubectl("describe", "pod", self.name)
        self.assertIn("back-off restarting the container", described)
        await self.kubectl("delete", "pod", self.name, "--timeout=20s")

    async def test_a_server_with_another_ca_is_not_talked_to(self) -> None:
        config = replace(self.cluster, ca=None)
        self.start()
        client = KubernetesClient(reactor, config)
        with self.assertRaises(ApiUnreachable) as raised:
            await client.list(NODES)
        self.assertIn("certificate verify failed", str(raised.exception))
        await client.close()

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
        self.assertLessEqual(self.controller.lists, lists + 6)


class EmbeddedStoryTests(EmbeddedCase, controller_case.Story):
    """The same story."""
