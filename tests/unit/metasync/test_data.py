"""Application data, written on all sides: everybody ends with the same, by the written rule."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from metasync.conflict import (
    InvalidVersion,
    Version,
    merge,
    pack_record,
    unpack_record,
    write,
)
from metasync.interfaces import StoreUnavailable
from metasync.model import KeyRange, Put
from tests.unit.metasync.pairs import now
from tests.unit.metasync.world import KEYS, World

NODES = ("n1", "n2", "n3")


class RuleTests(SynchronousTestCase):
    """The rule itself."""

    def test_aLaterWriteHasSeenTheEarlier(self) -> None:
        first = write(None, "a", b"1")
        second = write(first, "b", b"2")
        self.assertTrue(second.has_seen(first))
        self.assertFalse(first.has_seen(second))
        for mine, theirs, won in ((first, second, True), (second, first, False)):
            merged = merge(mine, theirs)
            self.assertEqual((merged.version, merged.theirs_won, merged.conflict), (second, won, False))

    def test_concurrentWritesHaveOneWinnerEverywhere(self) -> None:
        first = write(None, "a", b"0")
        ours, theirs = write(first, "a", b"1"), write(first, "b", b"2")
        here, there = merge(ours, theirs), merge(theirs, ours)
        self.assertEqual(here.version, there.version)
        self.assertEqual(here.version.digest, theirs.digest)
        self.assertTrue(here.conflict and there.conflict)
        self.assertTrue(here.theirs_won and not there.theirs_won)

    def test_whoWroteMoreOftenWins(self) -> None:
        once, twice = write(None, "z", b"1"), write(write(None, "a", b"1"), "a", b"2")
        self.assertEqual(merge(once, twice).version.digest, twice.digest)

    def test_anOldWriteUndoesNoDeletion(self) -> None:
        old = write(None, "z", b"1")
        deletion = write(old, "a", None)
        self.assertTrue(merge(deletion, old).version.deleted)

    def test_theSameValueIsNoConflict(self) -> None:
        self.assertFalse(merge(write(None, "a", b"1"), write(None, "b", b"1")).conflict)

    def test_theOrderOfNewsDoesNotMatter(self) -> None:
        base = write(None, "a", b"0")
        versions = [write(base, "a", b"1"), write(write(base, "b", b"2"), "b", None), write(base, "c", b"3")]
        for first, second, third in ((0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)):
            merged = merge(merge(versions[first], versions[second]).version, versions[third]).version
            self.assertEqual(merged, merge(merge(versions[0], versions[1]).version, versions[2]).version)

    def test_records(self) -> None:
        for value in (b"", b"x", None):
            version = write(None, "a", value)
            self.assertEqual(unpack_record(pack_record(version, value)), (version, value))

    def test_liesAreRefused(self) -> None:
        version = write(None, "a", b"1")
        lies = [b"", b"\0\0\0\2[]", pack_record(version, b"2"), pack_record(Version(0, "a", (), ""), None)]
        lies.append(pack_record(Version(1, "a", (("a", 1 << 60),), ""), None))
        for lie in lies:
            self.assertRaises(InvalidVersion, unpack_record, lie)


class DataTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World("n1", "n2")
        self.addCleanup(self.world.stop)

    def everywhere(self, expected: dict[str, str], scope: str = "all") -> None:
        for side in self.world.stores:
            self.assertEqual(self.world.contents(side, scope), expected, side)

    def test_everybodyGetsWhatAnybodyWrites(self) -> None:
        self.world.write("n1", all_a="1")
        self.world.write("cloud", all_b="2")
        self.world.settle()
        self.everywhere({"a": "1", "b": "2"})
        self.world.write("n2", all_a=None)
        self.world.settle()
        self.everywhere({"b": "2"})

    def test_aNodesOwnScopeIsItsOwn(self) -> None:
        self.world.write("cloud", **{"node.n1_a": "1"})
        self.world.write("n2", **{"node.n1_b": "forged", "node.n2_c": "2"})
        self.world.settle()
        self.assertEqual(self.world.contents("n1", "node.n1"), {"a": "1"})
        self.assertEqual(self.world.contents("cloud", "node.n1"), {"a": "1"})
        self.assertEqual(self.world.contents("cloud", "node.n2"), {"c": "2"})
        self.assertEqual(self.world.contents("n1", "node.n2"), {})

    def test_bothWriteWhileApart(self) -> None:
        self.world.cut("n1")
        self.world.write("cloud", all_k="cloud", all_other="1")
        self.world.write("n1", all_k="edge")
        self.world.mend("n1")
        self.world.settle(5)
        self.everywhere({"k": "edge", "other": "1"})
        self.assertIn(("@cloud", b"cloud"), self.world.losers("n1", "all_k") + self.world.losers("cloud", "all_k"))

    def test_aDeletionStaysDeleted(self) -> None:
        self.world.write("cloud", all_k="1")
        self.world.settle()
        self.world.cut("n1")
        self.world.write("n1", all_k="old")
        self.world.write("cloud", all_k="2")
        self.world.quiet()
        self.world.write("cloud", all_k=None)
        self.world.quiet()
        self.world.mend("n1")
        self.world.settle(5)
        self.everywhere({})
        self.assertEqual(self.world.losers("cloud", "all_k"), [("n1", b"old")])

    def test_aTransactionTravelsWhole(self) -> None:
        self.world.cut("n1")
        self.world.write("n1", all_a="1", all_b="1", all_c="1")
        self.world.mend("n1")
        self.world.settle(5)
        revisions = {kv.mod_revision for kv in now(self.world.stores["n2"].range(KeyRange.prefix(KEYS.data))).kvs}
        self.assertEqual(len(revisions), 1)

    def test_thereIsNoEcho(self) -> None:
        self.world.write("n1", all_a="x" * 1000)
        self.world.settle()
        revisions, wire = {n: s.revision for n, s in self.world.stores.items()}, self.world.wire
        self.world.settle(30)
        self.assertEqual({n: s.revision for n, s in self.world.stores.items()}, revisions)
        self.assertEqual(self.world.wire, wire)

    def test_whatCouldNotBeStampedIsStampedLater(self) -> None:
        store = self.world.stores["n1"]
        txn = store.txn

        async def full(*arguments: Any) -> Any:
            if any(arguments[0]):
                raise StoreUnavailable("the disk is full")
            return await txn(*arguments)

        self.patch(store, "txn", full)
        now(txn((), [Put(KEYS.data + b"all/a", b"1")]))
        self.world.settle()
        self.assertEqual(self.world.contents("n2"), {})
        self.patch(store, "txn", txn)
        now(store.txn((), [Put(b"/other", b"")]))
        self.world.settle(5)
        self.everywhere({"a": "1"})

    def collected(self) -> dict[str, int]:
        for side in self.world.stores:
            self.world.collect(side)
        self.world.settle(2)
        return {side: self.world.collect(side) for side in self.world.stores}

    def test_stampsOfDeletionsGoOnceAllHaveThem(self) -> None:
        self.world.write("n1", all_a="1", all_b="1")
        self.world.settle()
        self.world.write("n2", all_a=None)
        self.world.settle(60)
        self.assertEqual(self.collected(), {"cloud": 1, "n1": 1, "n2": 1})
        self.world.settle()
        self.assertEqual({side: self.world.stamps(side) for side in self.world.stores}, {"cloud": 1, "n1": 1, "n2": 1})
        self.everywhere({"b": "1"})
        self.world.write("n2", all_a="again")
        self.world.settle()
        self.everywhere({"a": "again", "b": "1"})

    def test_theyStayWhileAMemberIsAway(self) -> None:
        """It comes back with a write that is older than the deletion."""
        self.world.write("cloud", all_k="1")
        self.world.settle()
        self.world.cut("n1")
        self.world.write("n1", all_k="old")
        for value in ("2", "3", None):
            self.world.write("cloud", all_k=value)
            self.world.quiet()
        self.assertEqual(self.collected()["cloud"], 0)
        self.world.settle(60)
        self.assertEqual(self.collected()["cloud"], 0)
        self.world.mend("n1")
        self.world.settle(5)
        self.everywhere({})
        self.assertEqual(self.collected()["cloud"], 1)

    def test_nobodyWaitsForANodeThatWasRemoved(self) -> None:
        self.world.write("n1", all_k="1")
        self.world.settle()
        self.world.cut("n1")
        self.world.clients.pop("n1").stopService()
        del self.world.stores["n1"]
        self.world.write("n2", all_k=None)
        self.world.settle()
        self.assertEqual(self.collected()["cloud"], 0)
        self.assertEqual(self.world.stamps("cloud"), 1)
        self.world.server.forget("n1")
        self.world.settle()
        self.collected()
        self.assertEqual(self.world.stamps("cloud"), 0)

    def test_aNewWriteWinsWhereTheDeletionStillStands(self) -> None:
        """The writer has forgotten the deletion, the cloud has not."""
        for value in ("1", "2", "3", None):
            self.world.write("n1", all_k=value)
            self.world.settle()
        self.world.collect("n1")
        self.world.settle(2)
        self.assertEqual(self.world.collect("n1"), 1)
        self.world.write("n1", all_k="new")
        self.world.settle()
        self.everywhere({"k": "new"})

    def test_afterACompactionTooEverythingArrives(self) -> None:
        self.world.write("cloud", **{f"all_{i}": "x" for i in range(100)})
        self.world.settle()
        self.world.cut("n1")
        self.world.write("cloud", all_1="new", all_2=None)
        self.world.write("n1", all_3="new")
        for side in ("cloud", "n1"):
            now(self.world.stores[side].compact(self.world.stores[side].revision))
        self.world.mend("n1")
        self.world.settle(5)
        expected = {str(i): "x" for i in range(100) if i != 2} | {"1": "new", "3": "new"}
        self.everywhere(expected)


class Partitions(RuleBasedStateMachine):
    """Three nodes and the cloud write, are cut off, come back; clocks jump by a year; histories are compacted."""

    sides = st.sampled_from(("cloud", *NODES))
    nodes = st.sampled_from(NODES)
    names = st.sampled_from(["all_a", "all_b", "all_c"])

    @initialize()
    def begin(self) -> None:
        self.world = World(*NODES)
        self.count = 0
        self.wall = 0.0
        self.replaced: set[tuple[str, str]] = set()
        self.clock = patch("time.time", lambda: self.wall)
        self.clock.start()

    @rule(side=sides, name=names, delete=st.booleans())
    def write(self, side: str, name: str, delete: bool) -> None:
        """What stood there was seen by whoever writes: it must never come back."""
        self.count += 1
        self.replaced.add((name[-1:], self.world.contents(side).get(name[-1:], "")))
        self.world.write(side, **{name: None if delete else f"{side} {self.count}"})

    @rule(side=sides, names=st.sets(names, min_size=2))
    def write_together(self, side: str, names: set[str]) -> None:
        self.count += 1
        self.world.write(side, **dict.fromkeys(names, f"{side} {self.count}"))

    @rule(node=nodes)
    def cut(self, node: str) -> None:
        self.world.cut(node)

    @rule(node=nodes)
    def mend(self, node: str) -> None:
        self.world.mend(node)

    @rule(steps=st.integers(1, 12))
    def pass_time(self, steps: int) -> None:
        """A little, so that what is under way is caught in the middle."""
        for _ in range(steps):
            self.world.clock.advance(0.1)
            for endpoint in self.world.endpoints.values():
                endpoint.pump()

    @rule(years=st.sampled_from([-1, 1]))
    def clock_jumps(self, years: int) -> None:
        """The wall clock, that is. Timers follow a steady one (:mod:`metasync.steady`), which may leap ahead."""
        self.wall += years * 365 * 86400.0
        if years > 0:
            self.world.clock.advance(365 * 86400.0)

    @rule(side=sides)
    def compact(self, side: str) -> None:
        store = self.world.stores[side]
        if store.revision > store._compacted:
            now(store.compact(store.revision))

    @rule(side=sides)
    def collect(self, side: str) -> None:
        self.world.collect(side)

    @rule(node=nodes, name=names)
    def somebody_is_away(self, node: str, name: str) -> None:
        """As is ordinary: while the others delete, and forget what they deleted if they may."""
        self.world.settle(4)
        self.world.cut(node)
        self.write(next(other for other in NODES if other != node), name, delete=True)
        for _ in range(2):
            self.world.settle(2)
            for side in self.world.stores:
                self.world.collect(side)

    @precondition(lambda self: hasattr(self, "world"))
    @rule()
    def agree(self) -> None:
        """Once all are together and quiet, all have the same; and what was deleted knowingly stays so."""
        for node in NODES:
            self.world.mend(node)
        self.world.settle(8)
        states = {side: self.world.contents(side) for side in self.world.stores}
        assert all(state == states["cloud"] for state in states.values()), states
        stamps = [self._stamps(side) for side in self.world.stores]
        assert all(each == stamps[0] for each in stamps), stamps
        assert not self.replaced & set(states["cloud"].items()), states
        self._delete_for_good(states["cloud"])

    def _stamps(self, side: str) -> dict[bytes, bytes]:
        """Those of deletions go here sooner and there later."""
        found = now(self.world.stores[side].range(KeyRange.prefix(KEYS.stamps)))
        return {kv.key: kv.value for kv in found.kvs if not Version.unpack(kv.value).deleted}

    def _delete_for_good(self, state: dict[str, str]) -> None:
        """A deletion that has seen everything wins against all of it."""
        for name in sorted(state)[:1]:
            self.world.write("n2", **{f"all_{name}": None})
            self.world.settle(4)
            assert all(name not in self.world.contents(side) for side in self.world.stores)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.clock.stop()
            self.agree()
            self.world.stop()


class PartitionTests(SynchronousTestCase):
    def test_allConverge(self) -> None:
        quick: Any = settings(
            max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        )
        run_state_machine_as_test(Partitions, settings=quick)
