"""``./scripts/bench``: measure our tunnel and its peers side by side."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks import report
from benchmarks.congestion import offered, permitted, preset
from benchmarks.parts import PARTS
from benchmarks.plot import svg
from benchmarks.runner import run
from benchmarks.world import Hub

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"


def main() -> int:
    options = _arguments().parse_args()
    if options.list:
        for part in PARTS.values():
            print(f"{part.name:12} {part.what}  [{', '.join(part.subjects)}]")
        return 0
    if not options.report:
        if os.geteuid() != 0:
            print("Run this as root: it makes network namespaces.", file=sys.stderr)
            return 1
        Hub.congestion = options.congestion
        conditions = {"quick": options.quick, "rounds": options.rounds, "congestion": options.congestion}
        parts = [PARTS[name]() for name in dict.fromkeys(options.parts or PARTS)]
        needed = {part.congestion for part in parts if part.congestion is not None} & set(offered())
        with permitted({options.congestion, *needed}):
            results = run(
                parts,
                options.only,
                options.rounds,
                options.quick,
                lambda line: print(line, flush=True),
                # Part by part, so that a run that is broken off has brought something.
                lambda results: report.save(results, options.output, **conditions),
            )
    else:
        results = report.load(options.output)
    print("\nMedians; in brackets how many times theirs ours is.\n")
    print(f"{report.table(results)}\n\n{report.verdicts(results)}")
    print(report.profiles(results))
    for line in report.skips(results):
        print(line)
    everything = report.load(options.output)
    (options.output / "results.svg").write_text(svg(everything))
    (options.output / "README.md").write_text(report.page(everything))
    print(f"\nWritten to {options.output}: results.json, results.svg, README.md")
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./scripts/bench", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", choices=[[], *PARTS], help="what to measure; everything, if none is named"
    )
    parser.add_argument("--list", action="store_true", help="the parts, what they measure, and of whom")
    parser.add_argument("--rounds", type=int, default=3, help="times each is measured; the median counts (3)")
    parser.add_argument("--quick", action="store_true", help="shorter measurements: to see that everything works")
    parser.add_argument("--only", nargs="+", metavar="SUBJECT", help="measure these subjects only")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder for the JSON and the plot (docs/benchmarks)")
    parser.add_argument("--congestion", default=preset(), help="TCP's congestion control (the machine's: %(default)s)")
    parser.add_argument("--report", action="store_true", help="measure nothing; show what is in the output folder")
    return parser  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
