"""etcd as a store and as the cloud's end of the sync: real servers, with default limits, and what happens to them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from metasync import session, shared
from metasync.client import SyncClientService
from metasync.etcd import EtcdStore
from metasync.interfaces import Store, StoreError, StoreUnavailable
from metasync.keys import NodeKeys
from metasync.memory import MemoryStore
from metasync.model import Delete, KeyRange, Put
from metasync.opening import open_store
from metasync.server import SyncServerFactory
from metasync.sqlite import SQLiteStore
from metasync.testing import Recorder, StoreContract
from tests.lab.etcd import Etcd
from tests.lab.world import SharedWorld
from tests.unit.metasync.loopback import Loopback, until

reactor: Any = _reactor
KEYS = NodeKeys("default", "n1")
DESIRED, REPORTED = KEYS.desired.encode(), KEYS.reported.encode()


def url_of(etcd: Etcd) -> str:
    return "etcd://" + ",".join(f"{member.host}:{member.client_port}" for member in etcd.members)


class EtcdStoreTests(StoreContract, SharedWorld, TestCase):  # type: ignore[misc]
    etcd: Etcd

    @classmethod
    def build_world(cls) -> None:
        cls.etcd = cls.keep(Etcd())

    async def open_store(self) -> Store:
        return open_store(reactor, url_of(self.etcd))


class SecureEtcdTests(TestCase):
    def password_file(self) -> Path:
        path = Path(self.mktemp())
        path.write_text("secret\n")
        return path

    async def test_tlsAndUser(self) -> None:
        etcd = Etcd(tls=True)
        self.addCleanup(etcd.close)
        await deferToThread(etcd.start)
        assert etcd.authority is not None and etcd.client is not None
        password = self.password_file()
        files = f"ca={etcd.authority.certificate}&cert={etcd.client.certificate}&key={etcd.client.key}"
        for command in (
            ("user", "add", "root:secret"),
            ("user", "grant-role", "root", "root"),
            ("auth", "enable"),
        ):
            await deferToThread(etcd.ctl, *command)
        url = f"etcds://{etcd.host}:{etcd.port}?{files}&user=root&password-file={password}"
        store = EtcdStore.open(reactor, url)
        await store.txn((), [Put(b"a", b"1")])
        self.assertEqual((await store.range(KeyRange.single(b"a"))).kvs[0].value, b"1")
        await store.close()
        stranger = EtcdStore.open(reactor, f"etcds://{etcd.host}:{etcd.port}?ca={etcd.authority.certificate}")
        try:
            await stranger.txn((), [Put(b"a", b"2")])
        except StoreError:
            pass
        else:
            self.fail("etcd let a stranger in")
        await stranger.close()


class Reader:
    """Somebody who reads and watches what a node reports, with a client of its own, all the time."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.states: set[int] = set()
        self.reads = 0
        self.recorder = Recorder()
        self._stopped = False
        self._done: Deferred[None] | None = None

    @classmethod
    async def open(cls, case: TestCase, etcd: Etcd) -> Reader:
        reader = cls(open_store(reactor, url_of(etcd)))
        case.addCleanup(lambda: Deferred.fromCoroutine(reader.store.close()))
        found = await reader.store.range(KeyRange.prefix(REPORTED))
        reader.store.watch(KeyRange.prefix(REPORTED), found.revision + 1, reader.recorder)
        reader._done = Deferred.fromCoroutine(reader._read())
        return reader

    async def _read(self) -> None:
        while not self._stopped:
            try:
                found = await self.store.range(KeyRange.prefix(REPORTED), keys_only=True)
            except StoreUnavailable:
                continue
            self.states.add(len(found.kvs))
            self.reads += 1

    async def stop(self) -> None:
        self._stopped = True
        assert self._done is not None
        await self._done


def watchers(etcd: Etcd) -> int:
    """How many watches etcd has."""
    with urlopen(f"{etcd.urls[0]}/metrics") as metrics:
        found = re.search(rb"^etcd_debugging_mvcc_watcher_total (\d+)", metrics.read(), re.MULTILINE)
    assert found is not None
    return int(found[1])


class Rig:
    """An etcd, a sync server on it, an edge store and its sync client, joined by a socket."""

    def __init__(self, case: TestCase, etcd: Etcd, **options: int) -> None:
        self.etcd = etcd
        self.cloud = EtcdStore.open(reactor, url_of(etcd))
        self.edge = SQLiteStore.open(reactor, case.mktemp(), safe=False)
        self.factory = SyncServerFactory(reactor, self.cloud, "default")
        self.link = Loopback(reactor, self.factory)
        self.client = SyncClientService(
            reactor, self.link.endpoint, self.edge, "default", "n1", jitter=lambda: 0.95, longest_wait=1.0
        )

    async def start(self) -> None:
        await self.factory.start()
        self.client.startService()
        await until(reactor, lambda: self.client.connected, "connected")

    async def close(self) -> None:
        await (self.client.stopService() or _nothing())
        self.factory.stop()
        await (self.link.close() or _nothing())
        await self.edge.close()
        await self.cloud.close()

    async def cut(self) -> None:
        self.link.away = True
        self.link.cut()
        await until(reactor, lambda: not self.client.connected, "cut off")

    async def mend(self) -> None:
        self.link.away = False
        await until(reactor, lambda: self.client.connected, "connected again")

    async def put(self, store: Store, prefix: bytes, **values: str) -> int:
        ops = [Put(prefix + name.encode(), value.encode()) for name, value in values.items()]
        return (await store.txn((), ops)).revision

    async def contents(self, store: Store, prefix: bytes) -> dict[str, str]:
        found = await store.range(KeyRange.prefix(prefix))
        return {kv.key[len(prefix) :].decode(): kv.value.decode() for kv in found.kvs}

    async def same(self) -> bool:
        for prefix in (DESIRED, REPORTED):
            if await self.contents(self.cloud, prefix) != await self.contents(self.edge, prefix):
                return False
        return True

    async def agreed(self, seconds: float = 20) -> None:
        await until(reactor, self.same, "both sides the same", seconds)


async def _nothing() -> None:
    pass


class SyncOverEtcdTests(TestCase):
    async def rig(self, members: int = 1, options: tuple[str, ...] = ()) -> Rig:
        etcd = Etcd(members=members, options=options)
        self.addCleanup(etcd.close)
        await deferToThread(etcd.start)
        rig = Rig(self, etcd)
        self.addCleanup(lambda: _later(rig.close()))
        await rig.start()
        return rig

    async def test_bothWaysAndManyKeysInOneRevision(self) -> None:
        """Three hundred keys in one revision of the edge reach an etcd that takes 128 operations, as one revision."""
        rig = await self.rig()
        await rig.put(rig.cloud, DESIRED, a="1", b="2")
        await rig.put(rig.edge, REPORTED, **{f"k{i}": f"{i}" for i in range(300)})
        await rig.agreed()
        kvs = (await rig.cloud.range(KeyRange.prefix(REPORTED))).kvs
        self.assertEqual((len(kvs), len({kv.mod_revision for kv in kvs})), (300, 1))

    async def test_manyKeysArriveAsOneRevision(self) -> None:
        """More than is held in memory: it is staged."""
        rig = await self.rig()
        await rig.cut()
        for at in range(0, 3000, 1000):
            await rig.put(rig.cloud, DESIRED, **{f"k{i}": "x" * 1000 for i in range(at, at + 1000)})
        rig.factory.stop()  # a new server has no history to send it in parts
        await deferToThread(rig.etcd.compact)
        rig.link.server = rig.factory = SyncServerFactory(reactor, rig.cloud, "default")
        await rig.factory.start()
        await rig.mend()
        await rig.agreed()
        kvs = (await rig.edge.range(KeyRange.prefix(DESIRED))).kvs
        self.assertEqual((len(kvs), len({kv.mod_revision for kv in kvs})), (3000, 1))

    async def test_reportsLargerThanATransactionOfEtcd(self) -> None:
        """Two megabytes of the edge, whose history is gone, reach an etcd that takes one and a half at once. Whoever
        reads and watches there, in this process or another, sees all of it or nothing.
        """
        rig = await self.rig()
        await rig.put(rig.edge, REPORTED, **{f"old{i}": "old" for i in range(100)})
        await rig.agreed()
        await rig.cut()
        for i in range(20):
            await rig.put(rig.edge, REPORTED, **{f"k{i}.{j}": f"{i:02}" * 500 for j in range(100)})
        last = (await rig.edge.txn((), [Delete(KeyRange.prefix(REPORTED + b"old"))])).revision
        await rig.edge.compact(last)
        reader = await Reader.open(self, rig.etcd)
        await rig.mend()
        await rig.agreed(40)
        await reader.stop()
        self.assertEqual(reader.states, {100, 2000}, "it saw the old state or the new one")
        self.assertGreater(reader.reads, 5)
        self.assertEqual([len(batch.events) for batch in reader.recorder.batches], [2100])
        # Beneath, no revision of the edge is parted.
        kvs = (await rig.cloud.range(KeyRange.prefix(REPORTED))).kvs
        together = {(kv.value[:2], kv.mod_revision) for kv in kvs}
        self.assertEqual((len(kvs), len({value for value, _ in together})), (2000, 20))
        self.assertEqual(len(together), 20)
        self.assertGreater(len({revision for _, revision in together}), 1)

    async def test_oneRevisionLargerThanATransactionOfEtcd(self) -> None:
        """Five thousand keys and four megabytes in one transaction of the edge."""
        rig = await self.rig()
        await rig.put(rig.edge, REPORTED, first="1")
        await rig.agreed()
        reader = await Reader.open(self, rig.etcd)
        await rig.put(rig.edge, REPORTED, **{f"k{i}": f"{i:04}" * 200 for i in range(5000)})
        await rig.put(rig.edge, REPORTED, after="1")
        await rig.agreed(40)
        await reader.stop()
        self.assertEqual([len(batch.events) for batch in reader.recorder.batches], [5000, 1])
        self.assertLessEqual(reader.states, {1, 5001, 5002})

    async def test_theServerIsKilledWhileItApplies(self) -> None:
        """Etcd goes away under it, many times; then another server finishes what was begun."""
        rig = await self.rig()
        reader = await Reader.open(self, rig.etcd)
        await rig.cut()
        for i in range(12):
            last = await rig.put(rig.edge, REPORTED, **{f"k{i}.{j}": f"{i:02}" * 5000 for j in range(100)})
        await rig.edge.compact(last)
        await rig.mend()

        async def begun() -> bool:
            journal = KeyRange.prefix(b"/kubebus/default/nodes/n1/applying/")
            return bool((await rig.cloud.range(journal)).kvs)

        await until(reactor, begun, "it is being applied")
        rig.etcd.kill9()
        rig.factory.stop()
        rig.link.cut()
        await deferToThread(rig.etcd.start)
        await until(reactor, lambda: reader.recorder.error, "the watch has ended")
        beneath = len((await rig.cloud.range(KeyRange.prefix(REPORTED), keys_only=True)).kvs)
        self.assertLess(beneath, 1200, "it was not finished")
        view = open_store(reactor, url_of(rig.etcd))
        self.assertEqual((await view.range(KeyRange.prefix(REPORTED))).kvs, ())
        await view.close()
        # A reader that cannot read the past any more finishes it itself; else the next server does.
        rig.link.server = rig.factory = SyncServerFactory(reactor, open_store(reactor, url_of(rig.etcd)), "default")
        await rig.factory.start()
        await rig.agreed(40)
        await reader.stop()
        self.assertLessEqual(reader.states, {0, 1200})
        self.flushLoggedErrors()

    async def test_applicationDataIsMergedByAnEtcdWithDefaultLimits(self) -> None:
        """Many small writes on both sides while apart, and forty keys in one transaction, which stay one."""
        rig = await self.rig()
        data = b"/kubebus/default/data/all/"
        await rig.cut()
        for i in range(100):
            await rig.put(rig.edge, data, **{f"e{i}": "edge"})
        await rig.put(rig.edge, data, **{f"t{i}": "together" for i in range(40)})
        await rig.put(rig.cloud, data, k="cloud", e1="cloud")
        await rig.mend()

        async def merged() -> bool:
            both = [await rig.contents(store, data) for store in (rig.cloud, rig.edge)]
            return both[0] == both[1] and len(both[0]) == 141

        await until(reactor, merged, "both sides the same")
        together = (await rig.cloud.range(KeyRange.prefix(data + b"t"))).kvs
        self.assertEqual((len(together), len({kv.mod_revision for kv in together})), (40, 1))

    async def test_oneWatchServesAllNodes(self) -> None:
        """As etcd itself counts."""
        rig = await self.rig()
        before = await deferToThread(watchers, rig.etcd)
        nodes = [f"m{i}" for i in range(20)]
        stores = {node: MemoryStore(reactor) for node in nodes}
        for node, store in stores.items():
            link = Loopback(reactor, rig.factory, node)
            client = SyncClientService(reactor, link.endpoint, store, "default", node)
            client.startService()
            self.addCleanup(link.close)
            self.addCleanup(client.stopService)
        for node in nodes:
            await rig.put(rig.cloud, NodeKeys("default", node).desired.encode(), a=node)

        async def arrived() -> bool:
            found = [await rig.contents(store, NodeKeys("default", n).desired.encode()) for n, store in stores.items()]
            return found == [{"a": node} for node in nodes]

        await until(reactor, arrived, "every node has its own")
        self.assertEqual((before, await deferToThread(watchers, rig.etcd)), (1, 1))

    async def test_compactionWhileAway(self) -> None:
        rig = await self.rig()
        await rig.put(rig.cloud, DESIRED, **{f"k{i}": "x" * 100 for i in range(100)})
        await rig.agreed()
        await rig.cut()
        await rig.put(rig.cloud, DESIRED, k1="changed", new="1")
        await rig.cloud.txn((), [Delete.single(DESIRED + b"k2")])
        await deferToThread(rig.etcd.compact)
        before = rig.link.bytes
        await rig.mend()
        await rig.agreed()
        self.assertLess(rig.link.bytes - before, 2500)

    async def test_anIdleCursorFollowsWhatOthersWrite(self) -> None:
        """A Kubernetes API server writes all the time, and compacts; what it compacts idle nodes have left behind."""
        self.patch(shared, "_NEWS_SECONDS", 0.1)
        self.patch(session, "TICK", 0.2)
        rig = await self.rig()
        await rig.put(rig.cloud, DESIRED, a="1")
        await rig.agreed()
        for i in range(250):
            last = await rig.put(rig.cloud, b"/registry/pods/", **{f"p{i % 7}": str(i)})

        def synced() -> bool:
            feeds = rig.client.status()["feeds"]
            # The watch may be a hundred revisions behind the store, and the cursor a hundred behind the watch.
            return all(f["syncedRevision"] > last - 200 for f in feeds if f["feed"] == "desired")

        await until(reactor, synced, "the cursor is near where the store is")
        beat = (await rig.cloud.range(KeyRange.single(b"/kubebus/default/sync/beat"))).kvs
        self.assertLess(beat[0].version, 5, "written only when it is needed")

    async def test_etcdIsKilledAndStartsAgain(self) -> None:
        rig = await self.rig()
        await rig.put(rig.cloud, DESIRED, a="1")
        await rig.agreed()
        rig.etcd.kill9()
        await rig.put(rig.edge, REPORTED, offline="1")
        await deferToThread(rig.etcd.start)
        await until(reactor, lambda: rig.client.connected, "connected again")
        await rig.put(rig.cloud, DESIRED, a="2")
        await rig.agreed()
        self.flushLoggedErrors()

    async def test_anOlderSnapshotIsRestoredAndWrittenOn(self) -> None:
        """The same flags, the same cluster ID, and a revision that grows past the one that was synced."""
        rig = await self.rig()
        await rig.put(rig.cloud, DESIRED, a="1", b="1")
        await rig.put(rig.edge, REPORTED, r="1")
        await rig.agreed()
        snapshot = Path(self.mktemp())
        await deferToThread(rig.etcd.snapshot, snapshot)
        await rig.put(rig.cloud, DESIRED, a="2", only_later="1")
        await rig.put(rig.edge, REPORTED, r="2")
        await rig.agreed()
        await rig.cut()
        old = rig.etcd.revision
        identity = rig.cloud.identity
        await deferToThread(rig.etcd.restore, snapshot)
        await until(reactor, lambda: rig.factory.ready, "the server is back")
        while await rig.put(rig.cloud, b"/elsewhere", x="1") < old + 20:
            pass
        self.assertEqual(rig.cloud.identity, identity)
        await rig.mend()
        await rig.agreed()
        self.assertEqual(await rig.contents(rig.edge, DESIRED), {"a": "1", "b": "1"})
        self.assertEqual(await rig.contents(rig.cloud, REPORTED), {"r": "2"})
        self.flushLoggedErrors()

    async def test_aFullEtcd(self) -> None:
        """NOSPACE stops what goes up, says so, and is over once there is room."""
        rig = await self.rig(options=(f"--quota-backend-bytes={4 << 20}",))
        try:
            for i in range(100):
                await rig.put(rig.cloud, b"/filler", **{f"{i}": "x" * 200_000})
        except StoreError as error:
            self.assertIn("NOSPACE", str(error))
        else:
            self.fail("it never filled")
        await rig.put(rig.edge, REPORTED, a="1")
        await until(reactor, lambda: "NOSPACE" in str(rig.client.status()["error"]) or not rig.client.connected, "told")
        await rig.cloud.txn((), [Delete(KeyRange.prefix(b"/filler"))])
        await deferToThread(rig.etcd.compact)
        await deferToThread(rig.etcd.ctl, "defrag")
        await deferToThread(rig.etcd.ctl, "alarm", "disarm")
        await rig.agreed()
        self.flushLoggedErrors()

    async def test_threeMembersLoseTheirLeader(self) -> None:
        rig = await self.rig(members=3)
        await rig.put(rig.cloud, DESIRED, a="1")
        await rig.agreed()
        await deferToThread(rig.etcd.kill_leader)
        await rig.put(rig.edge, REPORTED, r="1")

        async def written() -> bool:
            try:
                await rig.put(rig.cloud, DESIRED, a="2")
            except StoreError:
                return False
            return True

        await until(reactor, written, "the others take writes")
        await rig.agreed(40)
        self.flushLoggedErrors()


def _later(work: Any) -> Any:
    return Deferred.fromCoroutine(work)
