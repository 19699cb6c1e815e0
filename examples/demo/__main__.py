"""``python -m examples.demo``: build the world, tell the story, stay for looking around."""

from __future__ import annotations

import argparse
import signal
import sys
import time

from examples.demo.story import STEPS
from examples.demo.telling import Telling
from examples.demo.world import World
from examples.running import Style, guarded, tell


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description="Show KubeBus on one machine, with real everything.")
    parser.add_argument("--once", action="store_true", help="exit after the story; status 1 if any step failed")
    options = parser.parse_args()
    return guarded(lambda: show(once=options.once))


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


if __name__ == "__main__":
    sys.exit(main())
