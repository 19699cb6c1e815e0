"""What a peer sends faster than a store takes it waits on the wire, not in memory."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.trial.unittest import SynchronousTestCase

from metasync.delta import Change
from metasync.digest import ITEM
from metasync.feeds import Outlet
from metasync.interfaces import Stage
from metasync.memory import MemoryStore
from metasync.model import Compare, Op, TxnResult
from metasync.session import Feeds, SyncSession
from metasync.source import Comparison
from metasync.target import TargetFeed
from metasync.wire import Changes, Hello, Reconcile, encode

PREFIX = b"/kubebus/default/nodes/n1/desired/"
PARTS = 60
SIZE = 200_000


class SlowStore(MemoryStore):
    """Its stages take what they are given when they are told to."""

    stage_ops = 1 << 32
    stage_bytes = 8 << 30

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.adding: list[Deferred[None]] = []
        self.most = 0
        self.bytes = 0
        self.committed = False

    def stage(self, prefix: bytes) -> Stage:
        return SlowStage(self)

    async def settle(self, prefix: bytes) -> None: ...

    async def recover(self, network: str) -> None: ...


class SlowStage:
    def __init__(self, store: SlowStore) -> None:
        self._store = store

    async def add(self, ops: Sequence[Op]) -> None:
        done: Deferred[None] = Deferred()
        self._store.adding.append(done)
        self._store.most = max(self._store.most, len(self._store.adding))
        self._store.bytes += sum(len(getattr(op, "value", b"")) for op in ops)
        await done

    async def commit(self, compares: Sequence[Compare], last: Sequence[Op] = ()) -> TxnResult:
        self._store.committed = True
        return TxnResult(True, 9)

    def discard(self) -> None: ...


class Transport(StringTransportWithDisconnection):
    def abortConnection(self) -> None:
        self.loseConnection()


class PressureTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = SlowStore(self.clock)
        self.session = SyncSession(self.clock, "the cloud", Hello(), self.feeds, lambda session, reason: None)
        self.transport = Transport()
        self.transport.protocol = self.session
        self.session.makeConnection(self.transport)
        self.session.dataReceived(encode(Hello()))

    def feeds(self, outlet: Outlet, scopes: Sequence[str]) -> Feeds:
        self.target = TargetFeed("desired", self.store, PREFIX, b"/cursor", outlet)
        return Feeds({}, {"desired": self.target})

    def parts(self) -> list[bytes]:
        """Small on the wire, twelve megabytes in memory."""
        parts = [Changes("desired", (Change(b"%d" % i, b"x" * SIZE),)) for i in range(PARTS)]
        return [encode(message) for message in [*parts, Changes("desired", (), b"", b'["i","n",5]')]]

    def test_itIsReadAsFastAsItIsWritten(self) -> None:
        for part in self.parts():
            if self.transport.producerState == "paused":
                self.store.adding.pop().callback(None)
            self.session.dataReceived(part)
        while self.store.adding:
            self.store.adding.pop().callback(None)
        self.assertTrue(self.store.committed)
        self.assertEqual((self.store.bytes, self.store.most), (PARTS * SIZE, 1))

    def test_whatIsAlreadyThereWaitsAsItCame(self) -> None:
        """All in one piece, as a frame of a few bytes may be megabytes."""
        data = b"".join(self.parts())
        self.assertLess(len(data), 100_000)
        self.session.dataReceived(data)
        self.assertEqual(self.transport.producerState, "paused")
        self.assertLess(self.store.bytes, 2 << 20)
        rounds = 0
        while self.store.adding:
            self.assertLessEqual(self.target._unstaged, 0)
            self.store.adding.pop().callback(None)
            rounds += 1
        self.assertTrue(self.store.committed)
        self.assertEqual((self.store.bytes, self.store.most), (PARTS * SIZE, 1))
        self.assertGreater(rounds, 8)
        self.assertEqual(self.transport.producerState, "producing")

    def test_aSessionThatEndsMeanwhile(self) -> None:
        self.session.dataReceived(b"".join(self.parts()))
        self.transport.loseConnection()
        self.store.adding.pop().callback(None)
        self.assertFalse(self.store.committed)

    def test_whatIsToBeForgottenIsOnlyWhatIsThere(self) -> None:
        self.session.dataReceived(encode(Reconcile("desired", True, bytes(8))))
        for number in range(50):
            items = b"".join((number * 1000 + i).to_bytes(ITEM, "big") for i in range(1000))
            self.session.dataReceived(encode(Changes("desired", (), items)))
        self.assertEqual(self.target._forget, set())
        self.assertTrue(self.transport.connected)


class SurplusTests(SynchronousTestCase):
    def test_whatAPeerClaimsToHaveIsKeptAsBytes(self) -> None:
        comparison = Comparison(None)
        comparison.ours = {b"o" * ITEM}
        for _ in range(3):
            comparison.take(b"o" * ITEM + b"t" * ITEM)
        self.assertEqual((comparison.common, bytes(comparison.forget)), ({b"o" * ITEM}, b"t" * ITEM * 3))
        self.assertEqual(comparison.surplus(), [b"t" * ITEM])
