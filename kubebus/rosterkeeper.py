"""A node's copy of its site's roster: judged, kept on disk for boots without a cloud, told to whom it concerns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from twisted.logger import Logger

from kubebus.ca import key_hash
from kubebus.identity import InvalidIdentity, PeerIdentity, Role, identity_of
from kubebus.keyfiles import read_secret, remove_leftovers, write_atomically
from kubebus.roster import InvalidRoster, Member, Roster, SignedRoster, verify
from kubebus.rosterhistory import RosterHistory
from kubebus.tokens import Refusal, Refused

ROSTER_FILE: Final = "roster.json"
HISTORY_FILE: Final = "rosters-before.json"
"""A line for each roster by which nodes of the site may still go."""


class OlderRoster(InvalidRoster):
    """It is in order, and a newer one holds.

    :ivar signed: it.
    """

    def __init__(self, message: str, signed: SignedRoster) -> None:
        super().__init__(message)
        self.signed = signed


class RosterKeeper:
    """Only a newer roster replaces one.

    :param identity: the node's own.
    :param bundle: the authorities that are trusted now.
    :param folder: where it is kept.
    :ivar signed: the roster that holds, if there is one.
    :ivar history: that one and those before, as far as members were others then.
    """

    log = Logger()

    def __init__(self, identity: PeerIdentity, bundle: Callable[[], Sequence[x509.Certificate]], folder: Path) -> None:
        self._identity, self._bundle = identity, bundle
        self._path, self._history_path = folder / ROSTER_FILE, folder / HISTORY_FILE
        self._watchers: list[Callable[[], None]] = []
        self._site: str | None = None
        self.signed: SignedRoster | None = None
        self.history = RosterHistory()

    @property
    def roster(self) -> Roster | None:
        return None if self.signed is None else self.signed.roster

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` whenever there is another roster, or none any more."""
        self._watchers.append(changed)

    @property
    def site(self) -> str | None:
        return self._site

    def belong_to(self, site: str | None) -> None:
        """The router says where this node is, now or before the last boot: a roster of elsewhere does not hold."""
        if site == self._site:
            return
        self._site = site
        if site is not None:
            self._load()
            return
        self.history.clear()
        if self.signed is not None:
            self._hold(None)

    def offer(self, encoded: bytes, by: str) -> bool:
        """Somebody has this roster: take it over, if it is newer and in order. Whether it was.

        An older one is remembered, if others may still go by it.

        :param by: who, for the log.
        """
        try:
            signed = self._judge(encoded)
        except OlderRoster as error:
            # Ordinary among nodes of a site, of which one has met the cloud last.
            if not self._remember(error.signed):
                self.log.debug("Refused a roster from {by}: {why}", by=by, why=str(error))
            return False
        except InvalidRoster as error:
            self.log.warn("Refused a roster from {by}: {why}", by=by, why=str(error))
            return False
        if signed is None:
            return False
        try:
            write_atomically(self._path, encoded)
        except OSError as error:
            # It holds all the same; a boot without a cloud will know the older one.
            self.log.error("The site's roster cannot be kept in {path}: {why}", path=str(self._path), why=str(error))
        self.log.info(
            "Site {site} has roster {revision} with {count} nodes",
            site=self._site,
            revision=signed.roster.revision,
            count=len(signed.roster.members),
        )
        self._hold(signed)
        return True

    def me(self) -> Member | None:
        """This node's own entry; none if it does not belong to the site any more."""
        roster = self.roster
        return None if roster is None else roster.member(self._identity.name)

    def others(self) -> tuple[Member, ...]:
        """The other members, for one who is a member."""
        roster = self.roster
        if roster is None or self.me() is None:
            return ()
        return tuple(member for member in roster.members if member.name != self._identity.name)

    def check(self, identity: PeerIdentity, key: str) -> Member:
        """The member behind a certificate, whoever has issued it.

        :raises Refused: if it is none of this site, or has another key.
        """
        roster = self.roster
        if roster is None or self.me() is None:
            raise Refused(Refusal.UNAVAILABLE, f"{self._identity} belongs to no site now")
        if key in roster.revoked:
            raise Refused(Refusal.REVOKED, f"{identity} was revoked (roster {roster.revision})")
        member = roster.member(identity.name)
        if identity.network != roster.network or identity.role is not Role.NODE or member is None:
            raise Refused(Refusal.UNKNOWN_NODE, f"{identity} is not in site {roster.site!r} (roster {roster.revision})")
        if key != member.public_key:
            raise Refused(Refusal.OTHER_KEY, f"{identity} has another key in roster {roster.revision}")
        return member

    def problem(self, certificate: x509.Certificate) -> str | None:
        """Why the holder of a certificate is no member, if it is none."""
        try:
            self.check(identity_of(certificate), key_hash(certificate.public_key()))
        except (Refused, InvalidIdentity) as error:
            return str(error)
        return None

    def _judge(self, encoded: bytes) -> SignedRoster | None:
        """``None`` if it is the one that holds already."""
        if self.signed is not None and encoded == self.signed.encoded:
            return None
        signed = self._verified(encoded)
        roster, holds = signed.roster, self.roster
        if holds is not None and roster.revision <= holds.revision:
            raise OlderRoster(f"it has revision {roster.revision}, and {holds.revision} holds", signed)
        return signed

    def _verified(self, encoded: bytes) -> SignedRoster:
        """:raises InvalidRoster: unless it is one of this site, and signed."""
        signed = verify(encoded, self._bundle())
        roster = signed.roster
        if (roster.network, roster.site) != (self._identity.network, self._site):
            raise InvalidRoster(
                f"it is of site {roster.site!r} of network {roster.network!r}, and this is {self._identity} in "
                f"site {self._site!r}"
            )
        return signed

    def _remember(self, signed: SignedRoster) -> bool:
        if not self.history.add(signed):
            return False
        try:
            write_atomically(self._history_path, self.history.encode())
        except OSError as error:
            # Neighbours show it again when there is a link.
            self.log.error("{path} cannot be written: {why}", path=str(self._history_path), why=str(error))
        return True

    def _load_history(self) -> None:
        self.history.clear()
        remove_leftovers(self._history_path)
        try:
            self.history.read(read_secret(self._history_path), self._verified)
        except FileNotFoundError:
            pass
        except OSError as error:
            self.log.warn("{path} is not used: {why}", path=str(self._history_path), why=str(error))

    def _load(self) -> None:
        self.signed = None
        self._load_history()
        remove_leftovers(self._path)
        try:
            self._hold(self._judge(read_secret(self._path)))
            return
        except FileNotFoundError:
            pass
        except (InvalidRoster, OSError) as error:
            self.log.warn("{path} is not used: {why}", path=str(self._path), why=str(error))
        self._hold(None)

    def _hold(self, signed: SignedRoster | None) -> None:
        self.signed = signed
        if signed is not None:
            self._remember(signed)
        for watcher in list(self._watchers):
            try:
                watcher()
            except Exception:
                # One who is told must not keep the news from the others.
                self.log.failure("Telling of the site's roster failed")
