"""Where the API server finds the kubelet API of each edge node: one listener, TLS as each node.

A caller connects to the *node's* address, as to any kubelet, and is told apart by it. For that the packets must end
here: see :func:`redirect_rules`.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.application.service import Service
from twisted.internet import ssl
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IReactorTime, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory

from edgectl.errors import ConfigError
from edgectl.interfaces import EdgeNode, NodeDirectory
from edgectl.kubelet import KubeletDoor
from edgectl.kubelet_auth import Access

KUBELET_PORT = 10250
"""The kubelet's own port."""

LEAF_LIFE = timedelta(days=90)
_MAX_COMMON_NAME = 64
"""X.520's bound; the alternative names are what is compared."""

_SKEW = timedelta(hours=1)

_SO_ORIGINAL_DST = 80
"""From linux/netfilter_ipv4.h; ``IP6T_SO_ORIGINAL_DST`` has the same number."""

REDIRECT_TABLE = "kubebus-kubelet"

IPAddress = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class KubeletCredentials:
    """How the endpoints prove themselves, and whose client certificates count. All PEM.

    :ivar ca: the CA that signs their serving certificates: what ``--kubelet-certificate-authority`` of the API server
        names (a CA of its own is best: whoever holds this key can pass for any kubelet).
    :ivar client_ca: what signed the API server's ``--kubelet-client-certificate``. ``None``: no client certificates.
    """

    ca: bytes
    ca_key: bytes
    client_ca: bytes | None = None


def new_ca(now: float, name: str = "kubebus-kubelet-ca") -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A CA for serving certificates, good for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = datetime.fromtimestamp(now, UTC) - _SKEW
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(True, 0), critical=True)
        .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


class ServingContexts:
    """A TLS context per node, with a certificate for its addresses; made when first needed and before it expires.

    :raises ConfigError: if the credentials cannot be read.
    """

    def __init__(self, reactor: IReactorTime, credentials: KubeletCredentials) -> None:
        self._reactor = reactor
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._contexts: dict[str, tuple[float, tuple[IPAddress, ...], Any]] = {}
        try:
            self._ca = x509.load_pem_x509_certificate(credentials.ca)
            self._ca_key: CertificateIssuerPrivateKeyTypes = load_pem_private_key(credentials.ca_key, None)  # type: ignore[assignment]
            self._clients = _x509(credentials.client_ca) if credentials.client_ca is not None else None
        except (ValueError, TypeError) as error:
            raise ConfigError(f"a certificate or key of the kubelet API cannot be read: {error}") from None

    def of(self, node: EdgeNode) -> Any:
        now = self._reactor.seconds()
        known = self._contexts.get(node.name)
        if known is not None and now < known[0] and known[1] == node.addresses:
            return known[2]
        context = self._make(node, now)
        self._contexts[node.name] = (now + LEAF_LIFE.total_seconds() * 2 / 3, node.addresses, context)
        return context

    def forget(self, name: str) -> None:
        self._contexts.pop(name, None)

    def _make(self, node: EdgeNode, now: float) -> Any:
        leaf = self._leaf(node, now)
        options: dict[str, Any] = {"privateKey": self._key, "certificate": leaf, "acceptableProtocols": [b"http/1.1"]}
        if self._clients is not None:
            options |= {"verify": True, "caCerts": self._clients, "requireCertificate": False}
        return ssl.CertificateOptions(**options)

    def _leaf(self, node: EdgeNode, now: float) -> x509.Certificate:
        begin = datetime.fromtimestamp(now, UTC) - _SKEW
        names = [x509.DNSName(node.name), *(x509.IPAddress(address) for address in node.addresses)]
        subject = [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node.name}"[:_MAX_COMMON_NAME]),
        ]
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(self._ca.subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + LEAF_LIFE)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._ca_key, hashes.SHA256())
        )


class KubeletService(Service):
    """Serves the kubelet API of every node of the directory.

    :param endpoint: where to listen: reached, by redirection or directly, under each node's own address.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamServerEndpoint,
        directory: NodeDirectory,
        access: Access,
        credentials: KubeletCredentials,
    ) -> None:
        self._endpoint = endpoint
        self._directory = directory
        self._door = KubeletDoor(reactor, directory, access)
        self._contexts = ServingContexts(reactor, credentials)
        self._nodes: dict[str, EdgeNode] = {}
        self._names: dict[IPAddress, str] = {}
        self._listening: Deferred[None] | None = None
        self._port: IListeningPort | None = None

    @property
    def connections(self) -> int:
        return len(self._door.connections)

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._directory.subscribe(self._changed)
        self._listening = self._endpoint.listen(_Doormen(self)).addCallbacks(self._open, self._no_port)

    async def _close(self) -> None:
        if self._listening is not None:
            await self._listening
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        self._door.close()

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._close())

    def tls_for(self, address: IPAddress) -> TLSMemoryBIOFactory | None:
        """What answers at a node's address."""
        node = self._nodes.get(self._names.get(address, ""))
        if node is None or node.revoked:
            return None
        return TLSMemoryBIOFactory(self._contexts.of(node), False, self._door.factory(node.name))

    def _changed(self, name: str, node: EdgeNode | None) -> None:
        old = self._nodes.pop(name, None)
        for address in old.addresses if old is not None else ():
            self._names.pop(address, None)
        if node is None:
            self._contexts.forget(name)
            return
        self._nodes[name] = node
        self._names.update(dict.fromkeys(node.addresses, name))

    def _open(self, port: IListeningPort) -> None:
        self._port = port

    def _no_port(self, failure: Any) -> None:
        self._log.failure("the kubelet API of the edge nodes cannot be served: logs and exec will fail", failure)


class _Doormen(Factory):
    noisy = False

    def __init__(self, service: KubeletService) -> None:
        self.service = service

    def buildProtocol(self, addr: Any) -> _Doorman:
        return _Doorman(self.service, addr)


class _Doorman(Protocol):
    """Looks at where a connection was headed, and hands it to the TLS of that node."""

    def __init__(self, service: KubeletService, addr: Any) -> None:
        self._service = service
        self._addr = addr

    def connectionMade(self) -> None:
        transport: Any = self.transport
        address = original_destination(transport.getHandle())
        factory = self._service.tls_for(address) if address is not None else None
        protocol = factory.buildProtocol(self._addr) if factory is not None else None
        if protocol is None:
            transport.abortConnection()
            return
        transport.protocol = protocol
        protocol.makeConnection(transport)  # type: ignore[no-untyped-call]


def original_destination(connection: socket.socket) -> IPAddress | None:
    """The address a connection was made to, before a redirection; its local address where there was none."""
    try:
        if connection.family == socket.AF_INET6:
            raw = connection.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, 28)
            return _plain(IPv6Address(raw[8:24]))
        raw = connection.getsockopt(socket.IPPROTO_IP, _SO_ORIGINAL_DST, 16)
        return IPv4Address(struct.unpack_from("!I", raw, 4)[0])
    except OSError:
        pass
    try:
        return _plain(ip_address(connection.getsockname()[0].partition("%")[0]))
    except (OSError, ValueError):
        return None


def _plain(address: IPAddress) -> IPAddress:
    """An IPv4 address that came through a socket for both families."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def redirect_rules(subnets: list[IPv4Network | IPv6Network], port: int, kubelet_port: int = KUBELET_PORT) -> str:
    """nftables rules (for ``nft -f -``) that end connections to the nodes' kubelet ports at the local ``port``.

    They catch what other machines send through this one, and what this one sends itself.
    """
    lines = []
    for subnet in subnets:
        family = "ip" if subnet.version == 4 else "ip6"
        lines.append(f"    {family} daddr {subnet} tcp dport {kubelet_port} redirect to :{port}")
    rules = "\n".join(lines)
    return f"""table inet {REDIRECT_TABLE} {{}}
delete table inet {REDIRECT_TABLE}
table inet {REDIRECT_TABLE} {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
{rules}
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
{rules}
  }}
}}
"""


def _x509(pem: bytes) -> list[Any]:
    """Certificates as ``caCerts`` wants them: ``trustRoot`` would insist on a certificate of every caller."""
    load: Any = ssl.Certificate.loadPEM
    return [load(root.public_bytes(Encoding.PEM)).original for root in x509.load_pem_x509_certificates(pem)]
