"""The leases of one node: what it asks the others for, keeps, and gives up. Sans-IO.

In the manner of PaxosLease (Trencseni, Gazso, Reinhardt: https://arxiv.org/abs/1209.4187): no disk, no common clock. A
node asks all members whether it may (PREPARE), then for their votes (PROPOSE); a majority of votes is the lease. It
counts from before the votes were asked for; a voter keeps its vote from when it gave it, and longer. Renewals ask for
votes only. Times are passed in; they must go on while the machine sleeps (CLOCK_BOOTTIME).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from appengine.takeover.acceptor import Acceptor
from appengine.takeover.electorate import Electorate
from appengine.takeover.interfaces import Holding
from appengine.takeover.messages import MAX_UIDS, Answer, Config, Hello, Kind, Letter, Refused, Request, Why
from appengine.takeover.rank import ranked
from appengine.takeover.timing import USUAL, LeaseTiming, hold


@dataclass(frozen=True, slots=True)
class Send:
    """To be sent to another node. It may be lost, or come late or twice."""

    peer: str
    letter: Letter


@dataclass(frozen=True, slots=True)
class Gained:
    uid: str


@dataclass(frozen=True, slots=True)
class Renewed:
    """Some leases were."""


@dataclass(frozen=True, slots=True)
class Ending:
    uid: str
    stop_by: float


@dataclass(frozen=True, slots=True)
class WantedBack:
    uid: str


Effect = Send | Gained | Renewed | Ending | WantedBack


class Hold(Enum):
    FREE = "free"
    HELD = "held"
    ENDING = "ending"
    """It was given up, and is not renewed."""


@dataclass(slots=True)
class Claim:
    """What this node wants of one pod, and has.

    :ivar wanted: whether it was not withdrawn.
    :ivar until: the end of the lease, if there is one.
    :ivar blocked_until: somebody else has it until then, as far as was told.
    :ivar again_at: when the next attempt may be.
    """

    uid: str
    owner: str
    wanted: bool = True
    hold: Hold = Hold.FREE
    until: float = 0.0
    asked_back: bool = False
    blocked_until: float = 0.0
    again_at: float = 0.0
    rank: int | None = None


@dataclass(slots=True)
class _Round:
    """One attempt at some leases, under one ballot."""

    deadline: float
    configs: tuple[Config, ...]
    promised: dict[str, set[str]] = field(default_factory=dict)
    met: dict[str, set[str]] = field(default_factory=dict)
    proposed_at: dict[str, float] = field(default_factory=dict)
    accepted: dict[str, set[str]] = field(default_factory=dict)
    held_by: dict[str, str] = field(default_factory=dict)

    def drop(self, uid: str) -> None:
        for each in (self.promised, self.met, self.proposed_at, self.accepted, self.held_by):
            each.pop(uid, None)


class LeaseCore:
    """
    :param run: of this process; no other of this node has the same.
    :param started: when this process was.
    """

    def __init__(self, name: str, run: str, timing: LeaseTiming, electorate: Electorate, started: float) -> None:
        self.name, self._run, self._timing = name, run, timing
        self.electorate = electorate
        # What it said before may count for longer than what it says now.
        self.acceptor = Acceptor(timing, started + hold(electorate.lease))
        self.claims: dict[str, Claim] = {}
        self._started = started
        self._links: set[str] = set()
        self._lost: dict[str, float] = {}
        self._rounds: dict[int, _Round] = {}
        self._ballot = 0
        self._renew_at = self._hello_at = self._forget_at = started
        self._effects: list[Effect] = []
        self._to_release: list[str] = []

    def take_effects(self) -> list[Effect]:
        """What is to be done now. To be asked for after every call."""
        effects, self._effects = self._effects, []
        return effects

    # -- What the engine wants

    def claim(self, uid: str, owner: str, now: float) -> None:
        claim = self.claims.get(uid)
        if claim is None:
            self.claims[uid] = Claim(uid, owner, again_at=now)
        else:
            claim.wanted, claim.owner = True, owner

    def withdraw(self, uid: str) -> None:
        claim = self.claims.get(uid)
        if claim is not None:
            claim.wanted = False
            if claim.hold is Hold.FREE:
                self._forget_claim(claim)

    def release(self, uid: str, now: float) -> None:
        claim = self.claims.get(uid)
        if claim is None or claim.hold is Hold.FREE:
            return
        self._free(claim)
        claim.again_at = now + self._timing.retry
        # Told with the next tick: many are often released at a time.
        self._to_release.append(uid)

    def held_until(self, uid: str, now: float) -> float | None:
        claim = self.claims.get(uid)
        return None if claim is None or claim.hold is Hold.FREE or now >= claim.until else claim.until

    def holdings(self, now: float) -> list[Holding]:
        found = []
        for uid in sorted({*self.claims, *self.acceptor.votes}):
            claim, until = self.claims.get(uid), self.held_until(uid, now)
            holder = self.acceptor.holder(uid, now) if until is None else (self.name, until)
            owner = None if claim is None else claim.owner
            if claim is not None or holder is not None:
                found.append(Holding(uid, owner, *(holder or (None, None))))
        return found

    # -- What happens in the site

    def link(self, peer: str, up: bool, now: float) -> None:
        """There is a link to that member, or no more."""
        for claim in self.claims.values():
            claim.rank = None
            if claim.owner == (self.name if up else peer):
                # The owner has somebody more to ask; and whoever comes again may ask again.
                claim.again_at, claim.asked_back = min(claim.again_at, now), False
        if up:
            self._links.add(peer)
            self._lost.pop(peer, None)
            self._renew_at = self._hello_at = now
        else:
            self._links.discard(peer)
            self._lost[peer] = now

    def roster(self, revision: int, members: Iterable[str], now: float) -> None:
        self.electorate.roster(revision, tuple(members), now)
        self._hello_at = now

    def received(self, peer: str, letter: Letter, now: float) -> None:
        """``peer`` is who the link says it is."""
        if peer not in self.electorate.members or peer == self.name:
            return
        self._look_at_ends(now)
        self._clean(now)
        self.electorate.heard(peer, letter.standing, now)
        body = letter.body
        if isinstance(body, Answer):
            self._answered(peer, body, now)
        elif isinstance(body, Hello):
            if body.answer:
                self._send(peer, Hello(False))
        elif body.kind is Kind.ASK:
            self._asked_back(peer, body.uids)
        elif body.kind is Kind.RELEASE:
            self._released(peer, body, now)
        elif self.electorate.accepts(letter.standing):
            self._send(peer, self.acceptor.answer(peer, body, now))
        else:
            self._send(peer, self.acceptor.refuse_all(body, Why.ROSTER))

    # -- Time

    def tick(self, now: float) -> None:
        """Do what is due."""
        for ballot in [ballot for ballot, each in self._rounds.items() if now >= each.deadline]:
            self._fail(self._rounds.pop(ballot), now)
        released, self._to_release = self._to_release, []
        if released:
            self._release(released, now)
        self._look_at_ends(now)
        if not self.claims:
            return
        self.electorate.tick(now)
        if now >= self._hello_at and not self.electorate.settled:
            self._hello_at = now + self._timing.renew
            for peer in self._links:
                self._send(peer, Hello(True))
        held = [uid for uid, claim in self.claims.items() if claim.hold is Hold.HELD and claim.wanted]
        if held and now >= self._renew_at:
            self._renew(held, now)
        self._ask(now)
        self._clean(now)

    def next_tick(self, now: float) -> float | None:
        """When :meth:`tick` has something to do, if nothing else happens."""
        return min(self._due(now), default=None)

    def _due(self, now: float) -> Iterator[float]:
        if self._to_release:
            yield now
        for each in self._rounds.values():
            yield each.deadline
        reaches = self._reaches_quorum(now)
        for claim in self.claims.values():
            if claim.hold is Hold.HELD:
                yield claim.until - self._timing.ending
                if claim.wanted:
                    yield self._renew_at
            elif claim.hold is Hold.ENDING:
                yield claim.until
            elif reaches:
                at = self._ask_at(claim, now)
                if at is not None:
                    yield at
        if self.claims and not self.electorate.settled:
            # Also without a link: rosters are left behind by time, too.
            yield self._hello_at

    def waiting_for(self, now: float) -> str | None:
        """Why nothing can be asked for now, for people."""
        electorate = self.electorate
        if not electorate.members:
            return "this node is in no roster of its site"
        missing = electorate.missing()
        if missing:
            return f"the nodes of this site have not all met yet: missing {', '.join(missing)}"
        if not electorate.established:
            return "this node cannot keep, or does not know yet, who belongs to its site"
        if not self._reaches_quorum(now):
            reached = ", ".join(sorted(self._links)) or "nobody"
            return f"this node reaches {reached}, and no majority of its site's {len(electorate.members)} nodes"
        leases = {peer: electorate.lease_of(peer, USUAL) for peer in sorted(self._links)}
        refusing = {peer: lease for peer, lease in leases.items() if lease < self._timing.length}
        if refusing and not electorate.is_quorum({*self._links, self.name} - refusing.keys(), now):
            return (
                f"{', '.join(refusing)} have leases of {min(refusing.values()):g} s, and do not vote for this node's "
                f"of {self._timing.length:g} s: give all nodes of the site the same --takeover-lease"
            )
        return None

    def _clean(self, now: float) -> None:
        if now >= self._forget_at:
            self._forget_at = now + self._timing.hold
            self.acceptor.forget(now)
            if now >= self.acceptor.silent_until:
                self.electorate.longer_leases_are_over()

    # -- Within: leases that this node has

    def _look_at_ends(self, now: float) -> None:
        for claim in list(self.claims.values()):
            if claim.hold is Hold.HELD and now >= claim.until - self._timing.ending:
                claim.hold = Hold.ENDING
                self._drop(claim.uid)
                self._effects.append(Ending(claim.uid, claim.until - self._timing.margin))
            if claim.hold is Hold.ENDING and now >= claim.until:
                self._free(claim)
                claim.again_at = now

    def _free(self, claim: Claim) -> None:
        claim.hold, claim.until, claim.asked_back = Hold.FREE, 0.0, False
        self._drop(claim.uid)
        if not claim.wanted:
            self._forget_claim(claim)

    def _forget_claim(self, claim: Claim) -> None:
        del self.claims[claim.uid]

    def _drop(self, uid: str) -> None:
        """Count no votes that were asked for."""
        for each in self._rounds.values():
            each.drop(uid)

    def _renew(self, uids: list[str], now: float) -> None:
        self._renew_at = now + self._timing.renew
        if self._reaches_quorum(now):
            ballot = self._begin(now + self._timing.renew)
            self._propose(ballot, uids, now)

    def _asked_back(self, peer: str, uids: Iterable[str]) -> None:
        for uid in uids:
            claim = self.claims.get(uid)
            # Nobody but the owner is listened to, by the name that the link knows it by.
            if claim is not None and claim.owner == peer and claim.hold is Hold.HELD and not claim.asked_back:
                claim.asked_back = True
                self._effects.append(WantedBack(uid))

    # -- Within: asking

    def _ask_at(self, claim: Claim, now: float) -> float | None:
        """When this node may ask for what it has not; ``None`` while it should not."""
        if claim.owner == self.name:
            return claim.again_at
        owner = claim.owner
        if owner in self._links or owner not in self.electorate.members:
            return None
        since = self._lost.get(owner, self._started) + self._timing.away
        since = max(since, self.acceptor.free_at(claim.uid))
        if claim.rank is None:
            claim.rank = ranked(claim.uid, {*self._links, self.name}).index(self.name)
        return max(max(since, claim.blocked_until) + claim.rank * self._timing.step, claim.again_at)

    def _ask(self, now: float) -> None:
        if not self._reaches_quorum(now):
            return
        due = []
        for claim in self.claims.values():
            at = self._ask_at(claim, now) if claim.hold is Hold.FREE else None
            if at is not None and now >= at:
                claim.again_at = now + 2 * self._timing.retry
                due.append(claim.uid)
        if due:
            ballot = self._begin(now + 2 * self._timing.retry)
            self._rounds[ballot].promised = {uid: set() for uid in due}
            self._rounds[ballot].met = {uid: set() for uid in due}
            self._to_all(Kind.PREPARE, ballot, due, now)

    def _begin(self, deadline: float) -> int:
        self._ballot += 1
        self._rounds[self._ballot] = _Round(deadline, self.electorate.standing().configs)
        return self._ballot

    def _propose(self, ballot: int, uids: list[str], now: float) -> None:
        each = self._rounds[ballot]
        for uid in uids:
            each.proposed_at[uid] = now
            each.accepted[uid] = set()
        self._to_all(Kind.PROPOSE, ballot, uids, now)

    def _fail(self, each: _Round, now: float) -> None:
        """Time is up: whoever voted for nothing is to know that."""
        vain = [uid for uid in each.proposed_at if self._is_free(uid)]
        if vain:
            self._release(vain, now)

    def _is_free(self, uid: str) -> bool:
        claim = self.claims.get(uid)
        return claim is None or claim.hold is Hold.FREE

    def _release(self, uids: list[str], now: float) -> None:
        # Under a new ballot, so that no vote of before survives it.
        self._ballot += 1
        self._to_all(Kind.RELEASE, self._ballot, uids, now)

    # -- Within: answers

    def _answered(self, peer: str, answer: Answer, now: float) -> None:
        each = self._rounds.get(answer.ballot)
        if each is None or answer.run != self._run:
            return
        if each.configs != self.electorate.standing().configs:
            # Votes of one electorate are not counted in another.
            self._fail(self._rounds.pop(answer.ballot), now)
            self._renew_at = now
            return
        if answer.kind is Kind.PREPARE:
            self._promised(peer, answer, each, now)
        elif answer.kind is Kind.PROPOSE:
            self._accepted(peer, answer, each, now)

    def _promised(self, peer: str, answer: Answer, each: _Round, now: float) -> None:
        is_quorum = self._memo(now)
        granted = [uid for uid in answer.granted if uid in each.promised]
        for uid in granted:
            each.promised[uid].add(peer)
            each.met[uid].add(peer)
        for refused in answer.refused:
            if refused.uid in each.met:
                self._refused(peer, refused, each, now)
        self._ask_back([*granted, *(refused.uid for refused in answer.refused)], answer.ballot, each, is_quorum)
        ready = [uid for uid in granted if uid not in each.proposed_at and is_quorum(each.promised[uid])]
        if ready:
            self._propose(answer.ballot, ready, now)

    def _refused(self, peer: str, refused: Refused, each: _Round, now: float) -> None:
        # Nobody can drive the ballots to their end: a false one raises ours by little.
        self._ballot = max(self._ballot, min(refused.ballot, self._ballot + 1000))
        if refused.why in (Why.HELD, Why.PROMISED):
            each.met[refused.uid].add(peer)
        claim = self.claims.get(refused.uid)
        if refused.why is Why.HELD and claim is not None:
            each.held_by[refused.uid] = refused.holder
            wait = min(max(refused.remaining, 0.0), self._timing.hold)
            claim.blocked_until = max(claim.blocked_until, now + wait)

    def _ask_back(self, uids: list[str], ballot: int, each: _Round, is_quorum: Callable[[set[str]], bool]) -> None:
        """Ask whoever has what is this node's own, once a majority is known to be there to give it to this node."""
        back: dict[str, list[str]] = {}
        for uid in uids:
            holder, claim = each.held_by.get(uid), self.claims.get(uid)
            if holder in self._links and claim is not None and claim.owner == self.name and is_quorum(each.met[uid]):
                del each.held_by[uid]
                back.setdefault(str(holder), []).append(uid)
        for holder, asked in back.items():
            for request in self._requests(Kind.ASK, ballot, asked):
                self._send(holder, request)

    def _accepted(self, peer: str, answer: Answer, each: _Round, now: float) -> None:
        is_quorum = self._memo(now)
        renewed = False
        for uid in answer.granted:
            votes, claim = each.accepted.get(uid), self.claims.get(uid)
            if votes is None or claim is None or not claim.wanted:
                continue
            votes.add(peer)
            until = each.proposed_at[uid] + self._timing.length
            if now >= until - self._timing.ending or not is_quorum(votes):
                continue
            if claim.hold is Hold.FREE:
                claim.hold, claim.until, claim.asked_back = Hold.HELD, until, False
                self._effects.append(Gained(uid))
            elif claim.hold is Hold.HELD and until > claim.until:
                claim.until, renewed = until, True
        if renewed:
            self._effects.append(Renewed())

    def _memo(self, now: float) -> Callable[[set[str]], bool]:
        """Whether some are a majority; thousands of pods have the same voters."""
        known: dict[frozenset[str], bool] = {}

        def is_quorum(names: set[str]) -> bool:
            key = frozenset(names)
            if key not in known:
                known[key] = self.electorate.is_quorum(key, now)
            return known[key]

        return is_quorum

    def _released(self, peer: str, request: Request, now: float) -> None:
        free = self.acceptor.release(peer, request, now)
        for uid in free:
            if uid in self.claims:
                self.claims[uid].blocked_until = now
        for uid in request.uids:
            # Not only where this node's own vote was among those: an owner that was away gave none.
            if uid in self.claims and self.claims[uid].owner == self.name:
                self.claims[uid].again_at = now

    # -- Within: sending

    def _reaches_quorum(self, now: float) -> bool:
        return self.electorate.is_quorum({*self._links, self.name}, now)

    def _requests(self, kind: Kind, ballot: int, uids: list[str]) -> Iterator[Request]:
        for start in range(0, len(uids), MAX_UIDS):
            yield Request(kind, self._run, ballot, self._timing.length, tuple(uids[start : start + MAX_UIDS]))

    def _to_all(self, kind: Kind, ballot: int, uids: list[str], now: float) -> None:
        for request in self._requests(kind, ballot, uids):
            for peer in sorted(self._links):
                self._send(peer, request)
            if kind is Kind.RELEASE:
                self.acceptor.release(self.name, request, now)
            else:
                self._answered(self.name, self.acceptor.answer(self.name, request, now), now)

    def _send(self, peer: str, body: Request | Answer | Hello) -> None:
        self._effects.append(Send(peer, Letter(self.electorate.standing(), body)))
