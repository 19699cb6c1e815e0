"""``kubectl logs`` and ``exec`` through a real kube-apiserver and the cloud side's kubelet API, to a stand-in node."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from edgectl.controller import ControllerOptions
from edgectl.interfaces import EdgeNode
from edgectl.kubelet import SERVICE
from edgectl.kubelet_auth import ReviewedAccess
from edgectl.kubelet_redirect import KUBELET_PORT, redirect_rules
from edgectl.kubelet_service import KubeletService
from edgectl.kubelet_tls import KubeletCredentials, load_or_create_credentials
from edgectl.kubernetes import KubernetesClient
from edgectl.nodes import NodeOptions
from metasync.keys import NodeKeys
from metasync.model import Put
from tests.integration.controller_case import RealKubernetesCase, pod, reactor, until
from tests.lab.kubernetes import KubeApiServer
from tests.lab.namespace import Namespace
from tests.lab.waiting import LabError

_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455


class StandInNode(Protocol):
    """Speaks just enough of the node's side: logs as plain HTTP, exec over a WebSocket that answers in capitals."""

    def __init__(self, home: StandInFactory) -> None:
        self.home = home
        self.buffer = b""
        self.upgraded = False

    def connectionMade(self) -> None:
        self.home.connections.add(self)

    def connectionLost(self, reason: Any = None) -> None:
        self.home.connections.discard(self)

    def dataReceived(self, data: bytes) -> None:
        self.buffer += data
        if self.upgraded:
            self.frames()
        elif b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            self.request(head.decode())

    def write(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(data)

    def request(self, head: str) -> None:
        line, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        url = urlsplit(line.split()[1])
        self.home.requests.append((line, headers))
        if url.path.startswith("/containerLogs/"):
            self.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nfirst line\n")
            if "follow" not in parse_qs(url.query):
                transport: Any = self.transport
                transport.loseConnection()
        elif headers.get("upgrade") == "websocket":
            self.upgraded = True
            digest = hashlib.sha1(headers["sec-websocket-key"].encode() + _WEBSOCKET_GUID).digest()
            protocol = headers["sec-websocket-protocol"].split(",")[0].strip()
            self.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: %s\r\n\r\n"
                % (base64.b64encode(digest), protocol.encode())
            )
        else:
            self.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def frames(self) -> None:
        """Small masked frames, as a client sends them."""
        while len(self.buffer) >= 6 and len(self.buffer) >= 6 + (size := self.buffer[1] & 0x7F):
            opcode, mask, body = self.buffer[0] & 0xF, self.buffer[2:6], self.buffer[6 : 6 + size]
            self.buffer = self.buffer[6 + size :]
            text = bytes(byte ^ mask[i % 4] for i, byte in enumerate(body))
            if opcode == 2 and len(text) > 1 and text[0] == 0:
                self.frame(2, b"\x01" + text[1:].upper())
                self.frame(2, b'\x03{"metadata":{},"status":"Success"}')
                self.frame(8, struct.pack("!H", 1000))

    def frame(self, opcode: int, body: bytes) -> None:
        self.write(bytes([0x80 | opcode, len(body)]) + body)


class StandInFactory(Factory):
    def __init__(self) -> None:
        self.connections: set[StandInNode] = set()
        self.requests: list[tuple[str, dict[str, str]]] = []

    def buildProtocol(self, addr: object) -> StandInNode:
        return StandInNode(self)


class KubeletTests(RealKubernetesCase):
    credentials: ClassVar[KubeletCredentials]

    @classmethod
    def build_world(cls) -> None:
        folder = Path(cls.keep(tempfile.TemporaryDirectory()))
        load_or_create_credentials(folder, reactor.seconds(), None)
        cls.server = cls.keep(
            KubeApiServer(
                options=[
                    f"--kubelet-certificate-authority={folder / 'kubelet-ca.crt'}",
                    "--kubelet-preferred-address-types=InternalIP",
                ]
            )
        )
        client_ca = cls.server.authority.certificate.read_bytes()
        cls.credentials = load_or_create_credentials(folder, reactor.seconds(), client_ca)

    def setUp(self) -> None:
        super().setUp()
        # All of 127.0.0.0/8 is this machine's: an address that no other run uses at the same time.
        number = os.getpid()
        self.address = ip_address(f"127.{80 + number % 100}.{number >> 8 & 0xFF}.{number & 0xFF or 1}")
        self.node = StandInFactory()

    async def serve(self, annotations: dict[str, str] | None = None, site: str | None = None) -> None:
        stand_in = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(self.node)
        self.addCleanup(stand_in.stopListening)
        self.directory.endpoints[self.name, SERVICE] = TCP4ClientEndpoint(reactor, "127.0.0.1", stand_in.getHost().port)
        client = KubernetesClient(reactor, self.cluster)
        self.addCleanup(lambda: Deferred.fromCoroutine(client.close()))
        self.service = KubeletService(
            reactor,
            TCP4ServerEndpoint(reactor, KUBELET_PORT, interface=str(self.address)),
            self.directory,
            ReviewedAccess(client, reactor.seconds),
            self.credentials,
            pods=client,
        )
        self.service.startService()
        self.addCleanup(self.service.stopService)
        self.start(ControllerOptions(nodes=NodeOptions(kubelet_port=KUBELET_PORT)))
        subnet = ip_network("10.192.1.0/24")
        self.mine = EdgeNode(self.name, (self.address,), (subnet,), True, reactor.seconds(), site=site)
        await self.enrol(self.mine)
        item = pod(self.name, self.name)
        item["metadata"]["annotations"] = annotations or {}
        await self.apply(item)
        await self.kubectl("wait", "--for=condition=Ready", f"pod/{self.name}", "--timeout=20s")

    async def test_logs(self) -> None:
        await self.serve()
        self.assertEqual("first line\n", await self.kubectl("logs", self.name))
        line, headers = self.node.requests[0]
        self.assertIn(f"/containerLogs/default/{self.name}/c", line)
        self.assertNotIn("authorization", headers)

    async def test_followed_logs_end_on_both_sides_when_kubectl_is_killed(self) -> None:
        await self.serve()
        command = self.server.kubectl.command("logs", "-f", self.name)
        kubectl = await deferToThread(subprocess.Popen, command, stdout=subprocess.PIPE)
        self.addCleanup(kubectl.wait)
        self.addCleanup(kubectl.kill)
        assert kubectl.stdout is not None
        self.addCleanup(kubectl.stdout.close)
        self.assertEqual(b"first line\n", await deferToThread(kubectl.stdout.readline))
        self.assertEqual(1, len(self.node.connections))
        kubectl.kill()
        await until(lambda: not self.node.connections and not self.service.connections)

    async def test_exec(self) -> None:
        await self.serve()
        run = self.server.kubectl.run
        done = await deferToThread(run, "exec", "-i", self.name, "--", "anything", input="shout")
        self.assertEqual("SHOUT", done.stdout)
        await until(lambda: not self.node.connections and not self.service.connections)

    async def test_logs_and_exec_of_a_pod_that_is_taken_over(self) -> None:
        taker = f"{self.name}-2"
        await self.serve({"kubebus.io/takeover": "site"}, site="plant")
        self.directory.endpoints[taker, SERVICE] = self.directory.endpoints.pop((self.name, SERVICE))
        subnet = ip_network("10.192.2.0/24")
        self.directory.set(EdgeNode(taker, (ip_address("10.250.0.9"),), (subnet,), True, 0.0, site="plant"))
        self.directory.set(replace(self.mine, connected=False))
        uid = (await self.get("pod", self.name))["metadata"]["uid"]
        report = {"status": {"phase": "Running"}, "takenOver": {"uid": uid, "node": self.name}}
        key = NodeKeys("default", taker).reported_pod("default", self.name, "copy")
        await self.store.txn([], [Put(key, json.dumps(report).encode())])
        await until(lambda: self.controller.idle)
        self.assertEqual("first line\n", await self.kubectl("logs", self.name))
        done = await deferToThread(self.server.kubectl.run, "exec", "-i", self.name, "--", "anything", input="shout")
        self.assertEqual("SHOUT", done.stdout)

    async def test_a_node_that_is_away_is_said_so(self) -> None:
        await self.serve()
        del self.directory.endpoints[self.name, SERVICE]
        with self.assertRaises(LabError) as raised:
            await self.kubectl("logs", self.name)
        self.assertIn("is away", str(raised.exception))

    async def test_a_user_without_rights_on_nodes_gets_nothing(self) -> None:
        await self.serve()
        pair = self.server.authority.issue("nobody")
        command = ["curl", "-sk", "--cert", str(pair.certificate), "--key", str(pair.key)]
        url = f"https://{self.address}:{KUBELET_PORT}/containerLogs/default/{self.name}/c"
        done = await deferToThread(subprocess.run, [*command, url], capture_output=True, text=True, check=True)
        self.assertIn("cannot get resource nodes/proxy", done.stdout)
        done = await deferToThread(subprocess.run, ["curl", "-sk", url], capture_output=True, text=True, check=True)
        self.assertIn("a client certificate or a bearer token is needed", done.stdout)
        self.assertEqual([], self.node.requests)


_REDIRECTED = """
import socket
from edgectl.kubelet_redirect import original_destination
for family, here, there in (
    (socket.AF_INET, "0.0.0.0", "10.250.0.7"), (socket.AF_INET6, "::", "fd00:1::7"), (socket.AF_INET, "", "10.99.0.1")
):
    with socket.create_server((here, 10300), family=family) as server:
        port = 10300 if there == "10.99.0.1" else 10250
        with socket.create_connection((there, port), timeout=5), server.accept()[0] as accepted:
            print(original_destination(accepted))
"""


_SERVED = """
import subprocess
from ipaddress import ip_network
from twisted.internet import reactor, task
from twisted.internet.defer import ensureDeferred
from edgectl.kubelet_redirect import RedirectService

async def main(reactor):
    service = RedirectService(reactor, [ip_network("10.250.0.0/16")], 10300)
    service.startService()
    await service._loading
    print(subprocess.check_output(["nft", "list", "ruleset"], text=True), "--")
    await service.stopService()
    print(subprocess.check_output(["nft", "list", "ruleset"], text=True))

task.react(lambda reactor: ensureDeferred(main(reactor)))
"""


class RedirectTests(SynchronousTestCase):
    def test_a_connection_to_a_nodes_kubelet_port_ends_here_and_tells_where_it_was_headed(self) -> None:
        namespace = Namespace("nft")
        self.addCleanup(namespace.close)
        namespace.ip("addr add 10.99.0.1/24 dev lo", "route add 10.250.0.0/16 dev lo")
        namespace.run(["ip", "-6", "route", "add", "fd00:1::/64", "dev", "lo"])
        rules = redirect_rules([ip_network("10.250.0.0/16"), ip_network("fd00:1::/64")], 10300)
        for _ in range(2):  # loading them again changes nothing
            namespace.nft(rules)
        done = namespace.run([sys.executable, "-c", _REDIRECTED])
        self.assertEqual(["10.250.0.7", "fd00:1::7", "10.99.0.1"], done.stdout.split())

    def test_the_rules_stand_while_the_service_runs_and_no_longer(self) -> None:
        namespace = Namespace("nft")
        self.addCleanup(namespace.close)
        done = namespace.run([sys.executable, "-c", _SERVED])
        during, after = done.stdout.split("--")
        self.assertEqual(2, during.count("ip daddr 10.250.0.0/16 tcp dport 10250 redirect to :10300"))
        self.assertNotIn("kubebus-kubelet", after)
