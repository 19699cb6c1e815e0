"""One contract for Twisted's TLS transport and for ours, over real sockets."""

from __future__ import annotations

import hashlib
import socket
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL
from twisted.internet import reactor as installed
from twisted.internet.defer import gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, wrapClientTLS, wrapServerTLS
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from kubebus.fastpath import CloseTimeout, FastTLSTransport, HandshakeTimeout, IViewReceiver, Limits, endpoints
from kubebus.fastpath.direct import DirectEngine
from kubebus.fastpath.engine import PublicEngine
from kubebus.fastpath.records import RecordEngine, prepare
from tests.unit.kubebus.fasttls import ALPN, One, Recorder, client_options, server_options, stranger

reactor: Any = installed

if TYPE_CHECKING:
    _Base = TestCase
else:
    _Base = object


@implementer(IPushProducer)
class Flood:
    """Writes blocks until it has written ``total`` bytes, or is paused."""

    def __init__(self, transport: Any, total: int, block: int = 50_000) -> None:
        self._transport = transport
        self._left = total
        self._block = block
        self._running = False
        self.written = 0
        self.paused = 0
        self.stopped = False

    def resumeProducing(self) -> None:
        self._running = True
        self._go()

    def _go(self) -> None:
        while self._running and self._left:
            count = min(self._left, self._block)
            self._left -= count
            self.written += count
            self._transport.write(b"x" * count)
        if not self._left and self._running:
            self._running = False
            self._transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self.paused += 1
        self._running = False

    def stopProducing(self) -> None:
        self.stopped = True
        self._running = False


@implementer(IPullProducer)
class Drops:
    """Writes a block each time it is asked."""

    def __init__(self, transport: Any, count: int) -> None:
        self._transport = transport
        self._left = count

    def resumeProducing(self) -> None:
        self._transport.write(b"drop")
        self._left -= 1
        if not self._left:
            self._transport.unregisterProducer()

    def stopProducing(self) -> None:
        self._left = 0


class TLSTransportContract(_Base):
    """What a link relies on."""

    timeout = 3

    def setUp(self) -> None:
        self.client, self.server = Recorder(), Recorder()

    def wrap_server(self, options: Any, endpoint: Any) -> Any:
        raise NotImplementedError

    def wrap_client(self, options: Any, endpoint: Any) -> Any:
        raise NotImplementedError

    async def listen(self, options: Any = None) -> int:
        endpoint = self.wrap_server(options or server_options(), TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        port = await endpoint.listen(One(self.server))
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    async def connect(self, client: Any = None, server: Any = None) -> None:
        number = await self.listen(server)
        endpoint = self.wrap_client(client or client_options(), TCP4ClientEndpoint(reactor, "127.0.0.1", number))
        self.addCleanup(self.close)
        await endpoint.connect(One(self.client))

    async def establish(self) -> None:
        await self.connect()
        await gatherResults([self.client.established, self.server.established])

    async def close(self) -> None:
        for side in (self.client, self.server):
            if side.transport is not None and "lost" not in side.events:
                side.link.abortConnection()
                await side.lost

    async def turns(self) -> None:
        """Let the reactor go round: what had been received already is delivered."""
        for _ in range(20):
            await deferLater(reactor, 0, lambda: None)

    async def test_tells_of_the_handshake_before_any_data(self) -> None:
        seen: list[object] = []
        self.server.on_data = lambda data: seen.append(list(self.server.events))
        await self.establish()
        self.assertEqual(self.client.link.negotiatedProtocol, ALPN)
        self.assertEqual(self.server.link.negotiatedProtocol, ALPN)
        names = [
            side.link.getHandle().get_peer_certificate(as_cryptography=True).subject.rfc4514_string()
            for side in (self.client, self.server)
        ]
        self.assertEqual(names, ["CN=router.test", "CN=edge.test"])
        self.client.link.write(b"hello")
        await self.server.has(5)
        self.assertEqual(seen, [["made", "established"]])
        self.assertEqual(self.client.link.getPeer(), self.server.link.getHost())

    async def test_carries_bytes_both_ways(self) -> None:
        await self.establish()
        self.client.link.write(b"one ")
        self.client.link.writeSequence([b"two ", b"three"])
        self.server.link.write(b"")
        self.server.link.write(b"answer")
        await self.server.has(13)
        await self.client.has(6)
        self.assertEqual((bytes(self.server.received), bytes(self.client.received)), (b"one two three", b"answer"))

    async def test_carries_much_in_order(self) -> None:
        await self.establish()
        block = b"".join(number.to_bytes(4, "big") for number in range(300_000))
        self.client.link.write(block)
        self.server.link.writeSequence([block[:0:-1], block[:1]])
        await gatherResults([self.server.has(len(block)), self.client.has(len(block))])
        self.assertEqual(hashlib.sha256(self.server.received).digest(), hashlib.sha256(block).digest())
        self.assertEqual(hashlib.sha256(self.client.received).digest(), hashlib.sha256(block[::-1]).digest())

    async def test_sends_what_was_written_before_the_handshake(self) -> None:
        def write() -> None:
            self.client.link.write(b"early ")
            self.client.link.write(b"bird")

        self.client.on_made = write
        await self.connect()
        await self.server.has(10)
        self.assertEqual(bytes(self.server.received), b"early bird")

    async def test_losing_the_connection_sends_everything_first(self) -> None:
        await self.establish()
        self.client.link.write(b"z" * 3_000_000)
        self.client.link.loseConnection()
        self.client.link.write(b"too late")
        server_reason = await self.server.lost
        client_reason = await self.client.lost
        self.assertEqual(len(self.server.received), 3_000_000)
        self.assertIsInstance(server_reason, ConnectionDone)
        self.assertIsInstance(client_reason, ConnectionDone)

    async def test_losing_the_connection_before_the_handshake_ends_it(self) -> None:
        self.client.on_made = lambda: self.client.link.loseConnection()
        await self.connect()
        self.client.established.addErrback(lambda reason: None)
        await self.client.lost
        self.server.established.addErrback(lambda reason: None)
        await self.server.lost
        self.assertNotIn("established", self.client.events)

    async def test_aborting_delivers_nothing_more(self) -> None:
        await self.establish()
        self.server.on_data = lambda data: self.server.link.abortConnection()
        for _ in range(50):
            self.client.link.write(b"a" * 40_000)
        self.assertIsInstance(await self.server.lost, (ConnectionAborted, ConnectionLost))
        count = len(self.server.received)
        self.assertEqual(self.server.events, ["made", "established", "lost"])
        self.assertIsInstance(await self.client.lost, (ConnectionLost, SSL.Error))
        self.assertEqual(len(self.server.received), count)
        self.assertLess(count, 2_000_000)

    async def test_a_server_of_another_authority_is_refused(self) -> None:
        await self.connect(client=client_options(stranger()))
        self.server.established.addErrback(lambda reason: None)
        self.client.established.addErrback(lambda reason: None)
        reason = await self.client.lost
        self.assertIsInstance(reason, SSL.Error)
        self.assertIn("certificate verify failed", str(reason))
        self.assertIsInstance(await self.server.lost, SSL.Error)

    async def test_a_server_of_another_name_is_refused(self) -> None:
        await self.connect(client=client_options(host="other.test"))
        self.server.established.addErrback(lambda reason: None)
        self.client.established.addErrback(lambda reason: None)
        reason = await self.client.lost
        self.assertEqual(type(reason).__name__, "VerificationError")
        await self.server.lost

    async def test_a_client_without_a_certificate_is_refused(self) -> None:
        await self.connect(client=client_options(anonymous=True))
        await self.assertFailure(self.server.established, SSL.Error)
        # TLS 1.3: the client's own handshake ends before it is judged.
        self.assertIsInstance(await self.client.lost, (SSL.Error, ConnectionLost))

    async def test_a_client_of_another_authority_is_refused(self) -> None:
        await self.connect(server=server_options(stranger()))
        await self.assertFailure(self.server.established, SSL.Error)
        await self.client.lost

    async def test_nonsense_ends_the_connection(self) -> None:
        number = await self.listen()
        raw = Recorder()
        await TCP4ClientEndpoint(reactor, "127.0.0.1", number).connect(One(raw))
        raw.established.addErrback(lambda reason: None)
        raw.link.write(b"GET / HTTP/1.0\r\n\r\n")
        await self.assertFailure(self.server.established, SSL.Error)
        await raw.lost

    async def test_an_end_without_goodbye_is_no_clean_end(self) -> None:
        number = await self.listen()
        raw = Recorder()
        await TCP4ClientEndpoint(reactor, "127.0.0.1", number).connect(One(raw))
        raw.established.addErrback(lambda reason: None)
        self.server.established.addErrback(lambda reason: None)
        raw.link.loseConnection()
        self.assertIsInstance(await self.server.lost, ConnectionLost)
        await raw.lost

    async def test_pausing_stops_what_is_received(self) -> None:
        await self.establish()
        self.server.on_data = lambda data: self.server.link.pauseProducing()
        flood = Flood(self.client.link, 20_000_000)
        self.client.link.registerProducer(flood, True)
        flood.resumeProducing()
        await self.server.has(1)
        await self.turns()
        while not flood.paused:
            await self.turns()
        before = len(self.server.received)
        await self.turns()
        self.assertEqual(len(self.server.received), before)
        self.assertLess(flood.written, 20_000_000)
        self.server.on_data = lambda data: None
        self.server.link.resumeProducing()
        await self.server.has(20_000_000)

    async def test_a_pull_producer_is_asked_until_it_has_finished(self) -> None:
        await self.establish()
        self.client.link.registerProducer(Drops(self.client.link, 100), False)
        await self.server.has(400)
        self.client.link.loseConnection()
        await self.server.lost
        self.assertEqual(bytes(self.server.received), b"drop" * 100)

    async def test_there_is_one_producer(self) -> None:
        await self.establish()
        self.client.link.registerProducer(Flood(self.client.link, 0), True)
        self.assertRaises(RuntimeError, self.client.link.registerProducer, Flood(self.client.link, 0), True)
        self.client.link.unregisterProducer()

    async def test_a_producer_is_stopped_with_the_connection(self) -> None:
        await self.establish()
        producer = Flood(self.client.link, 10)
        self.client.link.registerProducer(producer, True)
        self.server.link.abortConnection()
        await self.client.lost
        self.assertTrue(producer.stopped)
        late = Flood(self.client.link, 10)
        self.client.link.registerProducer(late, True)
        self.assertTrue(late.stopped)

    async def test_a_producer_may_finish_after_losing_the_connection(self) -> None:
        await self.establish()
        producer = Flood(self.client.link, 400_000)
        self.client.link.registerProducer(producer, True)
        self.client.link.loseConnection()
        producer.resumeProducing()
        await self.server.lost
        self.assertEqual(len(self.server.received), 400_000)

    async def test_an_error_of_the_protocol_ends_its_connection(self) -> None:
        await self.establish()

        def fail(data: bytes) -> None:
            raise ZeroDivisionError

        self.server.on_data = fail
        self.client.link.write(b"boom")
        await self.server.lost
        await self.client.lost
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class TwistedTLSTests(TLSTransportContract, TestCase):
    def wrap_server(self, options: Any, endpoint: Any) -> Any:
        return wrapServerTLS(options, endpoint)

    def wrap_client(self, options: Any, endpoint: Any) -> Any:
        return wrapClientTLS(options, endpoint)


@implementer(IViewReceiver)
class Viewer(Recorder):
    """Takes views, and wants them to be just that."""

    def viewReceived(self, view: memoryview) -> int:
        assert isinstance(view, memoryview)
        super().dataReceived(bytes(view))
        return 0

    def dataReceived(self, data: bytes) -> None:
        raise AssertionError("a copy was made")


class PublicEngineTLSTests(TLSTransportContract, TestCase):
    engine: Any = PublicEngine

    def wrap_server(self, options: Any, endpoint: Any, **extra: Any) -> Any:
        return endpoints.wrap_server_tls(reactor, options, endpoint, engine=self.engine, **extra)

    def wrap_client(self, options: Any, endpoint: Any, **extra: Any) -> Any:
        return endpoints.wrap_client_tls(reactor, options, endpoint, engine=self.engine, **extra)

    async def test_is_the_fast_one(self) -> None:
        await self.establish()
        self.assertIsInstance(self.server.link, FastTLSTransport)

    async def test_hands_over_views_to_a_protocol_that_wants_them(self) -> None:
        self.server = Viewer()
        await self.establish()
        self.client.link.write(b"v" * 200_000)
        await self.server.has(200_000)
        self.assertEqual(self.server.received, b"v" * 200_000)

    async def test_a_handshake_has_a_time_limit(self) -> None:
        endpoint = self.wrap_server(
            server_options(), TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"), limits=Limits(0.05, 1)
        )
        port = await endpoint.listen(One(self.server))
        self.addCleanup(port.stopListening)
        silent = Recorder()
        await TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port).connect(One(silent))
        silent.established.addErrback(lambda reason: None)
        await self.assertFailure(self.server.established, HandshakeTimeout)
        await silent.lost

    async def test_the_answer_to_a_goodbye_has_a_time_limit(self) -> None:
        number = await self.listen()
        endpoint = self.wrap_client(
            client_options(), TCP4ClientEndpoint(reactor, "127.0.0.1", number), limits=Limits(1, 0.05)
        )
        self.addCleanup(self.close)
        await endpoint.connect(One(self.client))
        await gatherResults([self.client.established, self.server.established])
        self.server.link.pauseProducing()
        self.client.link.loseConnection()
        self.assertIsInstance(await self.client.lost, CloseTimeout)

    async def test_chooses_the_congestion_control_of_short_paths_itself(self) -> None:
        number = await self.listen()
        endpoint = self.wrap_client(client_options(), TCP4ClientEndpoint(reactor, "127.0.0.1", number))
        await endpoint.connect(One(self.client))
        await gatherResults([self.client.established, self.server.established])
        for end in (self.client, self.server):
            used = end.link._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")
            self.assertEqual(used, b"cubic")
        self.client.link.abortConnection()
        await gatherResults([self.client.lost, self.server.lost])

    async def test_uses_the_congestion_control_it_is_told(self) -> None:
        for name, expected in (("reno", b"reno"), ("no-such-thing", None)):
            self.client, self.server = Recorder(), Recorder()
            number = await self.listen()
            endpoint = self.wrap_client(
                client_options(),
                TCP4ClientEndpoint(reactor, "127.0.0.1", number),
                limits=Limits(1, 1, congestion=name),
            )
            self.server.established.addErrback(lambda reason: None)
            self.client.established.addErrback(lambda reason: None)
            await endpoint.connect(One(self.client))
            used = self.client.link._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")
            if expected is not None:
                self.assertEqual(used, expected)
            self.client.link.abortConnection()
            await self.client.lost

    async def test_a_paused_side_still_sees_the_end(self) -> None:
        await self.establish()
        self.client.link.pauseProducing()
        self.server.link.write(b"unwanted")
        self.client.link.loseConnection()
        self.assertIsInstance(await self.client.lost, ConnectionDone)
        self.assertEqual(self.client.received, b"")

    async def test_a_slow_reader_pauses_the_producer_at_once(self) -> None:
        await self.establish()
        self.server.link.pauseProducing()
        flood = Flood(self.client.link, 40_000_000)
        self.client.link.registerProducer(flood, True)
        flood.resumeProducing()
        self.assertEqual(flood.paused, 1)
        self.assertLess(len(self.client.link._backlog), 2 * 50_000)
        self.server.link.resumeProducing()
        await self.server.has(40_000_000)
        self.assertGreater(flood.paused, 10)

    async def test_the_protocol_may_be_replaced(self) -> None:
        await self.establish()
        successor = Recorder()
        successor.established.addErrback(lambda reason: None)
        self.server.link.wrappedProtocol = successor
        self.client.link.write(b"to the successor")
        await successor.has(16)
        self.assertEqual(self.server.received, b"")
        self.client.link.loseConnection()
        await successor.lost
        self.server.events.append("lost")
        await self.client.lost

    def test_anything_but_tcp_gets_twisteds_tls(self) -> None:
        transport = StringTransport()
        factory = endpoints.client_factory(reactor, client_options(), One(self.client), self.engine)
        owner: Any = factory.buildProtocol(transport.getPeer())
        owner.makeConnection(transport)
        self.assertTrue(transport.value().startswith(b"\x16\x03"))
        self.assertNotIsInstance(self.client.link, FastTLSTransport)

    async def test_a_factory_may_decline(self) -> None:
        class Decline(One):
            def buildProtocol(self, addr: object) -> Any:
                return None

        endpoint = self.wrap_server(server_options(), TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        port = await endpoint.listen(Decline(Protocol()))
        self.addCleanup(port.stopListening)
        raw = Recorder()
        raw.established.addErrback(lambda reason: None)
        await TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port).connect(One(raw))
        await raw.lost


class DirectEngineTLSTests(PublicEngineTLSTests):
    engine = DirectEngine


class RecordEngineTLSTests(PublicEngineTLSTests):
    """The server protects records itself, and OpenSSL has gone as soon as the client is known."""

    engine = DirectEngine
    settles = True

    def wrap_server(self, options: Any, endpoint: Any, **extra: Any) -> Any:
        prepare(options.getContext())
        return endpoints.wrap_server_tls(reactor, options, endpoint, **extra)

    async def establish(self) -> None:
        await super().establish()
        self.assertIsInstance(self.server.link._engine, RecordEngine)
        if self.settles:
            self.server.link.settle()

    async def test_tells_of_the_handshake_before_any_data(self) -> None:
        self.settles = False
        await super().test_tells_of_the_handshake_before_any_data()

    async def test_what_has_settled_needs_no_openssl(self) -> None:
        await self.establish()
        link = self.server.link
        self.assertEqual((link.getHandle(), link.getPeerCertificate(), link.negotiatedProtocol), (None, None, ALPN))
        self.client.link.write(b"question")
        await self.server.has(8)
        link.write(b"answer")
        await self.client.has(6)
        link.settle()
        link.loseConnection()
        self.assertIsInstance(await self.client.lost, ConnectionDone)
        self.assertIsInstance(await self.server.lost, ConnectionDone)


class MixedTLSTests(TLSTransportContract, TestCase):
    """Twisted's client against our server: what is on the wire is TLS."""

    def wrap_server(self, options: Any, endpoint: Any) -> Any:
        prepare(options.getContext())
        return endpoints.wrap_server_tls(reactor, options, endpoint)

    def wrap_client(self, options: Any, endpoint: Any) -> Any:
        return wrapClientTLS(options, endpoint)
