"""The kubelet API on the cloud side: heads, rights, and bytes both ways."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.test import iosim
from twisted.trial.unittest import SynchronousTestCase

from edgectl.errors import ApiUnreachable
from edgectl.interfaces import EdgeNode
from edgectl.kubelet import CONNECT_SECONDS, HEAD_SECONDS, MAX_CONNECTIONS, SERVICE, KubeletDoor
from edgectl.kubelet_auth import ACCESS_REVIEWS, TOKEN_REVIEWS, ReviewedAccess, User
from edgectl.kubelet_http import MAX_HEAD, BadRequest, RequestHead, cut_head
from edgectl.kubelet_places import PodPlaces
from edgectl.kubelet_redirect import redirect_rules
from edgectl.kubernetes import Resource
from edgectl.testing_control import FakeDirectory
from edgectl.watch import Object
from metasync.keys import TAKEN_OVER_BY


def request(line: str, *headers: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: node", *headers, "", ""]).encode()


def head(line: str, *headers: str) -> RequestHead:
    cut = cut_head(request(line, *headers))
    assert cut is not None
    return cut[0]


class HeadTests(SynchronousTestCase):
    def test_head_and_rest(self) -> None:
        data = request("GET /containerLogs/a/b/c?follow=true", "X-A: 1") + b"rest"
        cut = cut_head(data)
        assert cut is not None
        self.assertEqual(("GET", "/containerLogs/a/b/c"), (cut[0].method, cut[0].path))
        self.assertEqual(b"rest", cut[1])

    @given(st.integers(0, len(request("GET /pods")) - 1))
    def test_half_a_head_is_waited_for(self, size: int) -> None:
        self.assertIsNone(cut_head(request("GET /pods")[:size]))

    def test_an_endless_head_is_refused(self) -> None:
        self.assertRaises(BadRequest, cut_head, b"GET / HTTP/1.1\r\nA: " + b"x" * MAX_HEAD)

    def test_what_is_no_plain_request_is_refused(self) -> None:
        for line in (
            "GET /metrics/../exec/a/b/c",
            "GET //exec/a",
            "GET /%65xec/a/b/c",
            "GET /./exec",
            "get /",
            "GET x",
        ):
            with self.subTest(line):
                self.assertRaises(BadRequest, cut_head, request(line))
        for header in ("A", ": x", "A b: c", "A: b\rc", "A : b"):
            with self.subTest(header):
                self.assertRaises(BadRequest, cut_head, request("GET /pods", header))

    @given(st.binary(max_size=300))
    def test_any_bytes_are_cut_refused_or_waited_for(self, data: bytes) -> None:
        try:
            cut_head(data + b"\r\n\r\n")
        except BadRequest:
            pass

    def test_rights_are_those_the_kubelet_asks_for(self) -> None:
        cases = {
            "GET /metrics/resource": ("get", "metrics"),
            "GET /stats/summary": ("get", "stats"),
            "GET /containerLogs/a/b/c": ("get", "proxy"),
            "POST /exec/a/b/c?command=x": ("create", "proxy"),
            "GET /exec/a/b/c": ("create", "proxy"),
            "GET /portForward/a/b": ("create", "proxy"),
            "GET /logs/": ("get", "log"),
            "GET /metricsX": ("get", "proxy"),
        }
        for line, rights in cases.items():
            with self.subTest(line):
                self.assertEqual(rights, (head(line).verb, head(line).subresource))

    def test_the_node_gets_no_credentials_and_one_request_a_connection(self) -> None:
        rewritten = head("GET /pods", "Authorization: Bearer t", "Connection: keep-alive", "Upgrade: x").rewritten()
        self.assertEqual(b"GET /pods HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n", rewritten)

    def test_an_upgrade_goes_through_where_there_is_something_to_upgrade_to(self) -> None:
        rewritten = head("POST /exec/a/b/c", "Connection: Upgrade", "Upgrade: SPDY/3.1").rewritten()
        self.assertIn(b"Upgrade: SPDY/3.1\r\nConnection: Upgrade\r\n", rewritten)


class FakeAccess:
    def __init__(self) -> None:
        self.tokens = {"good": User("prometheus")}
        self.rights = {("prometheus", "get", "edge1", "metrics"), ("prometheus", "create", "edge1", "proxy")}
        self.down = False

    async def of_token(self, token: str) -> User | None:
        if self.down:
            raise ApiUnreachable("down")
        return self.tokens.get(token)

    async def allowed(self, user: User, verb: str, node: str, subresource: str) -> bool:
        return (user.name, verb, node, subresource) in self.rights


class NodeServer(Protocol):
    """The node's end of a stream, as the test sees it."""

    lost = False

    def __init__(self) -> None:
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True


class NodeEndpoint:
    """Connects to a :class:`NodeServer` in memory."""

    def __init__(self) -> None:
        self.servers: list[NodeServer] = []
        self.pumps: list[iosim.IOPump] = []
        self.result: Deferred[Any] | None = None

    def connect(self, factory: Factory) -> Deferred[Any]:
        if self.result is not None:
            return self.result
        server, client = NodeServer(), factory.buildProtocol(None)
        self.servers.append(server)
        pump = iosim.connect(server, iosim.makeFakeServer(server), client, iosim.makeFakeClient(client))
        self.pumps.append(pump)
        return succeed(client)


class ConnectionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = FakeDirectory()
        self.node = NodeEndpoint()
        self.directory.endpoints["edge1", SERVICE] = self.node  # type: ignore[assignment]
        self.access = FakeAccess()
        self.door = KubeletDoor(self.clock, self.directory, self.access)
        self.connect()

    def connect(self) -> None:
        connection = self.door.factory("edge1").buildProtocol(None)
        assert connection is not None
        self.connection = connection
        self.transport = iosim.FakeTransport(connection, isServer=True)
        self.client = NodeServer()
        self.pump = iosim.connect(connection, self.transport, self.client, iosim.makeFakeClient(self.client))

    def send(self, data: bytes) -> bytes:
        """From the caller; what it has got so far."""
        transport: Any = self.client.transport
        transport.write(data)
        return self.flush()

    def flush(self) -> bytes:
        for _ in range(4):
            self.pump.flush()
            for pump in self.node.pumps:
                pump.flush()
        return self.client.received

    def test_bytes_go_both_ways_after_an_upgrade(self) -> None:
        line = request("POST /exec/a/b/c", "Authorization: Bearer good", "Upgrade: SPDY/3.1", "Connection: Upgrade")
        self.send(line + b"early")
        server = self.node.servers[0]
        self.assertTrue(server.received.startswith(b"POST /exec/a/b/c HTTP/1.1\r\n"))
        self.assertTrue(server.received.endswith(b"\r\n\r\nearly"))
        self.assertNotIn(b"good", server.received)
        server.transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x00\xff")  # type: ignore[union-attr]
        self.assertTrue(self.flush().endswith(b"\x00\xff"))
        self.send(b"\x01\x02")
        self.assertTrue(server.received.endswith(b"early\x01\x02"))

    def test_the_nodes_last_bytes_arrive_before_its_end(self) -> None:
        self.send(request("GET /metrics/resource", "Authorization: Bearer good"))
        transport: Any = self.node.servers[0].transport
        transport.write(b"x" * 300_000)
        transport.loseConnection()
        self.assertEqual(b"x" * 300_000, self.flush())
        self.assertTrue(self.client.lost)
        self.assertEqual(set(), self.door.connections)

    def test_a_killed_client_leaves_nothing_behind(self) -> None:
        self.send(request("POST /exec/a/b/c", "Authorization: Bearer good", "Upgrade: SPDY/3.1"))
        transport: Any = self.client.transport
        transport.abortConnection()
        self.flush()
        self.assertTrue(self.node.servers[0].lost)
        self.assertEqual(set(), self.door.connections)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_rights_are_asked_for_each_request(self) -> None:
        self.assertIn(b"403 Forbidden", self.send(request("GET /stats/summary", "Authorization: Bearer good")))
        self.assertIn(b"cannot get resource nodes/stats", self.client.received)
        self.assertEqual([], self.node.servers)

    def test_a_second_request_hidden_behind_the_first_never_reaches_the_node_as_one_it_answers(self) -> None:
        self.send(request("GET /metrics/resource", "Authorization: Bearer good") + request("POST /exec/a/b/c"))
        self.assertIn(b"\r\nConnection: close\r\n", self.node.servers[0].received)

    def test_nobody_unknown_is_let_in(self) -> None:
        for headers in ([], ["Authorization: Bearer bad"], ["Authorization: Basic good"]):
            with self.subTest(headers):
                self.connect()
                self.assertIn(b"401 Unauthorized", self.send(request("GET /metrics/resource", *headers)))
                self.assertTrue(self.client.lost)
        self.assertEqual([], self.node.servers)

    def test_a_judge_that_cannot_be_asked_lets_nobody_in(self) -> None:
        self.access.down = True
        answer = self.send(request("GET /metrics/resource", "Authorization: Bearer good"))
        self.assertIn(b"500 Internal Server Error", answer)

    def test_a_node_that_is_away_is_said_so(self) -> None:
        del self.directory.endpoints["edge1", SERVICE]
        answer = self.send(request("GET /metrics/resource", "Authorization: Bearer good"))
        self.assertIn(b"500 Internal Server Error", answer)
        self.assertIn(b"away", answer)
        self.assertTrue(self.client.lost)

    def test_a_link_that_fails_while_connecting_is_said_so(self) -> None:
        self.node.result = fail(ConnectionError("the link went down"))
        answer = self.send(request("GET /metrics/resource", "Authorization: Bearer good"))
        self.assertIn(b"the link went down", answer)

    def test_a_node_that_never_answers_is_given_up(self) -> None:
        self.node.result = Deferred()
        self.send(request("GET /metrics/resource", "Authorization: Bearer good"))
        self.clock.advance(CONNECT_SECONDS)
        self.assertIn(b"did not answer in time", self.flush())

    def test_a_caller_that_leaves_while_the_node_is_being_reached(self) -> None:
        cancelled: list[object] = []
        self.node.result = Deferred(cancelled.append)
        self.send(request("GET /metrics/resource", "Authorization: Bearer good"))
        transport: Any = self.client.transport
        transport.abortConnection()
        self.flush()
        self.assertEqual(1, len(cancelled))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_a_caller_that_says_nothing_is_not_kept(self) -> None:
        self.clock.advance(HEAD_SECONDS)
        self.flush()
        self.assertTrue(self.client.lost)

    def test_garbage_is_answered_and_ends(self) -> None:
        self.assertIn(b"400 Bad Request", self.send(b"\x16\x03\x01\r\n\r\n"))
        self.assertTrue(self.client.lost)

    def test_there_is_a_limit_to_connections(self) -> None:
        factory = self.door.factory("edge1")
        for _ in range(MAX_CONNECTIONS - 1):
            connection = factory.buildProtocol(None)
            assert connection is not None
            connection.makeConnection(StringTransport())
        self.assertIsNone(factory.buildProtocol(None))

    def test_a_slow_caller_stops_the_node(self) -> None:
        self.send(request("GET /metrics/resource", "Authorization: Bearer good"))
        peer: Any = self.connection._peer
        self.assertIs(self.transport.producer, peer.transport)
        self.assertIs(peer.transport.producer, self.transport)


class Pods:
    """Answers with one pod, and counts how often."""

    def __init__(self, node: str = "edge1", by: str | None = "edge2") -> None:
        annotations = {TAKEN_OVER_BY: by} if by is not None else {}
        self.pod: Object | None = {"metadata": {"annotations": annotations}, "spec": {"nodeName": node}}
        self.asked: list[tuple[str, str]] = []

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        self.asked.append((namespace, name))
        if self.pod is None:
            raise ApiUnreachable("down")
        return self.pod


def at(name: str, site: str | None) -> EdgeNode:
    return EdgeNode(name, (), (), True, 0.0, site=site)


class PlaceTests(SynchronousTestCase):
    """Which node is asked for a pod of edge1."""

    nodes = (at("edge1", "plant"), at("edge2", "plant"), at("far", "harbour"), at("lonely", None))

    def asked(self, pods: Pods, node: str = "edge1") -> str:
        places = PodPlaces(pods, {edge.name: edge for edge in self.nodes})
        found: str = self.successResultOf(Deferred.fromCoroutine(places.runs_on(node, "a", "b")))
        return found

    def test_the_taker(self) -> None:
        pods = Pods()
        self.assertEqual("edge2", self.asked(pods))
        self.assertEqual([("a", "b")], pods.asked)

    def test_its_own_node_whenever_that_is_not_sure(self) -> None:
        down = Pods()
        down.pod = None
        for pods in (Pods(by=None), Pods(by="far"), Pods(by="nobody"), Pods(by="lonely"), Pods("edge3"), down):
            self.assertEqual("edge1", self.asked(pods))

    def test_of_a_node_without_a_site_nobody_need_be_asked(self) -> None:
        pods = Pods("lonely", "edge2")
        self.assertEqual("lonely", self.asked(pods, "lonely"))
        self.assertEqual("unknown", self.asked(pods, "unknown"))
        self.assertEqual([], pods.asked)

    def test_which_paths_are_about_a_pod(self) -> None:
        for line in (
            "GET /containerLogs/a/b/c?tail=1",
            "POST /exec/a/b/c",
            "GET /attach/a/b/c",
            "POST /portForward/a/b",
        ):
            self.assertEqual(("a", "b"), head(line).pod)
        for line in ("GET /metrics/a/b", "GET /stats/a/b/c", "GET /exec/a", "GET /", "GET /logs/a/b"):
            self.assertIsNone(head(line).pod)


class TakenOverTests(ConnectionTests):
    """All the same with somebody to ask for places, and what is about a pod that edge2 has taken over goes there."""

    def setUp(self) -> None:
        super().setUp()
        self.pods = Pods(by=None)
        self.door.places = PodPlaces(self.pods, {edge.name: edge for edge in PlaceTests.nodes})

    def exec(self) -> bytes:
        self.pods.pod = Pods().pod
        self.node = NodeEndpoint()
        self.directory.endpoints["edge2", SERVICE] = self.node  # type: ignore[assignment]
        self.connect()
        return self.send(request("POST /exec/a/b/c", "Authorization: Bearer good", "Upgrade: SPDY/3.1"))

    def test_it_goes_to_the_taker(self) -> None:
        self.access.rights.add(("prometheus", "create", "edge2", "proxy"))
        self.exec()
        self.assertTrue(self.node.servers[0].received.startswith(b"POST /exec/a/b/c HTTP/1.1\r\n"))

    def test_who_may_not_use_the_takers_kubelet_gets_nothing(self) -> None:
        self.assertIn(b"cannot create resource nodes/proxy of node 'edge2'", self.exec())
        self.assertEqual([], self.node.servers)


class ReviewClient:
    """Answers reviews, and counts them."""

    def __init__(self) -> None:
        self.asked: list[tuple[Resource, Any]] = []
        self.allowed = True

    async def create(self, resource: Resource, namespace: str, body: Any) -> Any:
        self.asked.append((resource, body["spec"]))
        if resource is TOKEN_REVIEWS:
            good = body["spec"]["token"] == "good"
            return {"status": {"authenticated": good, "user": {"username": "u", "groups": ["g"], "uid": "1"}}}
        return {"status": {"allowed": self.allowed}}


class ReviewTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.client = ReviewClient()
        self.access = ReviewedAccess(self.client, self.clock.seconds)  # type: ignore[arg-type]

    def run_now(self, coroutine: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def test_tokens_are_reviewed_and_remembered_for_a_while(self) -> None:
        for _ in range(3):
            self.assertEqual(User("u", ("g",), "1"), self.run_now(self.access.of_token("good")))
            self.assertIsNone(self.run_now(self.access.of_token("bad")))
        self.assertEqual(2, len(self.client.asked))
        self.clock.advance(121)
        self.run_now(self.access.of_token("good"))
        self.assertEqual(3, len(self.client.asked))

    def test_access_is_asked_for_the_node_and_a_no_is_forgotten_soon(self) -> None:
        user = User("u", ("g",))
        self.client.allowed = False
        self.assertFalse(self.run_now(self.access.allowed(user, "get", "edge1", "proxy")))
        resource, spec = self.client.asked[0]
        self.assertIs(ACCESS_REVIEWS, resource)
        attributes = spec["resourceAttributes"]
        self.assertEqual(("nodes", "proxy", "edge1"), tuple(attributes[k] for k in ("resource", "subresource", "name")))
        self.client.allowed = True
        self.assertFalse(self.run_now(self.access.allowed(user, "get", "edge1", "proxy")))
        self.clock.advance(31)
        self.assertTrue(self.run_now(self.access.allowed(user, "get", "edge1", "proxy")))
        self.assertTrue(self.run_now(self.access.allowed(user, "get", "edge2", "proxy")))
        self.assertEqual(3, len(self.client.asked))


class RedirectTests(SynchronousTestCase):
    def test_rules_for_both_families_in_both_hooks(self) -> None:
        rules = redirect_rules([ip_network("10.250.0.0/16"), ip_network("fd00::/64")], 10300)
        self.assertEqual(2, rules.count("ip daddr 10.250.0.0/16 tcp dport 10250 redirect to :10300"))
        self.assertEqual(2, rules.count("ip6 daddr fd00::/64 tcp dport 10250 redirect to :10300"))
