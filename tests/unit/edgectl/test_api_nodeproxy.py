"""Requests that go on to a node: what is asked of it, and the bytes of both sides."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, KeyPair, PrivateCertificate, optionsForClientTLS
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase

from edgectl.apiserver.errors import ApiError
from edgectl.apiserver.nodeproxy import SERVICE, node_path, request_head
from edgectl.apiserver.pki import ApiPki
from edgectl.apiserver.resources import POD
from edgectl.apiserver.service import EmbeddedControlPlane, ServingTLS
from edgectl.testing import pod
from metasync.keys import TAKEN_OVER_BY
from metasync.memory import MemoryStore

reactor: Any = installed


def on_node(*containers: str, **annotations: str) -> dict[str, Any]:
    obj = pod("web", nodeName="edge-a")
    obj["metadata"] |= {"namespace": "shop", "annotations": annotations}
    obj["spec"]["containers"] = [{"name": name, "image": "x"} for name in containers]
    return obj


class NodePathTests(SynchronousTestCase):
    def test_logs_of_the_only_container(self) -> None:
        path = node_path("log", on_node("a"), [("follow", "true"), ("tailLines", "5"), ("pretty", "1")])
        self.assertEqual(path, "/containerLogs/shop/web/a?follow=true&tailLines=5")

    def test_exec_keeps_the_order_of_the_command(self) -> None:
        query = [("command", "sh"), ("command", "-c"), ("command", "a b"), ("container", "b"), ("stdin", "true")]
        path = node_path("exec", on_node("a", "b"), [*query, ("stdout", "true"), ("tty", "false")])
        self.assertEqual(path, "/exec/shop/web/b?input=1&output=1&command=sh&command=-c&command=a+b")

    def test_attach_has_no_command(self) -> None:
        path = node_path("attach", on_node("a"), [("command", "sh"), ("stdout", "1")])
        self.assertEqual(path, "/attach/shop/web/a?output=1")

    def test_port_forward_needs_no_container(self) -> None:
        self.assertEqual(
            node_path("portforward", on_node("a", "b"), [("ports", "80")]), "/portForward/shop/web?ports=80"
        )

    def test_one_of_several_containers_must_be_named(self) -> None:
        with self.assertRaises(ApiError) as refused:
            node_path("log", on_node("a", "b"), [])
        self.assertEqual(refused.exception.code, 400)
        self.assertIn("choose one of: [a b]", refused.exception.message)

    def test_a_pod_can_mark_its_main_container(self) -> None:
        marked = on_node("a", "b", **{"kubectl.kubernetes.io/default-container": "b"})
        self.assertEqual(node_path("log", marked, []), "/containerLogs/shop/web/b")

    def test_a_container_that_is_not_there_is_refused(self) -> None:
        with self.assertRaises(ApiError):
            node_path("log", on_node("a"), [("container", "../x")])


class RequestHeadTests(SynchronousTestCase):
    def test_credentials_stay_behind(self) -> None:
        headers = [(b"Authorization", b"Bearer secret"), (b"Cookie", b"x"), (b"Upgrade", b"SPDY/3.1")]
        head = request_head("POST", "/exec/a/b/c", "edge-a", [*headers, (b"Connection", b"Upgrade")])
        self.assertNotIn(b"secret", head)
        self.assertNotIn(b"Cookie", head)
        self.assertIn(b"\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n", head)

    def test_what_is_not_upgraded_is_closed_at_the_end(self) -> None:
        head = request_head("GET", "/containerLogs/a/b/c", "edge-a", [(b"Connection", b"keep-alive")])
        self.assertEqual(head, b"GET /containerLogs/a/b/c HTTP/1.1\r\nHost: edge-a\r\nConnection: close\r\n\r\n")


class Talk(Protocol):
    """Records what comes, and lets a test wait for some of it."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.lost: Deferred[None] = Deferred()
        self._waiting: list[tuple[bytes, Deferred[None]]] = []

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        for wanted, waiter in self._waiting[:]:
            if wanted in self.received:
                self._waiting.remove((wanted, waiter))
                waiter.callback(None)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.callback(None)

    def until(self, wanted: bytes) -> Deferred[None]:
        waiter: Deferred[None] = Deferred()
        self._waiting.append((wanted, waiter))
        self.dataReceived(b"")
        return waiter


class Nodes:
    """Reaches one node, at a port; any other is away."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.endpoints: Any = None

    def endpoint(self, node: str, service: str) -> IStreamClientEndpoint:
        assert service == SERVICE
        if self.endpoints is not None and node == "edge-a":
            return self.endpoints()  # type: ignore[no-any-return]
        if node != "edge-a":
            return _Away()  # type: ignore[return-value]
        return TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)


def summary(uid: str, nanoseconds: int, second: int) -> bytes:
    time = f"2026-01-01T00:00:{second}Z"
    container = {
        "name": "main",
        "cpu": {"time": time, "usageCoreNanoSeconds": nanoseconds},
        "memory": {"workingSetBytes": 2 << 20},
    }
    body = {"node": {}, "pods": [{"podRef": {"uid": uid}, "containers": [container]}]}
    return b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(body).encode()


class _Answering:
    """An endpoint of a node that answers at once and closes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def connect(self, factory: Any) -> Deferred[Any]:
        protocol = factory.buildProtocol(None)
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(self.answer)
        protocol.connectionLost(None)
        return succeed(protocol)


class _Away:
    def connect(self, factory: Any) -> Deferred[Any]:
        return fail(ConnectionError("no link"))


class CarryTests(TestCase):
    """A client with TLS, the control plane, and a node, over loopback."""

    async def asyncSetUp(self) -> None:
        self.node = Talk()
        listening: Any = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(_one(self.node))
        self.addCleanup(listening.stopListening)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.pki = ApiPki.load_or_create(Path(folder.name), ["localhost"])
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        tls = ServingTLS(self.pki.server.certificate, self.pki.server.key, self.pki.ca.certificate)
        self.nodes = nodes = Nodes(listening.getHost().port)
        self.plane = EmbeddedControlPlane(reactor, MemoryStore(reactor), "default", endpoint, tls, kubelets=nodes)
        port: Any = await self.plane.begin()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.plane.stopService()))
        self.port = port.getHost().port
        for name, node in (("web", "edge-a"), ("far", "edge-b")):
            await self.plane.api.create(POD, "default", pod(name, nodeName=node))
        self.client = await self.connected()

    async def connected(self) -> Talk:
        """A client with the administrator's certificate."""
        admin = PrivateCertificate.fromCertificateAndKeyPair(
            Certificate.loadPEM(self.pki.admin.certificate), KeyPair.load(self.pki.admin.key, 1)
        )
        options = optionsForClientTLS("localhost", Certificate.loadPEM(self.pki.ca.certificate), admin)
        client = Talk()
        await wrapClientTLS(options, TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)).connect(_one(client))
        self.addCleanup(lambda: client.lost)
        self.addCleanup(client.transport.loseConnection)
        return client

    def ask(self, line: str, *headers: str) -> None:
        text = "\r\n".join([f"{line} HTTP/1.1", "Host: localhost", *headers])
        self.client.transport.write(text.encode() + b"\r\n\r\n")

    def test_an_upgraded_connection_carries_both_ways_until_one_side_ends(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._upgraded())

    async def _upgraded(self) -> None:
        await self.asyncSetUp()
        self.ask(
            "GET /api/v1/namespaces/default/pods/web/exec?command=sh&stdin=true",
            "Connection: Upgrade",
            "Upgrade: websocket",
        )
        await self.node.until(b"\r\n\r\n")
        self.assertIn(b"GET /exec/default/web/main?input=1&command=sh HTTP/1.1\r\n", self.node.received)
        self.node.transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\nhello")
        await self.client.until(b"hello")
        self.client.transport.write(b"input" * 100_000)
        await self.node.until(b"input" * 100_000)
        self.node.transport.write(b"output" * 100_000)
        await self.client.until(b"output" * 100_000)
        self.client.transport.loseConnection()
        await self.node.lost

    def test_the_end_at_the_node_ends_the_client(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._ended())

    async def _ended(self) -> None:
        await self.asyncSetUp()
        self.ask("GET /api/v1/namespaces/default/pods/web/log?tailLines=1")
        await self.node.until(b"GET /containerLogs/default/web/main?tailLines=1 HTTP/1.1\r\n")
        self.node.transport.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nlast line\n")
        self.node.transport.loseConnection()
        await self.client.lost
        self.assertTrue(self.client.received.endswith(b"last line\n"))

    def test_a_pod_that_is_taken_over_is_asked_for_where_it_runs(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._taken_over())

    async def _taken_over(self) -> None:
        await self.asyncSetUp()
        taken = pod("taken", nodeName="edge-b")
        taken["metadata"]["annotations"] = {TAKEN_OVER_BY: "edge-a"}
        await self.plane.api.create(POD, "default", taken)
        self.ask("GET /api/v1/namespaces/default/pods/taken/log")
        await self.node.until(b"GET /containerLogs/default/taken/main HTTP/1.1\r\n")

    def test_what_a_pod_uses_is_measured(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._measured())

    async def _measured(self) -> None:
        await self.asyncSetUp()
        uids = {one["metadata"]["name"]: one["metadata"]["uid"] for one in self.plane.cache.current(POD)}
        uid = uids["web"]
        answers = iter((summary(uid, 5_000_000_000, 10), summary(uid, 5_250_000_000, 11)))
        self.nodes.endpoints = lambda: _Answering(next(answers))
        self.ask("GET /apis/metrics.k8s.io/v1beta1/namespaces/default/pods")
        await self.client.until(b"}\n")
        body = json.loads(self.client.received.partition(b"\r\n\r\n")[2])
        (found,) = body["items"]
        self.assertEqual((body["kind"], found["metadata"]["name"]), ("PodMetricsList", "web"))
        (container,) = found["containers"]
        self.assertEqual((container["name"], container["usage"]["memory"]), ("main", "2048Ki"))
        self.assertTrue(150_000_000 < int(container["usage"]["cpu"].removesuffix("n")) <= 250_000_000, container)

    def test_a_node_that_is_away_is_named(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._away())

    async def _away(self) -> None:
        await self.asyncSetUp()
        self.ask("GET /api/v1/namespaces/default/pods/far/log")
        await self.client.until(b"}\n")
        self.assertIn(b"HTTP/1.1 503", self.client.received)
        self.assertIn(b"node edge-b cannot be reached: no link", self.client.received)


def _one(protocol: Protocol) -> Factory:
    factory = Factory()
    factory.buildProtocol = lambda addr: protocol  # type: ignore[method-assign]
    factory.noisy = False
    return factory
