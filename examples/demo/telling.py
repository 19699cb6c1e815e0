"""How a story is told: steps, each of which does something, checks what came of it, and tells what it saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from examples.demo.world import ContainerView, World
from tests.lab.waiting import LabError

MANIFESTS = Path(__file__).parent


class NotAsTold(Exception):
    """A step's check failed. The message says what was expected and what was seen."""


def check(condition: object, expected: str, seen: object = "") -> None:
    if not condition:
        raise NotAsTold(f"expected {expected}" + (f"; seen: {seen}" if seen != "" else ""))


@dataclass
class Memory:
    """What one step saw and a later one needs."""

    seconds_to_running: float = 0.0
    uids: dict[str, str] = field(default_factory=dict)
    containers: dict[str, ContainerView] = field(default_factory=dict)
    service_address: str = ""
    megabytes: dict[str, tuple[float, float]] = field(default_factory=dict)
    """RSS and PSS of each process with one pod on each device."""


W = TypeVar("W", bound=World)
M = TypeVar("M")


@dataclass(frozen=True)
class StepIn(Generic[W, M]):
    """A step of a story that is told in a world of the kind ``W``, with a memory ``M``."""

    name: str
    chapter: str
    title: str
    play: Callable[[W, M], str]
    """Does and checks it; returns what was observed, in lines."""


class ChapterIn(Generic[W, M]):
    """Steps under one heading, in the order in which they are written."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.steps: list[StepIn[W, M]] = []

    def step(self, title: str) -> Callable[[Callable[[W, M], str]], Callable[[W, M], str]]:
        """Make the decorated function the next step of this chapter."""

        def add(play: Callable[[W, M], str]) -> Callable[[W, M], str]:
            self.steps.append(StepIn(play.__name__, self.title, title, play))
            return play

        return add


class TellingIn(Generic[W, M]):
    """One telling of a story in one world: each step is played once, after all before it."""

    def __init__(self, steps: Sequence[StepIn[W, M]], world: W, memory: M) -> None:
        self.steps = steps
        self.world = world
        self.memory = memory
        self._observed: dict[str, str | Exception] = {}

    def play(self, wanted: StepIn[W, M]) -> str:
        """Play a step (and first whatever stands before it); what was observed.

        :raises NotAsTold: if its check fails, or a step before it has failed.
        """
        for each in self.steps:
            if each.name not in self._observed:
                self._observed[each.name] = self._try(each)
            outcome = self._observed[each.name]
            if each is wanted and isinstance(outcome, str):
                return outcome
            if isinstance(outcome, Exception):
                if each is wanted:
                    raise outcome
                raise NotAsTold(f"not reached: {each.name} failed before")
        raise AssertionError(f"{wanted.name} is no step of the story")

    def _try(self, each: StepIn[W, M]) -> str | Exception:
        try:
            return each.play(self.world, self.memory)
        except Exception as error:
            # Not only a check may fail: a missing container, or an answer in another form, is not as told either.
            expected = isinstance(error, NotAsTold | LabError)
            failure = NotAsTold(str(error) if expected else f"{type(error).__name__}: {error}")
            failure.__cause__ = error.__cause__ if expected else error
            failure.add_note(self.world.logs(but=str(error)))
            return failure


Step = StepIn[World, Memory]
"""The demo's own kinds."""


class Chapter(ChapterIn[World, Memory]):
    """A chapter of the demo's story."""


class Telling(TellingIn[World, Memory]):
    """A telling of the demo's story."""

    def __init__(self, steps: Sequence[Step], world: World) -> None:
        super().__init__(steps, world, Memory())
