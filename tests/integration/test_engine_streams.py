"""Logs, exec, attach, port-forward and statistics: by the real kubectl and by our own command, in real containers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from kubebus.admin import AdminService
from tests.integration.engine_world import EngineTestCase, Json, pod_manifest

ROOT = Path(__file__).parents[2]


class FrontDoor(Protocol):
    """As much of an API server as ``kubectl`` needs: it hands a pod's subresources to the kubelet, byte for byte."""

    def __init__(self, kubelet: Factory, pods: dict[str, Json]) -> None:
        self._kubelet = kubelet
        self._pods = pods
        self._buffer = b""
        self._inner: Any = None

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        self._buffer += data
        if b"\r\n\r\n" not in self._buffer:
            return
        line, rest = self._buffer.split(b"\r\n", 1)
        method, target, version = line.split(b" ")
        path, _, query = target.decode().partition("?")
        parts = path.strip("/").split("/")
        assert self.transport is not None
        if len(parts) == 7 and parts[4] == "pods":
            name, what = parts[5], parts[6]
            kind = {"log": "containerLogs", "portforward": "portForward"}.get(what, what)
            container = "" if what == "portforward" else "/main"
            query = query.replace("stdin=", "input=").replace("stdout=", "output=").replace("stderr=", "error=")
            self._inner = self._kubelet.buildProtocol(None)
            self._inner.makeConnection(self.transport)
            head = f"{method.decode()} /{kind}/default/{name}{container}?{query} ".encode() + version + b"\r\n"
            self._inner.dataReceived(head + rest)
            return
        answers: dict[str, Any] = {
            "api": {"kind": "APIVersions", "versions": ["v1"]},
            "apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
            "api/v1": {
                "kind": "APIResourceList",
                "groupVersion": "v1",
                "resources": [
                    {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get"]}
                ],
            },
        }
        answer = self._pods.get(parts[-1]) if "pods" in parts else answers.get(path.strip("/"))
        body = json.dumps(answer or {"kind": "Status", "status": "Failure", "code": 404}).encode()
        code = b"200 OK" if answer else b"404 Not Found"
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nConnection: close\r\n" % code
        self.transport.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)


class StreamTests(EngineTestCase):
    async def begin(self) -> None:
        await super().begin()
        assert self.engine is not None
        self.pods: dict[str, Json] = {}
        kubelet = self.engine.kubelet_factory()
        factory = Factory.forProtocol(lambda: FrontDoor(kubelet, self.pods))
        port = await TCP4ServerEndpoint(self.reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        self.server = f"http://127.0.0.1:{port.getHost().port}"
        self.socket = self.directory / "edge.sock"
        admin = AdminService(self.reactor, self.socket, self.engine.admin_resources())
        admin.startService()
        self.addCleanup(admin.stopService)

    async def command(self, *words: str, input: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
        return await deferToThread(
            lambda: subprocess.run(
                words, input=input, capture_output=True, timeout=60, cwd=ROOT, env={**os.environ, **env}
            )
        )

    async def kubectl(self, *words: str, input: bytes = b"", spdy: bool = True) -> subprocess.CompletedProcess[bytes]:
        way = "false" if spdy else "true"
        return await self.command(
            "kubectl",
            f"--server={self.server}",
            *words,
            input=input,
            KUBECONFIG="/dev/null",
            HOME=str(self.directory),
            KUBECTL_REMOTE_COMMAND_WEBSOCKETS=way,
            KUBECTL_PORT_FORWARD_WEBSOCKETS="false",
        )

    async def kubebus(self, *words: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return await self.command(
            sys.executable, "-m", "kubebus.cli", "--socket", str(self.socket), *words, input=input
        )

    async def start(self, pod: Json) -> None:
        await self.apply(pod)
        await self.running(pod)
        self.pods[pod["metadata"]["name"]] = {**pod, "status": await self.status(pod)}

    async def test_kubectl_exec(self) -> None:
        await self.start(pod_manifest("web"))
        for spdy in (True, False):
            done = await self.kubectl("exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 3", spdy=spdy)
            self.assertEqual((done.stdout, done.returncode), (b"out\n", 3), done.stderr)
            self.assertTrue(done.stderr.startswith(b"err\n"), done.stderr)
            data = os.urandom(300_000)
            done = await self.kubectl("exec", "-i", "web", "--", "cat", input=data, spdy=spdy)
            self.assertEqual((done.returncode, len(done.stdout)), (0, len(data)), done.stderr)
            self.assertEqual(done.stdout, data)
        done = await self.kubectl("exec", "web", "--", "/no/such/thing")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(b"no such file", done.stdout + done.stderr)

    async def test_kubectl_logs(self) -> None:
        await self.start(
            pod_manifest("talker", command=["sh", "-c", "for n in 1 2 3 4 5; do echo line $n; done; sleep 99"])
        )
        done = await self.kubectl("logs", "talker")
        self.assertEqual(done.stdout, b"".join(b"line %d\n" % n for n in range(1, 6)), done.stderr)
        done = await self.kubectl("logs", "talker", "--tail=2")
        self.assertEqual(done.stdout, b"line 4\nline 5\n")
        done = await self.kubectl("logs", "talker", "--tail=1", "--timestamps")
        self.assertRegex(done.stdout, rb"^\d{4}-\d\d-\d\dT[\d:.]+Z line 5\n$")
        done = await self.kubectl("logs", "talker", "--limit-bytes=4")
        self.assertEqual(done.stdout, b"line")
        done = await self.kubectl("logs", "talker", "--previous")
        self.assertIn(b"BadRequest", done.stderr)

    async def test_follow_ends_with_the_container(self) -> None:
        pod = pod_manifest(
            "short", command=["sh", "-c", "echo one; sleep 2; echo two"], spec={"restartPolicy": "Never"}
        )
        await self.start(pod)
        done = await self.kubectl("logs", "-f", "short")
        self.assertEqual(done.stdout, b"one\ntwo\n", done.stderr)

    async def test_kubectl_port_forward_reaches_the_loopback_in_the_pod(self) -> None:
        server = "mkdir /w; echo hello > /w/index.html; exec httpd -f -p 127.0.0.1:8080 -h /w"
        await self.start(pod_manifest("web", command=["sh", "-c", server]))
        script = (
            f"kubectl --server={self.server} port-forward web :8080 > {self.directory}/out 2>&1 & pid=$!\n"
            f"for n in $(seq 100); do grep -q Forwarding {self.directory}/out && break; sleep 0.1; done\n"
            f"port=$(sed -n 's/.*127.0.0.1:\\([0-9]*\\) .*/\\1/p' {self.directory}/out | head -1)\n"
            "for n in 1 2 3; do curl -s -m 10 http://127.0.0.1:$port/; done\n"
            f"kill $pid; wait $pid; cat {self.directory}/out >&2"
        )
        done = await self.command(
            "bash",
            "-c",
            script,
            HOME=str(self.directory),
            KUBECONFIG="/dev/null",
            KUBECTL_PORT_FORWARD_WEBSOCKETS="false",
        )
        self.assertEqual(done.stdout, b"hello\n" * 3, done.stderr)

    async def test_kubebus_on_the_device(self) -> None:
        await self.start(pod_manifest("web", command=["sh", "-c", "echo started; sleep 99"]))
        done = await self.kubebus("pods")
        self.assertRegex(done.stdout, rb"default +web +1/1 +Running +0 +10\.192\.7\.", done.stderr)
        done = await self.kubebus("logs", "web")
        self.assertEqual(done.stdout, b"started\n", done.stderr)
        done = await self.kubebus("exec", "-i", "web", "--", "sh", "-c", "cat; echo e >&2; exit 7", input=b"in")
        self.assertEqual((done.stdout, done.stderr, done.returncode), (b"in", b"e\n", 7))
        done = await self.kubebus("describe", "web")
        self.assertIn(b"running (startedAt", done.stdout, done.stderr)
        done = await self.kubebus("stats")
        self.assertRegex(done.stdout, rb"default/web +main +\d+m +\d+", done.stderr)
        done = await self.kubebus("logs", "nobody")
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"there is no pod default/nobody", done.stderr)

    async def test_terminal_with_its_size(self) -> None:
        await self.start(pod_manifest("web"))
        script = "stty rows 33 cols 111; exec {} -m kubebus.cli --socket {} exec -it web -- sh -c 'sleep 1; stty size'"
        script = script.format(sys.executable, self.socket)
        done = await self.command("script", "-qec", script, "/dev/null", TERM="xterm")
        self.assertIn(b"33 111", done.stdout, done.stderr)

    async def test_attach(self) -> None:
        await self.start(pod_manifest("echo", command=["sh", "-c", "read x; echo got $x; sleep 99"], stdin=True))
        attached: Deferred[Any] = Deferred.fromCoroutine(
            self.command(
                "bash",
                "-c",
                f"(sleep 1; echo word; sleep 2) | timeout 6 {sys.executable} -m kubebus.cli --socket {self.socket} "
                "attach -i echo",
            )
        )
        done = await attached
        self.assertEqual(done.stdout, b"got word\n", done.stderr)
