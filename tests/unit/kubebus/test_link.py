# mypy: disallow-untyped-calls=False
"""One end of a link on a transport in memory: whatever the peer sends, and when it does not read."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from kubebus.control import Close, Hello, LinkConfig, Message, Ping, Pong, Reconfigure, decode, encode
from kubebus.frames import CONTROL, HEADER_SIZE, LIMITS, PACKET, STREAM, PacketFrames, frame
from kubebus.identity import InvalidIdentity, PeerIdentity, Role
from kubebus.link import Link
from kubebus.linkerrors import ClosedByPeer, LinkError, LinkRefused, LinkTimeout, RemoteProtocolError, TransportLost
from kubebus.queues import MAX_BULK
from kubebus.session import Side
from kubebus.streamtransport import ServiceTable
from kubebus.testing_net import FrameParser, WireEnd, tcp_gso_packet, udp_packet
from tests.unit.kubebus.test_control import CONFIG

EDGE = PeerIdentity("default", Role.NODE, "edge1")
ROUTER = PeerIdentity("default", Role.ROUTER, "r1")

_MESSAGES: list[Message] = [Ping(1), Hello(), Hello((1,), "", 1, CONFIG), Reconfigure(CONFIG)]


class Owner:
    """Lets everybody in, and remembers what it hears."""

    def __init__(self) -> None:
        self.up = 0
        self.configs: list[LinkConfig] = []
        self.packets: list[bytes] = []
        self.drained = 0
        self.errors: list[LinkError] = []

    def link_greeted(self, link: Link, hello: Hello) -> None:
        link.accept(1, CONFIG)

    def link_up(self, link: Link, hello: Hello) -> None:
        self.up += 1

    def link_configured(self, link: Link, config: LinkConfig) -> None:
        self.configs.append(config)

    def link_packets(self, link: Link, frames: PacketFrames) -> None:
        self.packets += frames.payloads()

    def link_drained(self, link: Link) -> None:
        self.drained += 1

    def link_lost(self, link: Link, error: LinkError) -> None:
        self.errors.append(error)


class Bench:
    """A link, and what comes out of it."""

    def __init__(self, side: Side, up: bool = True) -> None:
        self.clock, self.owner, self.end = Clock(), Owner(), WireEnd()
        self.services = ServiceTable()
        self.services.serve("echo", Factory.forProtocol(Echo))
        host, peer = (EDGE, ROUTER) if side is Side.EDGE else (ROUTER, EDGE)
        self.link = Link(self.clock, side, host, lambda _: peer, self.services, self.owner)
        self.end.connect(self.link)
        if up:
            hello = Hello((1,), "", 1, CONFIG if side is Side.EDGE else None)
            self.link.dataReceived(frame(CONTROL, encode(hello)))
            self.end.take()

    def frames(self) -> list[tuple[int, bytes]]:
        return list(FrameParser().feed(self.end.take()))


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class LinkTests(SynchronousTestCase):
    def test_nothing_but_the_hello_comes_first(self) -> None:
        bench = Bench(Side.ROUTER, up=False)
        self.assertEqual(bench.frames(), [])
        bench.link.dataReceived(frame(PACKET, udp_packet("10.250.0.2", "10.250.0.3")))
        (error,) = bench.owner.errors
        self.assertIsInstance(error, RemoteProtocolError)
        ((kind, payload),) = bench.frames()
        self.assertEqual(kind, CONTROL)
        self.assertEqual(decode(payload), Close("protocol-error", "data before the hello"))
        self.assertTrue(bench.end.disconnecting)
        self.assertEqual(bench.owner.packets, [])

    def test_every_fault_has_its_own_name(self) -> None:
        for data, up, code in (
            (frame(CONTROL, encode(Hello((9,)))), False, "unsupported-version"),
            (b"\x00\0\0\0", False, "unknown-frame-type"),
            (b"\xff\0\0\0", True, "unknown-frame-type"),
            (b"\x01\x01\x00\x01", True, "frame-too-large"),
            (frame(CONTROL, b"{"), True, "bad-control"),
            (frame(CONTROL, b'{"type":"dance"}'), True, "bad-control"),
            (frame(CONTROL, encode(Hello())), True, "bad-control"),
            (frame(STREAM, bytes(5)), True, "stream-violation"),
        ):
            bench = Bench(Side.ROUTER, up)
            bench.link.dataReceived(data)
            last = decode(bench.frames()[-1][1])
            assert isinstance(last, Close)
            self.assertEqual(last.code, code)
            self.assertEqual([error.code for error in bench.owner.errors], [code])
            self.assertTrue(bench.end.disconnecting)

    def test_no_hello(self) -> None:
        bench = Bench(Side.EDGE, up=False)
        bench.clock.advance(15)
        self.assertIsInstance(bench.owner.errors[0], LinkTimeout)

    def test_who_dialled_asks_each_time_and_the_other_answers(self) -> None:
        edge, router = Bench(Side.EDGE), Bench(Side.ROUTER)
        for bench in (edge, router):
            bench.link.dataReceived(frame(CONTROL, encode(Pong(1))))
        asked: list[float] = []
        answered: list[float] = []
        for second in range(1, 200):
            for bench, other, said in ((edge, router, asked), (router, edge, answered)):
                bench.clock.advance(1)
                if out := bench.end.take():
                    said.append(float(second))
                    other.link.dataReceived(out)
        self.assertEqual(asked, [30.0, 60.0, 90.0, 120.0, 150.0, 180.0])
        self.assertEqual(answered, asked)
        self.assertEqual((edge.owner.errors, router.owner.errors), ([], []))

    def test_a_peer_without_identity(self) -> None:
        bench = Bench(Side.ROUTER, up=False)

        def nobody(transport: object) -> PeerIdentity:
            raise InvalidIdentity("it is nobody")

        bench.link._identify = nobody
        bench.link.dataReceived(frame(CONTROL, encode(Hello())))
        (error,) = bench.owner.errors
        self.assertIsInstance(error, LinkRefused)
        self.assertEqual(bench.owner.up, 0)

    def test_reconfiguration(self) -> None:
        bench = Bench(Side.EDGE)
        bench.link.dataReceived(frame(CONTROL, encode(Reconfigure(CONFIG))))
        self.assertEqual(bench.owner.configs, [CONFIG])

    def test_the_lost_connection(self) -> None:
        bench = Bench(Side.EDGE)
        bench.link.connectionLost(Failure(ConnectionLost()))
        self.assertIsInstance(bench.owner.errors[0], TransportLost)
        self.successResultOf(bench.link.closed)
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_an_ended_link_is_deaf(self) -> None:
        bench = Bench(Side.EDGE)
        bench.link.dataReceived(frame(CONTROL, encode(Close("replaced", "x"))) + b"\xff\xff\xff\xff")
        (error,) = bench.owner.errors
        self.assertIsInstance(error, ClosedByPeer)
        bench.link.dataReceived(b"\xff" * 100)
        bench.link.send_packet(udp_packet("10.250.0.2", "10.250.0.3"))
        bench.link.flush()
        bench.link.close(LinkRefused("again"))
        self.assertEqual(len(bench.owner.errors), 1)

    def test_a_connection_that_does_not_close_is_aborted(self) -> None:
        bench = Bench(Side.EDGE)
        bench.link.close(LinkRefused("enough"))
        self.assertFalse(bench.end.aborted)
        bench.clock.advance(1)
        self.assertTrue(bench.end.aborted)
        bench.end.lose()
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_back_pressure(self) -> None:
        bench = Bench(Side.EDGE)
        bench.link.pauseProducing()
        bench.link.send_packet(tcp_gso_packet("10.250.0.2", "10.250.0.3"))
        bench.link.flush()
        self.assertEqual(bench.frames(), [])
        bench.link.resumeProducing()
        self.assertEqual([kind for kind, _ in bench.frames()], [PACKET])
        self.assertEqual(bench.owner.drained, 1)

    def test_a_peer_that_asks_and_does_not_read(self) -> None:
        for question in (
            frame(CONTROL, encode(Ping(1))),
            frame(STREAM, bytes([0, 0, 0, 0, 1, 0, 0, 0, 1]) + b"no such service"),
        ):
            bench = Bench(Side.ROUTER)
            bench.link.pauseProducing()
            for number in range(3000):
                if question[0] == STREAM:
                    question = question[:HEADER_SIZE] + (number * 2 + 1).to_bytes(4, "big") + question[8:]
                bench.link.dataReceived(question)
            (error,) = bench.owner.errors
            self.assertIn("does not read", str(error))

    def test_packets_among_other_frames(self) -> None:
        """A peer that puts something between all of its packets does not make each of them a call."""
        bench = Bench(Side.ROUTER)
        calls = []
        self.patch(bench.owner, "link_packets", lambda link, frames: calls.append(frames.payloads()))
        sent = [udp_packet("10.250.0.2", "10.250.0.3", b"%d" % number) for number in range(500)]
        reset = frame(STREAM, b"\0\0\0\1\7")
        opened = frame(STREAM, b"\0\0\0\1\1\0\0\0\1none")
        bench.link.dataReceived(opened + b"".join(frame(PACKET, payload) + reset for payload in sent))
        self.assertEqual([payload for call in calls for payload in call], sent)
        self.assertLess(len(calls), 20)

    def test_a_peer_that_asks_and_reads(self) -> None:
        bench = Bench(Side.ROUTER)
        bench.link.dataReceived(frame(CONTROL, encode(Ping(1))) * 3000)
        self.assertEqual(bench.owner.errors, [])
        self.assertEqual(len(bench.frames()), 3000)

    @settings(max_examples=150)
    @given(st.sampled_from(Side), st.booleans(), st.lists(st.binary(max_size=60), max_size=12))
    def test_any_bytes(self, side: Side, up: bool, chunks: list[bytes]) -> None:
        self.hold(Bench(side, up), chunks)

    @settings(max_examples=150)
    @given(
        st.sampled_from(Side),
        st.lists(
            st.one_of(
                st.binary(max_size=60).map(lambda data: frame(CONTROL, data)),
                st.sampled_from(_MESSAGES).map(lambda message: frame(CONTROL, encode(message))),
                st.binary(max_size=60).map(lambda data: frame(PACKET, data)),
                st.tuples(st.integers(0, 6), st.integers(0, 8), st.binary(max_size=12)).map(
                    lambda parts: frame(STREAM, parts[0].to_bytes(4, "big") + bytes([parts[1]]) + parts[2])
                ),
                st.sampled_from([1, 3, 5]).map(
                    lambda number: frame(STREAM, number.to_bytes(4, "big") + b"\1\0\0\1\0echo")
                ),
            ),
            max_size=15,
        ),
    )
    def test_any_frames(self, side: Side, frames: list[bytes]) -> None:
        self.hold(Bench(side), [b"".join(frames)])

    def hold(self, bench: Bench, chunks: list[bytes]) -> None:
        """No exception escapes, the peer's faults end the link with a reason, and no buffer is without bound."""
        for chunk in chunks:
            bench.link.dataReceived(chunk)
            bench.clock.advance(0)
        self.assertLessEqual(len(bench.owner.errors), 1)
        for error in bench.owner.errors:
            self.assertIsInstance(error, (RemoteProtocolError, ClosedByPeer))
        self.assertLess(len(bench.link._kept), max(LIMITS.values()) + HEADER_SIZE)
        self.assertLessEqual(bench.link.backlog, MAX_BULK)
        self.assertEqual(self.flushLoggedErrors(), [])
