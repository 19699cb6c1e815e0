"""What is measured, of whom, and what came out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure. ``key`` names it in JSON; ``more`` tells which way is better."""

    key: str
    title: str
    unit: str
    more: bool = True


@dataclass(frozen=True, slots=True)
class Target:
    """``metric`` of ours against ``other``'s, as a ratio; against a plain number where ``other`` is ``None``."""

    metric: str
    other: str | None
    limit: float

    def met(self, ours: float, theirs: float | None, metric: Metric) -> bool:
        value = self.value(ours, theirs)
        return value >= self.limit if metric.more else value <= self.limit

    def value(self, ours: float, theirs: float | None) -> float:
        """What is held against :attr:`limit`."""
        if self.other is None:
            return ours
        assert theirs is not None
        return ours / theirs if theirs else float("inf")


@dataclass(slots=True)
class Results:
    """Every sample, by metric and subject, in the order measured.

    :ivar skipped: why something was left out, by part and subject: ``"packets: nebula"``.
    :ivar notes: text that a part has to say beside its figures, by part.
    :ivar parts: which were measured.
    :ivar about: of each metric, when and on what it was measured; of those read from a file only.
    """

    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    about: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, subject: str, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.samples.setdefault(key, {}).setdefault(subject, []).append(value)

    def skip(self, what: str, why: str) -> None:
        self.skipped[what] = why

    def take(self, others: Results) -> None:
        """Add what ``others``, of other parts, has."""
        self.samples.update(others.samples)
        self.skipped.update(others.skipped)
        self.notes.update(others.notes)
        self.parts += others.parts

    def median(self, metric: str, subject: str) -> float | None:
        values = self.samples.get(metric, {}).get(subject)
        return median(values) if values else None

    def medians(self, metric: str) -> Iterator[tuple[str, float]]:
        for subject, values in self.samples.get(metric, {}).items():
            yield subject, median(values)
