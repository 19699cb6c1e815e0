"""Changes that are more than one transaction of the store: whoever reads sees all of one, or nothing of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from metasync.applying import Journal, Places, network_of, overlap, pack_chunk, unpack_chunk, widened
from metasync.cursor import NO_PLACE
from metasync.feeds import Overtaken
from metasync.interfaces import Store, StoreError, StoreUnavailable
from metasync.memory import MemoryStore
from metasync.model import Compare, Delete, EventType, KeyRange, Op, Put, TxnResult
from metasync.testing import Recorder, StoreContract
from metasync.whole import WholeStore
from tests.unit.metasync.pairs import now

NODE = b"/kubebus/default/nodes/n1/"
PREFIX = NODE + b"reported/"
CURSOR = b"/kubebus/default/sync/cursors/n1/reported"
OPS = 8


class WholeContractTests(StoreContract, TestCase):
    """A store is what it was."""

    async def open_store(self) -> Store:
        from twisted.internet import reactor

        return WholeStore(MemoryStore(reactor))

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.root = NODE + b"desired/"


class SteppedStore(MemoryStore):
    """Transactions wait until they are let happen, one by one."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, max_txn_ops=OPS)
        self.waiting: deque[Deferred[None]] = deque()
        self.held = False

    async def txn(self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        if self.held:
            turn: Deferred[None] = Deferred()
            self.waiting.append(turn)
            await turn
        return await super().txn(compares, success, failure)


class World:
    """A store with an old state, and a change of several transactions to a new one."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = SteppedStore(self.clock)
        self.old = {b"%02d" % i: b"old" for i in range(10)}
        self.new = {b"%02d" % i: b"new" for i in range(5, 40)}
        now(self.store.txn((), [Put(PREFIX + key, b"old") for key in list(self.old)[:8]]))
        now(self.store.txn((), [Put(PREFIX + key, b"old") for key in list(self.old)[8:]]))
        self.cursor = now(self.store.txn((), [Put(CURSOR, b"before")])).revision
        self.view = WholeStore(self.store)
        self.replayed = dict(self.old)
        self.recorder = Recorder()
        self.view.watch(KeyRange.prefix(PREFIX), self.store.revision + 1, self.recorder)
        self.clock.advance(0)

    def changes(self) -> Iterator[list[Op]]:
        ops: list[Op] = [Put(PREFIX + key, b"new") for key in self.new]
        ops += [Delete.single(PREFIX + key) for key in self.old if key not in self.new]
        for at in range(0, len(ops), OPS - 1):
            yield ops[at : at + OPS - 1]

    def start(self) -> Deferred[TxnResult]:
        self.store.held = True
        self.done = Deferred.fromCoroutine(self.change(WholeStore(self.store)))
        self.done.addErrback(self._crashed)
        return self.done

    def _crashed(self, failure: Failure) -> TxnResult:
        failure.trap(StoreUnavailable)
        return TxnResult(False, 0)

    async def change(self, store: WholeStore) -> TxnResult:
        stage = store.stage(PREFIX)
        for ops in self.changes():
            await stage.add(ops)
        return await stage.commit([Compare.unchanged(CURSOR, self.cursor)], [Put(CURSOR, b"after")])

    def step(self) -> bool:
        if not self.store.waiting:
            return False
        self.store.waiting.popleft().callback(None)
        self.clock.advance(0)
        return True

    def crash(self) -> None:
        """What was under way never happens; nobody is held up from now on."""
        while self.store.waiting:
            self.store.waiting.popleft().errback(StoreUnavailable("crashed"))
        self.store.held = False

    def read(self, keys: KeyRange | None = None) -> dict[bytes, bytes]:
        """As anybody reads, who is not held up."""
        held, self.store.held = self.store.held, False
        try:
            found = now(WholeStore(self.store).range(keys or KeyRange.prefix(PREFIX)))
        finally:
            self.store.held = held
        return {kv.key[len(PREFIX) :]: kv.value for kv in found.kvs if kv.key.startswith(PREFIX)}

    def replay(self) -> list[dict[bytes, bytes]]:
        """The states that the watch has shown."""
        self.clock.advance(0)
        states = [dict(self.old)]
        for batch in self.recorder.batches:
            state = dict(states[-1])
            for event in batch.events:
                key = event.kv.key[len(PREFIX) :]
                if event.type is EventType.PUT:
                    state[key] = event.kv.value
                else:
                    state.pop(key, None)
            states.append(state)
        return states

    def beneath(self) -> dict[bytes, bytes]:
        found = now(self.store.range(KeyRange.prefix(PREFIX)))
        return {kv.key[len(PREFIX) :]: kv.value for kv in found.kvs}

    def leftovers(self) -> list[bytes]:
        kvs = now(self.store.range(KeyRange.prefix(b""))).kvs
        return [kv.key for kv in kvs if b"/applying/" in kv.key or b"/staged/" in kv.key]


class AllOrNothingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def test_atEveryMoment(self) -> None:
        """By reading all, by reading a part, by reading more, and by watching."""
        world = self.world
        done = world.start()
        steps, mixed = 0, 0
        while world.step():
            steps += 1
            self.assertIn(world.read(), (world.old, world.new))
            self.assertIn(world.read(KeyRange.prefix(b"/kubebus/default/")), (world.old, world.new))
            part = world.read(KeyRange(PREFIX + b"04", PREFIX + b"06"))
            self.assertIn(part, ({b"04": b"old", b"05": b"old"}, {b"05": b"new"}))
            mixed += world.beneath() not in (world.old, world.new)
        self.assertGreater(steps, 12)
        self.assertGreater(mixed, 3, "it is not one transaction beneath")
        result = self.successResultOf(done)
        self.assertEqual(world.replay(), [world.old, world.new])
        self.assertEqual(world.recorder.batches[0].revision, result.revision)
        (cursor,) = now(world.store.range(KeyRange.single(CURSOR))).kvs
        self.assertEqual((cursor.value, cursor.mod_revision), (b"after", result.revision))
        world.store.held = False
        self.assertEqual(world.leftovers(), [])

    def test_whoReadsInTheMiddleAndWatchesFromThereMissesNothing(self) -> None:
        world = self.world
        world.start()
        for _ in range(12):
            world.step()
        self.assertNotIn(world.beneath(), (world.old, world.new))
        found = now(world.view.range(KeyRange.prefix(PREFIX)))
        recorder = Recorder()
        world.view.watch(KeyRange.prefix(PREFIX), found.revision + 1, recorder)
        while world.step():
            pass
        world.clock.advance(0)
        self.assertEqual([len(batch.events) for batch in recorder.batches], [len(world.old | world.new)])

    def test_othersAreNotHeldUp(self) -> None:
        world = self.world
        recorder = Recorder()
        world.view.watch(KeyRange.prefix(b"/kubebus/default/nodes/"), world.store.revision + 1, recorder)
        world.start()
        for _ in range(12):
            world.step()
        world.store.held = False
        last = now(world.store.txn((), [Put(b"/kubebus/default/nodes/n2/reported/x", b"1")])).revision
        world.clock.advance(0)
        self.assertEqual(recorder.batches[-1].revision, last)
        self.assertEqual([e.kv.key[-2:] for b in recorder.batches for e in b.events], [b"/x"])

    def test_nothingHappensWhenAGuardFails(self) -> None:
        world = self.world
        now(world.store.txn((), [Put(CURSOR, b"moved")]))
        done = world.start()
        while world.step():
            pass
        self.assertFalse(self.successResultOf(done).succeeded)
        self.assertEqual(world.beneath(), world.old)
        self.assertEqual(world.leftovers(), [])

    def test_aNewerStageEndsAnOlder(self) -> None:
        first, second = WholeStore(self.world.store).stage(PREFIX), WholeStore(self.world.store).stage(PREFIX)
        now(first.add([Put(PREFIX + b"x", b"first")]))
        now(second.add([Put(PREFIX + b"x", b"second")]))
        self.failureResultOf(Deferred.fromCoroutine(first.add([Put(PREFIX + b"y", b"first")])), Overtaken)
        self.assertFalse(now(first.commit([], [])).succeeded)
        self.assertTrue(now(second.commit([], [])).succeeded)
        self.assertEqual(self.world.beneath(), {**self.world.old, b"x": b"second"})
        self.assertEqual(self.world.leftovers(), [])

    def test_whoStandsForTheOldStateIsRefused(self) -> None:
        """Another session, with the cursor of before, while the change is applied."""
        self.world.start()
        for _ in range(12):
            self.world.step()
        self.world.store.held = False
        guard = Compare.unchanged(CURSOR, self.world.cursor)
        self.assertFalse(now(self.world.store.txn([guard], [Put(PREFIX + b"00", b"late")])).succeeded)
        self.assertEqual(now(self.world.store.range(KeyRange.single(CURSOR))).kvs[0].value, NO_PLACE)

    def test_aMissingChunkIsTold(self) -> None:
        self.world.start()
        for _ in range(12):
            self.world.step()
        self.world.crash()
        now(self.world.store.txn((), [Delete(KeyRange.prefix(b"/kubebus/default/sync/staged/"))]))
        error = self.failureResultOf(
            Deferred.fromCoroutine(WholeStore(self.world.store).recover("default")), StoreError
        )
        self.assertIn("/applying/reported", str(error.value))

    @settings(max_examples=80, deadline=None)
    @given(st.integers(0, 25), st.integers(0, 25), st.integers(0, 25), st.booleans())
    def test_crashes(self, crash: int, compaction: int, helper: int, reader: bool) -> None:
        """At any step; with a compaction at any; with a second process that finishes, or with readers alone."""
        world = World()
        world.start()
        others: list[Deferred[None]] = []
        for step in range(25):
            if step == crash:
                world.crash()
            if step == compaction and world.store.revision > world.store._compacted:
                now(world.store.compact(world.store.revision))
            if step == helper:
                others.append(Deferred.fromCoroutine(WholeStore(world.store).recover("default")))
                others[0].addErrback(lambda failure: failure.trap(StoreUnavailable))
            world.step()
            if reader:
                assert world.read() in (world.old, world.new)
        while world.step():
            pass
        world.store.held = False
        now(WholeStore(world.store).recover("default"))
        state = world.read()
        assert state in (world.old, world.new)
        assert world.beneath() == state
        assert world.replay() in ([world.old], [world.old, world.new])
        assert world.replay()[-1] == state
        cursor = now(world.store.range(KeyRange.single(CURSOR))).kvs[0].value
        assert cursor == (b"before" if state == world.old else b"after")
        now(WholeStore(world.store).settle(PREFIX))
        assert world.leftovers() == []


class PlacesTests(SynchronousTestCase):
    def test_there(self) -> None:
        places = Places.of(PREFIX)
        self.assertEqual(places.journal, NODE + b"applying/reported")
        self.assertEqual(Places.of_index(places.index), places)
        site = Places.of(b"/kubebus/default/sites/hall/desired/")
        self.assertEqual(Places.of_index(site.index), site)
        for wrong in (b"/x/", NODE, NODE + b"a/b/", NODE + b"a", b"/kubebus/default/data/all/"):
            self.assertRaises(StoreError, Places.of, wrong)

    def test_ranges(self) -> None:
        prefix = KeyRange.prefix
        for keys in (prefix(PREFIX), prefix(NODE), prefix(b"/kubebus/default/"), KeyRange.single(PREFIX + b"x")):
            self.assertEqual(network_of(keys), "default")
        for keys in (prefix(b"/kubebus/default/data/"), prefix(b"/kubebus/default/registry/"), prefix(b"/x")):
            self.assertIsNone(network_of(keys))
        self.assertEqual(widened(KeyRange.single(PREFIX + b"x")), prefix(NODE))
        self.assertEqual(widened(prefix(PREFIX)), prefix(NODE))
        for keys in (prefix(b"/kubebus/default/nodes/"), KeyRange(PREFIX, b"\0"), KeyRange(PREFIX, b"/kubebus/e")):
            self.assertEqual(widened(keys), keys)

    @given(*[st.tuples(st.integers(0, 6), st.integers(0, 7))] * 2)
    def test_overlaps(self, one: tuple[int, int], other: tuple[int, int]) -> None:
        letters = b"abcdefgh"
        ranges = [KeyRange(letters[a : a + 1], letters[b : b + 1] if b > a else None) for a, b in (one, other)]
        shared = [c for c in letters if all(keys.contains(bytes([c])) for keys in ranges)]
        self.assertEqual(overlap(*ranges), bool(shared))

    def test_packing(self) -> None:
        ops: list[Op] = [Put(b"a\xff", b"\0" * 1000), Delete.single(b"b")]
        self.assertEqual(unpack_chunk(pack_chunk(ops)), ops)
        journal = Journal(3, 1, ((b"k\xff", b"v\xfe"),))
        self.assertEqual(Journal.unpack(journal.pack()), journal)
        for wrong in (b"", b"[]", b"[1,2]", b"\xff"):
            self.assertRaises(StoreError, Journal.unpack, wrong)
