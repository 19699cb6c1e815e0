"""What a run leaves behind: its plan, its phases, and what came of every frame; and the figures of each phase."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

DEADLINE = 2.0
"""Seconds; as in the policy of ``manifests/campus.yaml``."""

PLACES = ("here", "site", "cloud")


@dataclass(frozen=True)
class Plan:
    """Seconds of each phase, and frames a second of the cameras."""

    calm: float = 10.0
    overload: float = 16.0
    poor: float = 16.0
    cut: float = 18.0
    mended: float = 8.0
    killed: float = 12.0
    """With the router killed, after what is asked then."""
    death: float = 18.0
    death_alone: bool = True
    """Whether a node dies without the cloud, too."""
    back: float = 10.0
    compare: tuple[str, ...] = ("calm", "overload", "poor", "cut")
    """The phases that all-edge and all-cloud are compared in."""
    low: tuple[float, ...] = (2.0, 2.0, 2.0)
    high: tuple[float, ...] = (16.0, 7.0, 7.0)
    """Something happens before the first camera: the edge cannot do this, and one node least of all."""


SHORT = Plan(
    calm=3, overload=7, poor=0, cut=9, mended=4, killed=16, death=6, death_alone=False, back=3, compare=("overload",)
)
"""The same story for the tests."""


@dataclass
class Phase:
    name: str
    placement: str
    start: float
    """Seconds since the epoch."""
    end: float = 0.0


@dataclass(frozen=True)
class Figures:
    """What came of the frames that were taken in some time."""

    seconds: float
    taken: int
    answered: int
    refused: int
    failed: int
    """Frames that no balancer answered, and those for which a camera had no room."""
    places: dict[str, int]
    latency: tuple[float, float, float]
    """Seconds from the camera and back: the median, 95 % and 99 %; of the answered ones."""
    recall: float
    precision: float

    @property
    def rate(self) -> float:
        return self.answered / self.seconds

    @property
    def answered_share(self) -> float:
        return self.answered / max(1, self.taken)

    def share(self, *places: str) -> float:
        return sum(self.places.get(place, 0) for place in places) / max(1, self.answered)

    @classmethod
    def of(cls, frames: list[dict[str, Any]], start: float, end: float) -> Figures:
        """Of the frames taken from ``start`` to ``end``."""
        taken = [each for each in frames if start <= each["time"] < end]
        outcomes = Counter(each["outcome"] for each in taken)
        answered = [each for each in taken if each["outcome"] == "answered"]
        right, false, missed = (sum(each["match"][index] for each in answered) for index in range(3))
        latencies = sorted(each["seconds"] for each in answered)
        return cls(
            seconds=end - start,
            taken=len(taken),
            answered=len(answered),
            refused=outcomes["refused"],
            failed=len(taken) - len(answered) - outcomes["refused"],
            places=dict(Counter(each["place"] for each in answered)),
            latency=(percentile(latencies, 50), percentile(latencies, 95), percentile(latencies, 99)),
            recall=right / max(1, right + missed),
            precision=right / max(1, right + false),
        )


@dataclass(frozen=True)
class Tenure:
    """A part of the journal that one writer wrote without another between."""

    uid: str
    """Of the writing pod: each life at another node than its own has one of its own."""
    node: str
    first: float
    last: float
    """Seconds since the epoch."""
    entries: int


def tenures(journal: Mapping[str, str]) -> list[Tenure]:
    """Who wrote the journal, in order of time: two writers at one time would show as many short parts.

    :param journal: its entries, as JSON, by their keys ``journal/<uid>/<number>``.
    """
    entries = sorted(((key.split("/")[1], json.loads(value)) for key, value in journal.items()), key=_time)
    found = []
    for (uid, node), group in groupby(entries, key=lambda each: (each[0], each[1]["node"])):
        times = [entry["time"] for _, entry in group]
        found.append(Tenure(uid, node, times[0], times[-1], len(times)))
    return found


def _time(entry: tuple[str, dict[str, Any]]) -> float:
    return float(entry[1]["time"])


def missing_entries(journal: Mapping[str, str]) -> list[str]:
    """Keys that are missing in the journal: each writer numbers its entries from 1 on."""
    numbers: dict[str, set[int]] = {}
    for key in journal:
        _, uid, number = key.split("/")
        numbers.setdefault(uid, set()).add(int(number))
    return [
        f"journal/{uid}/{number:08}"
        for uid, found in numbers.items()
        for number in range(1, max(found))
        if number not in found
    ]


def percentile(ordered: list[float], percent: float) -> float:
    """By the nearest rank; 0 of nothing."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@dataclass
class Record:
    """The memory of the story's steps."""

    plan: Plan
    phases: list[Phase] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    uids: dict[str, str] = field(default_factory=dict)
    """Of the pods at the edge."""
    recorder: str = ""
    recorder_uid: str = ""
    """The recorder's pod."""
    keepers: list[str] = field(default_factory=list)
    """The nodes that have kept the journal, in order."""
    kept: list[Tenure] = field(default_factory=list)
    """The same as the journal has it, at the end."""

    def phase(self, name: str, placement: str = "balanced") -> Phase:
        return next(phase for phase in self.phases if (phase.name, phase.placement) == (name, placement))

    def write(self, path: Path, frames: dict[str, list[dict[str, Any]]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = {
            "plan": asdict(self.plan),
            "phases": [asdict(phase) for phase in self.phases],
            "events": self.events,
            "figures": self.figures,
            "journal": [asdict(each) for each in self.kept],
            "cameras": frames,
        }
        path.write_text(json.dumps(found) + "\n")


def table(phases: list[Phase], frames: list[dict[str, Any]]) -> str:
    """The phases in Markdown."""
    lines = [
        "| phase | placement | frames/s asked → taken → answered | here | site | cloud | refused | lost "
        "| median | 95 % | 99 % | recall | precision |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for phase in phases:
        found = Figures.of(frames, phase.start, phase.end)
        wanted = _wanted(frames, phase)
        shares = " | ".join(f"{100 * found.share(place):.0f} %" for place in PLACES)
        latency = " | ".join(f"{1000 * each:.0f} ms" for each in found.latency) if found.answered else "– | – | –"
        quality = f"{found.recall:.3f} | {found.precision:.3f}" if found.answered else "– | –"
        rates = f"{wanted:.0f} → {found.taken / found.seconds:.1f} → {found.rate:.1f}"
        lost = f"{found.refused} | {found.failed}"
        lines.append(f"| {phase.name} | {phase.placement} | {rates} | {shares} | {lost} | {latency} | {quality} |")
    return "\n".join(lines)


def _wanted(frames: list[dict[str, Any]], phase: Phase) -> float:
    """Frames a second that the cameras together would have liked to send at the end of the phase."""
    last = {each["camera"]: each["wanted"] for each in frames if "wanted" in each and each["time"] < phase.end}
    return float(sum(last.values()))
