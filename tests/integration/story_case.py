"""Stories as tests: every step is one, played once and in order, in a world that is built once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from twisted.trial import unittest

from examples.demo.telling import M, StepIn, TellingIn, W
from tests.lab.world import SharedWorld


class StoryCase(SharedWorld, unittest.SynchronousTestCase):
    """Its tests are given by :func:`add_steps`; ``build_world`` makes the telling."""

    telling: ClassVar[TellingIn[Any, Any]]


class _Test(Protocol):
    def __call__(self, case: StoryCase) -> None: ...


def add_steps(case: type[StoryCase], steps: Sequence[StepIn[W, M]]) -> None:
    """Make a test of each step."""
    for number, step in enumerate(steps, 1):
        # Numbered, so that runners that sort by name play them in order.
        setattr(case, f"test_{number:02}_{step.name}", _test_of(step))


def _test_of(step: StepIn[W, M]) -> _Test:
    def test(case: StoryCase) -> None:
        case.assertTrue(case.telling.play(step), "a step tells what was observed")

    test.__doc__ = f"{step.chapter}: {step.title}"
    return test
