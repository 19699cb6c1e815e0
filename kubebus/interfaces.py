"""The seams of the network package: what it needs from outside, and what it offers to the rest.

The registry is implemented over the cloud store by :mod:`kubebus.tap`; a memory one for tests is in
:mod:`kubebus.testing`. Both pass the same contract suite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Protocol

from twisted.internet.interfaces import IAddress, IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from kubebus.identity import PeerIdentity

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


@implementer(IAddress)
@dataclass(frozen=True, slots=True)
class StreamAddress:
    """The other end of a stream: who (from its verified certificate), and the service it was opened for."""

    peer: PeerIdentity
    service: str


class StreamServices(Protocol):
    """One side of the link(s): named services, reached over multiplexed streams.

    A stream is an ordinary Twisted transport whose ``getPeer()`` is a :class:`StreamAddress`; a server factory gets
    the same in ``buildProtocol``. Opening a stream to a service that the other side does not have fails the connect.
    """

    def serve(self, service: str, factory: IProtocolFactory) -> None:
        """Let the other side open streams to ``service``, on links that are up now and on later ones."""


class NodeStreams(StreamServices, Protocol):
    """The router's side: it reaches each of its nodes."""

    def node_endpoint(self, node: str, service: str) -> IStreamClientEndpoint:
        """Connects over the live link of ``node``; fails with :class:`NodeAway` when there is none."""


class RouterStreams(StreamServices, Protocol):
    """The edge's side: it reaches its router."""

    def router_endpoint(self, service: str) -> IStreamClientEndpoint:
        """Connects over the link; fails with :class:`NodeAway` while it is down."""


class NodeAway(ConnectionError):
    """There is no live link to that node (or, at the edge, to any router)."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """An enrolled node, as the registry keeps it.

    ``addresses`` are its own in the node subnet and ``pod_subnets`` its container subnets: IPv4 first, then IPv6.
    ``public_key`` is the SHA-256 of its SubjectPublicKeyInfo, in hex. ``site`` is where it shares a LAN with others,
    and ``endpoints`` (``address:port``) are where those reach it there, as it says itself.
    """

    name: str
    addresses: tuple[IPAddress, ...]
    pod_subnets: tuple[IPNetwork, ...]
    public_key: str
    enrolled_at: float
    revoked_at: float | None = None
    site: str | None = None
    endpoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """A registry record. ``revision`` is what a later change must name; it grows with every change."""

    kind: str
    name: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Change:
    """Put (or, with ``value`` ``None``, remove) one record if it still stands at ``revision`` (0: does not exist)."""

    kind: str
    name: str
    value: bytes | None
    revision: int


class Subscription(Protocol):
    def cancel(self) -> None:
        """No call follows. Cancelling twice is harmless."""


class RegistryError(Exception):
    """The registry cannot be reached or read. Nothing is known of a change under way."""


class Registry(Protocol):
    """Everything a router must remember, but for the CA's key: records by kind and name, with compare-and-swap.

    Several routers share one registry. Kinds are ``nodes``, ``addresses``, ``tokens``, ``ca``, ``links``, ``routers``,
    ``rosters``.
    """

    async def get(self, kind: str, name: str) -> Record | None: ...

    async def list(self, kind: str) -> Sequence[Record]: ...

    async def commit(self, changes: Sequence[Change]) -> bool:
        """Make all changes as one, durably; or none, and ``False``, if any record has changed meanwhile."""

    def subscribe(self, kind: str, changed: Callable[[str, Record | None], None]) -> Subscription:
        """Call ``changed(name, record)`` for every record of the kind now, then at every change (``None``: removed)."""
