"""The API over HTTP and TLS on loopback: who is let in, what is refused, what a client may cost."""

from __future__ import annotations

import json
import socket
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from edgectl.apiserver import channel
from edgectl.apiserver.identity import MASTERS, User
from edgectl.apiserver.kubeconfig import write_kubeconfig
from edgectl.apiserver.pki import ApiPki, issue, make_ca
from edgectl.apiserver.service import EmbeddedControlPlane, ServingTLS
from edgectl.apiserver.site import MAX_BODY
from edgectl.testing import Answer, ApiClient, config_map
from metasync.memory import MemoryStore
from metasync.model import Put

reactor: Any = installed
T = TypeVar("T")

MAPS = "/api/v1/namespaces/default/configmaps"


class SiteTests(TestCase):
    async def started(self) -> None:
        """A control plane on a free port, and clients of it."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.pki = ApiPki.load_or_create(self.folder / "pki", ["127.0.0.1"])
        tls = ServingTLS(self.pki.server.certificate, self.pki.server.key, self.pki.ca.certificate)
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        tokens = {"robot": User("robot", (MASTERS,)), "guest": User("guest")}
        store = MemoryStore(reactor)
        for _ in range(2):
            await store.txn([], [Put(b"past", b"")])
        plane = EmbeddedControlPlane(reactor, store, "default", endpoint, tls, tokens=tokens)
        port: Any = await plane.begin()
        self.addCleanup(lambda: Deferred.fromCoroutine(plane.stopService()))
        self.server = f"https://127.0.0.1:{port.getHost().port}"
        self.admin = self.client(self.pki.admin)

    def client(self, pair: Any, token: str | None = None) -> ApiClient:
        path = self.folder / "kubeconfig"
        write_kubeconfig(path, self.server, self.pki.ca.certificate, client=pair)
        return ApiClient(path, token=token)

    async def ask(self, client: ApiClient, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        call: Callable[..., Answer] = client.request
        return await deferToThread(call, method, path, body, **options)

    def asked(self, coroutine: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(coroutine)

    def test_who_is_let_in(self) -> Deferred[Any]:
        return self.asked(self._who())

    async def _who(self) -> None:
        await self.started()
        stranger = issue(make_ca("other"), "stranger", groups=[MASTERS])
        member = issue(self.pki.ca, "member", groups=["people"])
        for client, code in (
            (self.admin, 200),
            (self.client(member), 403),
            (self.client(None, "robot"), 200),
            (self.client(None, "guest"), 403),
            (self.client(None, "unknown"), 401),
            (self.client(None, ""), 401),
        ):
            self.assertEqual((await self.ask(client, "GET", MAPS)).code, code)
        with self.assertRaises((ssl.SSLError, ConnectionError)):
            await self.ask(self.client(stranger), "GET", MAPS)

    def test_health_is_told_to_everyone_and_nothing_else(self) -> Deferred[Any]:
        return self.asked(self._health())

    async def _health(self) -> None:
        await self.started()
        nobody = self.client(None, "unknown")
        self.assertEqual((await self.ask(nobody, "GET", "/readyz")).body, b"ok")
        for path in ("/version", "/api", "/openapi/v2", "/"):
            answer = await self.ask(nobody, "GET", path)
            self.assertEqual((answer.code, answer["kind"]), (401, "Status"), path)

    def test_a_head_too_long_is_answered(self) -> Deferred[Any]:
        return self.asked(self._long_heads())

    async def _long_heads(self) -> None:
        self.patch(channel, "LINGER", 0.5)
        await self.started()
        long = b"x" * 1_000_000
        some = b"GET /readyz HTTP/1.1\r\nHost: a\r\n"
        headers = b"".join(b"X-%d: %s\r\n" % (number, long[:1000]) for number in range(200))
        for told, head in (
            (b"414 Request-URI Too Long", b"GET /readyz?" + long + b" HTTP/1.1\r\n\r\n"),
            (b"431 Request Header Fields Too Large", some + b"X: " + long[:200_000] + b"\r\n\r\n"),
            (b"431 Request Header Fields Too Large", some + headers + b"\r\n"),
            (b"200 OK", some + b"X: " + long[:60_000] + b"\r\nConnection: close\r\n\r\n"),
        ):
            answer = await deferToThread(self._raw, head)
            self.assertEqual(answer.partition(b"\r\n")[0], b"HTTP/1.1 " + told)
            if not told.startswith(b"200"):
                self.assertEqual(json.loads(answer.partition(b"\r\n\r\n")[2])["kind"], "Status")

    def _raw(self, sent: bytes) -> bytes:
        """What comes back on a connection of its own until the server ends it, or has said enough."""
        context = ssl.create_default_context(cadata=self.pki.ca.certificate.decode())
        address, port = self.server.removeprefix("https://").split(":")
        received = b""
        plain = socket.create_connection((address, int(port)), 20)
        with context.wrap_socket(plain, server_hostname=address) as connection:
            connection.sendall(sent)
            while data := connection.recv(65536):
                received += data
        return received

    def test_the_words_of_a_status(self) -> Deferred[Any]:
        return self.asked(self._words())

    async def _words(self) -> None:
        await self.started()
        body = json.dumps({"metadata": {"name": "Not A Name"}}).encode()
        lines = [f"POST {MAPS} HTTP/1.1", "Host: a", "Authorization: Bearer robot", "Content-Type: application/json"]
        lines += [f"Content-Length: {len(body)}", "Connection: close"]
        answer = await deferToThread(self._raw, "\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        self.assertTrue(answer.startswith(b"HTTP/1.1 422 Unprocessable Entity\r\n"), answer[:100])

    def test_nobody_acts_for_others(self) -> Deferred[Any]:
        return self.asked(self._impersonate())

    async def _impersonate(self) -> None:
        await self.started()
        answer = await self.ask(self.admin, "GET", MAPS, headers={"Impersonate-User": "someone"})
        self.assertEqual(answer.code, 403)

    def test_who_am_i(self) -> Deferred[Any]:
        return self.asked(self._whoami())

    async def _whoami(self) -> None:
        await self.started()
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        answer = await self.ask(self.admin, "POST", path, {"kind": "SelfSubjectReview"})
        self.assertEqual(answer["status"]["userInfo"]["username"], "kubernetes-admin")
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        spec = {"resourceAttributes": {"verb": "get", "resource": "pods"}}
        self.assertTrue((await self.ask(self.admin, "POST", path, {"spec": spec}))["status"]["allowed"])

    def test_a_body_too_large_is_refused(self) -> Deferred[Any]:
        return self.asked(self._large())

    async def _large(self) -> None:
        await self.started()
        answer = await self.ask(self.admin, "POST", MAPS, b" " * (MAX_BODY + 1))
        self.assertEqual((answer.code, answer["reason"]), (413, "RequestEntityTooLarge"))

    def test_an_object_that_the_store_cannot_take_is_refused(self) -> Deferred[Any]:
        return self.asked(self._too_large_for_store())

    async def _too_large_for_store(self) -> None:
        await self.started()
        pods = "/api/v1/namespaces/default/pods"
        env = [{"name": f"N{number}", "value": "x" * 10_000} for number in range(200)]
        containers = [{"name": "c", "image": "x", "env": env}]
        answer = await self.ask(
            self.admin, "POST", pods, {"metadata": {"name": "p"}, "spec": {"containers": containers}}
        )
        self.assertEqual((answer.code, answer["reason"]), (413, "RequestEntityTooLarge"))

    def test_a_body_of_nobody_is_not_kept(self) -> Deferred[Any]:
        return self.asked(self._unknown_body())

    async def _unknown_body(self) -> None:
        await self.started()
        answer = await self.ask(self.client(None, "unknown"), "POST", MAPS, b" " * 100_000)
        self.assertEqual(answer.code, 401)

    def test_nonsense_is_a_bad_request(self) -> Deferred[Any]:
        return self.asked(self._nonsense())

    async def _nonsense(self) -> None:
        await self.started()
        deep = b'{"a":' * 500 + b"1" + b"}" * 500
        for body in (b"", b"[]", b"1", b"\xff\xfe", b"{", deep, b"[" * 100_000, json.dumps("x").encode()):
            answer = await self.ask(self.admin, "POST", MAPS, body)
            self.assertEqual((answer.code, answer["reason"]), (400, "BadRequest"), body[:20])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_protobuf_is_an_unsupported_media_type(self) -> Deferred[Any]:
        return self.asked(self._protobuf())

    async def _protobuf(self) -> None:
        await self.started()
        kind = "application/vnd.kubernetes.protobuf"
        answer = await self.ask(self.admin, "POST", MAPS, b"k8s\0", content_type=kind)
        self.assertEqual(answer.code, 415)
        self.assertEqual((await self.ask(self.admin, "GET", MAPS, accept=kind)).code, 406)

    def test_methods_that_make_no_sense(self) -> Deferred[Any]:
        return self.asked(self._methods())

    async def _methods(self) -> None:
        await self.started()
        for method, path in (
            ("PUT", MAPS),
            ("PATCH", MAPS),
            ("POST", f"{MAPS}/a"),
            ("POST", "/api/v1/pods"),
            ("TRACE", MAPS),
            ("GET", "/apis/authentication.k8s.io/v1/tokenreviews"),
            ("PUT", "/api/v1/namespaces/default/pods/a/log"),
        ):
            self.assertEqual((await self.ask(self.admin, method, path, config_map("a"))).code, 405, (method, path))

    def test_a_watch_that_comes_too_late_is_told(self) -> Deferred[Any]:
        return self.asked(self._late())

    async def _late(self) -> None:
        await self.started()
        answer = await self.ask(self.admin, "GET", MAPS, watch="true", resourceVersion="1")
        self.assertEqual((answer["type"], answer["object"]["code"]), ("ERROR", 410))
