"""A node that sends whatever it likes to the server: it reaches nothing but its own prefixes."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport, StringTransportWithDisconnection
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from kubebus.loglimit import LogLimit
from metasync.delta import Change
from metasync.feeds import Overtaken, Rate
from metasync.keys import cursor_key
from metasync.memory import MemoryStore
from metasync.model import KeyRange, KeyValue, Put
from metasync.server import NODE_WRITES_BURST, NODE_WRITES_PER_SECOND, SyncServerFactory
from metasync.session import SyncSession
from metasync.target import TargetFeed
from metasync.wire import (
    MAX_FRAME,
    Ack,
    Changes,
    Decoder,
    Entries,
    Held,
    Hello,
    Message,
    ProtocolError,
    Reconcile,
    Subscribe,
    encode,
)
from tests.unit.metasync.pairs import FakeAddress, FakePeer, Pair, now, put

SECRET = b"the other node's secret"
DESIRED = b"/kubebus/default/nodes/n1/desired/"
FEEDS = ("desired", "reported", "data/all", "data/node.n1")
OTHERS = (
    "data/node.n2",
    "../n2/desired",
    "desired/../../n2/desired",
    "/kubebus/default/nodes/n2/desired/",
    "nodes/n2/desired",
    "",
    "DESIRED",
    "registry",
)


class HostileCase(SynchronousTestCase):
    """A server with what is others', and a session of n1, which sends what the test likes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        for key in ("nodes/n2/desired/s", "nodes/n2/reported/s", "data/node.n2/s", "registry/tokens/t", "api/x"):
            now(self.store.txn((), [Put(f"/kubebus/default/{key}".encode(), SECRET)]))
        self.server = SyncServerFactory(self.clock, self.store, "default")
        now(self.server.start())
        self.clock.advance(0)
        self.before = self.foreign()
        self.connect()

    def connect(self) -> None:
        session = self.server.buildProtocol(FakeAddress(FakePeer()))
        assert session is not None
        self.session: SyncSession = session
        self.transport = StringTransportWithDisconnection()
        self.transport.protocol = session
        self.transport.abortConnection = self.transport.loseConnection  # type: ignore[method-assign]
        session.makeConnection(self.transport)
        self.output = b""

    def send(self, *messages: Message) -> list[Message]:
        """What the server answers."""
        for message in messages:
            if self.transport.connected:
                self.session.dataReceived(encode(message))
        for _ in range(10):
            self.clock.advance(0.01)
        answer = self.transport.value()
        self.transport.clear()
        self.output += answer
        return [m for m in Decoder().feed(answer) if not isinstance(m, Hello)]

    def foreign(self) -> tuple[KeyValue, ...]:
        """Everything that is not the node's own, nor the server's notes on it."""
        names = ("nodes/n1/", "sync/", "data/all/", "data/node.n1/")
        mine = tuple(f"/kubebus/default/{name}".encode() for name in names)
        return tuple(kv for kv in now(self.store.range(KeyRange.prefix(b""))).kvs if not kv.key.startswith(mine))

    def assertUnharmed(self) -> None:
        self.assertEqual(self.foreign(), self.before)
        for message in Decoder().feed(self.output):
            self.assertNotIn(SECRET, repr(message).encode())

    def messages(self, feed: str) -> list[Message]:
        key = b"../../n2/desired/s"
        return [
            Subscribe(feed, None, True, 100, 1 << 20),
            Subscribe(feed, b'["x","y",1]', False, 0, 0),
            Subscribe(feed, b"\xff" * 10, False, 1 << 40, 1 << 40),
            Reconcile(feed, True, bytes(8)),
            Reconcile(feed, False, bytes(8 * 64)),
            Entries(feed, b"\xff" * 8, bytes(16 * 10), True),
            Changes(feed, (Change(key, b"1"), Change(b"", b"1"), Change(b"/", None)), bytes(32), b"cursor"),
            Changes(feed, (Change(b"x" * 9000, b"1"),), b"", b"cursor"),
            Ack(feed, b"cursor"),
            Held(feed, "x"),
        ]


class HostileTests(HostileCase):
    def test_otherFeedsDoNotExist(self) -> None:
        self.send(Hello())
        for feed in OTHERS:
            (answer,) = self.send(Subscribe(feed, None, True, 100, 1 << 20))
            self.assertIsInstance(answer, Held)
        self.assertUnharmed()

    def test_whoAsksWithoutEndAndReadsNothing(self) -> None:
        """The answers would fill the server's memory."""
        self.send(Hello())
        ask = encode(Subscribe("no such feed", None, True, 100, 1 << 20))
        for _ in range(1000):
            if self.transport.connected:
                self.session.dataReceived(ask * 10)
        self.assertFalse(self.transport.connected)
        self.assertLess(len(self.transport.value()), 100_000)

    def test_everyMessageAboutEveryFeed(self) -> None:
        for feed in (*FEEDS, *OTHERS):
            for message in self.messages(feed):
                self.connect()
                self.send(Hello(), message)
                self.send(message)
                self.assertUnharmed()

    def test_theCloudsWordIsTheCloudsAlone(self) -> None:
        """A node cannot write what it is to do, only what it reports."""
        self.send(Hello(), Changes("desired", (Change(b"pods/x", b"1"),), b"", b"c"))
        self.assertFalse(self.transport.connected)
        self.assertEqual(now(self.store.range(KeyRange.prefix(b"/kubebus/default/nodes/n1/desired/"))).kvs, ())

    def test_whatItReportsStaysBelowItsPrefix(self) -> None:
        change = Change(b"../../n2/reported/s", b"forged")
        (_, answer) = (None, self.send(Hello(), Changes("reported", (change,), b"", b"c")))
        self.assertIn(Ack("reported", b"c"), answer)
        key = b"/kubebus/default/nodes/n1/reported/../../n2/reported/s"
        self.assertEqual(now(self.store.range(KeyRange.single(key))).kvs[0].value, b"forged")
        self.assertUnharmed()

    def test_framesThatAreNone(self) -> None:
        bomb = zlib.compress(bytes(64 << 20))
        for data in (
            struct.pack(">I", MAX_FRAME + 1),
            struct.pack(">I", 4) + b"rubbish",
            struct.pack(">I", len(bomb)) + bomb,
            struct.pack(">I", 0),
            encode(Ack("desired", b"x")),
        ):
            self.connect()
            self.session.dataReceived(data)
            self.assertFalse(self.transport.connected, data[:20])

    def test_noHelloInTime(self) -> None:
        self.clock.advance(31)
        self.assertFalse(self.transport.connected)

    def test_moreThanATransactionTakes(self) -> None:
        self.send(Hello())
        for _ in range(40):
            self.send(Changes("reported", (Change(b"k", bytes(100_000)),)))
        self.assertFalse(self.transport.connected)

    def test_whoever_comes_again_and_again_does_not_write_more(self) -> None:
        before = self.store.revision
        for _ in range(5):
            self.connect()
            self.send(Hello())
            for number in range(300):
                if self.transport.connected:
                    change = Change(b"node", str(number).encode())
                    self.session.dataReceived(encode(Changes("reported", (change,), b"", b"%d" % number)))
                    self.clock.advance(0)
        self.assertGreaterEqual(self.store.revision - before, NODE_WRITES_BURST)
        self.assertLess(self.store.revision - before, NODE_WRITES_BURST + 5 * NODE_WRITES_PER_SECOND)

    def test_whoever_comes_again_and_again_does_not_fill_the_log(self) -> None:
        limit = LogLimit(self.clock.seconds, burst=5, refill=10)
        self.server = SyncServerFactory(self.clock, self.store, "default", limit=limit)
        now(self.server.start())
        with capturedLogs() as captured:
            for _ in range(100):
                self.connect()
                self.send(Hello(), Subscribe("desired", None, True, 0, 0))
                self.send(*[Held("reported", "because")] * 20)
                self.send(Ack("nothing", b"x"))
        lines = [formatEvent(event) for event in captured]
        self.assertGreater(self.clock.seconds(), 10)
        # Of each of two kinds five, and one more in ten seconds.
        self.assertLess(len(lines), 2 * (5 + 1 + int(self.clock.seconds() / 10)) + 1, lines)
        self.assertTrue(any("more like this were left out" in line for line in lines), lines)

    def test_the_log_is_still_there_for_others(self) -> None:
        limit = LogLimit(self.clock.seconds, burst=1, refill=1000)
        self.server = SyncServerFactory(self.clock, self.store, "default", limit=limit)
        now(self.server.start())
        with capturedLogs() as captured:
            for name in ("n1", "n1", "n1", "n2"):
                session = self.server.buildProtocol(FakeAddress(FakePeer(name=name)))
                assert session is not None
                session.makeConnection(StringTransport())
                session.broken(ProtocolError("rubbish"))
        lines = [formatEvent(event) for event in captured]
        self.assertEqual(["sync with node n1 ends: rubbish", "sync with node n2 ends: rubbish"], lines)

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.binary(max_size=200), max_size=5), st.booleans())
    def test_anyBytes(self, chunks: list[bytes], deflate: bool) -> None:
        self.connect()
        self.session.dataReceived(encode(Hello()))
        for chunk in chunks:
            body = zlib.compress(chunk) if deflate else chunk
            if self.transport.connected:
                self.session.dataReceived(struct.pack(">I", len(body)) + body)
                self.clock.advance(0.01)
        self.assertEqual(self.foreign(), self.before)


class _Outlet:
    """A feed's other end, which keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.error: Exception | None = None

    def send(self, message: Any) -> None:
        self.sent.append(message)

    async def ready(self) -> None: ...

    async def admit(self) -> None: ...

    def hold(self) -> None: ...

    def go_on(self) -> None: ...

    def broken(self, error: Exception) -> None:
        self.error = error

    def more(self, kind: str) -> str | None:
        return ""

    def seconds(self) -> float:
        return 0.0

    def later(self, delay: float, call: Any) -> Any:
        raise NotImplementedError


class RateTests(SynchronousTestCase):
    def test_aBurstThenSoManyASecond(self) -> None:
        rate = Rate(10, 3)
        self.assertEqual([round(rate.take(0.0), 2) for _ in range(5)], [0, 0, 0, 0.1, 0.2])
        self.assertEqual(round(rate.take(100.0), 2), 0)

    def test_aClockThatGoesBackGivesNothing(self) -> None:
        rate = Rate(10, 1)
        rate.take(1000.0)
        self.assertEqual(round(rate.take(0.0), 2), 0.1)

    def test_aNodeThatWritesWithoutEndIsSlowedDown(self) -> None:
        pair = Pair()
        pair.client.startService()
        pair.settle()
        begin = pair.clock.seconds()
        before = pair.cloud.revision
        while pair.clock.seconds() < begin + 60:
            put(pair.edge, reported_x="1")
            pair.clock.advance(0.025)
            pair.endpoint.pump()
        self.assertLess(pair.cloud.revision - before, 60 * NODE_WRITES_PER_SECOND + NODE_WRITES_BURST + 1)
        self.assertGreater(pair.cloud.revision - before, 100)
        pair.client.stopService()


class OverlapTests(SynchronousTestCase):
    """Two sessions of one node are alive for a moment."""

    def setUp(self) -> None:
        self.store = MemoryStore(Clock())
        self.old, self.new = self.feed(), self.feed()

    def feed(self) -> tuple[TargetFeed, _Outlet]:
        outlet = _Outlet()
        feed = TargetFeed("desired", self.store, DESIRED, cursor_key("default", "n1", "desired"), outlet)
        feed.start()
        return feed, outlet

    def test_onlyOneMovesTheCursor(self) -> None:
        self.new[0].received(Changes("desired", (Change(b"a", b"new"),), b"", b"2"))
        self.assertEqual(self.new[1].sent[-1], Ack("desired", b"2"))
        self.old[0].received(Changes("desired", (Change(b"a", b"old"),), b"", b"1"))
        self.assertIsInstance(self.old[1].error, Overtaken)
        (kv,) = now(self.store.range(KeyRange.prefix(DESIRED))).kvs
        self.assertEqual((kv.value, kv.version), (b"new", 1))

    def test_nothingIsTakenBeforeTheAnswer(self) -> None:
        waiting: Deferred[Any] = Deferred()
        feed, _ = self.new
        self.patch(self.store, "txn", lambda *_: waiting)
        feed.received(Changes("desired", (), b"", b"1"))
        self.assertRaises(ProtocolError, feed.received, Changes("desired", (), b"", b"2"))
