"""The local API speaks etcd's JSON, below the caller's prefix and nowhere else."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import Any

from treq.testing import StubTreq
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from metasync.gateway import gateway_resource
from metasync.keys import data_prefix
from metasync.memory import MemoryStore
from metasync.model import KeyRange, Put
from metasync.tokens import NamespaceTokens
from tests.unit.metasync.pairs import now

DATA = data_prefix("default").encode()


def b64(text: str) -> str:
    return b64encode(text.encode()).decode()


class GatewayTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.tokens = NamespaceTokens(bytes(range(32)))
        self.client = self.serve(trusted=False)
        self.token = self.tokens.issue("shop")
        now(self.store.txn((), [Put(DATA + b"all/other/secret", b"x"), Put(b"/kubebus/default/nodes/n1/x", b"x")]))

    def serve(self, trusted: bool) -> Any:
        resource = gateway_resource(
            self.store, "default", self.tokens, scopes=lambda: ["all", "node.n1"], trusted=trusted
        )
        return StubTreq(resource)

    def post(self, path: str, body: object, code: int = 200, token: str | None = None) -> dict[str, Any]:
        headers = {"Authorization": self.token if token is None else token}
        response = self.successResultOf(
            self.client.post(f"http://node{path}", data=json.dumps(body).encode(), headers=headers)
        )
        self.assertEqual(response.code, code)
        answer: dict[str, Any] = json.loads(self.successResultOf(self.client.content(response)))
        return answer

    def put(self, key: str, value: str) -> dict[str, Any]:
        return self.post("/v3/kv/put", {"key": b64(key), "value": b64(value)})

    def test_putAndRange(self) -> None:
        revision = self.put("/a", "1")["header"]["revision"]
        found = self.post("/v3/kv/range", {"key": b64("/a")})
        expected = {"key": b64("/a"), "value": b64("1"), "version": "1"}
        expected |= {"create_revision": revision, "mod_revision": revision}
        self.assertEqual(found, {"header": {"revision": revision}, "kvs": [expected], "count": "1"})
        (kv,) = now(self.store.range(KeyRange.prefix(DATA + b"all/shop/"))).kvs
        self.assertEqual((kv.key, kv.value), (DATA + b"all/shop//a", b"1"))

    def test_ranges(self) -> None:
        for name in "abc":
            self.put(name, name.upper())
        for request, keys in [
            ({"key": b64("a"), "range_end": b64("c")}, "ab"),
            ({"key": b64("b"), "range_end": b64("\0")}, "bc"),
            ({"key": b64("\0"), "range_end": b64("\0")}, "abc"),
            ({"key": b64("a"), "rangeEnd": b64("z"), "limit": "2"}, "ab"),
            ({"key": b64("a"), "range_end": b64("z"), "sort_order": "DESCEND", "limit": 1}, "c"),
            ({"key": b64("a"), "range_end": b64("z"), "sort_order": "DESCEND", "sort_target": "MOD"}, "cba"),
        ]:
            found = self.post("/v3/kv/range", request)
            self.assertEqual("".join(b64decode(kv["key"]).decode() for kv in found["kvs"]), keys, request)
        counted = self.post("/v3/kv/range", {"key": b64("a"), "range_end": b64("z"), "count_only": True})
        self.assertEqual((counted["count"], "kvs" in counted), ("3", False))

    def test_deleteRange(self) -> None:
        self.put("a", "1")
        deleted = self.post("/v3/kv/deleterange", {"key": b64("a"), "prev_kv": True})
        self.assertEqual((deleted["deleted"], deleted["prev_kvs"][0]["value"]), ("1", b64("1")))
        self.assertNotIn("deleted", self.post("/v3/kv/deleterange", {"key": b64("a")}))

    def test_txn(self) -> None:
        request = {
            "compare": [{"key": b64("a"), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}],
            "success": [{"request_put": {"key": b64("a"), "value": b64("1")}}],
            "failure": [{"requestRange": {"key": b64("a")}}],
        }
        first = self.post("/v3/kv/txn", request)
        self.assertTrue(first["succeeded"])
        self.assertIn("response_put", first["responses"][0])
        second = self.post("/v3beta/kv/txn", {k: v for k, v in request.items() if k != "failure"})
        self.assertNotIn("succeeded", second)
        fail = [{"request_range": {"key": b64("a")}}]
        third = self.post("/v3/kv/txn", {**request, "failure": fail})
        self.assertEqual(third["responses"][0]["response_range"]["kvs"][0]["value"], b64("1"))

    def test_watch(self) -> None:
        start = self.put("a", "1")["header"]["revision"]
        body = {"create_request": {"key": b64("\0"), "range_end": b64("\0"), "start_revision": start}}
        response = self.successResultOf(
            self.client.post(
                "http://node/v3/watch", data=json.dumps(body).encode(), headers={"Authorization": self.token}
            )
        )
        lines: list[bytes] = []
        self.client.collect(response, lines.append)
        now(self.store.txn((), [Put(DATA + b"all/other/secret", b"y")]))
        self.post("/v3/kv/deleterange", {"key": b64("a")})
        self.clock.advance(0)
        self.client.flush()
        results = [json.loads(line)["result"] for line in b"".join(lines).splitlines()]
        self.assertTrue(results[0]["created"])
        events = [(e.get("type"), e["kv"]["key"]) for result in results[1:] for e in result["events"]]
        self.assertEqual(events, [(None, b64("a")), ("DELETE", b64("a"))])

    def test_aNamespaceSeesItselfOnly(self) -> None:
        everything = {"key": b64("\0"), "range_end": b64("\0")}
        self.assertNotIn("kvs", self.post("/v3/kv/range", everything))
        self.post("/v3/kv/deleterange", everything)
        for key in ("../other/secret", "/../../other/secret", "all/other/secret"):
            self.assertNotIn("kvs", self.post("/v3/kv/range", {"key": b64(key)}))
        upwards = {"key": b64("a"), "range_end": b64encode(b"\xff" * 100).decode()}
        self.post("/v3/kv/deleterange", upwards)
        self.assertEqual(len(now(self.store.range(KeyRange.prefix(DATA + b"all/other/"))).kvs), 1)
        self.assertEqual(len(now(self.store.range(KeyRange.prefix(b"/kubebus/default/nodes/"))).kvs), 1)

    def test_aKeyEndsWithItsLease(self) -> None:
        lease = self.post("/v3/lease/grant", {"TTL": "10"})["ID"]
        self.post("/v3/kv/put", {"key": b64("a"), "value": b64("1"), "lease": lease})
        self.assertEqual(self.post("/v3/kv/range", {"key": b64("a")})["kvs"][0]["lease"], lease)
        self.clock.advance(9)
        self.assertEqual(self.post("/v3/lease/keepalive", {"ID": lease})["result"]["TTL"], "10")
        self.clock.advance(9)
        found = self.post("/v3/lease/timetolive", {"ID": lease, "keys": True})
        self.assertEqual((found["TTL"], found["grantedTTL"], found["keys"]), ("1", "10", [b64("a")]))
        self.clock.advance(1)
        self.assertNotIn("kvs", self.post("/v3/kv/range", {"key": b64("a")}))
        self.assertEqual(self.post("/v3/lease/timetolive", {"ID": lease})["TTL"], "-1")
        self.assertNotIn("TTL", self.post("/v3/lease/keepalive", {"ID": lease})["result"])

    def test_aNamespacesLeasesAreItsOwn(self) -> None:
        mine = self.post("/v3/lease/grant", {"TTL": "60", "ID": "7"})["ID"]
        self.post("/v3/kv/put", {"key": b64("a"), "lease": mine})
        other = self.tokens.issue("other")
        self.post("/v3/lease/revoke", {"ID": mine}, 404, other)
        self.post("/v3/kv/put", {"key": b64("b"), "lease": mine}, 404, other)
        self.assertEqual(self.post("/v3/lease/timetolive", {"ID": mine}, 200, other)["TTL"], "-1")
        self.assertEqual(self.post("/v3/lease/grant", {"TTL": "60", "ID": "7"}, 200, other)["ID"], "7")
        self.post("/v3/lease/grant", {"TTL": "60", "ID": "7"}, 412)
        self.post("/v3/lease/revoke", {"ID": mine})
        self.assertNotIn("kvs", self.post("/v3/kv/range", {"key": b64("a")}))

    def test_scopes(self) -> None:
        self.post("/scopes/node.n1/v3/kv/put", {"key": b64("a"), "value": b64("mine")})
        self.assertEqual(len(now(self.store.range(KeyRange.prefix(DATA + b"node.n1/shop/"))).kvs), 1)
        self.post("/scopes/node.n2/v3/kv/put", {"key": b64("a")}, 401)

    def test_tokens(self) -> None:
        for token in ("", "shop", "shop.", "shop." + "0" * 64, self.token + "x", "other" + self.token[4:]):
            self.post("/v3/kv/range", {"key": b64("a")}, 401, token)
        self.post("/v3/kv/range", {"key": b64("a")}, 200, f"Bearer {self.token}")

    def test_theSocketIsTrusted(self) -> None:
        self.client = self.serve(trusted=True)
        body = json.dumps({"key": b64("other/secret")}).encode()
        response = self.successResultOf(self.client.post("http://node/v3/kv/range", data=body))
        self.assertEqual(json.loads(self.successResultOf(self.client.content(response)))["count"], "1")

    def test_whatTheNodesTellEachOtherIsOnlyRead(self) -> None:
        self.client = self.serve(trusted=True)
        key, put = b64("kubebus.io/takeovers/uid"), Put(DATA + b"all/kubebus.io/takeovers/uid", b"x")
        now(self.store.txn((), [put]))
        for path, body, code in [
            ("kv/range", {"key": key}, 200),
            ("kv/put", {"key": key, "value": b64("y")}, 400),
            ("kv/deleterange", {"key": key}, 400),
            ("kv/deleterange", {"key": b64("a"), "range_end": b64("z")}, 400),
            ("kv/txn", {"success": [{"request_put": {"key": key}}]}, 400),
            ("kv/deleterange", {"key": b64("a"), "range_end": b64("k")}, 200),
            ("kv/put", {"key": b64("kubebus.ionized"), "value": b64("y")}, 200),
        ]:
            response = self.successResultOf(self.client.post(f"http://node/v3/{path}", data=json.dumps(body).encode()))
            self.assertEqual(response.code, code, (path, body))
        self.assertEqual(now(self.store.range(KeyRange.single(put.key))).kvs[0].value, b"x")

    def test_mistakes(self) -> None:
        for path, body, code in [
            ("/v3/kv/range", {}, 400),
            ("/v3/kv/range", [], 400),
            ("/v3/kv/range", {"key": "not base64!"}, 400),
            ("/v3/kv/range", {"key": b64("a"), "limit": "x"}, 400),
            ("/v3/kv/range", {"key": b64("a"), "revision": "999"}, 400),
            ("/v3/kv/put", {"key": b64("a"), "lease": "1"}, 404),
            ("/v3/lease/revoke", {"ID": "1"}, 404),
            ("/v3/lease/grant", {"TTL": "-1"}, 400),
            ("/v3/lease/grant", {"TTL": "9000000001"}, 400),
            ("/v3/kv/txn", {"success": [{"request_put": {"key": b64("a")}}] * 50}, 400),
            ("/v3/kv/txn", {"success": [{"nothing": {}}]}, 400),
            ("/v3/watch", {}, 400),
            ("/v3/kv/nothing", {}, 404),
            ("/v2/keys", {}, 404),
        ]:
            self.assertIn("error", self.post(path, body, code))
        now(self.store.compact(now(self.store.txn((), [Put(b"x", b"")])).revision))
        error = self.post("/v3/kv/range", {"key": b64("a"), "revision": "1"}, 400)
        self.assertEqual((error["code"], "has been compacted" in error["error"]), (11, True))
