"""The local API and callers that send without end, read slowly, or make no sense: over real sockets."""

from __future__ import annotations

import http.client
import json
import socket
from base64 import b64decode
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from metasync import gateway, gateway_site, gateway_watch
from metasync.gateway import gateway_site as make_site
from metasync.gateway_site import MAX_BODY, GatewaySite
from metasync.keys import data_prefix
from metasync.memory import MemoryStore
from metasync.model import Put
from metasync.tokens import NamespaceTokens
from tests.unit.metasync.loopback import until
from tests.unit.metasync.test_gateway import b64

reactor: Any = _reactor
SHOP = data_prefix("default").encode() + b"all/shop/"
EVERYTHING = {"key": b64("\0"), "range_end": b64("\0")}


class GatewayLimitTests(TestCase):
    def setUp(self) -> None:
        self.store = MemoryStore(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.store.close()))
        tokens = NamespaceTokens(bytes(16))
        self.token = tokens.issue("shop")
        self.other = tokens.issue("other")
        self.site: GatewaySite = make_site(self.store, "default", tokens, scopes=lambda: ["all"])
        self.site.noisy = False
        self.site.doStart = self.site.doStop = lambda: None  # type: ignore[method-assign]
        port = reactor.listenTCP(0, self.site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.port = port.getHost().port
        self.clients: list[Any] = []
        self.addCleanup(self.hang_up)

    async def hang_up(self) -> None:
        for client in self.clients:
            client.close()
        await until(reactor, lambda: not self.site._open.total(), "everybody has gone")

    async def put(self, **values: bytes) -> None:
        for name, value in values.items():
            await self.store.txn((), [Put(SHOP + name.encode(), value)])

    def raw(self, head: str, body: bytes = b"", token: str | None = None) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        self.clients.append(client)
        lines = f"POST /v3/kv/range HTTP/1.1\r\nHost: node\r\nAuthorization: {token or self.token}\r\n{head}\r\n\r\n"
        client.sendall(lines.encode("latin-1") + body)
        return client

    async def status(self, client: socket.socket) -> str:
        try:
            answer: bytes = await deferToThread(client.recv, 4096)
        except ConnectionResetError:
            return ""
        return answer.split(b"\r\n")[0].decode()

    def watch(self, token: str | None = None, **create: Any) -> tuple[Any, Any]:
        """The connection, and its response. Blocks."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        self.clients.append(client)
        body = json.dumps({"create_request": {**EVERYTHING, **create}})
        client.request("POST", "/v3/watch", body, {"Authorization": token or self.token})
        return client, client.getresponse()

    async def test_a_body_without_end(self) -> None:
        client = self.raw("Transfer-Encoding: chunked")
        sent = 0

        def send() -> None:
            nonlocal sent
            try:
                while sent < 40:
                    client.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
                    sent += 1
            except OSError:
                pass

        await deferToThread(send)
        self.assertLess(sent, 20)  # what is on the way is a few MB
        await until(reactor, lambda: not self.site.receiving, "nothing of it is kept")

    async def test_a_body_that_is_too_large(self) -> None:
        self.assertIn("400", await self.status(self.raw(f"Content-Length: {MAX_BODY + 1}")))

    async def test_no_body_is_taken_from_strangers(self) -> None:
        for token in ("shop.forged", "\xff\xfe.x", ""):
            self.assertIn("401", await self.status(self.raw(f"Content-Length: {MAX_BODY}", token=token or " ")), token)

    async def test_bodies_together_are_bounded(self) -> None:
        self.patch(gateway_site, "MAX_TOGETHER", 100_000)
        first = self.raw("Content-Length: 80000", bytes(70_000))
        await until(reactor, lambda: self.site.receiving == 70_000, "the first has sent most of its own")
        self.assertIn("503", await self.status(self.raw("Content-Length: 80000", bytes(70_000))))
        first.close()
        await until(reactor, lambda: not self.site.receiving, "it is forgotten")
        found = await self.status(self.raw("Content-Length: 14", b'{"key":"YQ=="}'))
        self.assertIn("200", found)

    async def test_connections_of_one_address_are_bounded(self) -> None:
        self.patch(gateway_site, "MAX_OF_ADDRESS", 3)
        for _ in range(3):
            self.raw("Content-Length: 1")
        await until(reactor, lambda: self.site._open.total() == 3, "three are there")
        self.assertEqual(await self.status(self.raw("Content-Length: 1")), "")
        self.clients[0].close()
        await until(reactor, lambda: self.site._open.total() == 2, "one has gone")
        self.assertIn("400", await self.status(self.raw("Content-Length: 1", b"x")))
        self.flushLoggedErrors()

    async def test_watches_of_one_namespace_are_bounded(self) -> None:
        self.patch(gateway, "MAX_WATCHES_EACH", 2)
        for expected in (200, 200, 503):
            self.assertEqual((await deferToThread(self.watch))[1].status, expected)
        self.assertEqual((await deferToThread(self.watch, self.other))[1].status, 200)

    async def test_events_larger_than_a_buffer(self) -> None:
        _, response = await deferToThread(self.watch)
        await deferToThread(response.readline)
        await self.put(big=bytes(500_000), after=b"1")
        for expected in (500_000, 1):
            line = json.loads(await deferToThread(response.readline))
            ((length),) = (len(event["kv"]["value"]) * 3 // 4 for event in line["result"]["events"])
            self.assertLess(abs(length - expected), 3)

    async def test_a_long_past(self) -> None:
        for i in range(2000):
            await self.put(**{f"k{i}": b"x" * 150})
        for more in ({}, {"prev_kv": True}):
            self.assertEqual(await deferToThread(self.count, 2000, more), [f"k{i}" for i in range(2000)])

    def count(self, most: int, more: dict[str, Any]) -> list[str]:
        _, response = self.watch(start_revision="1", **more)
        found: list[str] = []
        while len(found) < most:
            line = json.loads(response.readline())["result"]
            found += [event["kv"]["key"] for event in line.get("events", [])]
        response.close()
        return [b64decode(key).decode() for key in found]

    async def test_who_reads_nothing_costs_little_and_misses_nothing(self) -> None:
        _, response = await deferToThread(self.watch)
        await deferToThread(response.readline)
        for i in range(300):
            await self.put(**{f"k{i}": bytes(40_000)})
        (watcher,) = self.site.resource.watchers
        self.assertLess(watcher.waiting_bytes, 400_000)
        found = 0
        while found < 300:
            line = json.loads(await deferToThread(response.readline))["result"]
            found += len(line.get("events", []))

    async def test_progress_is_told_to_who_wants_it(self) -> None:
        self.patch(gateway_watch, "PROGRESS_SECONDS", 0.0)
        _, asked = await deferToThread(self.watch, progress_notify=True)
        _, other = await deferToThread(self.watch)
        for response in (asked, other):
            await deferToThread(response.readline)
        elsewhere = (await self.store.txn((), [Put(b"/elsewhere", b"1")])).revision
        line: dict[str, Any] = {}
        while line.get("header", {}).get("revision") != str(elsewhere):
            line = json.loads(await deferToThread(asked.readline))["result"]
            self.assertEqual(list(line), ["header"])
        await self.put(mine=b"1")
        self.assertIn("events", json.loads(await deferToThread(other.readline))["result"])

    async def test_who_was_too_slow_for_history_is_told(self) -> None:
        _, response = await deferToThread(self.watch)
        await deferToThread(response.readline)
        for i in range(300):
            await self.put(**{f"k{i}": bytes(40_000)})
        await self.store.compact(self.store.revision)
        result: dict[str, Any] = {}
        while "canceled" not in result:
            result = json.loads(await deferToThread(response.readline))["result"]
        self.assertEqual(result["compact_revision"], str(self.store.revision))
        self.assertEqual(await deferToThread(response.readline), b"")
