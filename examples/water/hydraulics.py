"""The plant: a trunk main from the works past a district to a valve and a tank, from which a second district lives.

::

    works ──── pipe 1 ────┬──── pipe 2 ──── valve ──── pipe 3 ──── tank ──── district B
    (constant head)       │                                        (gravity)
                  pressure station
                     district A

Units are SI inside (metres, m³/s); what instruments show is in the units of the trade: %, bar, m³/h. Where numbers and
formulas come from:

* friction of pipes: Hazen-Williams, ``h = 10.67 L Q^1.852 / (C^1.852 d^4.8704)``, as in the EPANET 2.2 manual (Rossman
  et al., 2020, chapter 3), with its C of 130 for ductile iron;
* the valve: ``Q [m³/h] = Kv √(Δp [bar])`` with an equal-percentage characteristic, IEC 60534, rangeability 50;
* consumption: 125 l a day and person (BDEW's figure for German households), 10,000 people in district B, 8,000 in A;
* the tank holds one day of district B's mean consumption, the usual size for service reservoirs of that order;
* 2.0 bar is what DVGW W 400-1 asks for at the service pipe of a house with a ground floor only;
* the course of consumption over a day is a table of our own in the shape that measured ones have: little at night, a
  peak in the morning and one in the evening. Pipes, heights and pressures are chosen, not surveyed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

BAR = 10.197
"""Metres of water to a bar, at 1,000 kg/m³ and 9.80665 m/s²."""

HOURS = (35, 30, 28, 28, 32, 55, 120, 175, 160, 130, 115, 110, 115, 110, 100, 95, 100, 120, 155, 175, 150, 115, 85, 57)
"""Consumption at the full hours, relative; between them it changes linearly."""

_MEAN = sum(HOURS) / len(HOURS)


def demand_factor(seconds: float) -> float:
    """Consumption at a time of day relative to the day's mean. ``seconds`` since any midnight."""
    hour = seconds / 3600 % 24
    first = int(hour)
    share = hour - first
    return ((1 - share) * HOURS[first] + share * HOURS[(first + 1) % 24]) / _MEAN


@dataclass(frozen=True)
class Pipe:
    length: float
    diameter: float
    roughness: float = 130.0
    """Hazen-Williams C."""

    def loss(self, flow: float) -> float:
        """Head lost to friction, in metres, at a flow in m³/s."""
        resistance = 10.67 * self.length / (self.roughness**1.852 * self.diameter**4.8704)
        return float(resistance * flow**1.852)


@dataclass(frozen=True)
class Network:
    """What does not change: heads and heights in metres above a common level."""

    works_head: float = 95.0
    station_height: float = 62.5
    valve_height: float = 60.0
    tank_floor: float = 70.0
    tank_depth: float = 4.0
    tank_area: float = 312.5
    """m²: with 4 m of depth, 1,250 m³."""
    demand_a: float = 8_000 * 0.125 / 86_400
    demand_b: float = 10_000 * 0.125 / 86_400
    """Mean consumption of the districts, m³/s."""
    pipe1: Pipe = Pipe(4_000, 0.250)
    pipe2: Pipe = Pipe(2_500, 0.200)
    pipe3: Pipe = Pipe(500, 0.200)
    valve_kvs: float = 320.0
    """m³/h at a loss of 1 bar, fully open."""
    valve_rangeability: float = 50.0
    valve_stroke: float = 300.0
    """Seconds from closed to open."""

    def valve_loss(self, flow: float, opening: float) -> float:
        """Metres lost in the valve, at a flow in m³/s and an opening from 0 to 1."""
        kv = self.valve_kvs * self.valve_rangeability ** (opening - 1)
        return float((flow * 3600 / kv) ** 2 * BAR)

    def inflow(self, opening: float, demand_a: float, level: float) -> float:
        """The flow into the tank, m³/s: where all losses together use up the difference in head. Never backwards."""
        if opening < 0.01:
            return 0.0
        available = self.works_head - self.tank_floor - level

        def excess(flow: float) -> float:
            lost = self.pipe1.loss(flow + demand_a) + self.pipe2.loss(flow) + self.pipe3.loss(flow)
            return available - lost - self.valve_loss(flow, opening)

        low, high = 0.0, 0.2
        if excess(low) <= 0:
            return 0.0
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) > 0 else (low, middle)
        return low


NETWORK = Network()


@dataclass
class Plant:
    """The state, and how it goes on."""

    network: Network = NETWORK
    time: float = 6 * 3600.0
    """Seconds since the midnight before the run."""
    level: float = 0.55 * 4.0
    """Metres of water in the tank."""
    opening: float = 0.0
    command: float = 0.0
    """Where the valve is, and where it was told to go: 0 closed, 1 open."""
    overflowed: float = 0.0
    """m³ that ran over the edge."""
    missing: float = 0.0
    """m³ that district B asked for and the empty tank did not have."""
    inflow: float = field(default=0.0, init=False)
    outflow: float = field(default=0.0, init=False)

    def advance(self, seconds: float, step: float = 15.0) -> None:
        """Let time pass, in steps of at most ``step`` seconds."""
        count = max(1, math.ceil(seconds / step))
        for _ in range(count):
            self._step(seconds / count)

    def _step(self, seconds: float) -> None:
        net = self.network
        way = max(-1.0, min(1.0, (self.command - self.opening) * net.valve_stroke / seconds))
        self.opening += way * seconds / net.valve_stroke
        factor = demand_factor(self.time)
        self.inflow = net.inflow(self.opening, net.demand_a * factor, self.level)
        self.outflow = net.demand_b * factor
        self.time += seconds
        volume = self.level * net.tank_area + (self.inflow - self.outflow) * seconds
        full = net.tank_depth * net.tank_area
        self.overflowed += max(0.0, volume - full)
        self.missing += max(0.0, -volume)
        self.level = min(full, max(0.0, volume)) / net.tank_area

    @property
    def level_percent(self) -> float:
        return 100 * self.level / self.network.tank_depth

    @property
    def station_pressure(self) -> float:
        """bar, at district A."""
        net = self.network
        through = self.inflow + net.demand_a * demand_factor(self.time)
        return (net.works_head - net.pipe1.loss(through) - net.station_height) / BAR

    @property
    def valve_upstream(self) -> float:
        """bar, before the valve."""
        net = self.network
        through = self.inflow + net.demand_a * demand_factor(self.time)
        head = net.works_head - net.pipe1.loss(through) - net.pipe2.loss(self.inflow)
        return (head - net.valve_height) / BAR

    @property
    def valve_downstream(self) -> float:
        """bar, behind the valve: the water in the tank and the friction on the way to it."""
        net = self.network
        return (net.tank_floor + self.level + net.pipe3.loss(self.inflow) - net.valve_height) / BAR
