# mypy: allow-untyped-calls
"""Keeps the certificates of an embedded control plane valid while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from edgectl.apiserver.pki import ApiPki, KeyPair

LOOK_SECONDS = 3600.0
"""A machine whose clock was wrong when it started finds its certificates too old, or not at all, soon after."""


class PkiRenewal(Service):
    """Looks at the certificates in ``directory`` every hour, and makes anew those that end soon.

    :param present: what is served now.
    :param clock: UNIX seconds.
    :param server: told of another serving certificate, ``admin`` of another one for the administrator; may raise
        ``OSError``: they are told again an hour later.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        directory: Path,
        hosts: Sequence[str],
        present: ApiPki,
        clock: Callable[[], float],
        server: Callable[[KeyPair], object],
        admin: Callable[[KeyPair], object],
    ) -> None:
        self._reactor, self._directory, self._hosts, self._clock = reactor, directory, hosts, clock
        self._told = {"serving": present.server, "administrator's": present.admin}
        self._tell = {"serving": server, "administrator's": admin}
        self._call: IDelayedCall | None = None

    def startService(self) -> None:
        super().startService()
        self._call = self._reactor.callLater(LOOK_SECONDS, self._look)

    def stopService(self) -> None:
        super().stopService()
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()

    def _look(self) -> None:
        self._call = self._reactor.callLater(LOOK_SECONDS, self._look)
        try:
            found = ApiPki.load_or_create(self._directory, self._hosts, self._clock())
        except (OSError, ValueError) as error:
            self._log.error(
                "the API's certificates in {path} cannot be renewed: {why}", path=str(self._directory), why=str(error)
            )
            return
        for name, pair in {"serving": found.server, "administrator's": found.admin}.items():
            if pair != self._told[name]:
                self._renewed(name, pair)

    def _renewed(self, name: str, pair: KeyPair) -> None:
        try:
            self._tell[name](pair)
        except OSError as error:
            self._log.error("the API's new {name} certificate is not in use yet: {why}", name=name, why=str(error))
            return
        self._told[name] = pair
        ends = pair.x509().not_valid_after_utc
        self._log.info("the API's {name} certificate was renewed: it lasts until {ends}", name=name, ends=f"{ends:%F}")
