"""The water utility's parts that need no machines: the hydraulic model, the registers, the rule."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from examples.metadata import Metadata
from examples.water.apps.driver import Driver, FieldDevice
from examples.water.apps.registers import SLOTS, VALUES, WIDTH, Sample, decode, encode, slot
from examples.water.apps.rule import (
    CLOSED,
    FULL,
    HIGHEST,
    LOWEST,
    MARGIN,
    THROTTLED,
    Seen,
    SetPoints,
    Site,
    decide,
    estimate,
    set_points,
    station_estimate,
)
from examples.water.hydraulics import NETWORK, Pipe, Plant, demand_factor

DAY = 86_400.0
SEEN = Seen(level=55.0, pressure=2.5, flow=0.0, upstream=2.0, downstream=1.2)


class HydraulicsTests(unittest.SynchronousTestCase):
    def test_demand_has_mean_one(self) -> None:
        factors = [demand_factor(60.0 * minute) for minute in range(1440)]
        self.assertAlmostEqual(sum(factors) / 1440, 1.0, places=3)

    def test_friction_as_by_the_formula_in_american_units(self) -> None:
        # psi = 4.52 L [ft] Q [gpm]^1.852 / (C^1.852 d [in]^4.8704)
        feet, gallons, inches = 1000 / 0.3048, 0.030 * 60 / 0.003785412, 0.2 / 0.0254
        psi = 4.52 * feet * gallons**1.852 / (130**1.852 * inches**4.8704)
        self.assertLess(abs(Pipe(1000, 0.2).loss(0.030) - psi * 0.70307), 0.05)

    def test_kv(self) -> None:
        self.assertAlmostEqual(NETWORK.valve_loss(320 / 3600, 1.0), 10.197, places=2)

    def test_all_head_is_used_up(self) -> None:
        flow = NETWORK.inflow(1.0, 0.012, 2.0)
        lost = NETWORK.pipe1.loss(flow + 0.012) + NETWORK.pipe2.loss(flow) + NETWORK.pipe3.loss(flow)
        self.assertAlmostEqual(lost + NETWORK.valve_loss(flow, 1.0), 95 - 70 - 2.0, places=3)

    def test_water_is_conserved(self) -> None:
        plant = Plant(command=0.35)
        before, moved = plant.level * 312.5, 0.0
        for _ in range(480):
            plant.advance(15.0)
            moved += (plant.inflow - plant.outflow) * 15.0
        self.assertAlmostEqual(plant.level * 312.5, before + moved, places=6)

    def test_left_alone_it_fails(self) -> None:
        closed, opened = Plant(), Plant(opening=1.0, command=1.0)
        closed.advance(DAY)
        opened.advance(DAY)
        self.assertGreater(closed.missing, 100)
        self.assertGreater(opened.overflowed, 100)

    def test_filling_costs_pressure(self) -> None:
        closed, opened = Plant(), Plant(opening=1.0, command=1.0)
        closed.advance(15)
        opened.advance(15)
        self.assertGreater(closed.station_pressure, opened.station_pressure + 0.5)


class RegistersTests(unittest.SynchronousTestCase):
    @given(st.sampled_from(sorted(VALUES)), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.data())
    def test_there_and_back(self, site: str, number: int, time: int, data: st.DataObject) -> None:
        counts = {value.name: data.draw(st.integers(-32768, 32767)) for value in VALUES[site]}
        values = {value.name: round(counts[value.name] * value.resolution, 6) for value in VALUES[site]}
        sample = Sample(number, time, values)
        self.assertEqual(decode(site, encode(site, sample)), sample)


class RuleTests(unittest.SynchronousTestCase):
    def test_hysteresis(self) -> None:
        wanted = SetPoints(45, 65, 2.0)
        filling, commands = False, []
        for level in (55, 46, 45, 50, 64, 65, 60, 46):
            decision = decide(replace(SEEN, level=float(level)), wanted, filling, False)
            filling = decision.filling
            commands.append(decision.command)
        self.assertEqual(commands, [CLOSED, CLOSED, FULL, FULL, FULL, CLOSED, CLOSED, CLOSED])

    def test_throttles_for_the_pressure(self) -> None:
        throttled, commands = False, []
        for pressure in (2.1, 1.9, 2.5, 2.8, 2.1):
            decision = decide(replace(SEEN, pressure=pressure), SetPoints(), True, throttled)
            throttled = decision.throttled
            commands.append(decision.command)
        self.assertEqual(commands, [FULL, THROTTLED, THROTTLED, FULL, FULL])

    def test_limits_go_before_all(self) -> None:
        full = decide(replace(SEEN, level=HIGHEST), SetPoints(), True, False)
        empty = decide(replace(SEEN, level=LOWEST, pressure=0.5), SetPoints(), False, True)
        self.assertEqual((full.command, empty.command), (CLOSED, FULL))

    def test_estimates_are_near_enough(self) -> None:
        """By its own instruments the valve knows the level within the margin, and the pressure well enough."""
        for command in (0.0, 0.35, 1.0):
            plant = Plant(command=command, level=2.0)
            plant.advance(1800)
            seen = Seen(None, None, plant.inflow * 3600, plant.valve_upstream, plant.valve_downstream)
            self.assertLess(abs(estimate(seen, Site()) - plant.level_percent), MARGIN)
            self.assertLess(abs(station_estimate(seen, Site()) - plant.station_pressure), 0.15)

    def test_does_not_hunt(self) -> None:
        """Two days, all alone or with all news: the valve moves a few times a day, and the tank is held."""
        for alone in (True, False):
            plant, wanted = Plant(), SetPoints(48, 62, 2.0)
            filling = throttled = False
            commands: list[int] = []
            for _ in range(2 * 240):
                plant.advance(360, step=60)
                level, pressure = (None, None) if alone else (plant.level_percent, plant.station_pressure)
                seen = Seen(level, pressure, plant.inflow * 3600, plant.valve_upstream, plant.valve_downstream)
                decision = decide(seen, wanted, filling, throttled)
                filling, throttled = decision.filling, decision.throttled
                plant.command = decision.command / 1000
                commands.append(decision.command)
                self.assertTrue(30 < plant.level_percent < 70, plant)
            moves = sum(before != after for before, after in pairwise(commands))
            self.assertLess(moves, 2 * 12, f"alone: {alone}")

    def test_local_rule_is_narrower(self) -> None:
        plant = Plant(level=2.48)  # 62 %, and the valve closed
        plant.advance(15)
        seen = Seen(None, None, 0.0, plant.valve_upstream, plant.valve_downstream)
        local = decide(seen, SetPoints(), True, False)
        self.assertEqual((local.command, local.level_source, local.pressure_source), (CLOSED, "local", "local"))
        near = decide(replace(seen, level=62.0), SetPoints(), True, False)
        self.assertEqual((near.command, near.level_source), (FULL, "tank"))

    @given(st.floats(), st.floats(), st.floats())
    def test_no_set_point_is_dangerous(self, low: float, high: float, pressure: float) -> None:
        safe = set_points({"level-low": low, "level-high": high, "pressure-min": pressure, "color": 1.0})
        self.assertTrue(LOWEST < safe.level_low < safe.level_high < HIGHEST, safe)


class FakeDevice(FieldDevice):
    """A tank's device that has taken so many samples."""

    def __init__(self) -> None:
        self._site = "tank"
        self.registers = [0] * (slot(SLOTS - 1) + WIDTH)

    def take(self, number: int) -> None:
        words = encode("tank", Sample(number, 360 * number, {"level": number % 100, "outflow": 1.0}))
        self.registers[slot(number) : slot(number) + WIDTH] = words
        self.registers[0:2] = words[0:2]

    def _read(self, address: int, count: int) -> list[int]:
        return self.registers[address : address + count]


class FakeStore(Metadata):
    def __init__(self) -> None:
        self.found: dict[str, object] = {}

    def last(self, prefix: str) -> str | None:
        return max(self.found, default=None)

    def write(self, puts: object, deletes: object = ()) -> None:
        assert isinstance(puts, dict)
        self.found.update(puts)


class DriverTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.device, self.store = FakeDevice(), FakeStore()

    def drain(self, driver: Driver) -> None:
        while driver.poll():
            pass

    def numbers(self) -> list[int]:
        return sorted(int(key.rpartition("/")[2]) for key in self.store.found)

    def test_reads_what_it_missed_while_it_was_away(self) -> None:
        for number in range(1, 11):
            self.device.take(number)
        self.drain(Driver(self.device, self.store))
        for number in range(11, SLOTS + 5):
            self.device.take(number)
        driver = Driver(self.device, self.store)
        self.drain(driver)
        self.assertEqual(self.numbers(), list(range(1, SLOTS + 5)))
        assert driver.newest is not None
        self.assertEqual(driver.newest.number, SLOTS + 4)

    def test_what_the_device_has_forgotten_is_told_and_passed_over(self) -> None:
        for number in range(1, 3 * SLOTS):
            self.device.take(number)
        self.drain(Driver(self.device, self.store))
        self.assertEqual(self.numbers()[-1], 3 * SLOTS - 1)
        self.assertGreaterEqual(len(self.numbers()), SLOTS - 2)

    def test_knows_the_newest_after_a_restart(self) -> None:
        self.device.take(1)
        self.drain(Driver(self.device, self.store))
        again = Driver(self.device, self.store)
        again.poll()
        assert again.newest is not None
        self.assertEqual(again.newest.number, 1)
