"""The balancer over HTTP on the loopback: real workers that answer, are slow, break, or are gone."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from appengine.balancer.policy import Place, Policy
from appengine.balancer.rim import MAX_BODY, Rim

reactor: Any = _reactor


class Worker(Resource):
    isLeaf = True

    def __init__(self, answer: Callable[[Request], bytes | int]) -> None:
        super().__init__()
        self._answer = answer
        self.got: list[bytes] = []

    def render_POST(self, request: Request) -> bytes | int:
        if request.path == b"/health":
            return b""
        assert request.content is not None
        self.got.append(request.content.read())
        return self._answer(request)


def good(request: Request) -> bytes:
    request.setHeader("work-seconds", "0.01")
    request.setHeader("waited-seconds", "0")
    return b"done"


def broken(request: Request) -> bytes:
    request.setResponseCode(500)
    return b"no"


def silent(request: Request) -> int:
    return NOT_DONE_YET


class RimTests(TestCase):
    def listen(self, site: Any) -> int:
        port = reactor.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def worker(self, answer: Callable[[Request], bytes | int]) -> tuple[Worker, int]:
        worker = Worker(answer)
        return worker, self.listen(Site(worker))

    async def balancer(self, *ports: int, **settings: Any) -> Rim:
        """One with a place for each port, that knows its workers."""
        places = tuple(Place(f"place-{index}", f"http://127.0.0.1:{port}/") for index, port in enumerate(ports))
        rim = Rim(reactor, Policy(places, **{"attempt": 0.3, "deadline": 1.0, "patience": 0.5, **settings}))
        rim.start()
        self.addCleanup(rim.stop)
        self.port = self.listen(rim.site())
        while len(rim.core._workers) < len(ports):
            await deferLater(reactor, 0.01)
        return rim

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Deferred[tuple[int, Any, bytes]]:
        port = self.port

        def exchange() -> tuple[int, Any, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.request(method, path, body, {"source": "cam", "wanted-rate": "4", **headers})
                response = connection.getresponse()
                return response.status, response.headers, response.read()
            finally:
                connection.close()

        asked: Deferred[tuple[int, Any, bytes]] = deferToThread(exchange)
        return asked

    async def test_an_item_there_and_back(self) -> None:
        worker, port = self.worker(good)
        await self.balancer(port)
        code, headers, body = await self.ask("POST", "/work", b"item")
        self.assertEqual((code, body, worker.got), (200, b"done", [b"item"]))
        self.assertEqual(headers["balancer-place"], "place-0")
        self.assertEqual(headers["balancer-rate"], "4.00")

    async def test_a_broken_worker_is_passed_over(self) -> None:
        first, port = self.worker(broken)
        _, other = self.worker(good)
        await self.balancer(port, other)
        code, headers, _ = await self.ask("POST", "/work", b"item")
        self.assertEqual((code, headers["balancer-place"], first.got), (200, "place-1", [b"item"]))

    async def test_a_silent_worker_is_given_up_in_time(self) -> None:
        _, port = self.worker(silent)
        _, other = self.worker(good)
        await self.balancer(port, other)
        code, headers, _ = await self.ask("POST", "/work", b"item")
        self.assertEqual((code, headers["balancer-place"]), (200, "place-1"))
        self.assertLess(float(headers["balancer-seconds"]), 0.9)

    async def test_a_worker_that_is_gone_and_comes_back(self) -> None:
        worker = Worker(good)
        port = reactor.listenTCP(0, Site(worker), interface="127.0.0.1")
        number = port.getHost().port
        await port.stopListening()
        rim = await self.balancer(number, probe=0.1)
        code, headers, _ = await self.ask("POST", "/work", b"item")
        self.assertEqual((code, headers["balancer-reason"]), (503, "failed"))
        again = reactor.listenTCP(number, Site(worker), interface="127.0.0.1")
        self.addCleanup(again.stopListening)
        (known,) = rim.core._workers.values()
        while not known.up:
            await deferLater(reactor, 0.01)
        code, _, _ = await self.ask("POST", "/work", b"item")
        self.assertEqual(code, 200)

    async def test_nobody_in_time_is_a_refusal(self) -> None:
        _, port = self.worker(silent)
        await self.balancer(port)
        code, headers, _ = await self.ask("POST", "/work", b"item")
        self.assertEqual((code, headers["balancer-reason"]), (503, "failed"))

    async def test_an_item_that_is_too_large_is_not_kept(self) -> None:
        worker, port = self.worker(good)
        await self.balancer(port)
        code, _, _ = await self.ask("POST", "/work", bytes(MAX_BODY + 1))
        self.assertEqual((code, worker.got), (413, []))

    async def test_numbers_that_are_none_do_no_harm(self) -> None:
        def lying(request: Request) -> bytes:
            request.setHeader("work-seconds", "nan")
            request.setHeader("waited-seconds", "-1e999")
            return b"done"

        _, port = self.worker(lying)
        rim = await self.balancer(port)
        code, _, _ = await self.ask("POST", "/work", b"item", **{"wanted-rate": "inf"})
        self.assertEqual(code, 200)
        (known,) = rim.core._workers.values()
        self.assertLess(known.work or 0.0, 1.0)

    async def test_the_status(self) -> None:
        _, port = self.worker(good)
        await self.balancer(port)
        await self.ask("POST", "/work", b"item")
        _, _, body = await self.ask("GET", "/status")
        status = json.loads(body)
        self.assertEqual(status["counts"]["answered place-0"], 1)
        self.assertEqual([each["address"] for each in status["workers"]], [f"127.0.0.1:{port}"])

    async def test_another_policy_is_followed_at_once(self) -> None:
        _, port = self.worker(good)
        _, other = self.worker(good)
        rim = await self.balancer(port, other)
        rim.adopt(Policy((Place("place-1", f"http://127.0.0.1:{other}/"),)))
        _, headers, _ = await self.ask("POST", "/work", b"item")
        self.assertEqual(headers["balancer-place"], "place-1")
