# mypy: disallow-untyped-calls=False, disallow-untyped-defs=False, disallow-subclassing-any=False
"""Names that are not the cluster's: asked of the host's own name servers, which are away whenever the site is."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.names import error
from twisted.names.client import Resolver
from twisted.python.failure import Failure

PATIENCE = 4.0
"""Seconds for an answer: less than the five after which a stub resolver (``timeout`` of resolv.conf) asks again."""

HASTE = 0.5
"""Seconds while nothing answers: programs that try name after name are not to wait for each."""

RETRY = 5.0
"""While nothing answers, one question in so many seconds is given all the patience: the way may be slow."""

_RESEND = (1, 3)
"""Seconds until a question goes to the next server, and out again, as ``twisted.names`` takes them."""

_LOST = 2
"""So many questions in a row without an answer, and the servers are taken to be away: one may ask for a dead domain."""

MAX_WAITING = 256
"""Questions at a time. Each has a socket of its own (for its random port), and pods ask what they like."""


class Upstream(Resolver):
    """The servers of ``resolv``, which is read again when it changes. What they do not answer fails in time."""

    def __init__(self, reactor: Any, resolv: str | None, servers: list[tuple[str, int]] | None = None) -> None:
        super().__init__(resolv=resolv, servers=servers, reactor=reactor, timeout=_RESEND)
        self._clock = reactor
        self._asking = 0
        self._unanswered = 0
        self._patient_at = 0.0

    def query(self, query: Any, timeout: object = None) -> Deferred[Any]:
        """Of any type: also of those that ``twisted.names`` has no word for."""
        if self._asking >= MAX_WAITING:
            return fail(error.DNSServerError("too many questions at once"))
        self._asking += 1
        try:
            asked: Deferred[Any] = self._lookup(query.name.name, query.cls, query.type, timeout)
        except OSError:  # no socket, or no way to the servers
            asked = fail()
        asked.addTimeout(self._seconds(), self._clock)
        asked.addBoth(self._over)
        return asked

    def _seconds(self) -> float:
        now = self._clock.seconds()
        if self._unanswered >= _LOST and now < self._patient_at:
            return HASTE
        self._patient_at = now + RETRY
        return PATIENCE

    def _over(self, result: object) -> object:
        self._asking -= 1
        # An error that a server tells is an answer too.
        told = not isinstance(result, Failure) or result.check(error.DomainError)
        self._unanswered = 0 if told else self._unanswered + 1
        return result
