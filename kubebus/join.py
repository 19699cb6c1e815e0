# mypy: disallow-untyped-calls=False
"""Enrolment and renewal, the edge's side: asks for certificates. The router's side is :mod:`kubebus.enrol`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IAddress, IHandshakeListener, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from kubebus.ca import key_hash, signing_request, verify_chain
from kubebus.credentials import Credentials, Keyring
from kubebus.exchange import ANSWER_SECONDS, Exchange
from kubebus.identity import InvalidIdentity, PeerIdentity, Role, check_name, identity_of
from kubebus.joinstring import HostPort, JoinString
from kubebus.tlsconfig import RENEW, StrangerTLS, UntrustedPeer, explain, router_problem
from kubebus.tokens import Refusal, Refused
from kubebus.wire import BadMessage, Grant, JoinRequest, RenewRequest, decode_answer

CONNECT_SECONDS = 15.0

_log = Logger()

Connect = Callable[[HostPort], IStreamClientEndpoint]
"""Makes the endpoint for a router's address."""


class EnrolmentFailed(Exception):
    """No router of the join string enrolled us, but none refused either. The message has each one's reason."""


class RenewalFailed(Exception):
    """No router renewed our certificate, but none refused either. The message has each one's reason."""


class AskProtocol(Exchange):
    """The edge's end: sends ``request`` once it may, and fires :attr:`answer`.

    :ivar answer: the grant; or fails with :class:`Refused`, :class:`BadMessage`, :class:`UntrustedPeer` or
        ``ConnectionError``.
    """

    def __init__(self, reactor: IReactorTime, request: bytes) -> None:
        super().__init__(reactor)
        self._request = request
        self.answer: Deferred[Grant] = Deferred(lambda _: self._too_slow())

    def connectionMade(self) -> None:
        super().connectionMade()
        self._ask()

    def _ask(self) -> None:
        self.sendString(self._request)

    def stringReceived(self, string: bytes) -> None:
        if self._done:
            return
        self._done = True
        try:
            grant = decode_answer(string)
        except (Refused, BadMessage):
            self.answer.errback(Failure())
        else:
            self.answer.callback(grant)
        cast(Any, self.transport).loseConnection()

    def lengthLimitExceeded(self, length: int) -> None:
        self._fail(BadMessage(f"the router's answer of {length} bytes is too long"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if not self._done:
            self._done = True
            if isinstance(reason.value, UntrustedPeer):
                self.answer.errback(reason)
            else:
                self.answer.errback(ConnectionError(f"no answer from the router: {explain(reason)}"))

    def _too_slow(self) -> None:
        self._fail(ConnectionError(f"no answer from the router within {ANSWER_SECONDS:g} s"))

    def _fail(self, error: Exception) -> None:
        if not self._done:
            self._done = True
            self.answer.errback(error)
        cast(Any, self.transport).abortConnection()


@implementer(IHandshakeListener)
class JoinProtocol(AskProtocol):
    """Asks only a router whose certificate leads to the authority with the hash ``ca_hash``."""

    def __init__(
        self, reactor: IReactorTime, request: bytes, network: str, ca_hash: str, now: Callable[[], float]
    ) -> None:
        super().__init__(reactor, request)
        self._network = network
        self._ca_hash = ca_hash
        self._now = now

    def _ask(self) -> None:
        """Not yet: the router is a stranger until the handshake has ended."""

    def handshakeCompleted(self) -> None:
        connection = cast(TLSMemoryBIOProtocol, self.transport).getHandle()
        chain = [certificate.to_cryptography() for certificate in connection.get_peer_cert_chain() or ()]
        try:
            verify_chain(chain[0], chain[1:], self._ca_hash)
        except (InvalidIdentity, IndexError):
            self._fail(
                UntrustedPeer(
                    "the router's certificate does not come from the certificate authority that the join string names "
                    "(CA hash mismatch): the join string is for another network, or somebody is in between"
                )
            )
            return
        problem = router_problem(chain[0], self._network, self._now())
        if problem is not None:
            self._fail(UntrustedPeer(f"this is no router of ours: {problem}"))
            return
        super()._ask()


def tcp_endpoint(reactor: Any, router: HostPort) -> IStreamClientEndpoint:
    """How a router is reached: TCP, by name or address."""
    return HostnameEndpoint(reactor, router.host, router.port, timeout=CONNECT_SECONDS)


async def join(
    reactor: Any, keyring: Keyring, join_string: JoinString, node: str, connect: Connect | None = None
) -> Credentials:
    """Enrol this machine as ``node``, and keep its credentials in ``keyring``.

    The routers are tried in their order. If a crash or a cut loses the answer, calling this again gets it again.

    :raises Refused: if a router refuses; its message is the router's.
    :raises EnrolmentFailed: if none could be asked.
    :raises BadMessage: if a router grants what was not asked for.
    :raises InvalidIdentity: if ``node`` is not a node name.
    """
    check_name(node)
    if join_string.node not in (None, node):
        raise Refused(
            Refusal.OTHER_NAME, f"the join string is for node {join_string.node!r}, not for {node!r} (--node-name)"
        )
    identity = PeerIdentity(join_string.network, Role.NODE, node)
    try:
        return await _join(reactor, keyring, join_string, identity, keyring.joining_key(), connect)
    except Refused as refused:
        if refused.refusal is not Refusal.REVOKED:
            raise
        _log.warn("The key of {identity} was revoked: making a new one", identity=str(identity))
        return await _join(reactor, keyring, join_string, identity, keyring.joining_key(fresh=True), connect)


async def _join(
    reactor: Any,
    keyring: Keyring,
    join_string: JoinString,
    identity: PeerIdentity,
    key: ec.EllipticCurvePrivateKey,
    connect: Connect | None,
) -> Credentials:
    request = JoinRequest(
        identity.network,
        identity.name,
        join_string.token,
        join_string.secret,
        signing_request(key, identity).decode(),
    ).encode()

    async def ask(router: HostPort) -> Grant:
        endpoint = wrapClientTLS(StrangerTLS(), connect(router) if connect else tcp_endpoint(reactor, router))
        protocol = JoinProtocol(reactor, request, identity.network, join_string.ca_hash, keyring.now)
        return await _exchange(endpoint, protocol)

    grant, router, problems = await _first_answer(join_string.routers, ask)
    if grant is None:
        raise EnrolmentFailed(f"node {identity.name!r} could not be enrolled: {problems}")
    check_grant(grant, identity, key)
    credentials = Credentials(
        identity,
        key,
        grant.certificate,
        grant.bundle,
        grant.routers or join_string.routers,
        grant.time,
        join_string.token,
    )
    keyring.install(credentials)
    _log.info("Enrolled as {identity} by the router at {router}", identity=str(identity), router=str(router))
    return credentials


async def renew(reactor: Any, keyring: Keyring, connect: Connect | None = None) -> Credentials:
    """Get a new certificate for our key from the first router that answers, by its public port.

    :raises Refused: if a router refuses, for instance because the node was revoked.
    :raises RenewalFailed: if none could be asked.
    """
    creator = keyring.client_connection_creator(RENEW)

    async def ask(router: HostPort) -> Grant:
        endpoint = wrapClientTLS(creator, connect(router) if connect else tcp_endpoint(reactor, router))
        return await _ask_renewal(reactor, keyring, endpoint)

    grant, _, problems = await _first_answer(keyring.present.routers, ask)
    if grant is None:
        raise RenewalFailed(f"the certificate could not be renewed: {problems}")
    return _install_renewed(keyring, grant)


async def renew_over(reactor: IReactorTime, keyring: Keyring, endpoint: IStreamClientEndpoint) -> Credentials:
    """As :func:`renew`, over a stream of the link that is up (or anything that leads to a trusted router).

    :raises ConnectionError: if the link is down, or goes down.
    """
    return _install_renewed(keyring, await _ask_renewal(reactor, keyring, endpoint))


async def _ask_renewal(reactor: IReactorTime, keyring: Keyring, endpoint: IStreamClientEndpoint) -> Grant:
    mine = keyring.present
    request = RenewRequest(signing_request(mine.key, mine.identity).decode()).encode()
    protocol = AskProtocol(reactor, request)
    return await _exchange(endpoint, protocol)


def _install_renewed(keyring: Keyring, grant: Grant) -> Credentials:
    mine = keyring.present
    check_grant(grant, mine.identity, mine.key)
    renewed = mine.renewed(grant)
    keyring.install(renewed)
    return renewed


class _OneShot(Factory):
    noisy = False

    def __init__(self, protocol: AskProtocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> AskProtocol:
        return self._protocol


async def _exchange(endpoint: IStreamClientEndpoint, protocol: AskProtocol) -> Grant:
    await endpoint.connect(_OneShot(protocol))
    return await protocol.answer


async def _first_answer(
    routers: tuple[HostPort, ...], ask: Callable[[HostPort], Any]
) -> tuple[Grant | None, HostPort | None, str]:
    problems = []
    for router in routers:
        try:
            return await ask(router), router, ""
        except (OSError, ConnectError, ConnectionClosed, UntrustedPeer, BadMessage) as error:
            problems.append(f"{router}: {explain(Failure(error))}")
        except Refused as refused:
            if refused.refusal is not Refusal.UNAVAILABLE:
                raise
            problems.append(f"{router}: {refused}")
    return None, None, "; ".join(problems)


def check_grant(grant: Grant, identity: PeerIdentity, key: ec.EllipticCurvePrivateKey) -> None:
    """:raises BadMessage: if the certificate is not the one asked for."""
    try:
        granted = identity_of(grant.certificate)
    except InvalidIdentity as error:
        raise BadMessage(f"the router's certificate for us is no good: {error}") from error
    if granted != identity or key_hash(grant.certificate.public_key()) != key_hash(key.public_key()):
        raise BadMessage(f"the router made a certificate for {granted}, not for {identity} with our key")
