"""``python -m examples.demo``: build the world, tell the story, stay for looking around."""

from __future__ import annotations

import argparse
import signal
import sys
import textwrap
import time

from examples.demo.story import STEPS
from examples.demo.telling import M, NotAsTold, Telling, TellingIn, W
from examples.demo.world import World
from tests.lab.require import missing
from tests.lab.waiting import LabError


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description="Show KubeBus on one machine, with real everything.")
    parser.add_argument("--once", action="store_true", help="exit after the story; status 1 if any step failed")
    options = parser.parse_args()
    problem = missing()
    if problem is not None:
        print(f"this machine cannot run the demo: {problem}", file=sys.stderr)
        return 1
    # An end by SIGTERM takes everything down as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return show(once=options.once)
    except KeyboardInterrupt:
        print("\ninterrupted; everything was taken down", file=sys.stderr)
        return 130
    except LabError as error:
        print(f"the world could not be built: {error}", file=sys.stderr)
        return 1


def show(*, once: bool) -> int:
    style = Style(sys.stdout.isatty())
    began = time.monotonic()
    print("Building an Internet, a cloud, and two sites behind NAT, each with a Docker engine …", flush=True)
    with World() as world:
        print(style.dim(f"  built in {time.monotonic() - began:.1f} s, files in {world.path}"))
        good = tell(Telling(STEPS, world), style)
        print(f"\n{style.verdict(good)} after {time.monotonic() - began:.0f} s")
        if not once:
            stay(world, style, good=good)
        print("Taking everything down …", flush=True)
    return 0 if good else 1


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


def stay(world: World, style: Style, *, good: bool) -> None:
    """Print how to look around, and wait for Ctrl-C."""
    print(f"\n{style.bold('It stays up until Ctrl-C. In another terminal, as root:')}\n")
    for command in world.look_around() if good else [f"tail -n 50 {world.path.parent}/*.log"]:
        print(f"  {command}")
    print(flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        print()


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


if __name__ == "__main__":
    sys.exit(main())
