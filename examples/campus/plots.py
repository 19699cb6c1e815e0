"""The plots of a run, from its record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
# The same record gives the same file.
matplotlib.rcParams["svg.hashsalt"] = "campus"

from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from examples.campus.record import DEADLINE, PLACES, Figures, Phase, Tenure  # noqa: E402

_COLOURS = {"here": "#1060a0", "site": "#60a8d8", "cloud": "#e09020", "refused": "#c03020"}
_NAMES = {"here": "own node", "site": "neighbour", "cloud": "cloud", "refused": "refused or lost"}
_SHADES = ("#f4f4f4", "#e4e4e4")


def draw_all(record: Path, folder: Path) -> list[Path]:
    """Draw what there is to draw; the files."""
    run = json.loads(record.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    frames = [{**frame, "camera": camera} for camera, found in run["cameras"].items() for frame in found]
    phases = [Phase(**each) for each in run["phases"]]
    return [
        _course(run, frames, phases, folder / "campus-course.svg"),
        _placements(frames, phases, folder / "campus-placements.svg"),
    ]


def _course(run: dict[str, Any], frames: list[dict[str, Any]], phases: list[Phase], path: Path) -> Path:
    """The balanced part of the run, second by second."""
    balanced = [phase for phase in phases if phase.placement == "balanced"]
    first, last = balanced[0].start, balanced[-1].end
    seconds = range(int(last - first))
    by_second: list[list[dict[str, Any]]] = [[] for _ in seconds]
    for frame in frames:
        at = int(frame["time"] - first)
        if 0 <= at < len(by_second):
            by_second[at].append(frame)
    figure = Figure(figsize=(11, 9), layout="constrained")
    work, latency, rate, journal = figure.subplots(4, 1, sharex=True, height_ratios=[3, 2.5, 2, 0.8])
    series = [
        [sum(each.get("place") == place and _good(each) for each in found) for found in by_second] for place in PLACES
    ]
    series.append([sum(not _good(each) for each in found) for found in by_second])
    work.stackplot(seconds, series, labels=list(_NAMES.values()), colors=list(_COLOURS.values()), step="post")
    work.set_ylabel("frames/s by where they were worked on")
    for place in PLACES:
        points = [(each["time"] - first, each["seconds"]) for each in frames if _good(each) and each["place"] == place]
        points = [each for each in points if 0 <= each[0] <= last - first]
        latency.scatter(*zip(*points, strict=True) if points else ((), ()), s=2, color=_COLOURS[place], rasterized=True)
    latency.axhline(DEADLINE, color="#c03020", linewidth=0.8, label="deadline")
    latency.set_ylabel("s from the camera and back")
    latency.set_ylim(0, DEADLINE * 1.2)
    for camera in run["cameras"]:
        points = [
            (each["time"] - first, each["advised"]) for each in frames if each["camera"] == camera and "advised" in each
        ]
        points = sorted(each for each in points if 0 <= each[0] <= last - first)
        rate.step(*zip(*points, strict=True), where="post", linewidth=0.9, label=camera)
    rate.set_ylabel("frames/s that a camera sends")
    _keepers(journal, [Tenure(**each) for each in run["journal"]], first)
    journal.set_xlabel("s")
    for axes in (work, latency, rate, journal):
        if axes is not journal:
            axes.legend(loc="upper right", fontsize=7)
        for number, phase in enumerate(balanced):
            axes.axvspan(phase.start - first, phase.end - first, color=_SHADES[number % 2], zorder=-2)
    for phase in balanced:
        work.annotate(phase.name, (phase.start - first, work.get_ylim()[1]), fontsize=7, va="bottom")
    for at, what in run["events"]:
        rate.axvline(at - first, color="#404040", linewidth=0.5)
        rate.annotate(what, (at - first, 0.2), rotation=90, fontsize=6, va="bottom", ha="right")
    figure.savefig(path, metadata={"Date": None})
    return path


def _keepers(axes: Axes, kept: list[Tenure], start: float) -> None:
    """Which node wrote the journal, and when."""
    nodes = sorted({each.node for each in kept})
    for row, node in enumerate(nodes):
        spans = [(each.first - start, each.last - each.first) for each in kept if each.node == node]
        axes.broken_barh(spans, (row - 0.35, 0.7), color=_COLOURS["here"])
    axes.set_yticks(range(len(nodes)), nodes, fontsize=7)
    axes.set_ylabel("journal by")


def _placements(frames: list[dict[str, Any]], phases: list[Phase], path: Path) -> Path:
    """Each phase under each placement: what was answered, and how fast."""
    names = list(dict.fromkeys(phase.name for phase in phases if phase.placement != "balanced"))
    placements = list(dict.fromkeys(phase.placement for phase in phases))
    measures: list[tuple[str, Callable[[Figures], float]]] = [
        ("frames/s answered in time", lambda found: found.rate),
        ("95 % of the answers within, s", lambda found: found.latency[1]),
    ]
    figure = Figure(figsize=(11, 3.5), layout="constrained")
    for axes, (label, measure) in zip(figure.subplots(1, 2), measures, strict=True):
        for number, placement in enumerate(placements):
            of_placement = {phase.name: phase for phase in phases if phase.placement == placement}
            found = [Figures.of(frames, of_placement[name].start, of_placement[name].end) for name in names]
            places = [index + 0.27 * (number - 1) for index in range(len(names))]
            bars = axes.bar(places, [measure(each) for each in found], 0.25, label=placement)
            axes.bar_label(bars, fmt="%.1f", fontsize=7)
        axes.set_xticks(range(len(names)), names)
        axes.set_ylabel(label)
        axes.legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})
    return path


def _good(frame: dict[str, Any]) -> bool:
    return bool(frame["outcome"] == "answered")
