# mypy: disallow-untyped-calls=False, disallow-subclassing-any=False, disallow-untyped-defs=False
"""The name server over real sockets, asked as a pod asks it, with the site's own server there or away."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.task import Clock, deferLater
from twisted.names import dns, error
from twisted.trial.unittest import SynchronousTestCase, TestCase

from appengine.services.dns import TTL, UDP_SIZE, NameServer, fit
from appengine.services.upstream import HASTE, MAX_WAITING, PATIENCE, RETRY, Upstream
from tests.unit.appengine.test_services import endpoints, names, service

reactor: Any = installed_reactor
MANY = 120


class _Site(dns.DNSDatagramProtocol):
    """The site's own server: what it answers by name, and what it was asked. ``None``: it says nothing."""

    noisy = False

    def __init__(self) -> None:
        super().__init__(self)
        self.asked: list[tuple[str, int]] = []
        self.answer: Callable[[str, int], tuple[int, list[dns.RRHeader]] | None] = lambda name, type: (dns.ENAME, [])

    def messageReceived(self, message: dns.Message, protocol: object, address: Any = None) -> None:
        query = message.queries[0]
        self.asked.append((str(query.name), query.type))
        told = self.answer(str(query.name), query.type)
        if told is not None:
            reply = dns.Message(message.id, answer=1, rCode=told[0])
            reply.queries, reply.answers = message.queries, told[1]
            self.writeMessage(reply, address)


class _Asker(dns.DNSDatagramProtocol):
    noisy = False


class NameServerCase(TestCase):
    def setUp(self) -> None:
        self.site = _Site()
        site_port = reactor.listenUDP(0, self.site, interface="127.0.0.1")
        self.addCleanup(site_port.stopListening)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.server = NameServer(reactor, "cluster.local", "127.0.0.1", port=self.port, upstream="/dev/null")
        upstream = self.server._factory.resolver.resolvers[1]
        upstream.dynServers = [("127.0.0.1", site_port.getHost().port)]
        self.addCleanup(self.forget_timers)
        self.server.startService()
        self.addCleanup(self.server.stopService)
        self.asker = _Asker(None)
        port = reactor.listenUDP(0, self.asker, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        outside = service("outside", type="ExternalName", clusterIP=None, externalName="api.example.com")
        slices = tuple(endpoints(*({"addresses": [f"10.192.3.{n}"]} for n in range(1, MANY + 1))) for _ in range(1))
        many = {**slices[0], "metadata": {**slices[0]["metadata"], "labels": {"kubernetes.io/service-name": "many"}}}
        self.names = names(service(), outside, service("many", clusterIP="None"), slices=(many,))

    def forget_timers(self) -> None:
        """Those of twisted.names: of reading resolv.conf again, and of questions that were given up."""
        for call in reactor.getDelayedCalls():
            if call.func.__name__ in ("maybeParseConfig", "_clearFailed"):
                call.cancel()

    async def ask(self, name: str, type: int = dns.A) -> dns.Message:
        query = dns.Query(name.encode(), type)
        answer: dns.Message = await self.asker.query(("127.0.0.1", self.port), [query], 8)
        return answer

    async def addresses(self, name: str, type: int = dns.A) -> list[str]:
        answer = await self.ask(name, type)
        self.assertEqual(answer.rCode, dns.OK)
        payloads: list[Any] = [each.payload for each in answer.answers if each.type == dns.A]
        return [each.dottedQuad() for each in payloads]


class NameServerTests(NameServerCase):
    async def test_the_search_list_of_a_pod_with_and_without_namespace(self) -> None:
        self.server.tell(self.names)
        below = "default.svc.cluster.local", "svc.cluster.local", "cluster.local"
        for name, found in (("web", 0), ("web.default", 1), ("web.default.svc", 2)):
            for domain in below[:found]:
                answer = await self.ask(f"{name}.{domain}")
                self.assertEqual((answer.rCode, answer.answers, answer.auth), (dns.ENAME, [], 1))
                (soa,) = answer.authority
                payload: Any = soa.payload
                self.assertEqual((soa.type, payload.minimum), (dns.SOA, TTL))
            self.assertEqual(await self.addresses(f"{name}.{below[found]}"), ["10.96.0.5"])
        self.assertEqual(self.site.asked, [], "nobody outside is asked for names of the cluster")

    async def test_a_name_without_an_ipv6_address_is_there_all_the_same(self) -> None:
        self.server.tell(self.names)
        for type in (dns.AAAA, 65):  # 65: HTTPS, which browsers ask for
            answer = await self.ask("web.default.svc.cluster.local", type)
            self.assertEqual((answer.rCode, answer.answers, len(answer.authority)), (dns.OK, [], 1))
        self.assertEqual(self.site.asked, [])

    async def test_before_the_services_are_known_nothing_is_said_not_to_exist(self) -> None:
        self.assertEqual((await self.ask("web.default.svc.cluster.local")).rCode, dns.ESERVER)
        self.server.tell(self.names)
        self.assertEqual(await self.addresses("web.default.svc.cluster.local"), ["10.96.0.5"])

    async def test_what_does_not_fit_a_datagram_comes_over_tcp(self) -> None:
        self.server.tell(self.names)
        name = "many.default.svc.cluster.local"
        plain = await self.ask(name)
        self.assertTrue(plain.trunc)
        self.assertTrue(10 < len(plain.answers) < MANY)
        extended = dns._EDNSMessage(7, queries=[dns.Query(name.encode())], ednsVersion=0, maxSize=4096)
        received: Deferred[dns.Message] = Deferred()
        self.asker.controller = _Controller(received.callback)
        self.asker.transport.write(extended.toStr(), ("127.0.0.1", self.port))
        more = await received
        self.assertTrue(more.trunc and len(plain.answers) < len(more.answers) < MANY)
        self.assertEqual([(each.type, each.cls) for each in more.additional], [(41, UDP_SIZE)])
        stream: Any = dns.DNSProtocol(_Controller(self.fail))
        await connectProtocol(HostnameEndpoint(reactor, "127.0.0.1", self.port), stream)
        whole = await stream.query([dns.Query(name.encode())], 8)
        stream.transport.loseConnection()
        await stream.controller.lost
        self.assertEqual((whole.trunc, len(whole.answers)), (0, MANY))

    async def test_an_alias_to_outside_comes_with_its_addresses(self) -> None:
        self.server.tell(self.names)
        record = dns.RRHeader(b"api.example.com", dns.A, ttl=60, payload=dns.Record_A("192.0.2.7"))
        self.site.answer = lambda name, type: (dns.OK, [record] if type == dns.A else [])
        name = "outside.default.svc.cluster.local"
        self.assertEqual(await self.addresses(name), ["192.0.2.7"])
        self.assertEqual([each.type for each in (await self.ask(name)).answers], [dns.CNAME, dns.A])
        self.site.answer = lambda name, type: (dns.ENAME, [])
        self.assertEqual([each.type for each in (await self.ask(name)).answers], [dns.CNAME])
        self.site.answer = lambda name, type: (dns.ESERVER, [])
        self.assertEqual((await self.ask(name)).rCode, dns.ESERVER)

    async def test_what_the_site_cannot_tell_is_not_said_not_to_exist(self) -> None:
        for told, code in ((dns.ENAME, dns.ENAME), (dns.ESERVER, dns.ESERVER), (dns.EREFUSED, dns.ESERVER)):
            self.site.answer = lambda name, type, told=told: (told, [])  # type: ignore[misc]
            self.assertEqual((await self.ask("example.com")).rCode, code)

    async def test_whose_the_server_is_is_asked_of_nobody_else(self) -> None:
        self.server.tell(self.names)
        answer = await self.ask("10.20.254.169.in-addr.arpa", dns.PTR)
        self.assertEqual((answer.rCode, self.site.asked), (dns.ENAME, []))

    async def test_while_the_site_is_away_the_cluster_answers_and_others_fail_soon(self) -> None:
        self.server.tell(self.names)
        self.site.answer = lambda name, type: None
        began = reactor.seconds()
        asked = [Deferred.fromCoroutine(self.ask(name)) for name in ("kubernetes.default", "example.com")]
        self.assertEqual([answer.rCode for answer in await gatherResults(asked)], [dns.ESERVER] * 2)
        self.assertLess(reactor.seconds() - began, 5)
        began = reactor.seconds()
        self.assertEqual((await self.ask("example.org")).rCode, dns.ESERVER)
        self.assertLess(reactor.seconds() - began, 2 * HASTE)
        self.assertEqual(await self.addresses("web.default.svc.cluster.local"), ["10.96.0.5"])

    async def test_answers_and_empty_questions_get_no_answer(self) -> None:
        self.server.tell(self.names)
        answer, empty = dns.Message(5, answer=1), dns.Message(6)
        answer.queries = [dns.Query(b"web.default.svc.cluster.local")]
        seen: list[dns.Message] = []
        self.asker.controller = _Controller(seen.append)
        for each in (answer, empty):
            self.asker.transport.write(each.toStr(), ("127.0.0.1", self.port))
        await self.ask("web.default.svc.cluster.local")
        await deferLater(reactor, 0.05)
        self.assertEqual(seen, [])


class _Controller:
    def __init__(self, received: Callable[[dns.Message], object]) -> None:
        self.received = received
        self.lost: Deferred[None] = Deferred()

    def connectionMade(self, protocol: object) -> None:
        pass

    def connectionLost(self, protocol: object) -> None:
        self.lost.callback(None)

    def messageReceived(self, message: dns.Message, protocol: object, address: object = None) -> None:
        self.received(message)


class UpstreamTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.upstream = Upstream(self.clock, None, [("192.0.2.1", 53)])
        self.questions: list[Deferred[Any]] = []
        self.patch(self.upstream, "_lookup", self.lookup)

    def lookup(self, *question: object) -> Deferred[Any]:
        self.questions.append(Deferred())
        return self.questions[-1]

    def took(self) -> float:
        """Seconds until a question that nobody answers has failed."""
        began, asked = self.clock.seconds(), self.upstream.query(dns.Query(b"example.com"))
        failed: list[Any] = []
        asked.addErrback(failed.append)
        while not failed:
            self.clock.advance(0.25)
        self.assertTrue(failed[0].check(TimeoutError))
        return self.clock.seconds() - began

    def test_patience_ends_when_nothing_answers_and_returns_with_an_answer(self) -> None:
        self.assertEqual([self.took() for _ in range(2)], [PATIENCE] * 2)
        self.clock.advance(RETRY)
        self.assertEqual([self.took() for _ in range(3)], [PATIENCE, HASTE, HASTE])
        self.clock.advance(RETRY)
        asked = self.upstream.query(dns.Query(b"example.com"))
        self.clock.advance(PATIENCE - 1)
        self.questions[-1].errback(error.DNSNameError())
        self.failureResultOf(asked, error.DNSNameError)
        self.assertEqual(self.took(), PATIENCE)

    def test_questions_at_a_time_are_bounded(self) -> None:
        asked = [self.upstream.query(dns.Query(b"example.com")) for _ in range(MAX_WAITING + 1)]
        self.failureResultOf(asked.pop(), error.DNSServerError)
        self.questions[0].callback(([], [], []))
        self.successResultOf(asked[0])
        self.assertNoResult(self.upstream.query(dns.Query(b"example.com")))


class FitTests(SynchronousTestCase):
    def test_what_fits_is_left_as_it_is(self) -> None:
        message = dns.Message(answer=1)
        message.answers = [dns.RRHeader(b"a.example", dns.A, payload=dns.Record_A("192.0.2.1"))]
        fit(message, 512)
        self.assertEqual((len(message.answers), message.trunc), (1, 0))

    def test_a_record_that_alone_is_too_long(self) -> None:
        message = dns.Message(answer=1)
        message.answers = [dns.RRHeader(b"a.example", dns.TXT, payload=dns.Record_TXT(b"x" * 250, b"x" * 250))]
        fit(message, 512)
        self.assertEqual((len(message.answers), message.trunc), (0, 1))
