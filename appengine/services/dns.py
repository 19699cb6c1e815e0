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
from twisted.logger import Logger
from twisted.names import common, dns, error
from twisted.names.client import Resolver
from twisted.names.server import DNSServerFactory

from appengine.services.names import ClusterNames, Found

TTL = 5
"""Seconds, as CoreDNS's kubernetes plugin has it: an endpoint may be gone at any time."""

PORT = 53
_FORWARD_SECONDS = (2, 4)
_MAX_TCP = 64
_MAX_ALIASES = 8


class ClusterResolver(common.ResolverBase):
    """Answers from :attr:`names`, and fails for names that are not ours: another resolver is asked then."""

    def __init__(self, names: ClusterNames) -> None:
        super().__init__()
        self.names = names

    def _lookup(self, name: bytes, cls: int, type: int, timeout: object) -> Deferred[Any]:
        text = name.decode("ascii", "replace")
        if not self.names.covers(text):
            return fail(error.DomainError(name))
        found = self.names.find(text)
        if found is None:
            return fail(error.AuthoritativeDomainError(name))
        answers: list[dns.RRHeader] = []
        if type != dns.CNAME:
            text, found, answers = self._follow(text, found)
        if found is not None:
            answers += _records(text, found, type)
        locations = found.locations if found is not None and type == dns.SRV else ()
        more = [record for each in locations for record in self._addresses_of(each.target)]
        return succeed((answers, [] if answers else [self._authority()], more))

    def _follow(self, name: str, found: Found) -> tuple[str, Found | None, list[dns.RRHeader]]:
        """Where aliases lead within our names, and the aliases; ``None`` where the asker has to go on."""
        aliases: list[dns.RRHeader] = []
        at: Found | None = found
        while at is not None and at.alias:
            if len(aliases) == _MAX_ALIASES:
                return name, None, aliases
            aliases += _records(name, at, dns.CNAME)
            name, at = at.alias, self.names.find(at.alias)
        return name, at, aliases

    def _addresses_of(self, name: str) -> Iterable[dns.RRHeader]:
        found = self.names.find(name)
        for type in (dns.A, dns.AAAA):
            yield from () if found is None else _records(name, found, type)

    def _authority(self) -> dns.RRHeader:
        """Says how long the absence of a record may be believed (RFC 2308)."""
        domain = self.names.domain
        soa = dns.Record_SOA(f"ns.dns.{domain}", f"hostmaster.{domain}", 1, 7200, 1800, 86400, TTL, TTL)
        return dns.RRHeader(domain.encode(), dns.SOA, ttl=TTL, payload=soa, auth=True)


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
    """The server proper: what twisted.names does, without a line of log per query, and bounded over TCP."""

    noisy = False

    def buildProtocol(self, addr: object) -> Any:
        return super().buildProtocol(addr) if len(self.connections) < _MAX_TCP else None


class _NamesProtocol(dns.DNSDatagramProtocol):
    noisy = False


class NameServer(Service):
    """Serves :class:`ClusterNames` over UDP and TCP at one address of this host.

    :param address: the address; it must be there when the service starts.
    :param upstream: the host's own ``resolv.conf``.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, names: ClusterNames, address: str, *, port: int = PORT, upstream: str = "/etc/resolv.conf"
    ) -> None:
        self._reactor = reactor
        self._address, self._port = address, port
        self._cluster = ClusterResolver(names)
        forward = Resolver(resolv=upstream, reactor=reactor, timeout=_FORWARD_SECONDS)
        self._factory = _Factory(authorities=[self._cluster], clients=[forward])
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
