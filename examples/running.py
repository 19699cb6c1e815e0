"""A story on the command line: its world is built, its steps are told, its record kept, its plots drawn."""

from __future__ import annotations

import argparse
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from examples.demo.telling import M, NotAsTold, StepIn, TellingIn, W
from examples.demo.world import CHECKOUT
from tests.lab.require import missing
from tests.lab.waiting import LabError

P = TypeVar("P")
"""A plan: how long each part of a story takes."""


class Style:
    """Marks and colours; plain where nobody looks."""

    def __init__(self, colours: bool) -> None:
        self.colours = colours
        self.again = "\r\x1b[K" if colours else ""
        self.check = self._paint("32", "✓")
        self.cross = self._paint("31", "✗")

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colours else text

    def bold(self, text: str) -> str:
        return self._paint("1", text)

    def dim(self, text: str) -> str:
        return self._paint("2", text)

    def verdict(self, good: bool) -> str:
        return self._paint("32", "All as told") if good else self._paint("31", "NOT as told")


def tell(telling: TellingIn[W, M], style: Style) -> bool:
    """Play all steps up to the first that fails; whether none did."""
    chapter = ""
    for step in telling.steps:
        if step.chapter != chapter:
            chapter = step.chapter
            print(f"\n{style.bold(chapter)}", flush=True)
        if style.colours:
            print(f"  … {step.title}", end="", flush=True)
        try:
            observed = telling.play(step)
        except NotAsTold as failure:
            told = "\n".join([str(failure), *getattr(failure, "__notes__", ())])
            print(f"{style.again}  {style.cross} {step.title}\n{textwrap.indent(told, '      ')}", flush=True)
            return False
        print(f"{style.again}  {style.check} {step.title}")
        print(style.dim(textwrap.indent(observed.rstrip(), "      ")), flush=True)
    return True


def guarded(act: Callable[[], int]) -> int:
    """Do it on a machine that can, with everything taken down however it ends; the exit status."""
    problem = missing()
    if problem is not None:
        print(f"this machine cannot run it: {problem}", file=sys.stderr)
        return 1
    # An end by SIGTERM takes everything down as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return act()
    except KeyboardInterrupt:
        print("\ninterrupted; everything was taken down", file=sys.stderr)
        return 130
    except LabError as error:
        print(f"the world could not be built: {error}", file=sys.stderr)
        return 1


@dataclass(frozen=True)
class Study(Generic[W, M, P]):
    """A case study: a story that leaves a record, from which its plots are drawn."""

    name: str
    about: str
    """One line of help."""
    building: str
    """What is built, for who waits."""
    plan: P
    short: P
    short_help: str
    steps: Sequence[StepIn[W, M]]
    world: Callable[[P], W]
    memory: Callable[[P], M]
    keep: Callable[[W, M, Path, float], None]
    """Writes the record to a file; with the seconds that the run took."""
    draw: Callable[[Path, Path], Sequence[Path]]
    """Draws the plots from a record into a folder; their files."""

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """The program; its exit status, which is not 0 if anything was not as told."""
        folder = CHECKOUT / ".state" / self.name
        parser = argparse.ArgumentParser(prog=self.name, description=self.about)
        parser.add_argument("--short", action="store_true", help=self.short_help)
        parser.add_argument(
            "--record", type=Path, default=folder / "run.json", help="where to keep what happened (%(default)s)"
        )
        parser.add_argument("--pictures", type=Path, default=folder, help="the folder for the plots (%(default)s)")
        parser.add_argument("--draw", action="store_true", help="only draw the plots from a record that there is")
        options = parser.parse_args(arguments)
        if not options.draw:
            plan = self.short if options.short else self.plan
            status = guarded(lambda: 0 if self.run(plan, options.record) else 1)
            if status != 0:
                return status
        for picture in self.draw(options.record, options.pictures):
            print(f"drawn: {picture}")
        return 0

    def run(self, plan: P, where: Path) -> bool:
        """Tell the story; whether everything was as told. The record is kept in any case."""
        style = Style(sys.stdout.isatty())
        began = time.monotonic()
        print(f"Building {self.building} …", flush=True)
        memory = self.memory(plan)
        with self.world(plan) as world:
            print(style.dim(f"  built in {time.monotonic() - began:.1f} s, files in {world.path}"))
            good = tell(TellingIn(self.steps, world, memory), style)
            seconds = time.monotonic() - began
            print(f"\n{style.verdict(good)} after {seconds:.0f} s")
            self.keep(world, memory, where, seconds)
            print(f"The record is {where}")
            print("Taking everything down …", flush=True)
        return good
