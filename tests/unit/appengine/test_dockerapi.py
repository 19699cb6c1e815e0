"""Short calls to an engine: what it may answer, and that nothing waits for ever."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.trial import unittest

from appengine.dockerapi import EngineApi
from appengine.dockerstream import EngineEndpoint
from appengine.runtime import EngineError, NoSuchContainer, NoSuchImage, RuntimeUnavailable


def answer(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class _Engine(Protocol):
    def __init__(self, test: EngineApiTests) -> None:
        self._test = test
        self._received = b""

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        if not self._test.asked.called and self._complete():
            self._test.finish = self.finish
            self._test.asked.callback(self._received)
            if self._test.answer and self.transport is not None:
                self.transport.write(self._test.answer)

    def finish(self, answer: bytes) -> None:
        assert self.transport is not None
        self.transport.write(answer)

    def _complete(self) -> bool:
        head, end, body = self._received.partition(b"\r\n\r\n")
        _, _, length = head.lower().partition(b"content-length: ")
        return bool(end) and len(body) >= int(length.split(b"\r\n")[0] or 0)

    def connectionLost(self, reason: object = None) -> None:
        if not self._test.left.called:
            self._test.left.callback(None)


class EngineApiTests(unittest.TestCase):
    timeout = 20
    answer = b""
    """What the engine says to the next request; nothing: it hangs."""
    finish: Callable[[bytes], None]

    def setUp(self) -> Any:
        return Deferred.fromCoroutine(self.begin())

    async def begin(self) -> None:
        from twisted.internet import reactor

        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        path = f"{directory}/engine.sock"
        self.asked: Deferred[bytes] = Deferred()
        self.left: Deferred[None] = Deferred()
        factory = Factory.forProtocol(lambda: _Engine(self))
        port = await UNIXServerEndpoint(reactor, path).listen(factory)
        self.addCleanup(port.stopListening)
        self.reactor: Any = reactor
        self.endpoint = EngineEndpoint(self.reactor, f"unix://{path}")
        self.api = EngineApi(self.reactor, self.endpoint, 10)

    async def fails(self, kind: type[Exception], call: Coroutine[Any, Any, Any]) -> str:
        try:
            result = await call
        except kind as error:
            self.assertIs(type(error), kind)
            return str(error)
        raise self.failureException(f"it answered {result!r}")

    async def test_json_there_and_back(self) -> None:
        self.answer = answer("201 Created", b'{"Id": "abc"}\n')
        made = await self.api.call("POST", "/containers/create", {"name": "a b"}, {"Image": "x"})
        self.assertEqual(made, {"Id": "abc"})
        head, _, body = (await self.asked).partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"POST /containers/create?name=a+b HTTP/1.1\r\n"), head)
        self.assertEqual(json.loads(body), {"Image": "x"})

    async def test_nothing_to_say(self) -> None:
        # Without a length, and the connection stays open: there is no body.
        self.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
        self.assertIsNone(await self.api.call("POST", "/containers/x/start"))

    async def test_it_is_so_already(self) -> None:
        self.answer = b"HTTP/1.1 304 Not Modified\r\n\r\n"
        self.assertIsNone(await self.api.call("POST", "/containers/x/start"))

    async def test_chunks(self) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n"
        self.assertEqual(await self.api.call("GET", "/images/json"), [1, 2])

    async def test_what_is_not_there(self) -> None:
        self.answer = answer("404 Not Found", b'{"message": "No such container: x"}')
        self.assertIn("No such container", await self.fails(NoSuchContainer, self.api.call("GET", "/containers/x")))

    async def test_an_image_that_is_not_there(self) -> None:
        self.answer = answer("404 Not Found", b'{"message": "No such image: x:latest"}')
        await self.fails(NoSuchImage, self.api.call("GET", "/images/x/json"))

    async def test_refusal(self) -> None:
        self.answer = answer("409 Conflict", b'{"message": "name is already in use"}')
        self.assertEqual(
            await self.fails(EngineError, self.api.call("POST", "/containers/create")), "name is already in use"
        )

    async def test_an_archive_and_the_progress_of_its_import(self) -> None:
        self.answer = answer("200 OK", b'{"status": "a"}\r\n{"status": "sha256:1"}\r\n')
        done = await self.api.call("POST", "/images/create", {"fromSrc": "-"}, data=b"archive")
        self.assertEqual(done, {"status": "sha256:1"})
        request = await self.asked
        self.assertIn(b"Content-Type: application/x-tar\r\n", request)
        self.assertTrue(request.endswith(b"\r\n\r\narchive"))

    async def test_an_import_that_fails_under_way(self) -> None:
        self.answer = answer("200 OK", b'{"status": "a"}\n{"error": "no space left on device"}\n')
        error = await self.fails(EngineError, self.api.call("POST", "/images/create", data=b"archive"))
        self.assertEqual(error, "no space left on device")

    async def test_nonsense(self) -> None:
        self.answer = answer("200 OK", b"<html>")
        self.assertIn("not JSON", await self.fails(EngineError, self.api.call("GET", "/info")))

    async def test_an_engine_that_hangs_before_its_answer(self) -> None:
        hasty = EngineApi(self.reactor, self.endpoint, 0.1)
        await self.fails(RuntimeUnavailable, hasty.call("GET", "/info"))
        await self.left

    async def test_an_engine_that_hangs_within_its_answer(self) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"
        hasty = EngineApi(self.reactor, self.endpoint, 0.1)
        self.assertIn("longer than 0.1 s", await self.fails(RuntimeUnavailable, hasty.call("GET", "/info")))
        await self.left

    async def test_closing_waits_for_what_is_under_way(self) -> None:
        calling = Deferred.fromCoroutine(self.api.call("DELETE", "/containers/x"))
        await self.asked
        closing = Deferred.fromCoroutine(self.api.close(10))
        self.assertNoResult(closing)
        self.finish(b"HTTP/1.1 204 No Content\r\n\r\n")
        await closing
        self.assertIsNone(await calling)
        await self.fails(RuntimeUnavailable, self.api.call("GET", "/info"))

    async def test_closing_cuts_what_does_not_end(self) -> None:
        calling = Deferred.fromCoroutine(self.fails(RuntimeUnavailable, self.api.call("GET", "/info")))
        await self.asked
        await self.api.close(0.05)
        self.assertIn("stopped", await calling)
        await self.left
