"""What a run leaves behind: its plan, what happened when, and the course of everything, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Plan:
    """Hours by the plant's clock."""

    scale: float = 900.0
    """Seconds of the plant's in one of ours: a day takes 96 seconds."""
    day: float = 24.0
    services: float = 12.0
    site: float = 6.0
    router: float = 12.0
    after: float = 2.0
    """Hours to look at, once all is well again."""


SHORT = Plan(day=1.5, services=1.5, site=2.0, router=3.0, after=0.5)
"""The same story for the tests."""


@dataclass
class Phase:
    name: str
    start: float
    """Seconds by the plant's clock."""
    end: float = 0.0


@dataclass
class Record:
    """The memory of the story's steps."""

    plan: Plan
    phases: list[Phase] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    without: list[dict[str, Any]] = field(default_factory=list)
    """The plant's samples with the controller, and with the controller disabled."""

    def phase(self, name: str) -> Phase:
        return next(phase for phase in self.phases if phase.name == name)

    def write(self, path: Path) -> None:
        """Write it, the plant's samples by columns."""
        columns: dict[str, list[float]] = {"time": [each["time"] for each in self.samples]}
        for site, values in self.samples[0]["values"].items() if self.samples else ():
            for name in values:
                columns[name] = [round(each["values"][site][name], 3) for each in self.samples]
        without = {
            "time": [each["time"] for each in self.without],
            "level": [round(each["values"]["tank"]["level"], 2) for each in self.without],
        }
        found = {
            "plan": asdict(self.plan),
            "phases": [asdict(phase) for phase in self.phases],
            "events": self.events,
            "figures": self.figures,
            "decisions": self.decisions,
            "without the controller": without,
        }
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items()]
        inner = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in columns.items())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{" + ",\n".join([*lines, f'"columns": {{\n{inner}\n}}']) + "}\n")
