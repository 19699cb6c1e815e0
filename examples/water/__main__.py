"""``python -m examples.water``: build the utility, tell its story, keep the record, draw the plots."""

from __future__ import annotations

import sys
from pathlib import Path

from examples.running import Study
from examples.water.record import SHORT, Plan, Record
from examples.water.story import STEPS
from examples.water.world import WaterWorld


def keep(world: WaterWorld, record: Record, where: Path, seconds: float) -> None:
    record.figures["seconds of the run"] = round(seconds)
    record.samples = record.samples or world.record()
    record.write(where)


def draw(record: Path, pictures: Path) -> list[Path]:
    # Loaded late: it takes a second, and only this needs it.
    from examples.water.plots import draw_all

    return draw_all(record, pictures)


STUDY = Study(
    name="water",
    about="Run the water utility, with real everything.",
    building="three sites behind NAT, a cloud, the image, and the plant",
    plan=Plan(),
    short=SHORT,
    short_help="the same story in a few hours of the plant's time",
    steps=STEPS,
    world=lambda plan: WaterWorld(plan.scale),
    memory=Record,
    keep=keep,
    draw=draw,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
