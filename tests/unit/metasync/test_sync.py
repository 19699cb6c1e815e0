"""The sync between two memory stores, on a clock."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from metasync.client import STORE_WAIT
from metasync.interfaces import StoreUnavailable
from metasync.keys import NodeKeys, cursor_key
from metasync.memory import MemoryStore
from metasync.model import KeyRange, Put
from metasync.testing import Recorder
from metasync.whole import WholeStore
from tests.unit.metasync.pairs import FakeAddress, FakePeer, Pair, contents, delete, now, put
from tests.unit.metasync.world import World


class SyncTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pair = Pair()
        self.cloud, self.edge = self.pair.cloud, self.pair.edge

    def connect(self) -> None:
        self.pair.client.startService()
        self.pair.settle()
        self.addCleanup(self.pair.client.stopService)

    def reconnect(self) -> None:
        self.pair.endpoint.away = False
        self.pair.settle(61)
        self.assertTrue(self.pair.client.connected)

    def disconnect(self) -> None:
        self.pair.endpoint.away = True
        self.pair.endpoint.cut()
        self.pair.settle()
        self.assertFalse(self.pair.client.connected)

    def assertSynced(self) -> None:
        for part in ("desired/", "reported/"):
            self.assertEqual(contents(self.cloud, part), contents(self.edge, part))

    def status(self, feed: str) -> dict[str, Any]:
        return next(f for f in self.pair.client.status()["feeds"] if f["feed"] == feed)

    def test_bothDirections(self) -> None:
        put(self.cloud, desired_a="1", desired_b="2")
        put(self.edge, reported_node="up")
        self.connect()
        self.assertEqual(contents(self.edge), {"desired/a": "1", "desired/b": "2", "reported/node": "up"})
        self.assertEqual(contents(self.cloud), contents(self.edge))

    def test_changesFollow(self) -> None:
        self.connect()
        put(self.cloud, desired_a="1", desired_b="2")
        self.pair.settle()
        delete(self.cloud, "desired_a")
        put(self.edge, reported_x="1")
        self.pair.settle()
        self.assertEqual(contents(self.edge), {"desired/b": "2", "reported/x": "1"})
        self.assertSynced()

    def test_nothingElseIsMirrored(self) -> None:
        put(self.cloud, reported_lie="1", other_x="1")
        put(self.edge, desired_lie="1")
        now(self.cloud.txn((), [Put(b"/kubebus/default/nodes/n10/desired/a", b"other")]))
        self.connect()
        self.assertEqual(contents(self.edge), {})
        self.assertEqual(now(self.edge.range(KeyRange.prefix(b"/kubebus/default/nodes/n10/"))).kvs, ())

    def test_aRevisionArrivesWhole(self) -> None:
        self.connect()
        recorder = Recorder()
        self.edge.watch(KeyRange.prefix(b"/kubebus/default/nodes/"), 0, recorder)
        put(self.cloud, desired_a="1", desired_b="1", desired_c="1")
        self.pair.settle()
        self.assertEqual([len(batch.events) for batch in recorder.batches], [3])

    def test_deltaAfterADisconnect(self) -> None:
        for i in range(50):
            put(self.cloud, **{f"desired_{i}": "x" * 500})
        self.connect()
        self.disconnect()
        for i in range(20):
            put(self.cloud, desired_7=f"change {i}")
        delete(self.cloud, "desired_8")
        before = self.pair.endpoint.wire
        recorder = Recorder()
        self.edge.watch(KeyRange.prefix(b"/kubebus/default/nodes/"), 0, recorder)
        self.reconnect()
        self.assertSynced()
        self.assertEqual([sorted(e.type.value for e in b.events) for b in recorder.batches], [["delete", "put"]])
        self.assertLess(self.pair.endpoint.wire - before, 1000)

    def test_afterACompactionTheDifferenceIsFound(self) -> None:
        for i in range(100):
            put(self.cloud, **{f"desired_{i}": "x" * 500})
        self.connect()
        self.disconnect()
        put(self.cloud, desired_7="changed", desired_new="1", desired_tmp="1")
        delete(self.cloud, "desired_8", "desired_9", "desired_tmp")
        delete(self.cloud, "desired_10")
        last = put(self.cloud, desired_10="reborn")
        now(self.cloud.compact(last))
        before = self.pair.endpoint.wire
        recorder = Recorder()
        self.edge.watch(KeyRange.prefix(b"/kubebus/default/nodes/"), 0, recorder)
        self.reconnect()
        self.assertSynced()
        self.assertEqual(len(recorder.batches), 1)
        self.assertEqual(len(recorder.batches[0].events), 5)
        self.assertLess(self.pair.endpoint.wire - before, 3000)

    def test_changesDuringTheReconciliation(self) -> None:
        put(self.cloud, **{f"desired_{i}": "x" for i in range(100)})
        self.connect()
        self.disconnect()
        now(self.cloud.compact(put(self.cloud, desired_a="1")))
        self.pair.endpoint.away = False
        self.pair.clock.advance(61)
        for i in range(10):
            put(self.cloud, desired_a=f"later {i}", **{f"desired_{i}": "later"})
            self.pair.clock.advance(0)
            self.pair.endpoint.pump()
        self.pair.settle()
        self.assertSynced()

    def test_aRestoredSourceIsNoContinuation(self) -> None:
        """The store is put back to an older state and written on, past the revision that was synced."""
        put(self.cloud, desired_a="1")
        self.connect()
        put(self.cloud, desired_gone="1")
        put(self.cloud, desired_a="2")
        self.pair.settle()
        self.disconnect()
        old = self.cloud
        restored = MemoryStore(self.pair.clock, identity=old.identity)
        marks = now(old.range(KeyRange.prefix(b"/kubebus/default/sync/nonces/"))).kvs
        now(restored.txn((), [Put(marks[0].key, marks[0].value)]))
        put(restored, desired_a="1")
        self.pair.serve(restored)
        while restored.revision < old.revision + 5:
            put(restored, other_x="1")
        self.reconnect()
        self.assertEqual(contents(self.edge, "desired/"), {"a": "1"})

    # Changes that are more than one transaction of the target (the cloud's memory store takes 128 operations)

    def changes_while_away(self) -> int:
        """Two hundred revisions of two keys each, and fifty deletions."""
        put(self.edge, **{f"reported_old{i:02}": "x" for i in range(50)})
        self.connect()
        self.disconnect()
        for i in range(200):
            put(self.edge, **{f"reported_a{i:03}": "x", f"reported_b{i:03}": "x"})
        for i in range(50):
            delete(self.edge, f"reported_old{i:02}")
        return put(self.edge, reported_last="1")

    def at_the_cloud(self, whole: bool = True) -> Recorder:
        """As our own readers watch it, or as anybody sees it beneath."""
        recorder = Recorder()
        store = WholeStore(self.cloud) if whole else self.cloud
        store.watch(KeyRange.prefix(b"/kubebus/default/nodes/n1/reported/"), 0, recorder)
        return recorder

    def test_itIsAppliedAsOne(self) -> None:
        now(self.edge.compact(self.changes_while_away()))
        recorder = self.at_the_cloud()
        self.reconnect()
        self.assertSynced()
        ((_, changes),) = recorder.changes
        self.assertEqual(len(changes), 451)
        self.assertEqual(self.status("reported")["state"], "live")
        put(self.edge, reported_more="1")
        self.pair.settle()
        self.assertSynced()
        self.assertEqual(self.cloud_leftovers(), [])

    def cloud_leftovers(self) -> list[bytes]:
        kvs = now(self.cloud.range(KeyRange.prefix(b"/kubebus/"), keys_only=True)).kvs
        return [kv.key for kv in kvs if b"/applying/" in kv.key or b"/staged/" in kv.key]

    def test_beneathItIsCutBetweenRevisionsAndDeletionsComeLast(self) -> None:
        now(self.edge.compact(self.changes_while_away()))
        recorder = self.at_the_cloud(whole=False)
        self.reconnect()
        self.assertSynced()
        self.assertGreater(len(recorder.changes), 3)
        kinds = []
        for _, changes in recorder.changes:
            names = {key.rpartition(b"/")[2] for _, key, _ in changes}
            self.assertEqual({n[1:] for n in names if n[:1] == b"a"}, {n[1:] for n in names if n[:1] == b"b"})
            kinds += [kind for kind, _, _ in changes]
        self.assertEqual(kinds, ["put"] * 401 + ["delete"] * 50)

    def test_itEndsWhereHistoryBeginsAgain(self) -> None:
        """What history still has comes as it was: the second write of a key does not swallow the first."""
        last = self.changes_while_away()
        now(self.edge.compact(last - 250 + 29))
        put(self.edge, reported_a000="again", reported_b000="again")
        recorder = self.at_the_cloud()
        self.reconnect()
        self.assertSynced()
        first = recorder.changes[0][1]
        self.assertEqual(len(first), 60, "one transaction, up to the oldest revision that can be read")
        self.assertIn(b"x", {value for _, key, value in first if key.endswith(b"a000")})

    def test_aRevisionOfAnySizeArrivesWhole(self) -> None:
        self.connect()
        recorder = self.at_the_cloud()
        self.edge.max_txn_ops = 1000
        put(self.edge, reported_before="1")
        put(self.edge, **{f"reported_{i}": "x" for i in range(500)})
        put(self.edge, **{f"reported_{i}": "y" for i in range(300)}, reported_after="1")
        self.pair.settle(2)
        self.assertSynced()
        self.assertEqual([len(changes) for _, changes in recorder.changes], [1, 500, 301])

    def until_at_the_cloud(self, part: bytes) -> None:
        """Until a key that has this in it is there."""
        self.pair.endpoint.away = False
        recorder = Recorder()
        self.cloud.watch(KeyRange.prefix(b"/kubebus/"), 0, recorder)
        for _ in range(2000):
            self.pair.clock.advance(0.05)
            self.pair.endpoint.pump()
            if any(part in key for _, changes in recorder.changes for _, key, _ in changes):
                return
        self.fail(f"nothing with {part!r} was ever there")

    def test_aBreakInTheMiddleChangesNothing(self) -> None:
        now(self.edge.compact(self.changes_while_away()))
        before = contents(self.cloud, "reported/")
        recorder = self.at_the_cloud()
        self.until_at_the_cloud(b"/sync/staged/")
        self.disconnect()
        self.assertEqual(contents(self.cloud, "reported/"), before)
        delete(self.edge, "reported_a000", "reported_b199")
        put(self.edge, reported_b000="new")
        self.reconnect()
        self.assertSynced()
        self.assertEqual(self.cloud_leftovers(), [])
        keys, states = {f"reported/{name}" for name in before}, []
        for _, changes in recorder.changes:
            for kind, key, _ in changes:
                (keys.add if kind == "put" else keys.discard)(key.decode().partition("/n1/")[2])
            states.append(len(keys))
        self.assertIn(states, ([399], [401, 399]))

    def test_aServerThatDiesWhileItAppliesIsFinishedByTheNext(self) -> None:
        now(self.edge.compact(self.changes_while_away()))
        recorder, view = self.at_the_cloud(), WholeStore(self.cloud)
        txn, applied = self.cloud.txn, []

        async def dying(compares: Any, success: Any, failure: Any = ()) -> Any:
            if any(isinstance(op, Put) and b"/applying/" in op.key for op in success):
                applied.append(1)
            if len(applied) > 2:
                raise StoreUnavailable("dead")
            return await txn(compares, success, failure)

        self.patch(self.cloud, "txn", dying)
        self.pair.endpoint.away = False
        self.pair.settle(3)
        self.assertNotEqual(contents(self.cloud, "reported/"), contents(self.edge, "reported/"))
        keys = KeyRange.prefix(b"/kubebus/default/nodes/n1/reported/")
        self.assertEqual(len(now(view.range(keys)).kvs), 50, "as it was before")
        self.assertEqual(recorder.changes, [])
        self.patch(self.cloud, "txn", txn)
        self.pair.serve(self.cloud)
        self.assertSynced()
        self.pair.settle(1)
        self.assertEqual([len(changes) for _, changes in recorder.changes], [451])
        self.pair.settle(61)
        self.assertEqual(len(recorder.changes), 1)
        self.assertEqual(self.cloud_leftovers(), [])
        self.flushLoggedErrors()

    def test_aNewTargetGetsEverythingInSteps(self) -> None:
        for i in range(200):
            put(self.edge, **{f"reported_a{i:03}": "x", f"reported_b{i:03}": "x"})
        recorder = self.at_the_cloud()
        self.connect()
        self.pair.settle(5)
        self.assertSynced()
        self.assertEqual([len(changes) for _, changes in recorder.changes], [400])

    def test_aNewEdgeStoreGetsEverything(self) -> None:
        put(self.cloud, **{f"desired_{i}": "x" for i in range(100)})
        self.connect()
        self.disconnect()
        self.pair.client.stopService()
        self.pair.edge = self.edge = MemoryStore(self.pair.clock)
        self.pair.client = self.pair.make_client()
        self.pair.endpoint.away = False
        self.connect()
        self.assertSynced()

    def test_theCursorComesWithTheChanges(self) -> None:
        self.connect()
        recorder = Recorder()
        self.edge.watch(KeyRange.prefix(b"/kubebus/"), 0, recorder)
        put(self.cloud, desired_a="1")
        self.pair.settle()
        (batch,) = recorder.batches
        self.assertEqual(
            sorted(event.kv.key for event in batch.events),
            [b"/kubebus/default/nodes/n1/desired/a", cursor_key("default", "n1", "desired")],
        )

    def test_batchesFitTheTarget(self) -> None:
        """Forty revisions of ten keys, and a target that takes 32 operations: whole revisions, as many as fit."""
        self.pair.edge.max_txn_ops = 32
        self.connect()
        self.disconnect()
        for i in range(40):
            put(self.cloud, **{f"desired_{i}-{j}": "x" for j in range(10)})
        recorder = Recorder()
        self.edge.watch(KeyRange.prefix(b"/kubebus/default/nodes/"), 0, recorder)
        self.reconnect()
        self.assertSynced()
        self.assertEqual({len(batch.events) for batch in recorder.batches}, {30, 10})

    def test_aKeyThatDoesNotFitHoldsUpItsFeedOnly(self) -> None:
        self.pair.edge.max_request_bytes = 10_000
        self.connect()
        put(self.cloud, desired_a="1")
        put(self.cloud, desired_large="x" * 10_000, desired_small="1")
        put(self.cloud, desired_b="1")
        put(self.edge, reported_x="1")
        self.pair.settle()
        self.assertEqual(contents(self.edge, "desired/"), {"a": "1"})
        self.assertEqual(contents(self.cloud, "reported/"), {"x": "1"})
        self.assertEqual(self.status("desired")["state"], "held")
        self.assertIn("--max-request-bytes", self.status("desired")["error"])
        self.pair.edge.max_request_bytes = 1_000_000
        self.pair.settle(600)
        self.assertSynced()
        self.flushLoggedErrors()

    def test_twoSessionsOfOneNodeApplyNothingTwice(self) -> None:
        """An old session's delta arrives after a new session has moved the cursor: it is refused."""
        put(self.cloud, desired_a="1")
        self.connect()
        second = self.pair.make_client()
        versions = []
        for i in range(5):
            put(self.cloud, desired_a=f"{i}")
            if i == 2:
                second.startService()
            self.pair.settle()
            versions.append(now(self.edge.range(KeyRange.prefix(b"/kubebus/default/nodes/n1/desired/"))).kvs[0].version)
        self.assertEqual(versions, [2, 3, 4, 5, 6])
        second.stopService()

    def test_onlyANodeOfThisNetworkIsServed(self) -> None:
        for peer in (FakePeer(network="other"), FakePeer(role="router"), None):
            self.assertIsNone(self.pair.server.buildProtocol(FakeAddress(peer)))

    def test_status(self) -> None:
        put(self.edge, reported_x="1")
        self.connect()
        cloud = self.pair.server.status()["nodes"]["n1"]
        self.assertTrue(cloud["connected"])
        self.assertEqual(self.status("reported")["state"], "live")
        self.assertEqual((self.status("reported")["pending"], self.status("reported")["lagRevisions"]), (0, 0))
        self.disconnect()
        self.assertFalse(self.pair.client.status()["connected"])
        self.assertEqual(self.pair.server.status()["nodes"], {})

    def test_attemptsAreSpaced(self) -> None:
        self.pair.endpoint.away = True
        self.pair.client.startService()
        self.pair.settle(600)
        self.assertLess(self.pair.endpoint.connects, 20)
        self.reconnect()
        self.pair.client.stopService()

    def test_attemptsAreSpacedLessWhereItIsTheStore(self) -> None:
        """The cloud can be reached and ends each session: as it does while its etcd has no leader."""
        self.connect()
        for _ in range(8):
            self.pair.endpoint.cut()
            self.pair.settle(STORE_WAIT + 1)
            self.assertTrue(self.pair.client.connected)

    def test_anIdleCursorMovesOn(self) -> None:
        self.connect()
        before = self.status("desired")["syncedRevision"]
        for _ in range(150):
            put(self.cloud, other_x="1")
        self.pair.settle(61)
        self.assertGreaterEqual(self.status("desired")["syncedRevision"], before + 150)


class SlowNodeTests(SynchronousTestCase):
    def test_aNodeThatTakesNothingCostsLittleAndOthersNothing(self) -> None:
        world = World("n1", "n2")
        self.addCleanup(world.stop)
        stuck = world.endpoints["n1"]
        stuck.frozen = True
        value = "x" * 1_000_000
        for i in range(20):
            for node in ("n1", "n2"):
                key = NodeKeys("default", node).desired_object("pods", "default", f"p{i}")
                now(world.stores["cloud"].txn((), [Put(key, value.encode())]))
            world.settle(0.5)
        prefix = NodeKeys("default", "n2").desired.encode()
        self.assertEqual(len(now(world.stores["n2"].range(KeyRange.prefix(prefix))).kvs), 20)
        held = world.server.status()["nodes"]["n1"]["feeds"][0]
        self.assertLess(held["pending"], 14)
        stuck.frozen = False
        world.settle(5)
        prefix = NodeKeys("default", "n1").desired.encode()
        self.assertEqual(len(now(world.stores["n1"].range(KeyRange.prefix(prefix))).kvs), 20)
