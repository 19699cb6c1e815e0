"""Runs parts, the subjects interleaved round by round, so that a noisy minute hits all of them alike."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence

from benchmarks.model import Results
from benchmarks.parts.base import Part
from tests.lab.waiting import LabError


class Progress:
    """How much of a run is done, and how long the rest takes: as :attr:`Part.seconds` has it, until a part has been
    measured; then as that took."""

    def __init__(self, quick: bool, clock: Callable[[], float]) -> None:
        self._quick = quick
        self._clock = clock
        self._ahead: list[tuple[Part, str]] = []
        self._took: dict[tuple[Part, str], float] = {}
        self._done = 0
        self._began = clock()

    def plan(self, part: Part, subject: str) -> None:
        """That much is to be done as well."""
        self._ahead.append((part, subject))

    def begin(self) -> None:
        self._began = self._clock()

    def end(self, part: Part, subject: str) -> float:
        """It is done; the seconds it took."""
        took = self._clock() - self._began
        self._took[part, subject] = took
        self._ahead.remove((part, subject))
        self._done += 1
        return took

    def left(self) -> float:
        """Seconds until all is done."""
        return sum(self._took.get(each, each[0].expected(each[1], self._quick)) for each in self._ahead)

    def __str__(self) -> str:
        return f"{self._done} of {self._done + len(self._ahead)}, about {_minutes(self.left())} to go"


def run(
    parts: Sequence[Part],
    subjects: Sequence[str] | None,
    rounds: int,
    quick: bool,
    say: Callable[[str], None],
    keep: Callable[[Results], object] = lambda results: None,
    clock: Callable[[], float] = time.monotonic,
) -> Results:
    """Measure everything; a subject that is missing or fails is left out, with the reason in the results.

    :param keep: is given what one part has brought, as soon as it is measured.
    :returns: what all have brought.
    """
    whole = Results()
    progress = Progress(quick, clock)
    order: dict[Part, list[list[str]]] = {}
    skipped: dict[Part, dict[str, str]] = {}
    for part in parts:
        wanted = [each for each in part.subjects if subjects is None or each in subjects]
        skipped[part] = {each: why for each in wanted if (why := part.missing(each))}
        present = [each for each in wanted if each not in skipped[part]]
        # Not always the same one first.
        turns = [present[at % len(present) :] + present[: at % len(present)] if present else [] for at in range(rounds)]
        order[part] = turns[: part.rounds]
        for turn in order[part]:
            for subject in turn:
                progress.plan(part, subject)
    say(str(progress))
    for part in parts:
        say(f"{part.name}: {part.what}")
        results = Results(parts=[part.name])
        for subject, why in skipped[part].items():
            results.skip(f"{part.name}: {subject}", why)
            say(f"  SKIPPED {subject}: {why}")
        for number, turn in enumerate(order[part]):
            for subject in turn:
                progress.begin()
                figures = _once(part, subject, number, quick, results, say)
                took = progress.end(part, subject)
                if figures:
                    say(f"  {number + 1}. {subject}: {figures}  [{took:.0f} s; {progress}]")
        if note := part.note():
            results.notes[part.name] = note
            say(note)
        keep(results)
        whole.take(results)
    return whole


def _once(part: Part, subject: str, number: int, quick: bool, results: Results, say: Callable[[str], None]) -> str:
    """Measure; the figures as text, or nothing if it failed, which is said and noted."""
    try:
        values = part.measure(subject, quick)
    except Exception as error:
        # Whatever it is, the other subjects and parts are not to be lost by it: a run takes half an hour.
        results.skip(f"{part.name}: {subject}, round {number + 1}", f"{type(error).__name__}: {error}")
        say(f"  FAILED {subject}: {error if isinstance(error, LabError) else traceback.format_exc()}")
        return ""
    results.add(subject, values)
    return ", ".join(f"{key} {value:.4g}" for key, value in values.items())


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
