"""All addresses of a name: a headless Service has one for each pod."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IHostResolution, IResolutionReceiver
from zope.interface import implementer

MAX_ADDRESSES = 64
"""More workers than these are not looked at."""


@implementer(IResolutionReceiver)
class _Gathering:
    def __init__(self) -> None:
        self.found: list[str] = []
        self.done: Deferred[list[str]] = Deferred()

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        pass

    def addressResolved(self, address: IAddress) -> None:
        host: str = address.host  # type: ignore[attr-defined]
        if host not in self.found:
            self.found.append(host)

    def resolutionComplete(self) -> None:
        # A pod of both families is one worker, not two.
        fours = [each for each in self.found if ip_address(each).version == 4]
        self.done.callback(sorted(fours or self.found)[:MAX_ADDRESSES])


def addresses_of(reactor: Any, name: str) -> Deferred[list[str]]:
    """The addresses of ``name``, IPv4 ones if there are any; none if it is not known. Never fails."""
    gathering = _Gathering()
    reactor.nameResolver.resolveHostName(gathering, name)
    return gathering.done
