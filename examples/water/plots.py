"""The plots of a run, from its record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
# The same record gives the same file.
matplotlib.rcParams["svg.hashsalt"] = "water"

from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

HOUR = 3600.0
_SHADES = {"services gone": "#e8d8a8", "tank cut off": "#a8c8e8", "cloud gone": "#d8d8d8"}
_SOURCES = {
    ("tank", "station"): (2, "level and pressure from the other sites"),
    ("local", "station"): (1, "local rule for the level"),
    ("tank", "local"): (1, "local rule for the pressure"),
    ("local", "local"): (0, "local rule for both"),
}


def draw_all(record: Path, folder: Path) -> list[Path]:
    """Draw what there is to draw; the files."""
    run = json.loads(record.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    return [_course(run, folder / "water-course.svg"), _without(run, folder / "water-without-control.svg")]


def _course(run: dict[str, Any], path: Path) -> Path:
    columns = run["columns"]
    hours = [each / HOUR for each in columns["time"]]
    figure = Figure(figsize=(11, 9), layout="constrained")
    level, flow, pressure, source = figure.subplots(4, 1, sharex=True, height_ratios=[3, 2, 2, 1.2])
    level.plot(hours, columns["level"], color="#1060a0", label="level")
    low, high = _set_points(run, hours[-1])
    level.step(*low, where="post", color="#a04000", linewidth=0.8, label="set-points that the controller follows")
    level.step(*high, where="post", color="#a04000", linewidth=0.8)
    level.set_ylabel("tank, %")
    level.set_ylim(0, 100)
    flow.plot(hours, columns["flow"], color="#107040", label="into the tank")
    flow.plot(hours, columns["outflow"], color="#904080", label="out of it, to district B")
    flow.set_ylabel("m³/h")
    flow.set_ylim(-5, 150)
    pressure.plot(hours, columns["pressure"], color="#1060a0", label="pressure at the station")
    pressure.axhline(2.0, color="#a04000", linewidth=0.8, label="pressure-min")
    pressure.set_ylabel("bar")
    pressure.set_ylim(1.5, 3.9)
    _sources(source, run, hours[-1])
    for axes in (level, flow, pressure, source):
        _shade(axes, run)
    for axes in (level, flow, pressure):
        axes.legend(loc="upper left", fontsize=7, ncols=2, framealpha=0.9)
    for at, what in run["events"]:
        level.annotate(what, (at / HOUR, 2), rotation=90, fontsize=6, color="#404040", va="bottom", ha="right")
        level.axvline(at / HOUR, color="#404040", linewidth=0.4)
    _time(source)
    figure.savefig(path, metadata={"Date": None})
    return path


def _without(run: dict[str, Any], path: Path) -> Path:
    columns = run["columns"]
    hours = [each / HOUR for each in columns["time"]]
    figure = Figure(figsize=(11, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(hours, columns["level"], color="#1060a0", label="with the controller")
    without = run["without the controller"]
    axes.plot([each / HOUR for each in without["time"]], without["level"], color="#c03020", label="with it disabled")
    axes.set_ylabel("tank, %")
    axes.set_ylim(-3, 103)
    axes.legend(loc="upper left", fontsize=7, ncols=2)
    _time(axes)
    figure.savefig(path, metadata={"Date": None})
    return path


def _set_points(run: dict[str, Any], end: float) -> tuple[tuple[list[float], list[float]], ...]:
    times = [each["time"] / HOUR for each in run["decisions"]]
    both = [[each["set-points"][index] for each in run["decisions"]] for index in (0, 1)]
    return tuple(([*times, end], [*values, values[-1]]) for values in both)


def _sources(axes: Axes, run: dict[str, Any], end: float) -> None:
    found = [
        (each["time"] / HOUR, _SOURCES[each["level-source"], each["pressure-source"]]) for each in run["decisions"]
    ]
    times, heights = [at for at, _ in found], [height for _, (height, _) in found]
    axes.step([*times, end], [*heights, heights[-1]], where="post", color="#404040")
    axes.set_yticks([0, 1, 2], ["alone", "one neighbour", "both neighbours"], fontsize=7)
    axes.set_ylim(-0.4, 2.4)


def _shade(axes: Axes, run: dict[str, Any]) -> None:
    for phase in run["phases"]:
        if phase["name"] in _SHADES:
            axes.axvspan(phase["start"] / HOUR, phase["end"] / HOUR, color=_SHADES[phase["name"]], alpha=0.5)


def _time(axes: Axes) -> None:
    first, last = axes.get_xlim()
    ticks = [hour for hour in range(int(first // 6) * 6, int(last) + 6, 6) if first <= hour <= last]
    axes.set_xticks(ticks, [f"{hour % 24:02}:00" for hour in ticks])
    axes.set_xlabel("the plant's clock")
