"""Busy descriptors, on real sockets: served as the reactor serves them, and the reactor meanwhile."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase

from kubebus.fastpath.poll import BusyPoll, busy_poll

reactor: Any = _reactor


class Descriptor:
    """One end of a socket pair; ``seen`` fires with the first thing that happens."""

    def __init__(self, poll: Any, answer: Any = None, error: Exception | None = None) -> None:
        self.socket, self.other = socket.socketpair()
        self.socket.setblocking(False)
        self.poll, self.answer, self.error = poll, answer, error
        self.read: list[bytes] = []
        self.writes = 0
        self.lost: list[Failure] = []
        self.seen: Deferred[None] = Deferred()

    def fileno(self) -> int:
        return self.socket.fileno()

    def logPrefix(self) -> str:
        return "a test"

    def doRead(self) -> Any:
        self.read.append(self.socket.recv(100))
        return self._seen()

    def doWrite(self) -> Any:
        self.writes += 1
        self.poll.removeWriter(self)
        return self._seen()

    def connectionLost(self, reason: Failure) -> None:
        self.lost.append(reason)
        if self.error is not None:
            raise self.error

    def _seen(self) -> Any:
        if not self.seen.called:
            self.seen.callback(None)
        if self.error is not None:
            raise self.error
        return self.answer

    def close(self) -> None:
        self.poll.removeReader(self)
        self.poll.removeWriter(self)
        self.socket.close()
        self.other.close()


class BusyPollTests(TestCase):
    timeout = 10

    def setUp(self) -> None:
        if not isinstance(reactor, EPollReactor):
            raise SkipTest("the reactor does not use epoll")
        self.poll: Any = BusyPoll(reactor)

    def descriptor(self, answer: Any = None, error: Exception | None = None) -> Descriptor:
        made = Descriptor(self.poll, answer, error)
        self.addCleanup(made.close)
        return made

    def test_only_for_reactors_that_poll(self) -> None:
        self.assertIsInstance(busy_poll(reactor), BusyPoll)
        self.assertIs(busy_poll(reactor), busy_poll(reactor))
        for other in (MemoryReactorClock(), Clock()):
            self.assertIs(busy_poll(other), other)

    async def test_reads(self) -> None:
        one, two = self.descriptor(), self.descriptor()
        self.poll.addReader(one)
        self.poll.addReader(one)
        self.poll.addReader(two)
        one.other.send(b"hello")
        await one.seen
        self.assertEqual((one.read, two.read), ([b"hello"], []))
        self.poll.removeReader(one)
        self.poll.removeReader(one)
        one.other.send(b"unseen")
        two.other.send(b"seen")
        await two.seen
        self.assertEqual((one.read, two.read), ([b"hello"], [b"seen"]))

    async def test_writes_and_reads_apart(self) -> None:
        one = self.descriptor()
        self.poll.addWriter(one)
        self.poll.addReader(one)
        await one.seen
        self.assertEqual((one.read, one.writes), ([], 1))
        one.seen = Deferred()
        one.other.send(b"x")
        await one.seen
        self.assertEqual((one.read, one.writes), ([b"x"], 1))

    async def test_what_is_removed_while_it_is_served(self) -> None:
        """One descriptor removes the other, which was found ready at the same time."""
        one, two = self.descriptor(), self.descriptor()
        for each, other in ((one, two), (two, one)):
            each.seen.addCallback(partial(self._remove, other))
            self.poll.addReader(each)
        one.other.send(b"x")
        two.other.send(b"x")
        # Not before both are ready.
        await one.seen if not two.seen.called else None
        self.assertEqual(sorted((len(one.read), len(two.read))), [0, 1])

    def _remove(self, descriptor: Descriptor, _: object) -> None:
        self.poll.removeReader(descriptor)

    async def test_an_answer_is_the_end(self) -> None:
        one = self.descriptor(CONNECTION_LOST)
        self.poll.addReader(one)
        self.poll.addWriter(one)
        one.other.send(b"x")
        await one.seen
        await self.turn()
        self.assertEqual([failure.value for failure in one.lost], [CONNECTION_LOST])

    async def test_an_exception_is_the_end_and_is_logged(self) -> None:
        one = self.descriptor(error=ValueError("no good"))
        self.poll.addReader(one)
        one.other.send(b"x")
        await one.seen
        await self.turn()
        # One of doRead(), one of connectionLost().
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
        self.assertEqual([str(failure.value) for failure in one.lost], ["no good"])
        # The others go on.
        two = self.descriptor()
        self.poll.addReader(two)
        two.other.send(b"x")
        await two.seen

    async def test_who_was_closed_without_a_word_is_forgotten(self) -> None:
        """Its number may be somebody else's at once, who is served then."""
        for late in (True, False):
            one = self.descriptor()
            self.poll.addReader(one)
            number = one.fileno()
            one.socket.close()
            if late:
                self.poll.removeReader(one)
                self.assertEqual(self.poll._descriptors, {})
            two = self.descriptor()
            if two.fileno() != number:
                two.socket, two.other = two.other, two.socket
            self.assertEqual(two.fileno(), number)
            self.poll.addReader(two)
            two.other.send(b"x")
            await two.seen
            self.assertEqual(two.read, [b"x"])
            two.close()

    async def test_the_reactor_has_its_turn(self) -> None:
        """Somebody who is always ready does not stop the clock."""
        one = self.descriptor()
        one.other.send(b"x")
        one.doRead = lambda: None  # type: ignore[method-assign]
        self.poll.addReader(one)
        for _ in range(5):
            await self.turn()

    def turn(self) -> Deferred[None]:
        turned: Deferred[None] = Deferred()
        reactor.callLater(0.001, turned.callback, None)
        return turned
