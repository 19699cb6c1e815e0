"""How ``kubebus`` writes to people and to programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TextIO


class Output:
    """:param as_json: write JSON for programs, and nothing else."""

    def __init__(self, stream: TextIO, as_json: bool = False) -> None:
        self.stream = stream
        self.as_json = as_json

    def json(self, answer: object) -> bool:
        """Write ``answer`` if JSON is wanted; whether it was."""
        if self.as_json:
            json.dump(answer, self.stream, indent=2)
            self.stream.write("\n")
        return self.as_json

    def line(self, text: str = "") -> None:
        self.stream.write(text + "\n")

    def table(self, head: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
        """A table with columns as wide as needed, or the text ``empty`` instead of one without rows."""
        cells = [[str(cell) for cell in row] for row in rows]
        if not cells:
            self.line(empty)
            return
        cells.insert(0, list(head))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            self.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def duration(seconds: float) -> str:
    """A length of time in its largest units: ``45s``, ``12m``, ``3h20m``, ``5d``."""
    seconds = max(0, int(seconds))
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 2 * 3600:
        return f"{seconds // 60}m"
    if seconds < 48 * 3600:
        minutes = seconds % 3600 // 60
        return f"{seconds // 3600}h{minutes}m" if minutes else f"{seconds // 3600}h"
    return f"{seconds // 86400}d"


def ago(now: float, then: float | None) -> str:
    return "never" if then is None else f"{duration(now - then)} ago"


def until(now: float, then: float) -> str:
    return duration(then - now)


def size(count: float) -> str:
    """A number of bytes: ``999``, ``1.2k``, ``34M``, ``5.6G``."""
    for unit in ("", "k", "M", "G", "T"):
        if count < 1000:
            return f"{count:.0f}{unit}" if count >= 10 or not unit else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.0f}P"
