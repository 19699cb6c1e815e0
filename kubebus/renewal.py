# mypy: disallow-untyped-calls=False
"""An edge node's credentials over its life: enrolled once, renewed at two thirds of each certificate's life."""

from __future__ import annotations

from collections.abc import Callable
from random import random
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from kubebus.backoff import Backoff
from kubebus.credentials import Credentials, Keyring
from kubebus.identity import InvalidIdentity
from kubebus.join import Connect, EnrolmentFailed, RenewalFailed, join, renew, renew_over
from kubebus.joinstring import JoinString
from kubebus.tokens import Refused
from kubebus.wire import BadMessage

RENEW_SERVICE = "renew/1"
"""The router's service for renewal over the link."""

LOOK_SECONDS = 3600.0
"""How often the time is looked at: the clock may be set while a timer runs."""

RETRY_FIRST, RETRY_LAST = 60.0, 3600.0
_EXPIRED_SECONDS = 2.0

OUTDATED_SECONDS = 60.0
"""Within this time after meeting a router with a new authority, a node renews, to learn of it."""

_log = Logger()


async def enrolled(
    reactor: Any,
    keyring: Keyring,
    node: str,
    join_string: JoinString | None,
    connect: Connect | None = None,
    backoff: Backoff | None = None,
) -> Credentials:
    """The node's credentials; enrols it first if it has none, or a join string that it has not used yet.

    Routers that cannot be reached are tried again for ever. A node that has credentials keeps them if a new join
    string does not work out.

    :raises Refused: if a router refuses a new node.
    :raises LookupError: if there are neither credentials nor a join string.
    """
    present = keyring.credentials
    if join_string is None or (present is not None and present.token == join_string.token):
        return keyring.present
    waits = backoff or Backoff(random)
    while True:
        try:
            return await join(reactor, keyring, join_string, node, connect)
        except (EnrolmentFailed, BadMessage) as error:
            failure: Exception = error
        except (Refused, InvalidIdentity) as error:
            if present is None:
                raise
            failure = error
        if present is not None:
            _log.warn(
                "The new join string did not work out, so {identity} stays as it is: {why}",
                identity=str(present.identity),
                why=str(failure),
            )
            return present
        wait = waits.wait(0)
        _log.warn("{why}; trying again in {wait:.0f} s", why=str(failure), wait=wait)
        await deferLater(reactor, wait)


class Renewer(Service):
    """Renews the certificate in time, over the link while it is up, else by the routers' public port.

    It also acts at once when a router says that the certificate has expired: its clock may know better than ours; and
    soon when a router has a new authority.

    :param link: the endpoint of :data:`RENEW_SERVICE` at the router (``edge.router_endpoint``).
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        keyring: Keyring,
        link: Callable[[str], IStreamClientEndpoint] | None = None,
        connect: Connect | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._reactor = reactor
        self._keyring = keyring
        self._link = link
        self._connect = connect
        self._backoff = backoff or Backoff(random, RETRY_FIRST, RETRY_LAST)
        self._timer: IDelayedCall | None = None
        self._work: Deferred[None] | None = None
        self._outdated = False
        keyring.on_expired(self._told_expired)
        keyring.on_outdated(self._told_outdated)

    def startService(self) -> None:
        super().startService()
        self._look()

    def stopService(self) -> None:
        super().stopService()
        self._cancel_timer()
        if self._work is not None:
            self._work.cancel()

    def _look(self) -> None:
        self._timer = None
        mine = self._keyring.credentials
        if mine is not None and self._keyring.now() >= mine.renew_at:
            self._start()
        else:
            left = LOOK_SECONDS if mine is None else mine.renew_at - self._keyring.now()
            self._later(max(1.0, min(left, LOOK_SECONDS)))

    def _told_expired(self) -> None:
        # Not within the TLS connection that brings the news; and every redial brings it again.
        if self.running and self._work is None:
            self._later(_EXPIRED_SECONDS, self._start)

    def _told_outdated(self) -> None:
        # All nodes learn of a new authority at about the same time: they take turns.
        if self.running and self._work is None and not self._outdated:
            self._outdated = True
            self._later(1.0 + random() * OUTDATED_SECONDS, self._start)

    def _start(self) -> None:
        self._timer = None
        if self._work is None:
            work = self._work = Deferred.fromCoroutine(self._renew())
            work.addErrback(_cancelled)
            work.addErrback(lambda failure: self.log.failure("Renewing the certificate failed", failure))
            work.addBoth(self._done)

    def _done(self, _: object) -> None:
        self._work = None
        self._outdated = False
        if self.running and self._timer is None:
            self._later(self._backoff.wait(0))

    async def _renew(self) -> None:
        try:
            renewed = await self._by_any_way()
        except (Refused, RenewalFailed, BadMessage) as error:
            self.log.error("The certificate was not renewed: {why}", why=str(error))
            return
        self.log.info(
            "Renewed the certificate of {identity}; it lasts {days:.0f} days",
            identity=str(renewed.identity),
            days=(renewed.expires_at - renewed.issued_at) / 86400,
        )
        self._backoff.wait(float("inf"))
        self._later(LOOK_SECONDS, self._look)

    async def _by_any_way(self) -> Credentials:
        if self._link is not None:
            try:
                return await renew_over(self._reactor, self._keyring, self._link(RENEW_SERVICE))
            except (OSError, ConnectError, ConnectionClosed):
                self.log.debug("The link is down: renewing by the routers' public port")
        return await renew(self._reactor, self._keyring, self._connect)

    def _later(self, seconds: float, what: Callable[[], None] | None = None) -> None:
        self._cancel_timer()
        self._timer = self._reactor.callLater(seconds, what or self._look)

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


def _cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)
