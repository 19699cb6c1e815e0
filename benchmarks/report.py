"""The table, the JSON and the notes from a run's results."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.catalogue import BY_KEY, METRICS, OURS, PROFILED, TARGETS
from benchmarks.model import Metric, Results, Target
from benchmarks.profiling import KINDS


def figure(value: float) -> str:
    """Three figures that count."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(results: Results) -> str:
    """All medians: a row for each metric, a column for each subject; with ratios ours : theirs."""
    subjects = sorted({subject for values in results.samples.values() for subject in values}, key=_rank)
    rows = [["", "unit", *subjects]]
    for metric in METRICS:
        medians = dict(results.medians(metric.key))
        if medians and not metric.key.startswith("profile_"):
            # Of what is a ratio already there is no other.
            ours = None if metric.unit in ("ratio", "%") else medians.get(OURS)
            rows.append([metric.title, metric.unit, *(_cell(medians.get(each), each, ours) for each in subjects)])
    return _aligned(rows) if len(rows) > 1 else "nothing was measured"


def verdicts(results: Results) -> str:
    """Each target that can be judged, and how it stands."""
    rows = [["", "target", "measured", ""]]
    for target in TARGETS:
        metric = BY_KEY[target.metric]
        judged = judge(results, target)
        if judged is not None:
            value, met = judged
            rows.append([metric.title, _limit(target, metric), figure(value), "reached" if met else "NOT REACHED"])
    return _aligned(rows) if len(rows) > 1 else ""


def judge(results: Results, target: Target) -> tuple[float, bool] | None:
    """What is held against the target, and whether it is met; ``None`` where something was not measured."""
    ours = results.median(target.metric, OURS)
    theirs = results.median(target.metric, target.other) if target.other else None
    if ours is None or (target.other is not None and theirs is None):
        return None
    return target.value(ours, theirs), target.met(ours, theirs, BY_KEY[target.metric])


def profiles(results: Results) -> str:
    """Where our processes' CPU goes, in percent of each; nothing if that was not measured."""
    rows = [["of the CPU under 1 stream, %", *PROFILED.values()]]
    for kind in KINDS:
        values = [results.median(f"profile_{process}_{kind}", OURS) for process in PROFILED]
        if any(value is not None for value in values):
            rows.append([kind, *("-" if value is None else f"{value:.0f}" for value in values)])
    return _aligned(rows) if len(rows) > 1 else ""


def page(results: Results) -> str:
    """A page of Markdown with everything, to lie beside the JSON and the plot."""
    lines = [
        "# Results",
        "",
        "Written by `./scripts/bench`; medians, and in brackets how many times theirs ours is. Only ratios within one",
        "run hold elsewhere. Every sample is in `results.json`.",
        "",
        *_conditions(results),
        "",
        "![](results.svg)",
        "",
        _fenced(table(results)),
        "",
        _fenced(verdicts(results)),
    ]
    if where := profiles(results):
        lines += ["", _fenced(where)]
    lines += ["", *(f"- {line}" for line in skips(results))]
    if results.notes:
        lines += ["", "## Functions with the most CPU"]
        lines += [part for note in results.notes.values() for part in ("", _fenced(note))]
    return "\n".join(lines).rstrip() + "\n"


def _conditions(results: Results) -> Iterator[str]:
    """When, where and how the figures were taken: a line for each run."""
    runs: dict[str, list[str]] = {}
    for metric in METRICS:
        about = results.about.get(metric.key)
        if about is not None and metric.key in results.samples:
            runs.setdefault(_condition(about), []).append(metric.title)
    for condition, titles in runs.items():
        of = "everything" if len(runs) == 1 else f"{len(titles)} rows, the first of them “{titles[0]}”"
        yield f"- {of}: {condition}"


def _condition(about: Mapping[str, Any]) -> str:
    rounds = f"{about['rounds']} rounds" if "rounds" in about else "some rounds"
    quick = ", **quick**" if about["quick"] else ""
    return (
        f"{about['time'][:10]}, commit {about['commit']}, {rounds}{quick}; {about['cores']} cores of "
        f"{about['processor']}, shared by all processes; Linux {about['kernel']}, Python {about['python']}; TCP's "
        f"congestion control, which inner streams and OpenVPN over TCP use, is {about['congestion']}"
    )


def _fenced(text: str) -> str:
    return f"```\n{text}\n```"


def skips(results: Results) -> Iterator[str]:
    for what, why in results.skipped.items():
        yield f"skipped: {what}: {why.splitlines()[0]}"


def save(results: Results, folder: Path, **conditions: object) -> Path:
    """Write everything as JSON, after what earlier runs measured of other metrics; the file's path.

    :param conditions: under which it was measured: ``quick``, ``rounds``, ``congestion``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    earlier = load(folder) if path.exists() else Results()
    about = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **machine(), **conditions}
    # A part measured again replaces what was; its subjects belong to one run and are compared with each other only.
    skipped = {what: why for what, why in earlier.skipped.items() if what.partition(":")[0] not in results.parts}
    notes = {part: note for part, note in earlier.notes.items() if part not in results.parts}
    document = {
        "samples": {**earlier.samples, **results.samples},
        "units": {metric.key: metric.unit for metric in METRICS},
        "runs": {**earlier.about, **dict.fromkeys(results.samples, about)},
        "skipped": {**skipped, **results.skipped},
        "notes": {**notes, **results.notes},
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def load(folder: Path) -> Results:
    """What :func:`save` has gathered."""
    document = json.loads((folder / "results.json").read_text())
    return Results(document["samples"], document["skipped"], document.get("notes", {}), about=document["runs"])


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "commit": git.stdout.strip(),
    }


def _rank(subject: str) -> tuple[bool, bool, str]:
    return (subject != OURS, not subject.startswith(OURS), subject)


def _cell(value: float | None, subject: str, ours: float | None) -> str:
    if value is None:
        return "-"
    if subject == OURS or ours is None or not value:
        return figure(value)
    return f"{figure(value)} ({figure(ours / value)}×)"


def _limit(target: Target, metric: Metric) -> str:
    sign = "≥" if metric.more else "≤"
    if target.other is None:
        return f"{sign} {figure(target.limit)} {metric.unit}"
    return f"{sign} {figure(target.limit)} × {target.other}"


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())
    return "\n".join(lines)
