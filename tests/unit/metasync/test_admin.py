"""The admin resource, through a real HTTP client in memory."""

from __future__ import annotations

import json
from typing import Any

from treq.testing import StubTreq
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from metasync.admin import MAX_VALUE, meta_resource
from metasync.interfaces import StoreError
from metasync.memory import MemoryStore
from metasync.model import Put
from metasync.opening import open_store
from tests.unit.metasync.pairs import Pair, now, put
from tests.unit.metasync.world import World


class AdminTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.treq: Any = StubTreq(meta_resource(self.store, lambda: {"connected": True}))

    def ask(self, method: str, path: str, code: int = 200, **options: Any) -> dict[str, Any]:
        response = self.successResultOf(self.treq.request(method, f"http://admin/{path}", **options))
        self.assertEqual(response.code, code)
        answer: dict[str, Any] = json.loads(self.successResultOf(self.treq.content(response)))
        return answer

    def test_putGetDelete(self) -> None:
        put = self.ask("PUT", "keys?key=/a/1", data=b"one")
        self.ask("PUT", "keys?key=/a/2", data=b"\xff")
        found = self.ask("GET", "keys?prefix=/a/")
        self.assertEqual(
            [(kv["key"], kv.get("value"), kv.get("value64")) for kv in found["kvs"]],
            [("/a/1", "one", None), ("/a/2", None, "/w==")],
        )
        self.assertEqual(found["kvs"][0]["modRevision"], put["revision"])
        self.assertEqual(self.ask("DELETE", "keys?key=/a/1")["deleted"], 1)
        self.assertEqual(self.ask("GET", f"keys?key=/a/1&revision={put['revision']}")["kvs"][0]["value"], "one")
        self.assertEqual(self.ask("GET", "keys?key=/a/1")["kvs"], [])

    def test_watch(self) -> None:
        revision = now(self.store.txn((), [Put(b"/a", b"1")])).revision
        response = self.successResultOf(self.treq.get(f"http://admin/watch?prefix=/&revision={revision}"))
        lines: list[bytes] = []
        self.treq.collect(response, lines.append)
        now(self.store.txn((), [Put(b"/b", b"2")]))
        self.clock.advance(0)
        self.treq.flush()
        got = [json.loads(line) for line in b"".join(lines).splitlines()]
        self.assertEqual(
            [[(e["type"], e["key"]) for e in g["events"]] for g in got], [[("put", "/a")], [("put", "/b")]]
        )

    def test_status(self) -> None:
        self.assertEqual(self.ask("GET", "status"), {"connected": True})

    def test_statusTellsOfConflicts(self) -> None:
        world = World("n1")
        self.addCleanup(world.stop)
        world.cut("n1")
        world.write("cloud", all_k="cloud")
        world.write("n1", all_k="edge")
        world.mend("n1")
        world.settle(5)
        self.treq = StubTreq(meta_resource(world.stores["n1"], world.clients["n1"].status))
        status = self.ask("GET", "status")
        self.assertEqual(status["conflicts"]["count"], 1)
        lost = self.ask("GET", f"keys?prefix={status['conflicts']['prefix']}")
        self.assertEqual(json.loads(lost["kvs"][0]["value"])["value"], "cloud")

    def test_statusTellsWhatIsPendingOffline(self) -> None:
        pair = Pair()
        pair.client.startService()
        self.addCleanup(pair.client.stopService)
        put(pair.edge, reported_a="1")
        pair.settle(1)
        pair.endpoint.away = True
        pair.endpoint.cut()
        put(pair.edge, reported_b="1", reported_c="1")
        pair.settle()
        self.treq = StubTreq(meta_resource(pair.edge, pair.client.status))
        feeds = {feed["feed"]: feed for feed in self.ask("GET", "status")["feeds"]}
        self.assertEqual(feeds["reported"]["pending"], 2)

    def test_mistakesAreNamed(self) -> None:
        for method, path in [
            ("GET", "keys"),
            ("GET", "keys?key=a&prefix=b"),
            ("GET", "keys?key=a&limit=x"),
            ("PUT", "keys?prefix=/a"),
            ("DELETE", "keys?key="),
            ("GET", "watch"),
        ]:
            self.assertIn("error", self.ask(method, path, 400))
        self.assertIn("over", self.ask("PUT", "keys?key=a", 400, data=bytes(MAX_VALUE + 1))["error"])

    def test_theStoresErrorsReachTheUser(self) -> None:
        self.assertIn("has not happened", self.ask("GET", "keys?key=a&revision=99", 503)["error"])


class OpenStoreTests(SynchronousTestCase):
    def test_memory(self) -> None:
        self.assertIsInstance(open_store(Clock(), "memory:"), MemoryStore)

    def test_nonsense(self) -> None:
        for url in ("", "memory", "sqlite:", "mysql://x", "memory:x"):
            self.assertIn("sqlite:PATH", str(self.assertRaises(StoreError, open_store, Clock(), url)))
