"""What the steps say of frames: phases of the run, their figures, and what must hold of them always."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from examples.campus.record import DEADLINE, Figures, Phase, Record
from examples.campus.world import CampusWorld
from examples.demo.telling import ChapterIn, StepIn, check
from tests.lab.waiting import wait_until

Chapter = ChapterIn[CampusWorld, Record]
Step = StepIn[CampusWorld, Record]

SETTLE = 3.0
"""Seconds at the beginning of a phase that its checks leave out: the balancers find out by what happens to frames."""


@contextmanager
def phase(world: CampusWorld, record: Record, name: str, placement: str = "balanced") -> Iterator[Phase]:
    now = Phase(name, placement, time.time())
    record.phases.append(now)
    yield now
    now.end = time.time()
    # Every frame of the phase has its outcome before anything is said of it.
    wait_until(lambda: world.settled(now.end), 20, "the outcome of every frame", interval=0.3)


def go_on(seconds: float) -> None:
    """Let it run for so long: here the time itself is what is awaited."""
    time.sleep(seconds)


def mark(record: Record, what: str) -> None:
    record.events.append((time.time(), what))


def figures(world: CampusWorld, now: Phase, settle: float = SETTLE) -> Figures:
    return Figures.of(world.frames(), now.start + settle, now.end)


def told(found: Figures) -> str:
    median, high, highest = found.latency
    shares = ", ".join(f"{place} {100 * found.share(place):.0f} %" for place in ("here", "site", "cloud"))
    return (
        f"{found.rate:.1f} frames/s answered of {found.taken / found.seconds:.1f} taken ({shares}); "
        f"latency {1000 * median:.0f} ms, 95 % {1000 * high:.0f} ms, 99 % {1000 * highest:.0f} ms"
    )


def check_quality(found: Figures) -> None:
    """What holds always, whatever happens."""
    check(found.answered > 10, "frames to be answered", found)
    check(found.latency[2] <= DEADLINE + 0.3, f"99 % of the answers within {DEADLINE + 0.3:g} s", told(found))
    check(found.recall >= 0.97 and found.precision >= 0.97, "things found as they truly were", found)


def lately(world: CampusWorld, place: str, seconds: float = 2.0) -> int:
    """How many of the last frames were worked on at a place."""
    since = time.time() - seconds
    return sum(each.get("place") == place and each["time"] >= since for each in world.frames())
