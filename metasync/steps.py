"""A difference that is more than one transaction of the target: where it may be cut.

What was between two revisions that a compaction has swallowed can be read nowhere any more. Of it, keys last
changed by one revision still belong together, and are never parted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from metasync.delta import DoesNotFit, Limits


@dataclass(frozen=True, slots=True)
class Row:
    """A key that the target lacks as it is: when it was last changed, and its weight in a transaction."""

    revision: int
    key: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Step:
    """What makes one transaction: keys to send, items of what is to be deleted."""

    keys: tuple[bytes, ...]
    forget: tuple[bytes, ...] = ()


def plan(rows: Iterable[Row], forget: Sequence[bytes], limits: Limits) -> list[Step]:
    """Whole revisions in their order, then the deletions: so nothing is missing to which something still refers.

    :raises DoesNotFit: if the keys of one revision alone are more than the target takes.
    """
    steps = [Step(tuple(row.key for row in part)) for part in _parts(rows, limits)]
    return [*steps, *(Step((), part) for part in _pieces(forget, max(1, limits.ops // 4)))]


def _parts(rows: Iterable[Row], limits: Limits) -> Iterator[list[Row]]:
    part: list[Row] = []
    size = 0
    for revision, together in groupby(sorted(rows, key=lambda row: row.revision), key=lambda row: row.revision):
        group = list(together)
        more = sum(row.size for row in group)
        if not limits.fits(len(group), more):
            raise DoesNotFit(f"what is left of revision {revision}", len(group), more, limits)
        if not limits.fits(len(part) + len(group), size + more):
            yield part
            part, size = [], 0
        part += group
        size += more
    if part:
        yield part


def _pieces(items: Sequence[bytes], size: int) -> Iterator[tuple[bytes, ...]]:
    for at in range(0, len(items), size):
        yield tuple(items[at : at + size])
