# mypy: disallow-untyped-calls=False, disallow-untyped-defs=False, disallow-subclassing-any=False
"""The node's name server: the cluster's names from the local store, all others from the host's own servers."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from random import sample
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, gatherResults, maybeDeferred, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.names import common, dns, error
from twisted.names.server import DNSServerFactory
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure

from appengine.services.names import ClusterNames, Found, is_below
from appengine.services.upstream import Upstream

TTL = 5
"""Seconds, as CoreDNS's kubernetes plugin has it: an endpoint may be gone at any time."""

PORT = 53
_MAX_TCP = 64
_TCP_SECONDS = 10.0

UDP_SIZE = 1232
"""Bytes of a datagram that pass everywhere unfragmented (DNS Flag Day 2020), the tunnel's smaller MTU included."""

_PLAIN_UDP, _TCP_SIZE = 512, 65535
_OPT = 41
"""RFC 6891; ``twisted.names`` keeps its own record of it to itself."""

_MAX_ALIASES = 8


class ClusterResolver(common.ResolverBase):
    """Answers from :attr:`names`, and fails for names that are not ours: another resolver is asked then.

    :param others: asked for names that are not ours but to which ours lead.
    :ivar names: ``None`` as long as they are not known; they fail then, which is not to say that there are none.
    """

    def __init__(self, names: ClusterNames | None, domain: str, others: Any = None) -> None:
        super().__init__()
        self.names = names
        self.domain = domain
        self._others = others

    def query(self, query: Any, timeout: object = None) -> Deferred[Any]:
        """Of any type: also of those that ``twisted.names`` has no word for."""
        return maybeDeferred(self._lookup, query.name.name, query.cls, query.type, timeout)

    def _lookup(self, name: bytes, cls: int, type: int, timeout: object) -> Deferred[Any]:
        text = name.decode("ascii", "replace")
        names = self.names
        if names is None:
            # A DomainError would have the next resolver asked.
            ours = is_below(text, self.domain)
            return fail(error.ResolverError("not yet known") if ours else error.DomainError(name))
        if not names.covers(text):
            return fail(error.DomainError(name))
        found = names.find(text)
        if found is None:
            return fail(error.AuthoritativeDomainError(name))
        answers: list[dns.RRHeader] = []
        if type != dns.CNAME:
            text, found, answers = self._follow(names, text, found)
        if found is not None:
            answers += _records(text, found, type)
        elif type in (dns.A, dns.AAAA) and self._others is not None and not names.covers(text):
            return self._led_outside(text, type, answers)
        locations = found.locations if found is not None and type == dns.SRV else ()
        more = [record for each in locations for record in _addresses_of(names, each.target)]
        return succeed((answers, [] if answers else [authority(self.domain)], more))

    def _led_outside(self, name: str, type: int, aliases: list[dns.RRHeader]) -> Deferred[Any]:
        """The aliases with what they come to: a stub resolver does not go on by itself."""

        def nothing(failure: Failure) -> Any:
            if no_such_name(failure):
                return [], [], []
            return failure

        asked: Deferred[Any] = self._others.query(dns.Query(name.encode("ascii", "replace"), type))
        asked.addErrback(nothing)
        return asked.addCallback(lambda found: ([*aliases, *found[0]], [], []))

    def _follow(self, names: ClusterNames, name: str, found: Found) -> tuple[str, Found | None, list[dns.RRHeader]]:
        """Where aliases lead within our names, and the aliases; ``None`` where somebody else has to be asked."""
        aliases: list[dns.RRHeader] = []
        at: Found | None = found
        while at is not None and at.alias:
            if len(aliases) == _MAX_ALIASES:
                return name, None, aliases
            aliases += _records(name, at, dns.CNAME)
            name, at = at.alias, names.find(at.alias)
        return name, at, aliases


def authority(domain: str) -> dns.RRHeader:
    """Says how long the absence of a record or a name may be believed (RFC 2308)."""
    soa = dns.Record_SOA(f"ns.dns.{domain}", f"hostmaster.{domain}", 1, 7200, 1800, 86400, TTL, TTL)
    return dns.RRHeader(domain.encode(), dns.SOA, ttl=TTL, payload=soa, auth=True)


def no_such_name(failure: Failure) -> bool:
    """Whether that is what a server has told, and not that it could not tell."""
    return failure.check(error.DNSNameError, error.AuthoritativeDomainError) is not None


def _addresses_of(names: ClusterNames, name: str) -> Iterable[dns.RRHeader]:
    found = names.find(name)
    for type in (dns.A, dns.AAAA):
        yield from () if found is None else _records(name, found, type)


def _records(name: str, found: Found, type: int) -> Iterable[dns.RRHeader]:
    payloads: list[Any] = []
    if type == dns.CNAME and found.alias:
        payloads = [dns.Record_CNAME(found.alias, TTL)]
    elif type in (dns.A, dns.AAAA):
        kind, record = (IPv4Address, dns.Record_A) if type == dns.A else (IPv6Address, dns.Record_AAAA)
        addresses = [str(each) for each in found.addresses if isinstance(each, kind)]
        # Clients take the first: in another order each time, headless Services are balanced as well.
        payloads = [record(each, TTL) for each in sample(addresses, len(addresses))]
    elif type == dns.SRV:
        payloads = [dns.Record_SRV(0, 1, each.port, each.target, TTL) for each in found.locations]
    elif type == dns.PTR:
        payloads = [dns.Record_PTR(each, TTL) for each in found.pointers]
    elif type == dns.TXT:
        payloads = [dns.Record_TXT(each.encode(), ttl=TTL) for each in found.texts]
    for payload in payloads:
        yield dns.RRHeader(name.encode("ascii", "replace"), payload.TYPE, ttl=TTL, payload=payload, auth=True)


class _Factory(DNSServerFactory):
    """The server proper: what twisted.names does, without a line of log per query, and bounded for each asker.

    :param domain: the cluster's.
    """

    noisy = False

    def __init__(self, reactor: Any, cluster: ClusterResolver, upstream: Any) -> None:
        super().__init__(authorities=[cluster], clients=[upstream])
        self._reactor, self._domain = reactor, cluster.domain
        self.protocol = _Stream

    def buildProtocol(self, addr: object) -> Any:
        if len(self.connections) >= _MAX_TCP:
            return None
        protocol = super().buildProtocol(addr)
        protocol.callLater = self._reactor.callLater
        return protocol

    def messageReceived(self, message: Any, proto: Any, address: Any = None) -> None:
        """Answers are not questions: two servers would never stop answering each other."""
        if not message.answer and message.queries:
            super().messageReceived(message, proto, address)

    def gotResolverError(self, failure: Failure, protocol: Any, message: Any, address: Any) -> None:
        """Only a name that somebody knows not to be there does not exist; all else may work later."""
        ours = failure.check(error.AuthoritativeDomainError) is not None
        code = dns.ENAME if no_such_name(failure) else dns.ESERVER
        told = next(iter(getattr(failure.value, "args", ())), None)
        section = [authority(self._domain)] if ours else getattr(told, "authority", [])
        response = self._responseFromMessage(message, code, authority=section)
        response.auth = ours
        self.sendReply(protocol, response, address)

    def sendReply(self, protocol: Any, message: Any, address: Any) -> None:
        fit(message, message.maxSize if address is not None else _TCP_SIZE)
        super().sendReply(protocol, message, address)

    def _responseFromMessage(self, message: Any, *args: Any, **kwargs: Any) -> Any:
        """Says of UDP what the asker can take and what we take (RFC 6891), if it has said so."""
        response = super()._responseFromMessage(message, *args, **kwargs)
        response.maxSize = _PLAIN_UDP
        for record in message.additional:
            if record.type == _OPT:
                response.maxSize = min(max(record.cls, _PLAIN_UDP), UDP_SIZE)
                options = dns.RRHeader(b"", _OPT, cls=UDP_SIZE, payload=dns.UnknownRecord())
                response.additional = [*response.additional, options]
                break
        return response


def fit(message: Any, size: int) -> None:
    """Leave out whole records from the end until the message fits, and say so: who wants all asks again over TCP."""
    message.maxSize = 0  # which would cut within a record
    if len(message.toStr()) <= size:
        return
    message.authority, message.additional = [], [each for each in message.additional if each.type == _OPT]
    while message.answers and len(message.toStr()) > size:
        message.trunc = 1
        message.answers = message.answers[: min(len(message.answers) - 1, len(message.answers) * 7 // 8)]


class _Stream(dns.DNSProtocol, TimeoutMixin):
    """A connection, which ends when nothing is asked on it."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.setTimeout(_TCP_SECONDS)

    def stringReceived(self, data: bytes) -> None:
        self.resetTimeout()
        super().stringReceived(data)

    def connectionLost(self, reason: Any = connectionDone) -> None:
        self.setTimeout(None)
        super().connectionLost(reason)


class _NamesProtocol(dns.DNSDatagramProtocol):
    noisy = False


class NameServer(Service):
    """Serves :class:`ClusterNames` over UDP and TCP at one address of this host.

    :param domain: the cluster's. Below it, names fail until :meth:`tell` is called.
    :param address: the address; it must be there when the service starts.
    :param upstream: the host's own ``resolv.conf``.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, domain: str, address: str, *, port: int = PORT, upstream: str = "/etc/resolv.conf"
    ) -> None:
        self._reactor = reactor
        self._address, self._port = address, port
        others = Upstream(reactor, upstream)
        self._cluster = ClusterResolver(None, domain.lower().rstrip("."), others)
        self._factory = _Factory(reactor, self._cluster, others)
        self._ports: list[IListeningPort] = []

    def tell(self, names: ClusterNames) -> None:
        """Answer from these names from now on."""
        self._cluster.names = names

    def startService(self) -> None:
        """:raises twisted.internet.error.CannotListenError: if the port is taken."""
        super().startService()
        protocol = _NamesProtocol(self._factory)
        self._ports = [
            self._reactor.listenUDP(self._port, protocol, interface=self._address),
            self._reactor.listenTCP(self._port, self._factory, interface=self._address),
        ]

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        ports, self._ports = self._ports, []
        return gatherResults([maybeDeferred(port.stopListening) for port in ports])
