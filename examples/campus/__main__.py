"""``python -m examples.campus``: build the campus, tell its story, keep the record, draw the plots."""

from __future__ import annotations

import sys
from pathlib import Path

from examples.campus.record import SHORT, Plan, Record
from examples.campus.story import STEPS
from examples.campus.world import CampusWorld
from examples.running import Study


def keep(world: CampusWorld, record: Record, where: Path, seconds: float) -> None:
    record.figures["seconds of the run"] = round(seconds)
    record.write(where, world.by_camera())


def draw(record: Path, pictures: Path) -> list[Path]:
    # Loaded late: it takes a second, and only this needs it.
    from examples.campus.plots import draw_all

    return draw_all(record, pictures)


STUDY = Study(
    name="campus",
    about="Run the campus surveillance, with real everything.",
    building="a site of three nodes and three cameras behind NAT, a cloud, and the images",
    plan=Plan(),
    short=SHORT,
    short_help="the same story in shorter phases",
    steps=STEPS,
    world=lambda plan: CampusWorld(),
    memory=Record,
    keep=keep,
    draw=draw,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
