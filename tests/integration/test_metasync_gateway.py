"""The local API gives the same answers as etcd's own JSON gateway, asked the same."""

from __future__ import annotations

import http.client
import json
from base64 import b64encode
from functools import partial
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from metasync.gateway import gateway_site
from metasync.memory import MemoryStore
from metasync.tokens import NamespaceTokens
from tests.lab.etcd import Etcd

reactor: Any = _reactor


def b64(text: str) -> str:
    return b64encode(text.encode()).decode()


A, B, Z = b64("a"), b64("b"), b64("c")
PUT_A = {"request_put": {"key": A, "value": b64("txn"), "prev_kv": True}}
GET_A = {"request_range": {"key": A}}
GET_B = {"request_range": {"key": B}}
PUT_B = {"request_put": {"key": B, "value": b64("within"), "prev_kv": True}}
IS_TXN = {"key": A, "target": "VERSION", "result": "GREATER", "version": "0"}
IS_NONE = {"key": A, "target": "VALUE", "value": b64("no such")}
IS_NEW = {"key": B, "target": "VALUE", "value": b64("new")}
NUMBERS: list[Any] = [1.5, float("inf"), "9223372036854775808", True, []]
FLAGS: list[Any] = ["true", "false", 1, None, True]
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("kv/range", {"key": A}),
    ("kv/put", {"key": A, "value": b64("1")}),
    ("kv/put", {"key": A, "value": b64("2"), "prev_kv": True}),
    ("kv/put", {"key": B, "value": b64("")}),
    ("kv/range", {"key": A}),
    ("kv/range", {"key": A, "range_end": Z}),
    ("kv/range", {"key": A, "range_end": Z, "limit": "1"}),
    ("kv/range", {"key": A, "range_end": Z, "limit": 1, "sort_order": "DESCEND", "sort_target": "KEY"}),
    ("kv/range", {"key": A, "range_end": Z, "sort_order": "DESCEND", "sort_target": "VERSION"}),
    ("kv/range", {"key": A, "range_end": Z, "keys_only": True}),
    ("kv/range", {"key": A, "range_end": Z, "count_only": True}),
    ("kv/range", {"key": b64("\0"), "range_end": b64("\0")}),
    ("kv/range", {"key": A, "revision": "2"}),
    ("kv/range", {"key": A, "revision": "99"}),
    ("kv/txn", {"compare": [{"key": A, "target": "VERSION", "result": "GREATER", "version": "1"}], "success": [PUT_A]}),
    ("kv/txn", {"compare": [{"key": A, "target": "VALUE", "value": b64("no")}], "failure": [GET_A]}),
    ("kv/txn", {"success": [GET_A, {"request_delete_range": {"key": A, "prev_kv": True}}, GET_A]}),
    ("kv/txn", {"success": [PUT_A, PUT_A]}),
    ("kv/txn", {"compare": [{"key": A, "target": "CREATE", "create_revision": "0"}], "success": [PUT_A]}),
    ("kv/put", {"key": A, "value": b64("kept"), "prev_kv": True}),
    ("kv/put", {"key": A, "ignore_value": True, "prev_kv": True}),
    ("kv/put", {"key": A, "ignoreValue": True, "value": b64("x")}),
    ("kv/put", {"key": b64("none"), "ignore_value": True}),
    ("kv/put", {"key": b64("none"), "ignore_lease": True, "value": b64("x")}),
    ("kv/range", {"key": A}),
    *(
        ("kv/range", {"key": A, "range_end": Z, name: str(revision), **more})
        for name in ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision")
        for revision, more in ((4, {}), (6, {"limit": "1"}), (9, {"count_only": True}), (3, {"keys_only": True}))
    ),
    ("kv/txn", {"success": [{"request_range": {"key": A, "range_end": Z, "sort_order": "DESCEND", "limit": "1"}}]}),
    ("kv/txn", {"success": [{"request_range": {"key": A, "range_end": Z, "count_only": True}}, PUT_A]}),
    ("kv/txn", {"success": [PUT_A, {"request_range": {"key": A, "range_end": Z, "keys_only": True}}]}),
    ("kv/txn", {"success": [{"request_range": {"key": A, "revision": "2"}}, GET_A]}),
    ("kv/txn", {"success": [{"request_range": {"key": A, "range_end": Z, "min_mod_revision": "5"}}]}),
    ("kv/txn", {"success": [{"request_range": {"key": A, "revision": "999"}}, PUT_A]}),
    ("kv/txn", {"success": [{"request_txn": {"compare": [IS_TXN], "success": [GET_A, PUT_B], "failure": [GET_A]}}]}),
    ("kv/txn", {"success": [{"request_txn": {"compare": [IS_NONE], "success": [PUT_A], "failure": [GET_A]}}, PUT_B]}),
    ("kv/txn", {"compare": [IS_NONE], "failure": [{"request_txn": {"success": [{"request_txn": {}}, GET_A]}}]}),
    # Compares within are of the state before.
    ("kv/txn", {"success": [PUT_B, {"request_txn": {"compare": [IS_NEW], "success": [GET_B], "failure": [GET_A]}}]}),
    ("kv/txn", {"success": [PUT_A, {"request_txn": {"success": [PUT_A]}}]}),
    ("kv/txn", {"success": [{"request_put": {"key": A, "ignore_value": True}}, GET_A]}),
    ("kv/txn", {"success": [PUT_B, {"request_put": {"key": b64("none"), "ignore_value": True}}]}),
    ("kv/txn", {"success": [{"request_nonsense": {}}]}),
    ("kv/deleterange", {"key": b64("none")}),
    ("kv/deleterange", {"key": A, "range_end": Z, "prev_kv": True}),
    ("lease/grant", {"TTL": "60", "ID": "7"}),
    ("lease/grant", {"TTL": "60", "ID": "7"}),
    ("lease/grant", {"TTL": "9000000001"}),
    ("kv/put", {"key": A, "value": b64("3"), "lease": "7"}),
    ("kv/put", {"key": B, "value": b64("3"), "lease": "8"}),
    ("kv/txn", {"success": [{"request_put": {"key": B, "value": b64("3"), "lease": "7"}}]}),
    ("kv/txn", {"success": [{"request_put": {"key": B, "value": b64("3"), "lease": "8"}}]}),
    ("kv/txn", {"compare": [{"key": A, "target": "LEASE", "lease": "7"}], "success": [GET_A]}),
    ("kv/put", {"key": A, "value": b64("4"), "ignore_lease": True}),
    ("kv/put", {"key": A, "value": b64("4"), "ignore_lease": True, "lease": "7"}),
    ("kv/range", {"key": A}),
    ("lease/keepalive", {"ID": "7"}),
    ("lease/keepalive", {"ID": "8"}),
    ("lease/timetolive", {"ID": "7", "keys": True}),
    ("kv/lease/timetolive", {"ID": "8"}),
    ("lease/revoke", {"ID": "7"}),
    ("kv/lease/revoke", {"ID": "7"}),
    ("kv/range", {"key": A, "range_end": Z}),
    ("kv/range", {}),
    ("kv/range", {"key": "%"}),
    ("kv/range", {"key": A[:-1]}),
    ("kv/range", {"key": A[:-1] + "\n="}),
    ("kv/range", {"key": "_-8="}),
    ("kv/range", {"key": 1}),
    ("kv/range", {"range_end": b64("\0")}),
    ("kv/range", {"key": Z, "range_end": A}),
    *(("kv/range", {"key": A, name: "-1"}) for name in ("limit", "revision", "min_mod_revision")),
    *(("kv/range", {"key": A, "limit": each}) for each in NUMBERS),
    *(("kv/range", {"key": A, "keys_only": each}) for each in FLAGS),
    ("kv/range", {"key": A, "sort_order": "DOWN"}),
    ("kv/put", {"key": "", "value": A}),
    ("kv/put", {"key": b64("\0../.."), "value": A}),
    ("kv/put", {"key": A, "value": b64("x" * 1_600_000)}),
    ("kv/deleterange", {"key": Z, "range_end": A}),
    ("kv/txn", {}),
    ("kv/txn", {"success": [PUT_A], "failure": [{"request_put": {"key": "", "value": A}}]}),
    ("kv/txn", {"success": [PUT_B, {"request_delete_range": {"key": A, "range_end": Z}}]}),
    ("kv/txn", {"success": [{"request_put": {"key": b64(f"k{i}")}} for i in range(129)]}),
    ("kv/txn", {"compare": [{"target": "VERSION", "version": "1"}]}),
    ("kv/txn", {"compare": [{"key": A, "target": "VERSION", "result": "GREATER", "version": "-1"}]}),
    ("kv/txn", {"compare": [{"key": A, "target": "VERSION", "result": "NO"}]}),
]

WATCHES: list[tuple[dict[str, Any], int]] = [
    # The request, and how many lines it has for an answer.
    ({"key": A}, 1),
    ({}, 1),
    ({"key": A, "start_revision": "9999"}, 1),
    ({"key": A, "start_revision": "1"}, 2),
    ({"key": A, "watch_id": "7"}, 1),
    ({"key": A, "fragment": True, "progress_notify": True, "filters": ["NOPUT", 1]}, 1),
    ({"key": B, "range_end": A}, 1),
    ({"key": A, "range_end": A}, 1),
    ({"range_end": A}, 1),
]
"""Asked after a compaction."""


def ask(port: int, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", f"/v3/{path}", json.dumps(body))
        response = connection.getresponse()
        return response.status, _comparable(json.loads(response.read()))
    finally:
        connection.close()


def follow(port: int, revision: int, count: int, **more: Any) -> list[Any]:
    """The first events of a watch of everything."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    create = {"key": b64("\0"), "range_end": b64("\0"), "start_revision": str(revision), **more}
    try:
        connection.request("POST", "/v3/watch", json.dumps({"create_request": create}))
        response = connection.getresponse()
        events: list[Any] = []
        while len(events) < count:
            result = json.loads(response.readline())["result"]
            events += result.get("events", [])
        return events
    finally:
        connection.close()


def lines(port: int, create: dict[str, Any], count: int) -> list[Any]:
    """The first lines of a watch. Why one was cancelled by a compaction etcd 3.4 does not say in words."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/v3/watch", json.dumps({"create_request": create}))
        response = connection.getresponse()
        found = [_comparable(json.loads(response.readline())["result"]) for _ in range(count)]
        return [{k: v for k, v in each.items() if k != "cancel_reason" or "created" in each} for each in found]
    finally:
        connection.close()


def _comparable(answer: Any) -> Any:
    """Without what names the cluster, and the wording of errors."""
    if isinstance(answer, list):
        return [_comparable(each) for each in answer]
    if not isinstance(answer, dict):
        return answer
    if "error" in answer:
        return {"code": answer["code"]}
    if "grantedTTL" in answer:  # a second may have passed; etcd's keys have no order
        answer = {**answer, "TTL": answer["TTL"] in ("59", "60"), "keys": sorted(answer.get("keys", []))}
    ours = {name: value for name, value in answer.items() if name not in ("cluster_id", "member_id", "raft_term")}
    return {name: _comparable(value) for name, value in ours.items()}


class GatewayTests(TestCase):
    async def test_theSameAsEtcds(self) -> None:
        etcd = Etcd()
        self.addCleanup(etcd.close)
        await deferToThread(etcd.start)
        store = MemoryStore(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(store.close()))
        tokens = NamespaceTokens(bytes(16))
        site = gateway_site(store, "default", tokens, scopes=lambda: ["all"], trusted=True)
        port = reactor.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        start = etcd.revision
        self.assertEqual(start, store.revision, "both begin alike")
        for path, body in REQUESTS:
            expected = await deferToThread(ask, etcd.port, path, body)
            self.assertEqual(await deferToThread(ask, port.getHost().port, path, body), expected, (path, body))
        for more in ({}, {"prev_kv": True}, {"filters": ["NOPUT"]}, {"filters": [1], "prev_kv": True}):
            expected_events = await deferToThread(partial(follow, etcd.port, start + 1, 4, **more))
            events = await deferToThread(partial(follow, port.getHost().port, start + 1, 4, **more))
            self.assertEqual(events[:4], expected_events[:4], more)
        await deferToThread(etcd.compact, 5)
        await store.compact(5)
        for create, count in WATCHES:
            expected_lines = await deferToThread(lines, etcd.port, create, count)
            self.assertEqual(await deferToThread(lines, port.getHost().port, create, count), expected_lines, create)
