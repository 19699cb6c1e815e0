# mypy: disallow-untyped-calls=False
"""Keeps one link up: connect, await the hello, await the end, wait, the next router, and so on for ever."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger

from kubebus.backoff import Backoff
from kubebus.link import Link
from kubebus.linkerrors import LinkError

Dial = Callable[[str], IStreamClientEndpoint]
"""The endpoint for a router's ``host:port``: TLS 1.3, with this node's certificate, ALPN ``kubebus/1``."""

_CONNECT_TIMEOUT = 20.0


class Attempt:
    """One link, from its making to its end.

    :ivar ended: fires once, with why.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.up_since: float | None = None
        self.ended: Deferred[LinkError] = Deferred()


class Linker:
    """Dials routers in turn.

    :param routers: the ``host:port`` of every router known now.
    :param make_link: makes the protocol; whoever owns it sets ``up_since`` and fires ``ended`` of the attempt.
    :param failed: told of every attempt that did not become a connection.
    :param connect_timeout: seconds for TCP and the handshake's beginning.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        routers: Callable[[], Sequence[str]],
        dial: Dial,
        make_link: Callable[[Attempt], Link],
        failed: Callable[[str], None],
        backoff: Backoff,
        connect_timeout: float = _CONNECT_TIMEOUT,
    ) -> None:
        self._clock, self._routers, self._dial = clock, routers, dial
        self._make_link, self._failed, self._backoff = make_link, failed, backoff
        self._connect_timeout = connect_timeout
        self._turn = 0
        self._stopped = False
        self._running: Deferred[None] | None = None

    def start(self) -> None:
        self._stopped = False
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(lambda failure: failure.trap(CancelledError) and None)
        self._running.addErrback(lambda failure: self.log.failure("The redial loop ended", failure))

    def stop(self) -> None:
        """Dial no more. A link that is up stays up: close it too."""
        self._stopped = True
        running, self._running = self._running, None
        if running is not None:
            running.cancel()

    async def _run(self) -> None:
        # An endpoint may answer its cancelling with an error of its own, which must not look like a failed attempt.
        while not self._stopped:
            up_for = await self._try_next()
            wait = self._backoff.wait(up_for)
            self.log.debug("Dialling again in {wait:.1f} s", wait=wait)
            await deferLater(self._clock, wait)

    async def _try_next(self) -> float:
        """Dial the next router and live with it; how long the link was up."""
        routers = self._routers()
        if not routers:
            self._failed("no router is known: join the network anew")
            return 0.0
        address = routers[self._turn % len(routers)]
        self._turn += 1
        attempt = Attempt(address)
        try:
            connecting = self._dial(address).connect(Factory.forProtocol(lambda: self._make_link(attempt)))
            await connecting.addTimeout(self._connect_timeout, self._clock)
        except CancelledError:
            raise
        except Exception as error:
            # Whatever an endpoint may fail with (names, sockets, TLS): it is told, and tried again.
            self._failed(f"{address} cannot be reached: {_describe(error)}")
            return 0.0
        await attempt.ended
        return 0.0 if attempt.up_since is None else self._clock.seconds() - attempt.up_since


def _describe(error: Exception) -> str:
    if isinstance(error, ConnectError) and error.osError is not None:
        return str(error)
    return str(error) or type(error).__name__
