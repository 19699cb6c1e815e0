# mypy: disallow-untyped-calls=False
"""The leases of one node, over the links to the other nodes of its site.

Nothing is asked, opened or timed before somebody claims a pod, here or at another node that asks this one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from twisted.application.service import Service
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger

from appengine.takeover.interfaces import Holding, LeaseWatcher
from appengine.takeover.timing import LONGEST, LeaseTiming

if TYPE_CHECKING:
    # All of it takes 1.2 MB, which a device without such pods keeps for others.
    from appengine.takeover.lease import Effect, LeaseCore
    from appengine.takeover.messages import Letter, Standing
    from appengine.takeover.talk import LeaseStream, Talk

SERVICE: Final = "takeover/1"
"""The service's name among the nodes of a site."""

FILE: Final = "takeover-voters.json"


def boottime() -> float:
    """Seconds since the machine was started, with those that it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Agreement(Service):
    """:class:`~appengine.takeover.interfaces.Leases` of a node that may have a site.

    :param endpoint: of the other node's :data:`SERVICE`.
    :param folder: where is kept by whose votes this node goes.
    :param vouched: whether these were the site's members at that revision, by a roster that was verified.
    :param clock: the same for all times here.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        node: str,
        endpoint: Callable[[str], IStreamClientEndpoint],
        folder: Path,
        *,
        vouched: Callable[[int, Collection[str]], bool],
        timing: LeaseTiming | None = None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self.node = node
        self._reactor, self._endpoint, self._clock = reactor, endpoint, clock
        self._path = folder / FILE
        self._vouched = vouched
        self._timing = timing or LeaseTiming()
        self._begin()
        self._site: str | None = None
        self._roster: tuple[int, tuple[str, ...]] | None = None
        self._links: set[str] = set()
        self._claims: dict[str, str] = {}
        self._core: LeaseCore | None = None
        self._over: list[str] = []
        self._watchers: list[LeaseWatcher] = []
        self._waiting_for: str | None = None
        self._talks: dict[str, Talk] = {}
        self._timer: IDelayedCall | None = None
        self._timer_at = 0.0
        # By node: what was last told of its leases, and when.
        self._other_leases: dict[str, tuple[float, float]] = {}

    # -- Service

    def startService(self) -> None:
        super().startService()
        if self._claims:
            self._soon()

    def stopService(self) -> None:
        """Leases are not given back: what has them runs on, and the next agent of this node goes on with them."""
        super().stopService()
        self._cancel_timer()
        self._hang_up()

    # -- Leases

    def now(self) -> float:
        return self._clock()

    def claim(self, uid: str, *, owner: str) -> None:
        if self._claims.get(uid) != owner:
            self._claims[uid] = owner
            if self._core is not None:
                self._core.claim(uid, owner, self._clock())
            self._soon()

    def withdraw(self, uid: str) -> None:
        if self._claims.pop(uid, None) is not None and self._core is not None:
            self._core.withdraw(uid)
            self._soon()

    def release(self, uid: str) -> None:
        if self._core is not None:
            self._core.release(uid, self._clock())
            self._soon()

    def held_until(self, uid: str) -> float | None:
        return None if self._core is None else self._core.held_until(uid, self._clock())

    def holdings(self) -> list[Holding]:
        if self._core is None:
            return [Holding(uid, owner, None, None) for uid, owner in sorted(self._claims.items())]
        return self._core.holdings(self._clock())

    def waiting_for(self) -> str | None:
        if self._roster is None:
            return "this node has no roster of its site yet"
        return None if self._core is None else self._core.waiting_for(self._clock())

    def watch(self, watcher: LeaseWatcher) -> None:
        self._watchers.append(watcher)

    # -- What happens in the site

    def roster(self, site: str | None, revision: int = 0, members: Collection[str] = ()) -> None:
        """Who belongs to the site now, by a roster that was verified; no members: there is no roster yet."""
        if site != self._site:
            self._leave()
            self._site = site
        self._roster = (revision, tuple(members)) if site is not None and members else None
        if self._core is not None and self._roster is not None:
            self._core.roster(*self._roster, self._clock())
            self._soon()
        elif self._claims:
            self._soon()

    def link(self, peer: str, up: bool) -> None:
        """There is a link to that node of the site, or no more."""
        (self._links.add if up else self._links.discard)(peer)
        talk = None if up else self._talks.pop(peer, None)
        if talk is not None:
            talk.close()
        if self._core is not None:
            self._core.link(peer, up, self._clock())
            self._soon()

    def factory(self) -> ServerFactory:
        """For :data:`SERVICE`. ``addr.peer`` alone says who connects."""
        return _Server(self)

    # -- Within: the core

    def _begin(self) -> None:
        """Of this process, at this site: votes of an earlier one are forgotten, those of this one are not."""
        self._started = self._clock()
        self._run = os.urandom(8).hex()

    def _hang_up(self) -> None:
        talks, self._talks = self._talks, {}
        for talk in talks.values():
            talk.close()

    def core(self) -> LeaseCore | None:
        """Made when it is needed; ``None`` without a roster."""
        if self._core is None and self._roster is not None:
            from appengine.takeover.electorate import Electorate
            from appengine.takeover.lease import LeaseCore

            now = self._clock()
            saved = self._load()
            electorate = Electorate(
                self.node,
                saved,
                self._save,
                self._timing.length,
                lambda config: self._vouched(config.revision, config.members),
            )
            self._core = core = LeaseCore(self.node, self._run, self._timing, electorate, self._started)
            core.roster(*self._roster, now)
            for peer in sorted(self._links):
                core.link(peer, True, now)
            for uid, owner in self._claims.items():
                core.claim(uid, owner, now)
        return self._core

    def _leave(self) -> None:
        """What was agreed at one site is nothing at another."""
        core, self._core = self._core, None
        if core is not None:
            now = self._clock()
            # It may come back before what it said here is over, and does not remember.
            self._begin()
            self._over += [uid for uid in core.claims if core.held_until(uid, now) is not None]
            self._soon()
        self._hang_up()

    def _soon(self) -> None:
        self._at(self._reactor.seconds())

    def _at(self, when: float) -> None:
        if not self.running:
            return
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._cancel_timer()
        self._timer_at = when
        self._timer = self._reactor.callLater(max(0.0, when - self._reactor.seconds()), self._turn)

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _turn(self) -> None:
        """Do what is due, tell what came of it, and see when to look again."""
        self._timer = None
        over, self._over = self._over, []
        for uid in over:
            self._tell(lambda watcher, uid=uid: watcher.lease_ending(uid, self._clock()))  # type: ignore[misc]
        core = self.core() if self._claims else self._core
        if core is None:
            return
        core.tick(self._clock())
        for effect in core.take_effects():
            self._do(effect)
        now = self._clock()
        self._tell_people(core.waiting_for(now) if self._claims else None)
        due = core.next_tick(now)
        if due is not None:
            self._at(self._reactor.seconds() + max(0.01, due - now))
        if not self._claims and not core.claims:
            for talk in self._talks.values():
                talk.finish()

    def _tell_people(self, why: str | None) -> None:
        if why != self._waiting_for:
            self._waiting_for = why
            if why is None:
                self.log.info("Node {node} can have leases of its site", node=self.node)
            else:
                self.log.warn("Node {node} can have no lease of its site now: {why}", node=self.node, why=why)

    def _do(self, effect: Effect) -> None:
        from appengine.takeover.lease import Ending, Gained, Renewed, Send, WantedBack

        if isinstance(effect, Send):
            self._send(effect.peer, effect.letter)
        elif isinstance(effect, Gained):
            self._tell(lambda watcher: watcher.lease_gained(effect.uid))
        elif isinstance(effect, Renewed):
            self._tell(lambda watcher: watcher.leases_renewed())
        elif isinstance(effect, Ending):
            self._tell(lambda watcher: watcher.lease_ending(effect.uid, effect.stop_by))
        elif isinstance(effect, WantedBack):
            self._tell(lambda watcher: watcher.lease_wanted_back(effect.uid))

    def _tell(self, what: Callable[[LeaseWatcher], None]) -> None:
        for watcher in list(self._watchers):
            try:
                what(watcher)
            except Exception:
                # Who runs pods must not cost the node its leases.
                self.log.failure("Telling of a lease failed")

    # -- Within: the disk

    def _load(self) -> Standing | None:
        from appengine.takeover.wire import read_standing

        try:
            fields = json.loads(self._path.read_bytes())
            return read_standing(fields) if fields.get("site") == self._site else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, AttributeError) as error:
            # As if it had never met the others: it learns from them, and until then does not vote.
            self.log.error("{path} is not used: {why}", path=str(self._path), why=str(error))
            return None

    def _save(self, standing: Standing) -> None:
        from appengine.takeover.wire import standing_fields

        content = json.dumps({"site": self._site, **standing_fields(standing)}).encode()
        fresh = self._path.with_name(f"{FILE}.new")
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    # -- Within: letters

    def _send(self, peer: str, letter: Letter) -> None:
        if peer in self._links and self.running:
            self._talk(peer).send(letter)

    def _talk(self, peer: str) -> Talk:
        talk = self._talks.get(peer)
        if talk is None:
            from appengine.takeover.talk import Talk

            endpoint = self._endpoint(peer)
            talk = self._talks[peer] = Talk(self._reactor, peer, endpoint, lambda letter: self._received(peer, letter))
        return talk

    def stream(self, peer: str) -> LeaseStream | None:
        """For a stream that the node ``peer`` opens; ``None`` if it is none to talk to."""
        if not self.running or peer not in self._links:
            return None
        from appengine.takeover.talk import LeaseStream

        return LeaseStream(self._talk(peer), mine=False)

    def _received(self, peer: str, letter: Letter) -> None:
        core = self.core() if peer in self._links else None
        if core is not None:
            self._compare(peer, letter.standing.lease)
            core.received(peer, letter, self._clock())
            self._soon()

    def _compare(self, peer: str, lease: float) -> None:
        """Tell people when another has leases of another length, once a minute at most."""
        mine, now = self._timing.length, self._clock()
        known, since = self._other_leases.get(peer, (mine, float("-inf")))
        if lease == known or now - since < LONGEST:
            return
        self._other_leases[peer] = lease, now
        if lease == mine:
            self.log.info("Node {peer} has leases of {mine:g} s now, as this node has", peer=peer, mine=mine)
        else:
            self.log.warn(
                "Node {peer} has leases of {lease:g} s, and this node of {mine:g} s: pods are safe, but nodes do not "
                "vote for longer leases than their own. Give all nodes of the site the same --takeover-lease",
                peer=peer,
                lease=lease,
                mine=mine,
            )


class _Server(ServerFactory):
    noisy = False

    def __init__(self, agreement: Agreement) -> None:
        self._agreement = agreement

    def buildProtocol(self, addr: IAddress | None) -> LeaseStream | None:
        peer: Any = getattr(addr, "peer", None)
        return None if peer is None else self._agreement.stream(peer.name)
