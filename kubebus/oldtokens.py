"""Forgets join tokens that ended long ago, now and then: making one must not cost more with every one there is."""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from kubebus.interfaces import RegistryError
from kubebus.members import Members

INTERVAL = 6 * 3600.0
"""Seconds between two looks: tokens are kept for days after their end, so that nobody waits for this."""


class OldTokens(Service):
    """Looks through the tokens of ``members`` when it starts and at every :data:`INTERVAL`, until it stops."""

    log = Logger()

    def __init__(self, reactor: IReactorTime, members: Members) -> None:
        self._members = members
        self._looking: Deferred[None] | None = None
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._loop.start(INTERVAL)

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        self._loop.stop()
        if self._looking is not None:
            self._looking.cancel()

    def _look(self) -> Deferred[None]:
        self._looking = Deferred.fromCoroutine(self._forget())
        return self._looking

    async def _forget(self) -> None:
        try:
            forgotten = await self._members.forget_old_tokens()
        except CancelledError:
            return
        except RegistryError as error:
            self.log.warn("Old join tokens are not forgotten now: {why}", why=str(error))
            return
        if forgotten:
            self.log.info("Forgot {number} join tokens that ended long ago", number=forgotten)
