"""A poll inside the reactor's: for the few descriptors that are busy all the time.

Twisted's reactor spends many microseconds of Python on each event (logging context, timers, its own bookkeeping), as
much as the parsing and routing of a packet of 64 KB. Here the busy descriptors have an epoll of their own, which is one
descriptor of the reactor; as long as there is something in it, it is served without going back there.

To its descriptors it behaves as the reactor does: level-triggered, ``doRead`` and ``doWrite``, ``connectionLost`` for
what is broken.
"""

from __future__ import annotations

import select
import sys
from time import monotonic
from typing import Any, Final
from weakref import WeakKeyDictionary

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.internet.main import CONNECTION_LOST
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

TURN: Final = 0.002
"""Seconds, after which the reactor's timers and other descriptors are served as well."""

_EVENTS: Final = 64
_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_BROKEN: Final = select.EPOLLHUP | select.EPOLLERR

_log = Logger()
_failure: Any = Failure
_of: WeakKeyDictionary[Any, BusyPoll] = WeakKeyDictionary()


def busy_poll(reactor: Any) -> Any:
    """Where busy descriptors of this reactor belong: an object with ``addReader``, ``removeReader``, ``addWriter`` and
    ``removeWriter``. The reactor itself, if it does not poll real descriptors by epoll."""
    found = _of.get(reactor)
    if found is None:
        # Not imported where it is not used: that would pay for nothing.
        module = sys.modules.get("twisted.internet.epollreactor")
        if module is None or not isinstance(reactor, module.EPollReactor):
            return reactor
        found = _of[reactor] = BusyPoll(reactor)
    return found


@implementer(IReadDescriptor)
class BusyPoll:
    """See the module."""

    def __init__(self, reactor: IReactorFDSet) -> None:
        self._reactor = reactor
        self._epoll = select.epoll()
        self._masks: dict[int, int] = {}
        self._descriptors: dict[int, Any] = {}

    def addReader(self, descriptor: Any) -> None:
        self._want(descriptor, _IN)

    def addWriter(self, descriptor: Any) -> None:
        self._want(descriptor, _OUT)

    def removeReader(self, descriptor: Any) -> None:
        self._unwant(descriptor, _IN)

    def removeWriter(self, descriptor: Any) -> None:
        self._unwant(descriptor, _OUT)

    # IReadDescriptor

    def fileno(self) -> int:
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        return "busy"

    def doRead(self) -> None:
        poll, descriptors = self._epoll.poll, self._descriptors
        until = 0.0
        while events := poll(0, _EVENTS):
            for fd, event in events:
                if fd not in descriptors:
                    continue
                descriptor = descriptors[fd]
                why = None
                try:
                    if event & _IN:
                        why = descriptor.doRead()
                    elif event & _BROKEN:
                        why = CONNECTION_LOST
                    if event & _OUT and why is None and fd in descriptors:
                        why = descriptor.doWrite()
                except Exception as error:
                    _log.failure("{what} failed", what=descriptor.logPrefix())
                    why = error
                if why is not None:
                    self._lost(descriptor, why)
            now = monotonic()
            if not until:
                until = now + TURN
            elif now >= until:
                return

    def connectionLost(self, reason: Failure) -> None:
        """The reactor lets go of everything. Whoever has a descriptor here closes it by itself."""

    # Inside.

    def _want(self, descriptor: Any, event: int) -> None:
        fd = descriptor.fileno()
        mask = self._masks.get(fd)
        if mask is not None and self._descriptors[fd] is not descriptor:
            # That one was closed without a word, and its number is somebody else's now.
            self._forget(fd)
            mask = None
        if mask is None:
            self._epoll.register(fd, event)
            self._masks[fd] = event
            self._descriptors[fd] = descriptor
            # Not only the first time: the reactor may have forgotten everything (removeAll()).
            self._reactor.addReader(self)
        elif not mask & event:
            self._masks[fd] = mask | event
            self._epoll.modify(fd, mask | event)

    def _unwant(self, descriptor: Any, event: int) -> None:
        fd = descriptor.fileno()
        if self._descriptors.get(fd) is not descriptor:
            if fd < 0:
                # Closed already: the kernel has forgotten it, we have not.
                for number in [number for number, known in self._descriptors.items() if known is descriptor]:
                    self._forget(number)
            return
        mask = self._masks[fd]
        if not mask & event:
            return
        if mask & ~event:
            self._masks[fd] = mask & ~event
            self._epoll.modify(fd, mask & ~event)
            return
        self._forget(fd)

    def _forget(self, fd: int) -> None:
        del self._masks[fd], self._descriptors[fd]
        try:
            self._epoll.unregister(fd)
        except OSError:
            pass  # Closed meanwhile.
        if not self._masks:
            self._reactor.removeReader(self)

    def _lost(self, descriptor: Any, why: BaseException) -> None:
        self.removeReader(descriptor)
        self.removeWriter(descriptor)
        try:
            descriptor.connectionLost(_failure(why))
        except Exception:
            # The others go on.
            _log.failure("{what} failed at its end", what=descriptor.logPrefix())
