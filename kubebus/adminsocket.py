# mypy: disallow-untyped-calls=False
"""The local administration socket: a UNIX socket that only root can open. What it serves is loaded when it is used."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort

from kubebus.latesite import LateSite

if TYPE_CHECKING:
    from twisted.web.resource import IResource
    from twisted.web.server import Site


class AdminSocket(Service):
    """Listens on a UNIX socket (0600) while it runs; its directory is made (0700) if it is missing.

    :param resources: makes them, by the path segment after ``/v1/``, when somebody connects for the first time.
    :raises OSError: from ``startService``, if the socket cannot be had: another daemon may be serving it.
    """

    def __init__(self, reactor: Any, path: Path, resources: Callable[[], Mapping[str, IResource]]) -> None:
        self._reactor = reactor
        self._path = path
        self._site = LateSite(lambda: _site(reactor, resources()))
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        super().startService()
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(self._path)
        mask = os.umask(0o177)
        try:
            self._port = self._reactor.listenUNIX(str(self._path), self._site, mode=0o600)
        finally:
            os.umask(mask)

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        port, self._port = self._port, None
        if port is None:
            return None
        stopped: Deferred[None] = maybeDeferred(port.stopListening)  # type: ignore[call-overload]
        return stopped


def _site(reactor: Any, resources: Mapping[str, IResource]) -> Site:
    from kubebus.admin import AdminSite

    return AdminSite(reactor, resources)


def _remove_stale(path: Path) -> None:
    """Remove the socket of a daemon that died.

    :raises OSError: if somebody answers there, or it is no socket.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(f"{path} is in the way: it is no socket; remove it or choose another --socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                path.unlink()
            return
    raise OSError(f"another daemon is serving {path}; stop it or choose another --socket")
