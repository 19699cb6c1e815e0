"""A real kube-apiserver, the controller and a real container engine: one pod from ``kubectl apply`` to its removal.

Controller and engine share one store here; carrying it between them is the sync's work, tested elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import tempfile
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.threads import deferToThread

from edgectl.controller import ControllerOptions, EdgeController
from edgectl.interfaces import EdgeNode
from edgectl.kubeconfig import load_kubeconfig
from edgectl.kubelet import SERVICE
from edgectl.kubelet_auth import ReviewedAccess
from edgectl.kubelet_redirect import KUBELET_PORT
from edgectl.kubelet_service import KubeletService
from edgectl.kubelet_tls import KubeletCredentials, load_or_create_credentials
from edgectl.kubernetes import KubernetesClient
from edgectl.nodes import NodeOptions
from edgectl.testing_control import FakeDirectory
from tests.integration.engine_world import EngineTestCase, pod_manifest
from tests.lab.kubernetes import KubeApiServer, kube_apiserver_program

NODE = "edge-1"


class KubectlToContainerTests(EngineTestCase):
    server: ClassVar[KubeApiServer]
    credentials: ClassVar[KubeletCredentials]

    @classmethod
    def build_world(cls) -> None:
        kube_apiserver_program()
        super().build_world()
        folder = Path(cls.keep(tempfile.TemporaryDirectory()))
        load_or_create_credentials(folder, 1_700_000_000.0, None)
        cls.server = cls.keep(
            KubeApiServer(
                options=[
                    f"--kubelet-certificate-authority={folder / 'kubelet-ca.crt'}",
                    "--kubelet-preferred-address-types=InternalIP",
                ]
            )
        )
        client_ca = cls.server.authority.certificate.read_bytes()
        cls.credentials = load_or_create_credentials(folder, 1_700_000_000.0, client_ca)

    async def begin(self) -> None:
        await super().begin()
        number = os.getpid()
        address = ip_address(f"127.{180 + number % 70}.{number >> 8 & 0xFF}.{number & 0xFF or 1}")
        assert self.engine is not None
        kubelet = await TCP4ServerEndpoint(self.reactor, 0, interface="127.0.0.1").listen(self.engine.kubelet_factory())
        self.addCleanup(kubelet.stopListening)
        assert self.network.place is not None
        subnets = self.network.place.pod_subnets
        directory = FakeDirectory()
        directory.endpoints[NODE, SERVICE] = TCP4ClientEndpoint(self.reactor, "127.0.0.1", kubelet.getHost().port)
        directory.set(EdgeNode(NODE, (address,), subnets, True, self.reactor.seconds()))
        cluster = load_kubeconfig(self.server.admin_kubeconfig)
        reviews = KubernetesClient(self.reactor, cluster)
        self.addCleanup(lambda: Deferred.fromCoroutine(reviews.close()))
        access = ReviewedAccess(reviews, self.reactor.seconds)
        endpoint = TCP4ServerEndpoint(self.reactor, KUBELET_PORT, interface=str(address))
        service = KubeletService(self.reactor, endpoint, directory, access, self.credentials)
        service.startService()
        self.addCleanup(service.stopService)
        client = KubernetesClient(self.reactor, cluster)
        options = ControllerOptions(nodes=NodeOptions(kubelet_port=KUBELET_PORT))
        controller = EdgeController(self.reactor, client, self.store, "default", directory, options)
        controller.startService()
        self.addCleanup(controller.stopService)

    async def kubectl(self, *arguments: str, input: str | None = None) -> str:
        done = await deferToThread(self.server.kubectl.run, *arguments, input=input)
        return done.stdout

    async def run_pod(self, name: str, **container: Any) -> dict[str, Any]:
        manifest = pod_manifest(name, **container)
        del manifest["metadata"]["uid"]
        manifest["spec"]["nodeName"] = NODE
        await deferToThread(self.server.kubectl.apply, manifest)
        await self.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=40s")
        pod: dict[str, Any] = await deferToThread(self.server.kubectl.json, "get", "pod", name)
        return pod

    async def test_from_apply_to_removal(self) -> None:
        pod = await self.run_pod("whole", command=["sh", "-c", "echo hello; sleep 1000"])
        self.assertEqual("hello\n", await self.kubectl("logs", "whole"))
        self.assertTrue(pod["status"]["podIP"].startswith("10.192.7."))
        self.assertIn("whole", await self.kubectl("exec", "whole", "--", "hostname"))
        self.assertEqual("to and fro", await self.kubectl("exec", "-i", "whole", "--", "cat", input="to and fro"))
        await self.kubectl("delete", "pod", "whole", "--timeout=40s")
        self.assertEqual([], await self.containers(pod))

    async def test_copy_and_exit_codes(self) -> None:
        await self.run_pod("copied")
        source = self.directory / "file"
        source.write_bytes(os.urandom(300_000))
        await self.kubectl("cp", str(source), "copied:/tmp/file")
        await self.kubectl("cp", "copied:/tmp/file", str(self.directory / "back"))
        self.assertEqual(source.read_bytes(), (self.directory / "back").read_bytes())
        done = await deferToThread(self.server.kubectl.run, "exec", "copied", "--", "sh", "-c", "exit 7", check=False)
        self.assertEqual(7, done.returncode)
        await self.kubectl("delete", "pod", "copied", "--timeout=40s")

    async def test_exec_over_spdy_as_older_clients_speak_it(self) -> None:
        await self.run_pod("older")
        command = self.server.kubectl.command("exec", "-i", "older", "--", "sh", "-c", "cat; echo oops >&2; exit 3")
        environment = {**os.environ, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false"}
        done = await deferToThread(
            subprocess.run, command, input=b"x" * 100_000, capture_output=True, env=environment, timeout=40
        )
        self.assertEqual((b"x" * 100_000, 3), (done.stdout, done.returncode))
        self.assertIn(b"oops", done.stderr)
        await self.kubectl("delete", "pod", "older", "--timeout=40s")

    async def test_attach(self) -> None:
        await self.run_pod("attached", command=["sh", "-c", "read line; echo got $line; sleep 1000"], stdin=True)
        command = self.server.kubectl.command("attach", "-i", "attached")
        attach = await deferToThread(
            subprocess.Popen, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.addCleanup(attach.wait)
        self.addCleanup(attach.kill)
        assert attach.stdin is not None and attach.stdout is not None
        self.addCleanup(attach.stdout.close)
        self.addCleanup(attach.stdin.close)
        attach.stdin.write(b"hello\n")
        attach.stdin.flush()
        self.assertEqual(b"got hello\n", await deferToThread(attach.stdout.readline))
        await self.kubectl("delete", "pod", "attached", "--timeout=40s")

    async def test_what_top_is_made_of(self) -> None:
        """What metrics-server reads of each node, now and before its 0.6; here by way of the API server."""
        for name in ("first", "second"):
            await self.run_pod(name)
        told = json.loads(await self.kubectl("get", "--raw", f"/api/v1/nodes/{NODE}/proxy/stats/summary"))
        self.assertEqual(NODE, told["node"]["nodeName"])
        self.assertGreater(told["node"]["memory"]["workingSetBytes"], 0)
        exposed = await self.kubectl("get", "--raw", f"/api/v1/nodes/{NODE}/proxy/metrics/resource")
        for name in ("first", "second"):
            labels = f'{{container="main",namespace="default",pod="{name}"}}'
            for metric in ("container_cpu_usage_seconds_total", "container_memory_working_set_bytes"):
                self.assertRegex(exposed, rf"(?m)^{metric}{re.escape(labels)} [0-9]*[.]?[0-9]*[1-9][0-9]* [0-9]{{13}}$")
        pods = {pod["podRef"]["name"]: pod["containers"] for pod in told["pods"]}
        for name in ("first", "second"):
            (container,) = pods[name]
            self.assertGreater(container["memory"]["workingSetBytes"], 0)
            self.assertGreater(container["cpu"]["usageCoreNanoSeconds"], 0)
            await self.kubectl("delete", "pod", name, "--timeout=40s")

    async def test_port_forward(self) -> None:
        await self.run_pod("served", command=["sh", "-c", "echo content > /tmp/index.html; httpd -f -p 80 -h /tmp"])
        command = self.server.kubectl.command("port-forward", "pod/served", ":80")
        forward = await deferToThread(subprocess.Popen, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.addCleanup(forward.wait)
        self.addCleanup(forward.kill)
        assert forward.stdout is not None
        self.addCleanup(forward.stdout.close)
        line = (await deferToThread(forward.stdout.readline)).decode()
        port = int(line.split("->")[0].rpartition(":")[2])
        self.assertIn(b"content", await deferToThread(_fetch, port))
        await self.kubectl("delete", "pod", "served", "--timeout=40s")


def _fetch(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer
