"""How the valve is controlled: the rule, without any input or output.

The tank is filled when its level falls to ``level-low`` and no more when it rises to ``level-high``. While the pressure
at the station is under ``pressure-min`` the valve is throttled, until it has risen clearly above. Two limits stand
above all set-points: at ``HIGHEST`` the valve closes, at ``LOWEST`` it opens, whatever else is said.

Without news of the tank the local rule holds, an altitude valve's: the pressure behind the valve tells how high the
water stands in the tank. While the tank is being filled that is only an estimate, for the friction on the way there is
known from drawings; so filling ends by ``MARGIN`` earlier. With the valve closed it is exact. Without news of the
station its pressure is estimated from the one before the valve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

BAR = 10.197
"""Metres of water to a bar."""

LOWEST, HIGHEST = 15.0, 88.0
"""Percent of the tank."""

MARGIN = 5.0
"""Percent of the tank, by which the limits are narrower when the level is an estimate."""

RELEASE = 0.75
"""bar above ``pressure-min`` that end the throttling: more than throttling itself brings (0.7), or the valve hunts."""

FULL, THROTTLED, CLOSED = 1000, 350, 0
"""Openings of the valve, in thousandths."""


@dataclass(frozen=True)
class SetPoints:
    level_low: float = 45.0
    level_high: float = 65.0
    """Percent of the tank."""
    pressure_min: float = 2.0
    """bar."""

    def safe(self) -> SetPoints:
        """The same within what is safe: whoever writes set-points, and whatever."""
        low = min(max(self.level_low, LOWEST + 5), HIGHEST - 15)
        high = min(max(self.level_high, low + 10), HIGHEST - 5)
        return SetPoints(low, high, min(max(self.pressure_min, 0.5), 4.0))


def set_points(found: Mapping[str, float]) -> SetPoints:
    """From the metadata's keys (``level-low``…); what is not there, or no number, keeps its default."""
    known = {name.replace("-", "_"): value for name, value in found.items() if math.isfinite(value)}
    fields = {name: value for name, value in known.items() if name in SetPoints.__dataclass_fields__}
    return replace(SetPoints(), **fields).safe()


@dataclass(frozen=True)
class Site:
    """What the rule knows of the pipe behind the valve, from its drawings."""

    height: float = 10.0
    """Metres from the valve up to the tank's floor."""
    depth: float = 4.0
    """Metres of the tank."""
    friction: float = 1536.0
    """Metres for a flow of 1 (m³/s)^1.852. By the drawings, with C 135: the pipe is a little rougher by now."""
    main_friction: float = 7680.0
    """The same of the main between the station and the valve."""
    station_height: float = 2.5
    """Metres that the station lies above the valve."""


@dataclass(frozen=True)
class Seen:
    """What is known right now; ``None`` where nothing fresh is known."""

    level: float | None
    """Percent, from the tank."""
    pressure: float | None
    """bar, from the station."""
    flow: float
    upstream: float
    downstream: float
    """m³/h and bar, from the valve's own device."""


@dataclass(frozen=True)
class Decision:
    command: int
    filling: bool
    throttled: bool
    level_source: str
    """``tank``, or ``local`` for the estimate."""
    pressure_source: str
    """``station`` or ``local``."""
    level: float
    pressure: float
    reason: str


def estimate(seen: Seen, site: Site) -> float:
    """The tank's level in percent, from the pressure and the flow at the valve."""
    rise = seen.downstream * BAR - site.friction * (seen.flow / 3600) ** 1.852 - site.height
    return float(100 * rise / site.depth)


def station_estimate(seen: Seen, site: Site) -> float:
    """The pressure at the station in bar, from the pressure before the valve and the flow."""
    return float(seen.upstream + (site.main_friction * (seen.flow / 3600) ** 1.852 - site.station_height) / BAR)


def decide(seen: Seen, wanted: SetPoints, filling: bool, throttled: bool, site: Site = Site()) -> Decision:
    """What the valve shall do.

    :param filling: as it was; within the band it stays so.
    :param throttled: likewise.
    """
    by_tank = seen.level is not None
    level = seen.level if seen.level is not None else estimate(seen, site)
    margin = 0.0 if by_tank else MARGIN
    pressure = seen.pressure if seen.pressure is not None else station_estimate(seen, site)
    if level <= wanted.level_low:
        filling = True
    elif level >= wanted.level_high - margin:
        filling = False
    if pressure < wanted.pressure_min:
        throttled = True
    elif pressure > wanted.pressure_min + RELEASE:
        throttled = False
    if level >= HIGHEST - margin:
        command, reason = CLOSED, "the tank is as full as it may be"
    elif level <= LOWEST + margin:
        command, reason = FULL, "the tank is as empty as it may be"
    elif not filling:
        command, reason = CLOSED, "there is enough in the tank"
    elif throttled:
        command, reason = THROTTLED, "filling gently, for the pressure at the station"
    else:
        command, reason = FULL, "filling"
    return Decision(
        command,
        filling,
        throttled,
        "tank" if by_tank else "local",
        "station" if seen.pressure is not None else "local",
        round(level, 2),
        round(pressure, 3),
        reason,
    )
