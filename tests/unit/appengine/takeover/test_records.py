"""What the nodes of a site tell each other of takeovers."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from appengine.takeover.records import MAX_RECORD_BYTES, Record, Records
from appengine.takeover.testing import MemorySite
from metasync.keys import SiteKeys
from metasync.memory import MemoryStore
from metasync.model import KeyRange, Op, Put
from tests.unit.appengine.takeover.world import FixedMembership

KEYS = SiteKeys("default", "hall")
MINE = Record("new", "b", (ip_address("10.192.2.3"),), True)


class RecordTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.membership = FixedMembership("hall", {"a", "b", "c"})
        self.records = Records(self.clock, self.store, "default", self.membership)
        self.records.startService()
        self.addCleanup(self.stop)
        self.clock.advance(0)

    def stop(self) -> None:
        if self.records.running:
            self.records.stopService()

    def stored(self, keys: SiteKeys = KEYS) -> dict[str, Record]:
        prefix = keys.takeover("")
        found = self.successResultOf(Deferred.fromCoroutine(self.store.range(KeyRange.prefix(prefix))))
        return {kv.key[len(prefix) :].decode(): Record.decode(kv.value) for kv in found.kvs}

    def write(self, uid: str, value: bytes) -> None:
        operation: Op = Put(KEYS.takeover(uid), value)
        self.successResultOf(Deferred.fromCoroutine(self.store.txn([], [operation])))
        self.clock.advance(0)

    def test_written_and_read(self) -> None:
        told: list[int] = []
        self.records.watch(lambda: told.append(1))
        self.records.put("uid", MINE)
        self.clock.advance(0)
        self.assertEqual(self.stored(), {"uid": MINE})
        self.assertEqual(self.records.current(), {"uid": MINE})
        self.assertTrue(told)
        self.records.drop("uid", "b")
        self.clock.advance(0)
        self.assertEqual((self.stored(), self.records.current()), ({}, {}))

    def test_who_has_it_is_right(self) -> None:
        """The other half of a site that was split wrote as well, and its word won by the rule for data."""
        self.records.put("uid", MINE)
        self.write("uid", Record("other", "c").encode())
        self.clock.advance(0)
        self.assertEqual(self.stored(), {"uid": MINE})

    def test_drops_what_it_means_only(self) -> None:
        theirs = Record("other", "c")
        self.write("uid", theirs.encode())
        self.records.drop("uid", "b")
        self.clock.advance(0)
        self.assertEqual(self.stored(), {"uid": theirs})
        self.records.drop("uid")
        self.clock.advance(0)
        self.assertEqual(self.stored(), {})

    def test_nonsense_does_not_count(self) -> None:
        self.write("one", b"{")
        self.write("two", b"[]")
        self.write("three", json.dumps({"addresses": ["nowhere"], "node": "b"}).encode())
        self.write("four", b" " * MAX_RECORD_BYTES + MINE.encode())
        self.write("five", Record("new", "stranger").encode())
        self.write("six", MINE.encode())
        self.assertEqual(self.records.current(), {"six": MINE})

    def test_addresses_of_others_do_not_count(self) -> None:
        """A member that lies leads nobody to where the node that it names is not, nor out of the network."""
        elsewhere = ip_address("10.192.9.9")
        self.membership.others.add(elsewhere)
        told: list[Any] = []
        observer: Any = told.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        for address in (elsewhere, ip_address("8.8.8.8"), ip_address("2001:db8::1")):
            told.clear()
            self.write("uid", Record("new", "b", (MINE.addresses[0], address), True).encode())
            for _ in range(5):
                self.assertEqual((self.records.current(), self.records.substitutes()), ({}, {}))
            (event,) = told
            self.assertIn(f"{address} is no address of node b", str(formatEvent(event)))
        self.write("uid", MINE.encode())
        self.assertEqual(self.records.current(), {"uid": MINE})

    def test_a_pod_that_runs_elsewhere_is_led_nowhere_else(self) -> None:
        """As this node knows by its own vote, while that lasts."""
        site = MemorySite(self.clock)
        owner, here, taker = (site.node(name) for name in "acb")
        owner.claim("uid", owner="a")
        taker.claim("uid", owner="a")
        self.clock.advance(0)
        self.clock.advance(0)
        self.assertIsNotNone(owner.held_until("uid"))
        self.records.compare_with(here)
        told: list[int] = []
        self.records.watch(lambda: told.append(len(self.records.substitutes())))
        self.write("uid", MINE.encode())
        self.assertEqual((self.records.substitutes(), set(self.records.current())), ({}, {"uid"}))
        # Its owner dies; a lease later the other one has it, and nobody need say so again.
        site.kill("a")
        self.clock.pump([1.0] * 40)
        self.assertIsNotNone(taker.held_until("uid"))
        self.assertEqual(told[-1], 1)
        self.assertEqual(self.records.substitutes()["uid"].node, "b")

    def test_another_site(self) -> None:
        self.records.put("uid", MINE)
        self.membership.change("yard")
        self.clock.advance(0)
        self.assertEqual(self.stored(SiteKeys("default", "yard")), {"uid": MINE})
        self.membership.change(None)
        self.assertEqual(self.records.current(), {})
