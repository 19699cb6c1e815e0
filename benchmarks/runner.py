"""Runs parts, the subjects interleaved round by round, so that a noisy minute hits all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from benchmarks.model import Results
from benchmarks.parts.base import Part
from tests.lab.waiting import LabError


def run(
    parts: Sequence[Part], subjects: Sequence[str] | None, rounds: int, quick: bool, say: Callable[[str], None]
) -> Results:
    """Measure everything; a subject that is missing or fails is left out, with the reason in the results."""
    results = Results()
    for part in parts:
        say(f"{part.name}: {part.what}")
        wanted = [each for each in part.subjects if subjects is None or each in subjects]
        for subject in list(wanted):
            if why := part.missing(subject):
                results.skip(f"{part.name}: {subject}", why)
                say(f"  SKIPPED {subject}: {why}")
                wanted.remove(subject)
        for number in range(min(rounds, part.rounds or rounds)):
            # Not always the same one first.
            for subject in wanted[number % len(wanted) :] + wanted[: number % len(wanted)] if wanted else ():
                _once(part, subject, number, quick, results, say)
    return results


def _once(part: Part, subject: str, number: int, quick: bool, results: Results, say: Callable[[str], None]) -> None:
    began = time.monotonic()
    try:
        values = part.measure(subject, quick)
    except LabError as error:
        results.skip(f"{part.name}: {subject}, round {number + 1}", str(error))
        say(f"  FAILED {subject}: {error}")
        return
    results.add(subject, values)
    figures = ", ".join(f"{key} {value:.4g}" for key, value in values.items())
    say(f"  {number + 1}. {subject}: {figures}  [{time.monotonic() - began:.0f} s]")
