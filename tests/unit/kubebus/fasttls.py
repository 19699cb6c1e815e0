"""What the tests of the TLS transports share: certificates, protocols that record, and a connection between two."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from functools import cache
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, ITransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from kubebus.fastpath.records import prepare

ALPN = b"test/1"


class Authority:
    """A CA that signs what it is asked to."""

    def __init__(self, name: str) -> None:
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(self.name, self.key, None)

    def issue(self, host: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
        return key, self._sign(name, key, host)

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, host: str | None) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.datetime(1970, 1, 1))
            .not_valid_after(datetime.datetime(2100, 1, 1))
            .add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
        )
        if host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        return builder.sign(self.key, hashes.SHA256())


@cache
def authority() -> Authority:
    return Authority("ours")


@cache
def stranger() -> Authority:
    return Authority("another")


def server_options(client_ca: Authority | None = None) -> Any:
    """Options of a server which is named ``router.test`` and asks for a client certificate."""
    # The annotations of Twisted and the stubs of pyOpenSSL do not know yet that both take cryptography's objects.
    key, certificate = cast(Any, authority().issue("router.test"))
    return ssl.CertificateOptions(
        privateKey=key,
        certificate=certificate,
        trustRoot=ssl.trustRootFromCertificates([_twisted((client_ca or authority()).certificate)]),
        insecurelyLowerMinimumTo=ssl.TLSVersion.TLSv1_3,
        acceptableProtocols=[ALPN],
    )


def client_options(ca: Authority | None = None, *, anonymous: bool = False, host: str = "router.test") -> Any:
    """Options of a client which trusts ``ca`` and expects ``host``."""
    extra: dict[str, Any] = {"insecurelyLowerMinimumTo": ssl.TLSVersion.TLSv1_3}
    if not anonymous:
        key, certificate = authority().issue("edge.test")
        extra.update(privateKey=key, certificate=certificate)
    return ssl.optionsForClientTLS(
        host,
        trustRoot=_twisted((ca or authority()).certificate),
        acceptableProtocols=[ALPN],
        extraCertificateOptions=extra,
    )


def _twisted(certificate: x509.Certificate) -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding

    return ssl.Certificate.loadPEM(certificate.public_bytes(Encoding.PEM))


@implementer(IHandshakeListener)
class Recorder(Protocol):
    """A protocol that remembers what happened to it, and can be asked to wait for it."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.established: Deferred[None] = Deferred()
        self.lost: Deferred[BaseException] = Deferred()
        self.events: list[str] = []
        self._awaited: tuple[int, Deferred[None]] | None = None
        self.on_made: Callable[[], object] = lambda: None
        self.on_data: Callable[[bytes], object] = lambda data: None

    def connectionMade(self) -> None:
        self.events.append("made")
        self.on_made()

    def handshakeCompleted(self) -> None:
        self.events.append("established")
        self.established.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.on_data(data)
        if self._awaited is not None and len(self.received) >= self._awaited[0]:
            (_, awaited), self._awaited = self._awaited, None
            awaited.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.events.append("lost")
        assert reason.value is not None
        self.lost.callback(reason.value)
        if not self.established.called:
            self.established.errback(reason)

    def has(self, count: int) -> Deferred[None]:
        """Fires when ``count`` bytes are here."""
        awaited: Deferred[None] = Deferred()
        if len(self.received) >= count:
            awaited.callback(None)
        else:
            self._awaited = (count, awaited)
        return awaited

    @property
    def link(self) -> Any:
        """The transport, whatever it offers."""
        assert self.transport is not None
        transport: ITransport = self.transport
        return transport


class One(Factory):
    """Builds the one protocol it was given."""

    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: object) -> Protocol:
        return self._protocol


def memory_pair() -> tuple[SSL.Connection, SSL.Connection]:
    """A client's and a server's connection with memory BIOs, which know each other's certificates not at all."""
    key, certificate = cast(Any, authority().issue("router.test"))
    server_context, client_context = SSL.Context(SSL.TLS_METHOD), SSL.Context(SSL.TLS_METHOD)
    for context in (server_context, client_context):
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
    server_context.use_certificate(certificate)
    server_context.use_privatekey(key)
    prepare(server_context)
    client, server = SSL.Connection(client_context, None), SSL.Connection(server_context, None)
    client.set_connect_state()
    server.set_accept_state()
    return client, server
