"""The rate of something that comes in rare bursts, such as the heartbeats of an idle link. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

_QUIET = 2.0


def burst_rate(samples: Sequence[tuple[float, float]], quiet: float = _QUIET) -> float:
    """What a counter gains in a second, taken from the beginning of the first burst to that of the last.

    So it does not matter how many bursts happened to fall into the time of measuring: of four, one more or less would
    be a quarter.

    :param samples: moment and counter, in order.
    :param quiet: seconds without a change, after which a change begins a new burst.
    :returns: of the whole time, if there are not two bursts in it.
    """
    # The samples before each burst.
    starts: list[tuple[float, float]] = []
    changed = float("-inf")
    for (_, before), (moment, counter) in pairwise(samples):
        if counter == before:
            continue
        if moment - changed > quiet:
            starts.append((moment, before))
        changed = moment
    # What is under way at the beginning may have begun before.
    if starts and starts[0][0] - samples[0][0] <= quiet:
        del starts[0]
    first, last = (starts[0], starts[-1]) if len(starts) > 1 else (samples[0], samples[-1])
    return (last[1] - first[1]) / (last[0] - first[0])
