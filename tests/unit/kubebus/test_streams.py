"""The stream multiplexer, and streams as Twisted transports: two ends joined in memory."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from kubebus.frames import HEADER_SIZE, MAX_STREAM_DATA
from kubebus.identity import PeerIdentity, Role
from kubebus.interfaces import NodeAway, StreamAddress
from kubebus.linkerrors import LocalProtocolError, StreamViolation
from kubebus.streams import FIRST_WINDOW, MAX_STREAMS, WINDOW_SIZE, Stream, Streams
from kubebus.streamtransport import LinkStreams, ServiceTable
from kubebus.testing_net import FrameParser

NODE = PeerIdentity("default", Role.NODE, "edge1")
ROUTER = PeerIdentity("default", Role.ROUTER, "r1")


class Pair:
    """Two sides whose frames are carried when the test says so."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.services = (ServiceTable(), ServiceTable())
        self.sides = (
            LinkStreams(self.clock, NODE, ROUTER, True, self.services[0], lambda: None),
            LinkStreams(self.clock, ROUTER, NODE, False, self.services[1], lambda: None),
        )

    def carry(self, source: int, budget: int = 1 << 30) -> int:
        """Carry what one side has to send; how many frames it was."""
        frames = self.sides[source].multiplexer.next_frames(budget)
        for _, payload in FrameParser().feed(b"".join(frames)):
            self.sides[1 - source].multiplexer.frame_received(payload)
        return len(frames)

    def pump(self) -> None:
        while True:
            self.clock.advance(0)
            if not self.carry(0) + self.carry(1):
                return

    def open(self, client: Protocol, server: Protocol, service: str = "s") -> tuple[Any, Any]:
        self.services[1].serve(service, Once(server))
        connected = self.sides[0].connect(service, Once(client))
        self.pump()
        assert connected.called
        return client.transport, server.transport


class Once(Factory):
    def __init__(self, protocol: Protocol | None) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        return self._protocol


class Talker(Protocol):
    def __init__(self) -> None:
        self.received = b""
        self.lost: list[type] = []

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert reason.type is not None
        self.lost.append(reason.type)


@implementer(IHalfCloseableProtocol)
class HalfTalker(Talker):
    def __init__(self) -> None:
        super().__init__()
        self.closed: list[str] = []

    def readConnectionLost(self) -> None:
        self.closed.append("read")

    def writeConnectionLost(self) -> None:
        self.closed.append("write")


class Producer:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


class TransportTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pair = Pair()
        self.client, self.server = Talker(), Talker()

    def open(self) -> tuple[Any, Any]:
        return self.pair.open(self.client, self.server)

    def test_both_ways(self) -> None:
        client, server = self.open()
        client.write(b"question")
        server.writeSequence([b"an", b"swer"])
        self.pair.pump()
        self.assertEqual((self.server.received, self.client.received), (b"question", b"answer"))
        self.assertEqual(client.getPeer(), StreamAddress(ROUTER, "s"))
        self.assertEqual(server.getPeer(), StreamAddress(NODE, "s"))

    def test_what_is_written_on_connection_arrives_after_the_acceptance(self) -> None:
        class Greeter(Talker):
            def connectionMade(self) -> None:
                assert self.transport is not None
                self.transport.write(b"hello")
                self.transport.loseConnection()

        self.server = Greeter()
        self.open()
        self.assertEqual(self.client.received, b"hello")
        self.assertEqual((self.client.lost, self.server.lost), ([ConnectionDone], [ConnectionDone]))

    def test_closing_sends_what_was_written(self) -> None:
        client, _ = self.open()
        client.write(bytes(WINDOW_SIZE * 3))
        client.loseConnection()
        client.write(b"too late")
        self.pair.pump()
        self.assertEqual(len(self.server.received), WINDOW_SIZE * 3)
        self.assertEqual((self.client.lost, self.server.lost), ([ConnectionDone], [ConnectionDone]))
        self.assertEqual([len(side.multiplexer) for side in self.pair.sides], [0, 0])
        self.assertEqual(self.pair.clock.getDelayedCalls(), [])

    def test_aborting(self) -> None:
        client, _ = self.open()
        client.write(b"never arrives")
        client.abortConnection()
        self.assertEqual(self.client.lost, [])
        self.pair.pump()
        self.assertEqual((self.client.lost, self.server.lost), ([ConnectionAborted], [ConnectionLost]))
        self.assertEqual(self.server.received, b"")

    def test_half_close(self) -> None:
        self.client, self.server = HalfTalker(), HalfTalker()
        client, server = self.open()
        client.write(b"all of it")
        client.loseWriteConnection()
        self.pair.pump()
        self.assertEqual((self.client.closed, self.server.closed), (["write"], ["read"]))
        server.write(b"the answer")
        server.loseConnection()
        self.pair.pump()
        self.assertEqual(self.client.received, b"the answer")
        self.assertEqual((self.client.lost, self.server.lost), ([ConnectionDone], [ConnectionDone]))

    def test_a_closed_side_tells_a_peer_that_goes_on_sending(self) -> None:
        self.server = HalfTalker()
        client, server = self.open()
        client.loseConnection()
        self.pair.pump()
        server.write(b"are you there?")
        self.pair.pump()
        self.assertEqual((self.client.lost, self.server.lost), ([ConnectionDone], [ConnectionLost]))

    def test_a_closed_side_does_not_wait_for_ever(self) -> None:
        self.server = HalfTalker()
        client, _ = self.open()
        client.loseConnection()
        self.pair.pump()
        self.assertEqual(self.client.lost, [])
        self.pair.clock.advance(31)
        self.pair.pump()
        self.assertEqual((self.client.lost, self.server.lost), ([ConnectionDone], [ConnectionLost]))

    def test_a_paused_reader_stops_its_peer_and_nobody_else(self) -> None:
        client, server = self.open()
        other_client, other_server = Talker(), Talker()
        other, _ = self.pair.open(other_client, other_server, "other")
        server.pauseProducing()
        client.write(bytes(WINDOW_SIZE * 4))
        other.write(bytes(WINDOW_SIZE * 4))
        self.pair.pump()
        self.assertEqual(self.server.received, b"")
        self.assertEqual(len(other_server.received), WINDOW_SIZE * 4)
        self.assertEqual(client._stream.queued, WINDOW_SIZE * 4 - FIRST_WINDOW)
        server.resumeProducing()
        self.pair.pump()
        self.assertEqual(len(self.server.received), WINDOW_SIZE * 4)

    def test_a_window_grows_when_it_is_used(self) -> None:
        client, server = self.open()
        client.write(bytes(WINDOW_SIZE * 4))
        self.pair.pump()
        self.assertEqual(len(self.server.received), WINDOW_SIZE * 4)
        server.pauseProducing()
        client.write(bytes(WINDOW_SIZE * 4))
        self.pair.pump()
        waiting = WINDOW_SIZE * 4 - client._stream.queued
        self.assertGreater(waiting, WINDOW_SIZE // 2)
        self.assertLessEqual(waiting, WINDOW_SIZE)

    def test_a_paused_reader_gets_all_before_the_end(self) -> None:
        self.server = HalfTalker()
        client, server = self.open()
        server.loseWriteConnection()
        server.pauseProducing()
        client.write(b"last words")
        client.loseConnection()
        self.pair.pump()
        self.assertEqual((self.server.received, self.server.lost), (b"", []))
        server.resumeProducing()
        self.pair.pump()
        self.assertEqual((self.server.received, self.server.lost), (b"last words", [ConnectionDone]))

    def test_pausing_within_data(self) -> None:
        class Slow(Talker):
            def dataReceived(self, data: bytes) -> None:
                super().dataReceived(data)
                self.transport.pauseProducing()  # type: ignore[union-attr]

        self.server = Slow()
        client, server = self.open()
        client.write(bytes(MAX_STREAM_DATA * 3))
        self.pair.pump()
        for parts in (1, 2, 3):
            self.assertEqual(len(self.server.received), MAX_STREAM_DATA * parts)
            server.resumeProducing()
            self.pair.pump()

    def test_push_producer(self) -> None:
        client, server = self.open()
        producer = Producer()
        client.registerProducer(producer, True)
        server.pauseProducing()
        client.write(bytes(WINDOW_SIZE + 100_000))
        self.assertEqual(producer.calls, ["pause"])
        self.pair.pump()
        self.assertEqual(producer.calls, ["pause"])
        server.resumeProducing()
        self.pair.pump()
        self.assertEqual(producer.calls, ["pause", "resume"])
        client.loseConnection()
        self.pair.pump()
        self.assertEqual(self.client.lost, [])
        client.unregisterProducer()
        self.pair.pump()
        self.assertEqual(self.client.lost, [ConnectionDone])

    def test_pull_producer(self) -> None:
        client, _ = self.open()

        class Pull(Producer):
            def resumeProducing(self) -> None:
                super().resumeProducing()
                client.write(b"x")
                if len(self.calls) == 5:
                    client.unregisterProducer()
                    client.loseConnection()

        client.registerProducer(Pull(), False)
        self.pair.pump()
        self.assertEqual(self.server.received, b"xxxxx")
        self.assertEqual(self.client.lost, [ConnectionDone])

    def test_a_lost_stream_stops_its_producer(self) -> None:
        client, _ = self.open()
        producer = Producer()
        client.registerProducer(producer, True)
        self.pair.sides[0].close("the link is gone")
        self.assertEqual(producer.calls, ["stop"])
        self.assertEqual(self.client.lost, [ConnectionLost])
        client.write(b"ignored")
        client.loseConnection()
        client.abortConnection()

    def test_a_service_that_fails_loses_only_its_stream(self) -> None:
        class Broken(Talker):
            def dataReceived(self, data: bytes) -> None:
                raise ZeroDivisionError

        self.server = Broken()
        client, _ = self.open()
        client.write(b"x")
        self.pair.pump()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual((self.client.lost, self.server.lost), ([ConnectionLost], [ConnectionAborted]))

    @settings(max_examples=60)
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("write"), st.integers(0, 1), st.integers(1, 90_000)),
                st.tuples(st.just("pause"), st.integers(0, 1), st.just(0)),
                st.tuples(st.just("resume"), st.integers(0, 1), st.just(0)),
                st.tuples(st.just("carry"), st.integers(0, 1), st.integers(1, 200_000)),
            ),
            max_size=40,
        )
    )
    def test_nothing_is_lost_or_reordered(self, steps: list[tuple[str, int, int]]) -> None:
        pair = Pair()
        ends = (Talker(), Talker())
        transports = pair.open(*ends)
        sent = [b"", b""]
        for number, (what, side, size) in enumerate(steps):
            if what == "write":
                data = bytes([number & 255]) * size
                sent[side] += data
                transports[side].write(data)
            elif what == "pause":
                transports[side].pauseProducing()
            elif what == "resume":
                transports[side].resumeProducing()
                pair.clock.advance(0)
            else:
                pair.carry(side, size)
        for transport in transports:
            transport.resumeProducing()
        pair.pump()
        self.assertEqual([ends[1].received == sent[0], ends[0].received == sent[1]], [True, True])


class ConnectTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pair = Pair()

    def connect(self, factory: Factory, service: str = "s") -> Deferred[IProtocol]:
        return self.pair.sides[0].connect(service, factory)

    def test_no_such_service(self) -> None:
        connected = self.connect(Once(Talker()))
        self.pair.pump()
        failure = self.failureResultOf(connected, ConnectError)
        self.assertIn("there is no service 's'", str(failure.value))

    def test_a_service_without_a_protocol(self) -> None:
        self.pair.services[1].serve("s", Once(None))
        connected = self.connect(Once(Talker()))
        self.pair.pump()
        self.assertIn("not available", str(self.failureResultOf(connected, ConnectError).value))

    def test_a_client_without_a_protocol(self) -> None:
        server = Talker()
        self.pair.services[1].serve("s", Once(server))
        connected = self.connect(Once(None))
        self.pair.pump()
        self.failureResultOf(connected, ConnectError)
        self.assertEqual(server.lost, [ConnectionLost])

    def test_cancelling(self) -> None:
        server = Talker()
        self.pair.services[1].serve("s", Once(server))
        connected = self.connect(Once(Talker()))
        connected.cancel()
        self.failureResultOf(connected, CancelledError)
        self.pair.pump()
        self.assertEqual(len(self.pair.sides[1].multiplexer), 0)

    def test_the_link_goes_meanwhile(self) -> None:
        connected = self.connect(Once(Talker()))
        self.pair.sides[0].close("gone")
        self.failureResultOf(connected, NodeAway)

    def test_a_service_twice(self) -> None:
        table = ServiceTable()
        table.serve("s", Once(Talker()))
        self.assertRaises(ValueError, table.serve, "s", Once(Talker()))

    def test_both_sides_open_at_once(self) -> None:
        for table in self.pair.services:
            table.serve("s", Factory.forProtocol(Talker))
        connected = [self.pair.sides[side].connect("s", Once(Talker())) for side in (0, 1) for _ in range(3)]
        self.pair.pump()
        for deferred in connected:
            self.successResultOf(deferred)

    def test_too_many_streams(self) -> None:
        self.pair.services[1].serve("s", Factory.forProtocol(Talker))
        connected = [self.connect(Once(Talker())) for _ in range(MAX_STREAMS + 1)]
        self.pair.pump()
        for deferred in connected[:-1]:
            self.successResultOf(deferred)
        self.assertIn("256 streams", str(self.failureResultOf(connected[-1], ConnectError).value))


class Ignore:
    """Uses streams, and does nothing with them."""

    def accepted(self) -> None: ...
    def data(self, data: bytes) -> None: ...
    def ended(self) -> None: ...
    def write_ended(self) -> None: ...
    def closed(self, reason: str | None) -> None: ...
    def writable(self, queued: int) -> None: ...


class ViolationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.streams = Streams(False, self.accept, lambda: None)

    def accept(self, service: str, stream: Stream) -> Ignore:
        return Ignore()

    def frame(self, number: int, operation: int, body: bytes = b"") -> None:
        self.streams.frame_received(number.to_bytes(4, "big") + bytes([operation]) + body)

    def open(self, number: int) -> None:
        self.frame(number, 1, bytes([0, 1, 0, 0]) + b"s")

    def test_what_cannot_be(self) -> None:
        self.open(5)
        for number, operation, body in (
            (3, 1, b"\0\0\0\1s"),  # not the next number
            (6, 1, b"\0\0\0\1s"),  # our number
            (7, 1, b"\0\0\0\1"),  # no service
            (9, 4, b"data"),  # never opened
            (2, 5, b"\0\0\0\1"),  # ours, never opened
            (5, 2, b"\0\0\0\1"),  # accepted by the opener
            (5, 3, b""),  # refused by the opener
            (5, 5, b"\0"),
            (5, 8, b""),
            (5, 7, b"x" * 300),
            (5, 4, bytes(FIRST_WINDOW + 1)),
        ):
            self.assertRaises(StreamViolation, self.frame, number, operation, body)
        self.assertRaises(StreamViolation, self.streams.frame_received, b"\0\0\0\1")

    def test_data_after_the_end(self) -> None:
        self.open(1)
        self.frame(1, 6)
        self.assertRaises(StreamViolation, self.frame, 1, 4, b"x")
        self.assertRaises(StreamViolation, self.frame, 1, 6)

    def test_late_frames_of_a_stream_that_is_over(self) -> None:
        self.open(1)
        self.frame(1, 7)
        self.frame(1, 4, b"late")
        self.frame(1, 5, b"\0\0\0\1")

    def test_a_window_cannot_overflow(self) -> None:
        self.open(1)
        for _ in range(4):
            self.frame(1, 5, b"\xff\xff\xff\xff")

    def test_our_own_service_names(self) -> None:
        for name in ("", "x" * 256):
            self.assertRaises(LocalProtocolError, self.streams.open, name, Ignore())

    def test_frames_have_the_length_they_say(self) -> None:
        stream = self.streams.open("s", Ignore())
        self.frame(2, 2, b"\0\1\0\0")
        stream.write(b"abc")
        (opened, data) = self.streams.next_frames(1000)
        self.assertEqual(data, b"\x02\0\0\x08" + b"\0\0\0\2\4abc")
        self.assertEqual(len(opened), HEADER_SIZE + 5 + 4 + 1)

    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.binary(max_size=12)), max_size=20))
    def test_any_frames(self, frames: list[tuple[int, int, bytes]]) -> None:
        streams = Streams(False, self.accept, lambda: None)
        for number, operation, body in frames:
            try:
                streams.frame_received(number.to_bytes(4, "big") + bytes([operation]) + body)
            except StreamViolation:
                pass
        self.assertLessEqual(len(streams), MAX_STREAMS)
