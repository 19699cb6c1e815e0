"""A change that is more than one transaction of the target: in which steps it comes.

The target puts the steps aside and applies them as one, by way of its journal (:mod:`metasync.applying`). Who reads
its store beneath that sees them one after the other. So keys last changed by one revision of the source stay together
where they can, in the order of revisions, and deletions come last: nothing is missing to which something still refers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from metasync.delta import Change, DoesNotFit, Limits

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Row:
    """A key that the target lacks as it is: when it was last changed, and its weight in a transaction."""

    revision: int
    key: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Step:
    """What makes one transaction: changes, keys whose values are sent, items of what is to be deleted."""

    keys: tuple[bytes, ...] = ()
    forget: tuple[bytes, ...] = ()
    changes: tuple[Change, ...] = ()


def plan(rows: Iterable[Row], forget: Sequence[bytes], limits: Limits) -> list[Step]:
    """Revisions in their order, then the deletions.

    :raises DoesNotFit: if a single key is more than the target takes.
    """
    steps = [Step(keys=tuple(row.key for row in part)) for part in _parts(rows, limits)]
    return [*steps, *(Step(forget=part) for part in _pieces(forget, max(1, limits.ops // 4)))]


def cut(revision: int, changes: Iterable[Change], limits: Limits) -> list[Step]:
    """One revision. Raises as :func:`plan` does."""
    weighed = [(change, change.size) for change in changes]
    return [Step(changes=part) for part in _pack(f"revision {revision}", weighed, limits)]


def _parts(rows: Iterable[Row], limits: Limits) -> Iterator[list[Row]]:
    part: list[Row] = []
    size = 0
    for revision, together in groupby(sorted(rows, key=lambda row: row.revision), key=lambda row: row.revision):
        group = list(together)
        more = sum(row.size for row in group)
        if part and not limits.fits(len(part) + len(group), size + more):
            yield part
            part, size = [], 0
        if limits.fits(len(group), more):
            part += group
            size += more
        else:
            for piece in _pack(f"what is left of revision {revision}", [(row, row.size) for row in group], limits):
                yield list(piece)
    if part:
        yield part


def _pack(what: str, weighed: Iterable[tuple[_T, int]], limits: Limits) -> Iterator[tuple[_T, ...]]:
    """As many as fit, and again."""
    part: list[_T] = []
    size = 0
    for each, weight in weighed:
        if not limits.fits(1, weight):
            raise DoesNotFit(f"one key in {what}", 1, weight, limits)
        if not limits.fits(len(part) + 1, size + weight):
            yield tuple(part)
            part, size = [], 0
        part.append(each)
        size += weight
    if part:
        yield tuple(part)


def _pieces(items: Sequence[bytes], size: int) -> Iterator[tuple[bytes, ...]]:
    for at in range(0, len(items), size):
        yield tuple(items[at : at + size])
