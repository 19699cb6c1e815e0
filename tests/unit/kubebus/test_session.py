"""The link's session, as transcripts: what comes in at what time, what goes out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from kubebus.control import Close, Hello, Message, Ping, Pong, Reconfigure, decode, encode
from kubebus.linkerrors import (
    BadControlMessage,
    ClosedByPeer,
    LinkReplaced,
    LinkTimeout,
    LocalProtocolError,
    RemoteProtocolError,
    TransportLost,
    UnsupportedVersion,
)
from kubebus.session import ConfigChanged, Effect, Ended, Greeted, LinkSession, Send, Side, Timing, Up
from tests.unit.kubebus.test_control import CONFIG


def sent(effects: list[Effect]) -> list[Message]:
    return [decode(effect.payload) for effect in effects if isinstance(effect, Send)]


def others(effects: list[Effect]) -> list[Effect]:
    return [effect for effect in effects if not isinstance(effect, Send)]


class HelloTests(SynchronousTestCase):
    def test_the_edge(self) -> None:
        session = LinkSession(Side.EDGE, 0.0, "agent")
        self.assertEqual(sent(session.start()), [Hello((1,), "agent")])
        hello = Hello((1, 2), "router", 5, CONFIG)
        effects = session.control_received(encode(hello), 1.0)
        self.assertEqual(others(effects), [Up(1, hello)])
        self.assertEqual(sent(effects), [Ping(1)])
        self.assertTrue(session.is_up)

    def test_the_router(self) -> None:
        session = LinkSession(Side.ROUTER, 0.0)
        self.assertEqual(session.start(), [])
        self.assertEqual(session.control_received(encode(Hello()), 1.0), [Greeted(Hello())])
        self.assertFalse(session.is_up)
        effects = session.accept(7, CONFIG, 2.0)
        self.assertEqual(sent(effects), [Hello((1,), "", 7, CONFIG), Ping(1)])
        self.assertEqual(others(effects), [Up(1, Hello())])

    def test_no_common_version(self) -> None:
        for side in Side:
            session = LinkSession(side, 0.0, versions=(1, 3))
            error = self.assertRaises(UnsupportedVersion, session.control_received, encode(Hello((2, 4))), 0.0)
            self.assertIn("versions [2, 4]", str(error))

    def test_the_highest_common_version(self) -> None:
        session = LinkSession(Side.EDGE, 0.0, versions=(1, 2, 3))
        (up,) = others(session.control_received(encode(Hello((1, 2, 9), "", 1, CONFIG)), 0.0))
        assert isinstance(up, Up)
        self.assertEqual(up.version, 2)

    def test_out_of_order(self) -> None:
        edge = LinkSession(Side.EDGE, 0.0)
        self.assertRaises(BadControlMessage, edge.control_received, encode(Ping(1)), 0.0)
        self.assertRaises(BadControlMessage, edge.control_received, encode(Hello()), 0.0)
        self.assertRaises(RemoteProtocolError, edge.received_data, 0.0)
        router = LinkSession(Side.ROUTER, 0.0)
        self.assertRaises(LocalProtocolError, router.accept, 1, CONFIG, 0.0)
        router.control_received(encode(Hello()), 0.0)
        self.assertRaises(RemoteProtocolError, router.received_data, 0.0)
        for message in (Hello(), Reconfigure(CONFIG)):
            self.assertRaises(BadControlMessage, router.control_received, encode(message), 0.0)

    def test_no_hello(self) -> None:
        session = LinkSession(Side.ROUTER, 10.0)
        self.assertEqual(session.deadline(), 25.0)
        self.assertEqual(session.tick(24.9), [])
        effects = session.tick(25.0)
        (ended,) = others(effects)
        assert isinstance(ended, Ended)
        self.assertIsInstance(ended.error, LinkTimeout)
        self.assertEqual(sent(effects), [Close("timeout", "no hello within 15 s")])


class UpTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.session = LinkSession(Side.EDGE, 0.0)
        self.session.control_received(encode(Hello((1,), "", 1, CONFIG)), 0.0)
        self.session.received(0.5)
        self.session.control_received(encode(Pong(1)), 0.5)

    def test_round_trip_time(self) -> None:
        self.assertEqual(self.session.rtt, 0.5)
        self.session.control_received(encode(Pong(7)), 3.0)
        self.assertEqual(self.session.rtt, 0.5)

    def test_answering(self) -> None:
        self.assertEqual(sent(self.session.control_received(encode(Ping(9)), 1.0)), [Pong(9)])

    def test_idle(self) -> None:
        self.assertEqual(self.session.deadline(), 30.5)
        self.assertEqual(sent(self.session.tick(30.5)), [Ping(2)])
        self.assertEqual(self.session.deadline(), 75.5)
        (ended,) = others(self.session.tick(75.5))
        assert isinstance(ended, Ended)
        self.assertIn("nothing was heard for 75 s", str(ended.error))
        self.assertEqual(self.session.deadline(), float("inf"))

    def test_the_side_that_was_dialled_waits_longer(self) -> None:
        session = LinkSession(Side.ROUTER, 0.0)
        session.control_received(encode(Hello()), 0.0)
        session.accept(1, CONFIG, 0.0)
        session.received(10.0)
        self.assertEqual(session.deadline(), 43.0)
        self.assertEqual(sent(session.tick(43.0)), [Ping(2)])

    def test_data_unanswered(self) -> None:
        self.assertTrue(self.session.sent_data(10.0))
        self.assertFalse(self.session.sent_data(12.0))
        self.assertEqual(self.session.deadline(), 15.0)
        self.assertEqual(sent(self.session.tick(15.0)), [Ping(2)])
        self.assertEqual(self.session.deadline(), 23.0)
        self.session.received(22.9)
        self.assertEqual(others(self.session.tick(23.0)), [])
        self.assertEqual(self.session.deadline(), 52.9)

    def test_other_times(self) -> None:
        self.assertEqual(Timing.every(), Timing())
        session = LinkSession(Side.EDGE, 0.0, timing=Timing.every(10.0, 1.0))
        session.control_received(encode(Hello((1,), "", 1, CONFIG)), 0.0)
        session.received(0.0)
        self.assertEqual(session.deadline(), 10.0)
        session.tick(10.0)
        self.assertEqual(session.deadline(), 25.0)
        session.received(11.0)
        session.sent_data(12.0)
        session.tick(13.0)
        self.assertEqual(session.deadline(), 14.6)

    def test_a_slow_path_is_not_dead(self) -> None:
        """The probe waits behind data that the peer's kernel takes bit by bit."""
        self.session.sent_data(10.0)
        self.assertEqual(sent(self.session.tick(15.0, 1000)), [Ping(2)])
        for when, acknowledged in ((23.0, 9000), (31.0, 17000), (39.0, 25000)):
            self.session.sent_data(when - 1)
            self.assertEqual(self.session.deadline(), when)
            self.assertEqual(self.session.tick(when, acknowledged), [])
        self.session.received(40.0)
        self.assertTrue(self.session.is_up)

    def test_acknowledgements_alone_are_not_enough_for_ever(self) -> None:
        self.session.sent_data(10.0)
        self.session.tick(15.0, 1000)
        now, acknowledged = 15.0, 1000
        while not self.session.has_ended:
            now, acknowledged = self.session.deadline(), acknowledged + 1000
            self.session.tick(now, acknowledged)
        self.assertLess(now, 0.5 + 45 + 8)

    def test_no_progress_is_dead(self) -> None:
        self.session.sent_data(10.0)
        self.session.tick(15.0, 1000)
        self.assertTrue(others(self.session.tick(23.0, 1000)))

    def test_data_while_an_idle_link_is_probed(self) -> None:
        self.session.tick(30.5)
        self.session.sent_data(32.0)
        self.assertEqual(self.session.deadline(), 45.0)
        self.assertTrue(others(self.session.tick(45.0)))

    def test_a_flow_of_the_peers_that_stops(self) -> None:
        for when in range(1, 12):
            self.session.received(float(when))
            self.session.received_data(float(when))
        self.assertEqual(self.session.deadline(), 16.0)
        self.assertEqual(sent(self.session.tick(16.0)), [Ping(2)])
        self.assertEqual(self.session.deadline(), 24.0)

    def test_a_packet_now_and_then_is_no_flow(self) -> None:
        for when in (10.0, 20.0, 30.0):
            self.session.received(when)
            self.session.received_data(when)
        self.assertEqual(self.session.deadline(), 60.0)

    def test_reconfiguration(self) -> None:
        effects = self.session.control_received(encode(Reconfigure(CONFIG)), 1.0)
        self.assertEqual(effects, [ConfigChanged(CONFIG)])

    def test_closing(self) -> None:
        effects = self.session.close(LinkReplaced("a newer one"))
        self.assertEqual(sent(effects), [Close("replaced", "a newer one")])
        self.assertEqual(len(others(effects)), 1)
        self.assertEqual(self.session.close(LinkReplaced("again")), [])
        self.assertEqual(self.session.lost(TransportLost("gone")), [])
        self.assertEqual(self.session.control_received(b"garbage", 1.0), [])
        self.assertEqual(self.session.configure(CONFIG), [])
        self.session.received_data(1.0)

    def test_closed_by_the_peer(self) -> None:
        (ended,) = self.session.control_received(encode(Close("revoked", "node was revoked")), 1.0)
        assert isinstance(ended, Ended) and isinstance(ended.error, ClosedByPeer)
        self.assertEqual(ended.error.reason_code, "revoked")
        self.assertIn("node was revoked", str(ended.error))

    @given(st.lists(st.tuples(st.floats(0, 20), st.booleans(), st.booleans()), max_size=30))
    def test_a_dead_link_is_found_in_time(self, steps: list[tuple[float, bool, bool]]) -> None:
        """Whatever came before: after the last byte heard, an end comes within 75 s, and within 13 s of data sent."""
        session = LinkSession(Side.EDGE, 0.0)
        session.control_received(encode(Hello((1,), "", 1, CONFIG)), 0.0)
        now = 0.0
        for wait, hears, sends in steps:
            now += wait
            if session.tick(now) and session.has_ended:
                return
            if hears:
                session.received(now)
            if sends:
                session.sent_data(now)
        session.received(now)
        session.sent_data(now + 1)
        silent = now
        while not session.has_ended:
            now = session.deadline()
            session.tick(now)
        self.assertLessEqual(now - (silent + 1), 13.001)
