# mypy: disallow-untyped-calls=False
"""How rosters travel: a stream on which each side sends what it has, when it has it.

A message is four bytes of length, a kind and a body: ``r`` a signed roster, ``e`` (node to router only) the node's
endpoints as a JSON list. Rosters are judged by whoever gets them, so it does not matter from whom they come: nodes
of a site pass them on to each other the same way.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, cast

from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from kubebus.roster import MAX_ROSTER, InvalidRoster, endpoints_of

SERVICE: Final = "roster/1"
"""The service's name: the router's towards nodes, and a node's towards the others of its site."""

MAX_QUESTION: Final = 4096
"""Bytes of a message that only tells endpoints."""

_ROSTER, _ENDPOINTS = b"r", b"e"


class RosterStream(Int32StringReceiver):
    """One end.

    :param peer: who the other one is, for the log.
    :param roster: takes a roster of the other side's; ``None`` if none is wanted.
    :param endpoints: takes the other side's endpoints; ``None`` if none are wanted.
    :param opened: called with this when messages can be sent; ``closed`` once, when no more can.
    """

    log = Logger()

    def __init__(
        self,
        peer: str,
        *,
        roster: Callable[[bytes], object] | None = None,
        endpoints: Callable[[tuple[str, ...]], object] | None = None,
        opened: Callable[[RosterStream], object] = lambda _: None,
        closed: Callable[[RosterStream], object] = lambda _: None,
    ) -> None:
        self.MAX_LENGTH = MAX_QUESTION if roster is None else MAX_ROSTER + 1
        self._peer = peer
        self._roster, self._endpoints, self._opened, self._closed = roster, endpoints, opened, closed
        self._sent: dict[bytes, bytes] = {}

    def connectionMade(self) -> None:
        self._opened(self)

    def send_roster(self, encoded: bytes) -> None:
        self._send(_ROSTER, encoded)

    def send_endpoints(self, endpoints: tuple[str, ...]) -> None:
        self._send(_ENDPOINTS, json.dumps(endpoints).encode())

    def _send(self, kind: bytes, body: bytes) -> None:
        """Unless it was the last of its kind already."""
        if self._sent.get(kind) != body:
            self._sent[kind] = body
            self.sendString(kind + body)

    def stringReceived(self, string: bytes) -> None:
        kind, body = string[:1], string[1:]
        try:
            if kind == _ROSTER and self._roster is not None:
                # It is known there, so it need not be sent back.
                self._sent[_ROSTER] = body
                self._roster(body)
            elif kind == _ENDPOINTS and self._endpoints is not None:
                self._endpoints(_endpoints(body))
            else:
                raise InvalidRoster(f"a message of kind {kind!r} is not for this side")
        except InvalidRoster as error:
            self._refuse(str(error))

    def lengthLimitExceeded(self, length: int) -> None:
        self._refuse(f"a message of {length} bytes is too long")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closed(self)

    def close(self) -> None:
        cast(Any, self.transport).abortConnection()

    def _refuse(self, why: str) -> None:
        self.log.warn("The roster stream with {peer} ends: {why}", peer=self._peer, why=why)
        self.close()


def _endpoints(body: bytes) -> tuple[str, ...]:
    try:
        texts = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidRoster("endpoints that are not JSON") from None
    if not isinstance(texts, list):
        raise InvalidRoster("endpoints that are no list")
    return endpoints_of(texts)
