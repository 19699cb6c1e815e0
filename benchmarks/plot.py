"""A picture of a run: a bar for each subject, a group for each metric. Plain SVG, so nothing need be installed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.catalogue import BY_KEY, OURS
from benchmarks.model import Metric, Results
from benchmarks.report import figure

SHOWN = (
    "stream_1", "stream_8", "both_ways", "ping_idle", "ping_loaded", "pps_64", "pps_1350", "bad_goodput", "bad_ping",
    "peer_memory", "handshakes",
)  # fmt: skip

_WIDTH, _LEFT, _BAR, _GAP = 760, 150, 16, 34
_COLOURS = {True: "#2563eb", False: "#94a3b8"}


def svg(results: Results, keys: Sequence[str] = SHOWN) -> str:
    """The picture as SVG text."""
    body: list[str] = []
    y = 10
    for key in keys:
        medians = sorted(results.medians(key), key=lambda pair: pair[1], reverse=BY_KEY[key].more)
        if len(medians) > 1:
            body.extend(_group(BY_KEY[key], medians, y))
            y += _GAP + _BAR * len(medians)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y + 10}" '
        'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _group(metric: Metric, medians: list[tuple[str, float]], y: int) -> Iterator[str]:
    better = "more is better" if metric.more else "less is better"
    title = escape(f"{metric.title}, {metric.unit} ({better})")
    yield f'<text x="10" y="{y + 14}" font-weight="bold">{title}</text>'
    most = max(value for _, value in medians) or 1
    for row, (subject, value) in enumerate(medians):
        top = y + 20 + row * _BAR
        width = max(value / most * (_WIDTH - _LEFT - 70), 1)
        yield f'<text x="{_LEFT - 6}" y="{top + 12}" text-anchor="end">{escape(subject)}</text>'
        colour = _COLOURS[subject.startswith(OURS)]
        yield f'<rect x="{_LEFT}" y="{top + 2}" width="{width:.1f}" height="{_BAR - 4}" fill="{colour}"/>'
        yield f'<text x="{_LEFT + width + 5:.1f}" y="{top + 12}">{figure(value)}</text>'
