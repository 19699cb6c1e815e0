# mypy: disallow-untyped-calls=False
"""TLS as this system speaks it: 1.3 only, members of one network only. Contexts are made once, not per connection.

A client believes a TLS 1.3 handshake finished before the server has judged its certificate. So a link counts as up
only after the first application message of the server, and a refusal reaches the client as an alert after that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, cast, runtime_checkable

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from kubebus.ca import Issued, expires_at
from kubebus.fastpath.ciphers import cipher_suites
from kubebus.fastpath.records import prepare
from kubebus.identity import InvalidIdentity, Role, identity_of

LINK = b"kubebus/1"
JOIN = b"kubebus-join/1"
RENEW = b"kubebus-renew/1"
SITE = b"kubebus-site/1"
"""Between nodes of one site. The roster names their keys, so it decides, and not the end of a certificate: a site
without a cloud goes on for longer than certificates last."""

_MAY_HAVE_EXPIRED = (RENEW, SITE)

# X.509 verification errors, from OpenSSL's x509_vfy.h.
_EXPIRED = 10
_PROBLEMS = {
    2: "was not issued by a certificate authority of this network",
    7: "has a wrong signature",
    9: "is not valid yet",
    _EXPIRED: "has expired",
    18: "was not issued by a certificate authority of this network",
    19: "was not issued by a certificate authority of this network",
    20: "was not issued by a certificate authority of this network",
    21: "was not issued by a certificate authority of this network",
    79: "was issued by what is no certificate authority",
}

# Alerts, from RFC 8446, 6.2.
_ALERTS = {
    40: "the router accepts none of our TLS parameters",
    42: "the router finds our certificate damaged",
    44: "our certificate was revoked",
    45: "our certificate has expired",
    46: "the router does not accept our certificate",
    48: "our certificate was not issued by a certificate authority that the router knows",
    116: "the router demands a certificate",
    120: "the router does not speak our protocol",
}
ALERT_EXPIRED = 45


class UntrustedPeer(Exception):
    """The other end of a connection is not who it has to be. The message says why."""


@runtime_checkable
class HandshakeObserver(Protocol):
    """The protocol over a server-side TLS connection may be told what is wrong with the peer, to log it."""

    def handshake_problem(self, problem: str) -> None: ...


def _context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(cipher_suites())
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET)
    # A resumed session would skip the judgement of the certificate.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # An idle link keeps no buffers: there are many of them.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    return context


def _trust(context: SSL.Context, bundle: Sequence[x509.Certificate]) -> None:
    store = context.get_cert_store()
    assert store is not None
    for certificate in bundle:
        store.add_cert(X509.from_cryptography(certificate))


def _present(
    context: Any,
    key: ec.EllipticCurvePrivateKey,
    certificate: x509.Certificate,
    chain: Sequence[x509.Certificate],
) -> None:
    context.use_certificate(certificate)
    context.use_privatekey(key)
    for issuer in chain:
        context.add_extra_chain_cert(issuer)


def _describe(certificate: x509.Certificate, error: int) -> str:
    try:
        who = f"a certificate for {identity_of(certificate)}"
    except InvalidIdentity:
        who = "its certificate"
    return f"{who} {_PROBLEMS.get(error, f'is not acceptable (X.509 error {error})')}"


# The router's side


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """Makes the server side of connections: a client certificate is judged if it is shown, and asked for.

    Whether one is needed depends on the protocol chosen by ALPN: the listener decides. An expired certificate is
    let through for renewal, and between the nodes of a site.
    """

    def __init__(self, issued: Issued, bundle: Sequence[x509.Certificate], protocols: Sequence[bytes]) -> None:
        self._protocols = frozenset(protocols)
        self.replace(issued, bundle)

    def replace(self, issued: Issued, bundle: Sequence[x509.Certificate]) -> None:
        """Use another certificate, and trust other authorities, in connections to come."""
        context = _context()
        _present(context, issued.key, issued.certificate, issued.chain)
        _trust(context, bundle)
        context.set_verify(SSL.VERIFY_PEER, _judge_client)
        context.set_alpn_select_callback(cast(Any, self._select))
        prepare(context)
        self.context = context

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self.context, None)

    def _select(self, connection: SSL.Connection, offered: list[bytes]) -> bytes | object:
        for protocol in offered:
            if protocol in self._protocols:
                return protocol
        _tell(connection, f"it speaks none of our protocols but {offered[:8]!r}")
        return SSL.NO_OVERLAPPING_PROTOCOLS


def _judge_client(connection: SSL.Connection, certificate: X509, error: int, depth: int, ok: int) -> bool:
    if ok:
        return True
    if error == _EXPIRED and depth == 0 and connection.get_alpn_proto_negotiated() in _MAY_HAVE_EXPIRED:
        return True
    _tell(connection, _describe(certificate.to_cryptography(), error))
    return False


def _tell(connection: SSL.Connection, problem: str) -> None:
    # The TLS transport is the application data of every connection.
    observer = connection.get_app_data().wrappedProtocol
    if isinstance(observer, HandshakeObserver):
        observer.handshake_problem(problem)


# The edge's side


@dataclass(frozen=True)
class ClientIdentity:
    """What a member shows, and whom it trusts."""

    network: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    bundle: tuple[x509.Certificate, ...]
    chain: tuple[x509.Certificate, ...] = ()


@implementer(IOpenSSLClientConnectionCreator)
class ClientTLS:
    """Makes the client side of connections to a router of our network, by mutual certificates.

    A router that is not one of ours fails the connection with :class:`UntrustedPeer`.

    :param now: the time by which the router's certificate is judged, besides the system's clock.
    :param alerted: called with the number of a TLS alert (RFC 8446, 6.2) that the router sent, but for closing ones.
    :param outdated: called when the router's certificate comes from an authority that succeeds one of ours.
    :param problem: judges instead of :func:`router_problem`, whom we dial otherwise; it may accept what has expired.
    """

    def __init__(
        self,
        identity: ClientIdentity,
        alpn: bytes,
        now: Callable[[], float],
        alerted: Callable[[int], None] = lambda alert: None,
        outdated: Callable[[], None] = lambda: None,
        problem: Callable[[x509.Certificate], str | None] | None = None,
    ) -> None:
        self._problem = problem
        self._network = identity.network
        self._issuers = {_key_identifier(certificate) for certificate in identity.bundle}
        self._outdated = outdated
        self._now = now
        self._alerted = alerted
        context = _context()
        _present(context, identity.key, identity.certificate, identity.chain)
        _trust(context, identity.bundle)
        context.set_verify(SSL.VERIFY_PEER, self._judge)
        context.set_info_callback(self._info)
        context.set_alpn_protos([alpn])
        self.context = context

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self.context, None)

    def _judge(self, connection: SSL.Connection, certificate: X509, error: int, depth: int, ok: int) -> bool:
        presented = certificate.to_cryptography()
        if ok or (self._problem is not None and error == _EXPIRED and depth == 0):
            if depth > 0:
                return True
            problem = self._judge_peer(presented)
        else:
            problem = _describe(presented, error)
            if error == _EXPIRED:
                problem = f"{problem}; {_clock_hint(self._now())}"
        if problem is None:
            if _issuer_identifier(presented) not in self._issuers:
                self._outdated()
            return True
        fail = getattr(connection.get_app_data(), "failVerification", None)
        if fail is not None:
            wanted = "no router of ours" if self._problem is None else "not whom we dialled"
            fail(Failure(UntrustedPeer(f"this is {wanted}: {problem}")))
        return False

    def _judge_peer(self, presented: x509.Certificate) -> str | None:
        if self._problem is not None:
            return self._problem(presented)
        return router_problem(presented, self._network, self._now())

    def _info(self, connection: SSL.Connection, where: int, value: int) -> None:
        if where & SSL.SSL_CB_ALERT and where & SSL.SSL_CB_READ and value & 0xFF not in (0, 90):
            self._alerted(value & 0xFF)


def _key_identifier(certificate: x509.Certificate) -> bytes:
    return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest


def _issuer_identifier(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return None


def router_problem(certificate: x509.Certificate, network: str, now: float) -> str | None:
    """Why the holder of a certificate that leads to an authority of ours is no router of ``network``, if it is none."""
    try:
        identity = identity_of(certificate)
    except InvalidIdentity as error:
        return str(error)
    if identity.role is not Role.ROUTER:
        return f"it is {identity}"
    if identity.network != network:
        return f"it is {identity}, not of network {network!r}"
    if now >= expires_at(certificate):
        return f"the certificate of {identity} has expired; {_clock_hint(now)}"
    return None


def _clock_hint(now: float) -> str:
    return f"the time here is {datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M} UTC"


@implementer(IOpenSSLClientConnectionCreator)
class StrangerTLS:
    """Makes the client side of the first connection, of a node that has no certificate and trusts nobody yet.

    Whoever uses it must judge the router with :func:`kubebus.ca.verify_chain` before it says anything.
    """

    def __init__(self, alpn: bytes = JOIN) -> None:
        context = _context()
        context.set_verify(SSL.VERIFY_NONE)
        context.set_alpn_protos([alpn])
        self.context = context

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self.context, None)


def explain(reason: Failure) -> str:
    """Why a connection was lost, in words: TLS alerts and errors are put into a sentence."""
    error = reason.value
    if isinstance(error, SSL.Error) and not isinstance(error, SSL.SysCallError):
        return _explain_ssl(error)
    text = str(error)
    return text or type(error).__name__


def _explain_ssl(error: SSL.Error) -> str:
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    reasons = [entry[-1] for entry in queue]
    for text in reasons:
        for number, words in _ALERT_TEXTS.items():
            if words in text:
                return _ALERTS[number]
    if not queue:
        return "the TLS connection was cut"
    return "TLS: " + ", ".join(reasons)


# OpenSSL's texts for alerts that were received (ssl_stat.c: "tlsv1 alert ..." or "ssl/tls alert ...").
_ALERT_TEXTS = {
    40: "alert handshake failure",
    42: "alert bad certificate",
    44: "alert certificate revoked",
    45: "alert certificate expired",
    46: "alert certificate unknown",
    48: "alert unknown ca",
    116: "alert certificate required",
    120: "alert no application protocol",
}
