# mypy: disallow-untyped-calls=False
"""How an edge node reaches a router: TCP, then TLS 1.3 with ALPN ``kubebus/1``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint, ITransport

from kubebus.fastpath import wrap_client_tls
from kubebus.identity import InvalidIdentity, PeerIdentity, identity_of
from kubebus.joinstring import HostPort
from kubebus.linker import Dial


def tls_dialler(reactor: Any, creator: Callable[[], IOpenSSLClientConnectionCreator]) -> Dial:
    """Dials ``host:port`` strings.

    :param creator: gives the TLS client for each new connection, as credentials may have been renewed:
        ``lambda: keyring.client_connection_creator(LINK)``.
    """

    def dial(address: str) -> IStreamClientEndpoint:
        target = HostPort.parse(address)
        return wrap_client_tls(reactor, creator(), HostnameEndpoint(reactor, target.host, target.port))

    return dial


def router_identity(transport: ITransport) -> PeerIdentity:
    """Who is at the other end of a TLS transport, which has judged the certificate in its handshake.

    :raises InvalidIdentity: if it showed none.
    """
    certificate = cast(Any, transport).getPeerCertificate()
    if certificate is None:
        raise InvalidIdentity("the router showed no certificate")
    return identity_of(certificate.to_cryptography())
