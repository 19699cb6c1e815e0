"""One request and one answer over a connection: what both ends have in common."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from kubebus.interfaces import StreamAddress
from kubebus.joinstring import HostPort
from kubebus.wire import MAX_MESSAGE

ANSWER_SECONDS = 30.0


class Exchange(Int32StringReceiver):
    """One end of an exchange of two messages, which must be over in time."""

    MAX_LENGTH = MAX_MESSAGE
    log = Logger()

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._timeout: IDelayedCall | None = None
        self._done = False

    def connectionMade(self) -> None:
        self._timeout = self._reactor.callLater(ANSWER_SECONDS, self._too_slow)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._timeout is not None and self._timeout.active():
            self._timeout.cancel()

    def _too_slow(self) -> None:
        cast(Any, self.transport).abortConnection()


def peer_name(addr: IAddress, *, port: bool = True) -> str:
    """An address as people write it, with or without the port."""
    if isinstance(addr, StreamAddress):
        return "the other end of its link"
    host = getattr(addr, "host", None)
    if host is None:
        return str(addr)
    host = host.removeprefix("::ffff:")  # IPv4 peers of an IPv6 socket
    return str(HostPort(host, addr.port)) if port else str(host)  # type: ignore[attr-defined]
