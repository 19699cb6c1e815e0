"""The votes of one node: one for each pod at a time, until whoever has it gives it back or time is up. Pure.

That alone makes leases exclusive: a vote that was given is never given to anybody else before it has run out *here*,
which is later than it runs out for whoever counts on it (:attr:`LeaseTiming.hold`), and any two majorities have a voter
in common. Votes are in memory only, so a node that was started anew gives none for so long. Ballots keep those who ask
at a time from dividing the votes among them; no promise of an exclusive lease rests on them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from appengine.takeover.messages import Answer, Kind, Refused, Request, Why
from appengine.takeover.timing import LeaseTiming

MAX_VOTES: Final = 4096
"""Pods that one node may have asked for at a time: 40 times what a kubelet runs. About 1 MB."""


@dataclass(slots=True)
class Vote:
    """What was said about one pod.

    :ivar holder: who has the vote until ``until``; meaningless later.
    :ivar promised: the ballot below which nobody else may ask, until ``promised_until``.
    """

    holder: str = ""
    run: str = ""
    ballot: int = 0
    until: float = 0.0
    promised: tuple[int, str, str] = (0, "", "")
    promised_until: float = 0.0

    def held(self, now: float) -> bool:
        return now < self.until

    def over(self, now: float) -> bool:
        return now >= self.until and now >= self.promised_until

    @property
    def whose(self) -> str:
        return self.holder or self.promised[2]


class Acceptor:
    """:param silent_until: when the votes of earlier processes of this node, which are forgotten, are over."""

    def __init__(self, timing: LeaseTiming, silent_until: float) -> None:
        self._timing = timing
        self.silent_until = silent_until
        self.votes: dict[str, Vote] = {}
        self._counts: Counter[str] = Counter()

    def answer(self, peer: str, request: Request, now: float) -> Answer:
        """To a PREPARE or PROPOSE of ``peer``, with whose standing this node agrees."""
        give = self._prepare if request.kind is Kind.PREPARE else self._propose
        granted: list[str] = []
        refused: list[Refused] = []
        for uid in request.uids:
            refusal = self._refusal(peer, uid, request, now) or give(peer, uid, request, now)
            if refusal is None:
                granted.append(uid)
            else:
                refused.append(refusal)
        return Answer(request.kind, request.run, request.ballot, tuple(granted), tuple(refused))

    @staticmethod
    def refuse_all(request: Request, why: Why) -> Answer:
        refused = tuple(Refused(uid, why) for uid in request.uids)
        return Answer(request.kind, request.run, request.ballot, (), refused)

    def release(self, peer: str, request: Request, now: float) -> list[str]:
        """Take back votes for ``peer`` that it has no use for; which they were."""
        released = []
        for uid in request.uids:
            vote = self.votes.get(uid)
            if vote is None:
                continue
            if vote.promised[1:] == (request.run, peer) and vote.promised[0] <= request.ballot:
                vote.promised_until = now
            if vote.held(now) and (vote.holder, vote.run) == (peer, request.run) and vote.ballot <= request.ballot:
                vote.until = now
                released.append(uid)
        return released

    def holder(self, uid: str, now: float) -> tuple[str, float] | None:
        """Who has this node's vote, and until when."""
        vote = self.votes.get(uid)
        return None if vote is None or not vote.held(now) else (vote.holder, vote.until)

    def free_at(self, uid: str) -> float:
        """When the last vote was over, or will be; 0 if that is not known or long ago."""
        vote = self.votes.get(uid)
        return 0.0 if vote is None else vote.until

    def forget(self, now: float) -> None:
        """Drop what does not count any more."""
        # What is just over still says whose turn it is.
        since = now - self._timing.hold
        self.votes = {uid: vote for uid, vote in self.votes.items() if not vote.over(since)}
        self._counts = Counter(vote.whose for vote in self.votes.values())

    def _refusal(self, peer: str, uid: str, request: Request, now: float) -> Refused | None:
        if now < self.silent_until:
            return Refused(uid, Why.STARTING, remaining=self.silent_until - now)
        if request.length > self._timing.length:
            return Refused(uid, Why.LENGTH)
        vote = self.votes.get(uid)
        if vote is None:
            if self._counts[peer] >= MAX_VOTES:
                self.forget(now)
            return Refused(uid, Why.FULL) if self._counts[peer] >= MAX_VOTES else None
        if vote.held(now) and vote.holder != peer:
            return Refused(uid, Why.HELD, vote.holder, vote.until - now)
        mine = (request.ballot, request.run, peer)
        if now < vote.promised_until and vote.promised > mine and vote.promised[2] != peer:
            return Refused(uid, Why.PROMISED, ballot=vote.promised[0])
        return None

    def _of(self, peer: str, uid: str) -> Vote:
        vote = self.votes.get(uid)
        if vote is None:
            vote = self.votes[uid] = Vote()
            self._counts[peer] += 1
        return vote

    def _prepare(self, peer: str, uid: str, request: Request, now: float) -> Refused | None:
        vote = self._of(peer, uid)
        vote.promised, vote.promised_until = (request.ballot, request.run, peer), now + self._timing.hold
        return None

    def _propose(self, peer: str, uid: str, request: Request, now: float) -> Refused | None:
        vote = self._of(peer, uid)
        if vote.held(now) and vote.run == request.run:
            if request.ballot < vote.ballot:
                return Refused(uid, Why.OLD, ballot=vote.ballot)
            if request.ballot == vote.ballot:
                # Said again: it counts from when it was said first.
                return None
        vote.holder, vote.run, vote.ballot = peer, request.run, request.ballot
        vote.until = now + self._timing.hold
        return None
