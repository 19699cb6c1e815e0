"""``python -m examples.campus``: build the campus, tell its story, keep the record, draw the plots."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from examples.campus.record import SHORT, Plan, Record
from examples.campus.story import STEPS
from examples.campus.world import CampusWorld
from examples.demo.__main__ import Style, tell
from examples.demo.telling import TellingIn
from examples.demo.world import CHECKOUT
from tests.lab.require import missing
from tests.lab.waiting import LabError

RECORD = CHECKOUT / ".state/campus/run.json"
PICTURES = CHECKOUT / ".state/campus"


def main() -> int:
    parser = argparse.ArgumentParser(prog="campus", description="Run the campus surveillance, with real everything.")
    parser.add_argument("--short", action="store_true", help="the same story in shorter phases")
    parser.add_argument("--record", type=Path, default=RECORD, help="where to keep what happened (%(default)s)")
    parser.add_argument("--pictures", type=Path, default=PICTURES, help="the folder for the plots (%(default)s)")
    parser.add_argument("--draw", action="store_true", help="only draw the plots from a record that there is")
    options = parser.parse_args()
    if options.draw:
        draw(options.record, options.pictures)
        return 0
    problem = missing()
    if problem is not None:
        print(f"this machine cannot run it: {problem}", file=sys.stderr)
        return 1
    # An end by SIGTERM takes everything down as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        good = run(SHORT if options.short else Plan(), options.record)
    except KeyboardInterrupt:
        print("\ninterrupted; everything was taken down", file=sys.stderr)
        return 130
    except LabError as error:
        print(f"the campus could not be built: {error}", file=sys.stderr)
        return 1
    if good:
        draw(options.record, options.pictures)
    return 0 if good else 1


def run(plan: Plan, where: Path) -> bool:
    """Tell the story; whether everything was as told. The record is kept in any case."""
    style = Style(sys.stdout.isatty())
    began = time.monotonic()
    print("Building a site of three nodes and three cameras behind NAT, a cloud, and the images …", flush=True)
    record = Record(plan)
    with CampusWorld() as world:
        print(style.dim(f"  built in {time.monotonic() - began:.1f} s, files in {world.path}"))
        good = tell(TellingIn(STEPS, world, record), style)
        seconds = time.monotonic() - began
        print(f"\n{style.verdict(good)} after {seconds:.0f} s")
        record.figures["seconds of the run"] = round(seconds)
        record.write(where, world.by_camera())
        print(f"The record is {where}")
        print("Taking everything down …", flush=True)
    return good


def draw(record: Path, pictures: Path) -> None:
    # Loaded late: it takes a second, and only this needs it.
    from examples.campus.plots import draw_all

    for picture in draw_all(record, pictures):
        print(f"drawn: {picture}")


if __name__ == "__main__":
    sys.exit(main())
