# mypy: disallow-untyped-calls=False
"""How an edge node reaches a router: TCP, then TLS 1.3 with ALPN ``kubebus/1``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from cryptography import x509
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint, ITransport

from kubebus.ca import Issued
from kubebus.fastpath import CONGESTION, client_limits, wrap_client_tls
from kubebus.identity import InvalidIdentity, PeerIdentity, identity_of
from kubebus.joinstring import HostPort
from kubebus.linker import Dial
from kubebus.tlsconfig import LINK, ClientIdentity, ClientTLS


def tls_dialler(
    reactor: Any, creator: Callable[[], IOpenSSLClientConnectionCreator], congestion: str | None = CONGESTION
) -> Dial:
    """Dials ``host:port`` strings.

    :param creator: gives the TLS client for each new connection, as credentials may have been renewed:
        ``lambda: keyring.client_connection_creator(LINK)``.
    :param congestion: the congestion control of the connections; ``None`` for the kernel's default.
    """
    limits = client_limits(congestion)

    def dial(address: str) -> IStreamClientEndpoint:
        target = HostPort.parse(address)
        return wrap_client_tls(reactor, creator(), HostnameEndpoint(reactor, target.host, target.port), limits=limits)

    return dial


class Vouched(Protocol):
    """What a router vouches with now; :class:`kubebus.trust.RouterTrust` is one."""

    @property
    def identity(self) -> PeerIdentity: ...

    @property
    def issued(self) -> Issued: ...

    @property
    def bundle(self) -> Sequence[x509.Certificate]: ...


def router_creator(trust: Vouched, now: Callable[[], float]) -> Callable[[], IOpenSSLClientConnectionCreator]:
    """For :func:`tls_dialler` on a router that dials other routers with its own certificate, as it is renewed.

    :param now: UNIX seconds.
    """
    made: dict[str, Any] = {}

    def creator() -> IOpenSSLClientConnectionCreator:
        source = (trust.issued, tuple(trust.bundle))
        if made.get("source") != source:
            issued, bundle = source
            identity = ClientIdentity(trust.identity.network, issued.key, issued.certificate, bundle, issued.chain)
            made.update(source=source, client=ClientTLS(identity, LINK, now))
        return cast(IOpenSSLClientConnectionCreator, made["client"])

    return creator


def router_identity(transport: ITransport) -> PeerIdentity:
    """Who is at the other end of a TLS transport, which has judged the certificate in its handshake.

    :raises InvalidIdentity: if it showed none.
    """
    certificate = cast(Any, transport).getPeerCertificate()
    if certificate is None:
        raise InvalidIdentity("the router showed no certificate")
    return identity_of(certificate.to_cryptography())
