"""Application data that is at the limits of a store, or beyond sense: it arrives, and nothing else is held up by it."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from metasync.conflict import MAX_COUNTER, MAX_SEEN, Version, merge, pack_loser, unpack_loser, write
from metasync.model import Delete, KeyRange, Put
from tests.unit.metasync.pairs import now
from tests.unit.metasync.world import KEYS, World


def stamp(counter: int, value: bytes | None = b"x", origin: str = "z:1", seen: dict[str, int] | None = None) -> Version:
    digest = write(None, origin, value).digest
    return Version(counter, origin, tuple(sorted((seen or {origin: counter}).items())), digest)


class DataLimitCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World("n1", "n2")
        self.addCleanup(self.world.stop)
        cloud: Any = self.world.stores["cloud"]
        cloud.max_txn_ops = 128  # as an etcd with default limits

    def reconnected(self) -> None:
        self.world.mend("n1")
        self.world.settle(10)

    def assertSame(self, expected: dict[str, str]) -> None:
        for side in self.world.stores:
            self.assertEqual(self.world.contents(side) == expected, True, side)

    def assertAlive(self) -> None:
        """Both ways, and without a session having ended meanwhile."""
        connects = self.world.endpoints["n1"].connects
        self.world.write("n1", all_up="1")
        self.world.write("cloud", all_down="1")
        self.world.settle(10)
        self.assertEqual(self.world.endpoints["n1"].connects, connects)
        for side in self.world.stores:
            found = self.world.contents(side)
            self.assertEqual((found.get("up"), found.get("down")), ("1", "1"), side)


class LargeTransactionTests(DataLimitCase):
    """More keys in one transaction than the cloud's store merges as one (42 by etcd's default)."""

    def test_it_arrives_in_pieces(self) -> None:
        self.world.cut("n1")
        self.world.write("n1", **{f"all_{i}": "x" for i in range(200)})
        self.reconnected()
        self.assertSame({str(i): "x" for i in range(200)})
        self.assertAlive()

    def test_a_prefix_is_deleted(self) -> None:
        self.world.write("cloud", **{f"all_p/{i}": "x" for i in range(120)})
        self.world.settle()
        now(self.world.stores["n1"].txn((), [Delete(KeyRange.prefix(KEYS.data + b"all/p/"))]))
        self.world.settle(10)
        self.assertSame({})
        self.assertAlive()

    def test_after_a_compaction(self) -> None:
        self.world.cut("n1")
        self.world.write("n1", **{f"all_{i}": "x" for i in range(200)})
        self.world.write("n1", all_later="1")
        self.world.quiet()
        store = self.world.stores["n1"]
        now(store.compact(store.revision))
        self.reconnected()
        self.assertSame({str(i): "x" for i in range(200)} | {"later": "1"})
        self.assertAlive()

    def test_a_break_in_the_middle(self) -> None:
        """What was sent in part is sent again from before the transaction."""
        self.world.cut("n1")
        self.world.write("n1", **{f"all_{i}": "x" for i in range(200)})
        self.world.mend("n1")
        cloud, seen = self.world.stores["cloud"], 0
        for _ in range(4000):
            self.world.clock.advance(0.01)
            self.world.endpoints["n1"].pump()
            seen = len(now(cloud.range(KeyRange.prefix(KEYS.data))).kvs)
            if seen:
                break
        self.assertTrue(0 < seen < 200, seen)
        self.world.cut("n1")
        self.reconnected()
        self.assertSame({str(i): "x" for i in range(200)})
        self.assertAlive()


class LargeConflictTests(DataLimitCase):
    def conflict(self, **values: str) -> None:
        self.world.cut("n1")
        self.world.write("cloud", **{name: "c" + value for name, value in values.items()})
        self.world.write("n1", **{name: "e" + value for name, value in values.items()})
        self.reconnected()
        self.assertSame({name.removeprefix("all_"): "e" + value for name, value in values.items()})
        self.assertAlive()

    def test_winner_and_loser_are_more_than_a_transaction(self) -> None:
        self.conflict(all_k="x" * 1_000_000)
        ((origin, value),) = self.world.losers("cloud", "all_k")
        self.assertEqual((origin, value), ("@cloud", b"c" + b"x" * 1_000_000))

    def test_many_losers_together(self) -> None:
        self.conflict(**{f"all_{i}": "x" * 100_000 for i in range(12)})
        for i in range(12):
            ((origin, value),) = self.world.losers("cloud", f"all_{i}")
            self.assertEqual((origin, value), ("@cloud", b"c" + b"x" * 100_000))

    def test_a_loser_that_is_larger_as_text(self) -> None:
        self.conflict(all_k="\0" * 500_000)
        ((_, value),) = self.world.losers("cloud", "all_k")
        self.assertEqual(value, b"c" + bytes(500_000))

    def test_of_one_that_does_not_fit_the_beginning_is_kept(self) -> None:
        packed = pack_loser(stamp(1), bytes(1_500_000), most=1_500_000)
        self.assertLessEqual(len(packed), 1_500_000)
        self.assertEqual(json.loads(packed)["size"], 1_500_000)
        _, value = unpack_loser(packed)
        assert value is not None
        self.assertEqual((len(value) > 1_000_000, value.strip(b"\0")), (True, b""))


class NonsenseTests(DataLimitCase):
    """What a member of a scope makes up is nobody else's trouble."""

    def plant(self, name: str, version: Version, value: bytes | None) -> None:
        """As a node would whose own process is not to be trusted: stamp and value, in its own store."""
        ops: list[Any] = [Put(KEYS.data + name.encode(), value)] if value is not None else []
        now(self.world.stores["n2"].txn((), [*ops, Put(KEYS.stamps + name.encode(), version.pack())]))
        self.world.settle(5)

    def test_the_greatest_counter(self) -> None:
        self.plant("all/k", stamp(MAX_COUNTER), b"x")
        self.assertEqual(self.world.contents("n1")["k"], "x")
        for _ in range(3):
            self.world.write("cloud", all_k="mine")
            self.world.settle(5)
        self.assertAlive()

    def test_the_greatest_counter_of_a_deletion_is_no_floor(self) -> None:
        self.world.write("cloud", all_k="1")
        self.world.settle()
        now(self.world.stores["n2"].txn((), [Delete.single(KEYS.data + b"all/k")]))
        self.plant("all/k", stamp(MAX_COUNTER, None), None)
        for _ in range(2):
            self.world.collect("cloud")
            self.world.settle(60)
        self.world.write("cloud", all_new="1")
        self.world.settle()
        (found,) = now(self.world.stores["cloud"].range(KeyRange.single(KEYS.stamps + b"all/new"))).kvs
        self.assertLess(Version.unpack(found.value).counter, 100)

    def test_very_many_origins(self) -> None:
        self.plant("all/k", stamp(5, seen={f"o{i}": 5 for i in range(4096)}), b"x")
        for _ in range(3):
            self.world.write("cloud", all_k="mine")
            self.world.settle(5)
        self.assertEqual(self.world.contents("n1")["k"], "mine")
        self.assertAlive()


class BoundTests(SynchronousTestCase):
    def test_a_counter_stops_at_its_end(self) -> None:
        last = write(stamp(MAX_COUNTER), "a", b"y")
        self.assertEqual(Version.unpack(last.pack()), last)

    def test_what_was_seen_is_bounded_and_the_order_does_not_matter(self) -> None:
        one, two, three = (stamp(5, seen={f"{name}{i}": i + 1 for i in range(600)}) for name in "abc")
        left = merge(merge(one, two).version, three).version
        right = merge(one, merge(three, two).version).version
        self.assertEqual((left, len(left.seen)), (right, MAX_SEEN))

    def test_a_writer_has_seen_itself(self) -> None:
        full = stamp(5, seen={f"o{i}": 9 for i in range(MAX_SEEN)})
        mine = write(full, "me", b"y")
        self.assertEqual((dict(mine.seen)["me"], len(mine.seen)), (1, MAX_SEEN))
