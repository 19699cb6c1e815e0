# mypy: disallow-untyped-calls=False
"""Enrolment and renewal, the router's side: grants certificates. The edge's side is :mod:`kubebus.join`.

One request and one answer per connection. Joining runs without a client certificate, against a router whose CA is
known by its hash only; renewing runs with the old certificate, or over a stream of the link.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from kubebus.ca import (
    NODE_LIFETIME,
    Authority,
    InvalidRequest,
    issue_node,
    key_hash,
    requested_key,
)
from kubebus.exchange import Exchange, peer_name
from kubebus.identity import InvalidIdentity, PeerIdentity, Role
from kubebus.interfaces import RegistryError
from kubebus.joinstring import HostPort
from kubebus.members import Members, never_live
from kubebus.tokens import Refusal, Refused
from kubebus.wire import MAX_ITEMS, BadMessage, Grant, JoinRequest, RenewRequest, encode_refusal


class Issuer:
    """Decides about requests and grants certificates. Made once per router and network.

    :param authority: the network's CA as of now.
    :param bundle: the authorities that members are to trust as of now.
    :param routers: where the network's routers listen.
    :param clock: UNIX seconds.
    :param is_live: whether a node of that name has a live link.
    """

    log = Logger()

    def __init__(
        self,
        members: Members,
        authority: Callable[[], Authority],
        bundle: Callable[[], Sequence[x509.Certificate]],
        clock: Callable[[], float],
        *,
        routers: Callable[[], Sequence[HostPort]] = tuple,
        is_live: Callable[[str], bool] = never_live,
        lifetime: float = NODE_LIFETIME,
    ) -> None:
        self.members = members
        self._authority = authority
        self._bundle = bundle
        self._clock = clock
        self._routers = routers
        self._is_live = is_live
        self._lifetime = lifetime

    async def join(self, request: JoinRequest, peer: str) -> Grant:
        """:raises Refused: if it may not join.

        :raises InvalidRequest: if its certificate request is not in order.
        """
        if request.network != self.members.network:
            raise Refused(
                Refusal.OTHER_NETWORK,
                f"this is a router of network {self.members.network!r}, not of {request.network!r}",
            )
        key = requested_key(request.request.encode())
        node = await self.members.enrol(request.token, request.secret, request.node, key_hash(key), self._is_live)
        self.log.info(
            "Enrolled node {node!r} from {peer} with token {token}: {addresses}, pods {subnets}",
            node=node.name,
            peer=peer,
            token=request.token,
            addresses=" ".join(map(str, node.addresses)),
            subnets=" ".join(map(str, node.pod_subnets)),
        )
        return await self._grant(node.name, key)

    async def renew(self, request: RenewRequest, identity: PeerIdentity, peer: str) -> Grant:
        """As :meth:`join`, for a node whose identity is verified, though its certificate may have expired."""
        if identity.role is not Role.NODE:
            raise Refused(Refusal.UNKNOWN_NODE, f"{identity} is no node: only nodes renew here")
        key = requested_key(request.request.encode())
        await self.members.check(identity, key_hash(key))
        grant = await self._grant(identity.name, key)
        self.log.info("Renewed the certificate of {identity} at {peer}", identity=str(identity), peer=peer)
        return grant

    async def _grant(self, node: str, key: Any) -> Grant:
        authority = self._authority()
        await self.members.issued(node, key_hash(key), authority.hash)
        now = self._clock()
        identity = PeerIdentity(self.members.network, Role.NODE, node)
        certificate = issue_node(authority, identity, key, now + self._lifetime)
        return Grant(certificate, tuple(self._bundle()), tuple(self._routers())[:MAX_ITEMS], now)


class GrantProtocol(Exchange):
    """The router's end: ``grant`` turns the one request into a grant."""

    def __init__(self, reactor: IReactorTime, peer: str, grant: Callable[[bytes], Awaitable[Grant]]) -> None:
        super().__init__(reactor)
        self._peer = peer
        self._grant = grant

    def stringReceived(self, string: bytes) -> None:
        if not self._done:
            self._done = True
            Deferred.fromCoroutine(self._answer(string)).addErrback(self._failed)

    def lengthLimitExceeded(self, length: int) -> None:
        if not self._done:
            self._done = True
            self._refuse(Refusal.BAD_REQUEST, f"a message of {length} bytes is too long")
            self._close()

    async def _answer(self, message: bytes) -> None:
        try:
            self.sendString((await self._grant(message)).encode())
        except Refused as error:
            self._refuse(error.refusal, str(error))
        except (BadMessage, InvalidRequest, InvalidIdentity) as error:
            self._refuse(Refusal.BAD_REQUEST, str(error))
        except RegistryError as error:
            self._refuse(Refusal.UNAVAILABLE, f"the router cannot decide now: {error}")
        self._close()

    def _refuse(self, refusal: Refusal, text: str) -> None:
        self.log.warn("Refused a certificate to {peer}: {text}", peer=self._peer, text=text)
        self.sendString(encode_refusal(refusal, text))

    def _failed(self, failure: Failure) -> None:
        self.log.failure("Granting a certificate to {peer} failed", failure, peer=self._peer)
        cast(Any, self.transport).abortConnection()

    def _close(self) -> None:
        cast(Any, self.transport).loseConnection()


def join_handler(reactor: IReactorTime, issuer: Issuer) -> Callable[[PeerIdentity | None, IAddress], GrantProtocol]:
    """The listener's handler for :data:`kubebus.tlsconfig.JOIN`."""

    def build(identity: PeerIdentity | None, address: IAddress) -> GrantProtocol:
        peer = peer_name(address)

        async def grant(message: bytes) -> Grant:
            return await issuer.join(JoinRequest.decode(message), peer)

        return GrantProtocol(reactor, peer, grant)

    return build


def renew_handler(reactor: IReactorTime, issuer: Issuer) -> Callable[[PeerIdentity | None, IAddress], GrantProtocol]:
    """The listener's handler for :data:`kubebus.tlsconfig.RENEW`."""

    def build(identity: PeerIdentity | None, address: IAddress) -> GrantProtocol:
        assert identity is not None, "the listener admits only members to renewal"
        member, peer = identity, peer_name(address)

        async def grant(message: bytes) -> Grant:
            return await issuer.renew(RenewRequest.decode(message), member, peer)

        return GrantProtocol(reactor, peer, grant)

    return build


def renew_farewell(refused: Refused) -> bytes:
    """What the listener tells a member whom it does not admit to renewal."""
    message = encode_refusal(refused.refusal, str(refused))
    return len(message).to_bytes(4, "big") + message


class RenewFactory(Factory):
    """The router's end of renewal over a stream of the link (see :class:`kubebus.interfaces.StreamAddress`)."""

    noisy = False

    def __init__(self, reactor: IReactorTime, issuer: Issuer) -> None:
        self._build = renew_handler(reactor, issuer)

    def buildProtocol(self, addr: IAddress | None) -> GrantProtocol | None:
        assert addr is not None
        peer: PeerIdentity = addr.peer  # type: ignore[attr-defined]
        return self._build(peer, addr)
