"""What the nodes of a site say to each other about leases. Who says it is never in a message: the link knows. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from appengine.takeover.timing import USUAL

MAX_UIDS: Final = 500
"""Pods in one message; who has more sends several."""

MAX_BALLOT: Final = 2**52
"""Exact in any JSON reader; a ballot a millisecond does not reach it in a hundred thousand years."""


class Kind(StrEnum):
    """Of a request, and of the answer to it."""

    PREPARE = "prepare"
    """May I ask for these? Whoever says yes says it to no lower ballot any more."""
    PROPOSE = "propose"
    """Give me these, for the lease's length from when this came."""
    RELEASE = "release"
    """I do not have these any more, at this ballot or a lower one. Not answered."""
    ASK = "ask"
    """I am the owner of these, and reach a majority: give them back. Not answered."""


class Why(StrEnum):
    """Why a node does not give its vote."""

    HELD = "held"
    """Another node has it."""
    PROMISED = "promised"
    """Another one asks for it with a higher ballot."""
    OLD = "old"
    """There was a higher ballot of the asking node itself."""
    STARTING = "starting"
    """It does not remember yet what it said before it was started."""
    ROSTER = "roster"
    """It knows of members that the asking node has not reckoned with, or it is no voter yet."""
    LENGTH = "length"
    """So long a lease is not given here."""
    FULL = "full"
    """The asking node has asked for too much."""


@dataclass(frozen=True, slots=True)
class Config:
    """Who belonged to the site at a revision of its roster.

    :ivar members: their names, sorted.
    """

    revision: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """By whose votes a node goes.

    :ivar established: whether it is a voter; one that never met the others is not.
    :ivar configs: by revision; a majority of each is needed. Of a node that is no voter, its roster.
    :ivar lease: the longest lease that it may have or have voted for, in seconds. An agent that was started anew with
        a shorter one tells of the longer one until that is over.
    """

    established: bool
    configs: tuple[Config, ...]
    lease: float = USUAL


@dataclass(frozen=True, slots=True)
class Request:
    """:ivar run: which run of the asking node's agent this is.

    :ivar length: of the lease, in seconds.
    """

    kind: Kind
    run: str
    ballot: int
    length: float
    uids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """:ivar holder: who has it, if it is held.

    :ivar remaining: how long still, in seconds, if it is not renewed.
    :ivar ballot: what must be exceeded, if another ballot is in the way.
    """

    uid: str
    why: Why
    holder: str = ""
    remaining: float = 0.0
    ballot: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """To the request with this kind, run and ballot."""

    kind: Kind
    run: str
    ballot: int
    granted: tuple[str, ...]
    refused: tuple[Refused, ...] = ()


@dataclass(frozen=True, slots=True)
class Hello:
    """Only the standing is told. :ivar answer: whether the other's is wanted."""

    answer: bool


@dataclass(frozen=True, slots=True)
class Letter:
    """Each message goes with the standing of whoever sends it."""

    standing: Standing
    body: Request | Answer | Hello
