"""Kubeconfigs, and the client's answers to what servers do."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource as WebResource
from twisted.web.server import NOT_DONE_YET

from edgectl.errors import ApiUnreachable, ConfigError, StatusError
from edgectl.httpbody import MAX_WATCH_LINE
from edgectl.kubeconfig import ClusterConfig, in_cluster, load_kubeconfig, parse_kubeconfig
from edgectl.kubernetes import LEASES, NODES, PODS, REQUEST_TIMEOUT, KubernetesClient, cluster_tls


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def config(cluster: Any = None, user: Any = None) -> dict[str, Any]:
    return {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443/", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
    }


KUBEADM = """\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {ca}
    server: https://192.168.1.10:6443
  name: kubernetes
contexts:
- context:
    cluster: kubernetes
    user: kubernetes-admin
  name: kubernetes-admin@kubernetes
current-context: kubernetes-admin@kubernetes
kind: Config
preferences: {{}}
users:
- name: kubernetes-admin
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
"""
"""The shape of ``/etc/kubernetes/admin.conf``."""


class KubeconfigTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def test_inline_data(self) -> None:
        user = {"client-certificate-data": encoded("cert"), "client-key-data": encoded("key")}
        parsed = parse_kubeconfig(config({"certificate-authority-data": encoded("ca")}, user), self.folder)
        self.assertEqual(ClusterConfig("https://10.0.0.1:6443", b"ca", b"cert", b"key", namespace="shop"), parsed)

    def test_files_are_relative_to_the_kubeconfig(self) -> None:
        (self.folder / "ca.crt").write_bytes(b"ca")
        path = self.folder / "config"
        path.write_text(json.dumps(config({"certificate-authority": "ca.crt"}, {"tokenFile": "token"})))
        parsed = load_kubeconfig(path)
        self.assertEqual((b"ca", self.folder / "token"), (parsed.ca, parsed.token_file))

    def test_yaml_as_kubeadm_writes_it(self) -> None:
        path = self.folder / "admin.conf"
        path.write_text(KUBEADM.format(ca=encoded("ca"), certificate=encoded("cert"), key=encoded("key")))
        parsed = load_kubeconfig(path)
        self.assertEqual(ClusterConfig("https://192.168.1.10:6443", b"ca", b"cert", b"key"), parsed)

    def test_yaml_that_is_none_is_named(self) -> None:
        path = self.folder / "broken"
        for text in ("a: [", "!!python/object/apply:os.getcwd []"):
            path.write_text(text)
            error = self.assertRaises(ConfigError, load_kubeconfig, path)
            self.assertIn("neither JSON nor YAML", str(error))

    def test_a_chosen_context(self) -> None:
        item = config()
        item["contexts"].append({"name": "there", "context": {"cluster": "d", "user": ""}})
        item["clusters"].append({"name": "d", "cluster": {"server": "https://there"}})
        self.assertEqual("https://there", parse_kubeconfig(item, self.folder, "there").server)

    def test_what_is_wrong_is_named(self) -> None:
        cases: list[tuple[Any, str]] = [
            ([], "not a mapping"),
            ({}, "current-context"),
            ({**config(), "current-context": "x"}, "contexts has no entry named 'x'"),
            (config({"insecure-skip-tls-verify": True}), "insecure-skip-tls-verify"),
            (config(None, {"exec": {"command": "aws"}}), "user.exec"),
            (config({"server": "10.0.0.1"}), "is not a URL"),
            (config({"server": "http://10.0.0.1"}, {"token": "t"}), "never sent without TLS"),
            (config({"certificate-authority-data": "?"}), "certificate-authority-data is not base64"),
            (config({"certificate-authority": "nowhere.crt"}), "nowhere.crt"),
            (config(None, {"client-key-data": encoded("k")}), "go together"),
        ]
        for item, message in cases:
            with self.subTest(message):
                error = self.assertRaises(ConfigError, parse_kubeconfig, item, self.folder)
                self.assertIn(message, str(error))

    def test_a_file_that_is_not_there_is_named(self) -> None:
        error = self.assertRaises(ConfigError, load_kubeconfig, self.folder / "nowhere")
        self.assertIn("nowhere", str(error))

    def test_in_cluster(self) -> None:
        for name, text in (("ca.crt", "ca"), ("namespace", "kubebus\n"), ("token", "t")):
            (self.folder / name).write_text(text)
        environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
        parsed = in_cluster(environment, self.folder)
        self.assertEqual(("https://[fd00::1]:6443", "kubebus"), (parsed.server, parsed.namespace))
        self.assertIn("give --kubeconfig", str(self.assertRaises(ConfigError, in_cluster, {}, self.folder)))

    def test_secrets_do_not_show_in_what_is_printed(self) -> None:
        self.assertNotIn("hidden", repr(ClusterConfig("https://x", token="hidden")))

    def test_unreadable_certificates_are_said_so(self) -> None:
        error = self.assertRaises(ConfigError, cluster_tls, ClusterConfig("https://x", ca=b"no PEM"))
        self.assertIn("https://x", str(error))


class Server(WebResource):
    """Answers as the test says."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.answer: Callable[[Any], Any] = lambda request: b"{}"
        self.seen: list[Any] = []

    def render(self, request: Any) -> Any:
        self.seen.append(request)
        return self.answer(request)


class ClientCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.server = Server()
        self.agent: Any = RequestTraversalAgent(self.server)
        config = ClusterConfig("https://k", token="secret")
        self.client = KubernetesClient(self.clock, config, self.agent, max_body=1000)

    def call(self, coroutine: Any) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred.fromCoroutine(coroutine)
        self.agent.flush()
        return deferred


class ClientTests(ClientCase):
    def refuse(self, code: int, body: bytes, **headers: str) -> None:
        def answer(request: Any) -> bytes:
            request.setResponseCode(code)
            for name, value in headers.items():
                request.setHeader(name.replace("_", "-"), value)
            return body

        self.server.answer = answer

    def test_paths(self) -> None:
        self.assertEqual("/api/v1/nodes/n/status", NODES.path("", "n", "status"))
        self.assertEqual("/api/v1/namespaces/a/pods/p", PODS.path("a", "p"))
        self.assertEqual("/api/v1/pods", PODS.path())
        self.assertEqual("/apis/coordination.k8s.io/v1/namespaces/a/leases", LEASES.path("a"))
        self.assertEqual("/api/v1/namespaces/a/pods/..%2Fx", PODS.path("a", "../x"))

    def test_the_token_is_sent(self) -> None:
        self.successResultOf(self.call(self.client.get(NODES, "", "n")))
        self.assertEqual(["Bearer secret"], self.server.seen[0].requestHeaders.getRawHeaders("authorization"))

    def test_a_status_becomes_an_error_with_its_parts(self) -> None:
        status = {"kind": "Status", "reason": "AlreadyExists", "message": "there", "code": 409}
        self.refuse(409, json.dumps(status).encode())
        error = self.failureResultOf(self.call(self.client.create(PODS, "a", {})), StatusError).value
        self.assertTrue(error.already_exists)
        self.assertIn("POST /api/v1/namespaces/a/pods", str(error))

    def test_retry_after_is_known(self) -> None:
        self.refuse(429, b"slow down", Retry_After="7")
        error = self.failureResultOf(self.call(self.client.get(NODES, "", "n")), StatusError).value
        self.assertEqual((429, 7.0, "slow down"), (error.code, error.retry_after, error.message))

    def test_an_answer_that_is_no_json_object(self) -> None:
        for body in (b"", b"[]", b"<html>"):
            self.refuse(200, body)
            self.failureResultOf(self.call(self.client.get(NODES, "", "n")), ApiUnreachable)

    def test_redirects_are_not_followed_with_our_credentials(self) -> None:
        self.refuse(302, b"", Location="https://elsewhere/")
        self.failureResultOf(self.call(self.client.get(NODES, "", "n")), StatusError)
        self.assertEqual(1, len(self.server.seen))

    def test_a_silent_server_is_given_up(self) -> None:
        self.server.answer = lambda request: NOT_DONE_YET
        asked = self.call(self.client.get(NODES, "", "n"))
        self.assertNoResult(asked)
        self.clock.advance(REQUEST_TIMEOUT)
        self.assertIn("no answer within 30 s", str(self.failureResultOf(asked, ApiUnreachable).value))

    def test_an_answer_that_never_ends_is_cut_off(self) -> None:
        def answer(request: Any) -> Any:
            request.write(b"x" * 1001)
            return NOT_DONE_YET

        self.server.answer = answer
        error = self.failureResultOf(self.call(self.client.get(NODES, "", "n")), ApiUnreachable).value
        self.assertIn("larger than", str(error))

    def test_half_an_answer_is_none(self) -> None:
        def answer(request: Any) -> Any:
            request.setHeader("Content-Length", "100")
            request.write(b"{")
            return NOT_DONE_YET

        self.server.answer = answer
        asked = self.call(self.client.get(NODES, "", "n"))
        self.server.seen[0].transport.loseConnection()
        self.agent.flush()
        self.failureResultOf(asked, ApiUnreachable)

    def test_a_token_file_is_read_again_after_a_while(self) -> None:
        path = Path(self.mktemp())
        path.write_text("first\n")
        client = KubernetesClient(self.clock, ClusterConfig("https://k", token_file=path), self.agent)
        for _ in range(2):
            self.call(client.get(NODES, "", "n"))
        path.write_text("second\n")
        self.call(client.get(NODES, "", "n"))
        self.clock.advance(61)
        self.call(client.get(NODES, "", "n"))
        sent = [request.requestHeaders.getRawHeaders("authorization")[0] for request in self.server.seen]
        self.assertEqual(["Bearer first"] * 3 + ["Bearer second"], sent)


class WatchTests(ClientCase):
    def watch(self, events: list[Any]) -> Deferred[Any]:
        self.server.answer = lambda request: NOT_DONE_YET
        self.request_started: Any = None

        def answer(request: Any) -> Any:
            self.request_started = request
            request.write(b"")
            return NOT_DONE_YET

        self.server.answer = answer
        return self.call(self.client.watch(PODS, "", events.append, resource_version="7", seconds=300.0))

    def send(self, data: bytes) -> None:
        self.request_started.write(data)
        self.agent.flush()

    def test_events_come_as_they_are_sent_however_they_are_cut(self) -> None:
        events: list[Any] = []
        watching = self.watch(events)
        line = json.dumps({"type": "ADDED", "object": {"metadata": {"name": "p"}}}).encode() + b"\n"
        self.send(line[:10])
        self.assertEqual([], events)
        self.send(line[10:] + line)
        self.assertEqual(2, len(events))
        self.request_started.finish()
        self.agent.flush()
        self.assertIsNone(self.successResultOf(watching))
        arguments = self.request_started.args
        self.assertEqual(([b"7"], [b"true"]), (arguments[b"resourceVersion"], arguments[b"allowWatchBookmarks"]))

    def test_an_error_event_is_raised(self) -> None:
        watching = self.watch([])
        self.send(b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}\n')
        self.assertTrue(self.failureResultOf(watching, StatusError).value.gone)

    def test_garbage_and_endless_lines_end_it(self) -> None:
        for data in (b"garbage\n", b'{"type":"ADDED"}\n', b"x" * (MAX_WATCH_LINE + 1)):
            watching = self.watch([])
            self.send(data)
            self.failureResultOf(watching, ApiUnreachable)

    def test_a_server_that_never_ends_it_is_taken_for_dead(self) -> None:
        watching = self.watch([])
        self.clock.advance(300 + REQUEST_TIMEOUT)
        self.failureResultOf(watching, ApiUnreachable)

    def test_cancelling_closes_the_connection(self) -> None:
        watching = self.watch([])
        gone: list[Any] = []
        self.request_started.notifyFinish().addErrback(gone.append)
        watching.addErrback(lambda _: None)
        watching.cancel()
        self.agent.flush()
        self.assertEqual(1, len(gone))
        self.assertEqual([], self.clock.getDelayedCalls())
