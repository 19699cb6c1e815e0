"""The leases in memory that other tests rely on."""

from __future__ import annotations

from collections import Counter

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from appengine.takeover.interfaces import Leases
from appengine.takeover.rank import ranked
from appengine.takeover.testing import LENGTH, MARGIN, MemorySite


class Heard:
    """A watcher that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def lease_gained(self, uid: str) -> None:
        self.told.append(("gained", uid))

    def leases_renewed(self) -> None:
        self.told.append(("renewed",))

    def lease_ending(self, uid: str, stop_by: float) -> None:
        self.told.append(("ending", uid, stop_by))

    def lease_wanted_back(self, uid: str) -> None:
        self.told.append(("wanted back", uid))


class RankTests(SynchronousTestCase):
    def test_spread_and_stable(self) -> None:
        first = Counter(ranked(f"uid-{number}", "abc")[0] for number in range(300))
        self.assertTrue(all(70 < count < 130 for count in first.values()), first)
        for number in range(20):
            order = ranked(f"uid-{number}", "abcde")
            self.assertEqual(ranked(f"uid-{number}", "edcba"), order)
            self.assertEqual([node for node in order if node != "c"], ranked(f"uid-{number}", "abde"))


class MemorySiteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.site = MemorySite(self.clock)
        self.heard = {name: Heard() for name in "ab"}
        self.leases: dict[str, Leases] = {}
        for name in "ab":
            self.join(name)
        self.turn()

    def join(self, name: str) -> None:
        self.leases[name] = self.site.node(name)
        self.leases[name].watch(self.heard[name])
        self.leases[name].claim("u", owner="a")

    def turn(self, seconds: float = 0) -> None:
        self.clock.pump([seconds, 0, 0])

    def told(self, name: str) -> list[tuple[object, ...]]:
        told, self.heard[name].told = self.heard[name].told, []
        return told

    def test_the_owner_first(self) -> None:
        self.assertEqual((self.told("a"), self.told("b")), ([("gained", "u")], []))
        self.assertEqual((self.leases["a"].held_until("u"), self.leases["b"].held_until("u")), (LENGTH, None))
        self.assertEqual(self.leases["b"].holdings()[0].holder, "a")

    def test_death_and_return(self) -> None:
        self.site.kill("a")
        self.turn(LENGTH - 1)
        self.assertEqual(self.told("b"), [])
        self.turn(1)
        self.assertEqual(self.told("b"), [("gained", "u")])
        self.told("a")
        self.join("a")
        self.turn()
        self.assertEqual((self.told("b"), self.told("a")), ([("wanted back", "u")], []))
        self.leases["b"].release("u")
        self.turn()
        self.assertEqual((self.told("b"), self.told("a")), ([], [("gained", "u")]))

    def test_a_cut(self) -> None:
        self.told("a")
        self.site.cut("a")
        self.turn()
        self.assertEqual(self.told("a"), [("ending", "u", LENGTH - MARGIN)])
        self.leases["a"].release("u")
        self.turn()
        self.assertEqual(self.told("b"), [("gained", "u")])
        self.leases["b"].withdraw("u")
        self.leases["b"].release("u")
        self.site.heal("a")
        self.turn()
        self.assertEqual(self.told("a"), [("gained", "u")])
