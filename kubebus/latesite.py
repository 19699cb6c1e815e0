"""A web site that costs nothing before somebody connects to it: ``twisted.web`` takes 3.5 MB of a small device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.protocol import ServerFactory


class SiteMaker(Protocol):
    def buildProtocol(self, addr: IAddress | None) -> IProtocol | None: ...


class LateSite(ServerFactory):
    """Passes connections on to a site that is made with the first of them.

    The site's own ``doStart`` is never called: all that it does is to keep the time for an access log, each second.

    :param make: imports what it needs, and makes a ``twisted.web.server.Site``.
    """

    noisy = False

    def __init__(self, make: Callable[[], SiteMaker]) -> None:
        self._make = make
        self._site: SiteMaker | None = None

    def buildProtocol(self, addr: IAddress | None) -> IProtocol | None:  # type: ignore[override]
        if self._site is None:
            self._site = self._make()
        return self._site.buildProtocol(addr)
