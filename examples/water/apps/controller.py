"""The controller of the valve: asks the other sites by their Services' names, decides, and moves the valve.

It holds nothing that matters: whether it was filling, the valve's own device tells after a restart. Each decision that
differs from the last is kept as ``decisions/<number>`` in the scope of this node.
"""

from __future__ import annotations

import json
import os
import threading
import time
from http.client import HTTPConnection, HTTPException
from typing import Any

from pymodbus import ModbusException
from pymodbus.client import ModbusTcpClient

from examples.metadata import Metadata, MetadataError, from_environment
from examples.water.apps.driver import DeviceError, FieldDevice
from examples.water.apps.registers import COMMAND, PORT, Sample
from examples.water.apps.rule import THROTTLED, Decision, Seen, SetPoints, decide, set_points

PERIOD = 0.25
"""Seconds between two decisions."""

FRESH = 3.0
"""Seconds after which news of another site are old, and the local rule takes over."""


class Neighbour:
    """Another site's driver, asked again and again in the background: one that hangs holds up nothing."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._found: dict[str, Any] = {}
        self._at = float("-inf")
        threading.Thread(target=self._watch, daemon=True).start()

    def latest(self, name: str) -> float | None:
        """A value of its newest sample, if that is fresh."""
        with self._lock:
            fresh = time.monotonic() - self._at < FRESH
            return float(self._found[name]) if fresh and name in self._found else None

    def _watch(self) -> None:
        while True:
            asked = time.monotonic()
            try:
                found = self._ask()
            except (OSError, HTTPException, ValueError):
                found = None
            if found is not None:
                with self._lock:
                    self._found, self._at = found, asked - float(found.get("age", 0.0))
            time.sleep(PERIOD)

    def _ask(self) -> dict[str, Any] | None:
        connection = HTTPConnection(self._service, timeout=1)
        try:
            connection.request("GET", "/latest")
            response = connection.getresponse()
            body = response.read(10_000)
            return dict(json.loads(body)) if response.status == 200 else None
        finally:
            connection.close()


class Valve:
    """The valve's field device: its samples, and its command."""

    def __init__(self, address: str) -> None:
        self._device = FieldDevice("valve", address)
        self._client = ModbusTcpClient(address, port=PORT, timeout=2, retries=1)

    def sample(self) -> Sample | None:
        latest = self._device.latest()
        return next(iter(self._device.samples(latest, latest)), None) if latest else None

    def command(self) -> int:
        """What it was last told."""
        try:
            answer = self._client.read_holding_registers(COMMAND, count=1, device_id=1)
        except ModbusException as error:
            raise DeviceError(str(error)) from error
        if answer.isError():
            raise DeviceError(f"the command: {answer}")
        return int(answer.registers[0])

    def move(self, command: int) -> None:
        try:
            answer = self._client.write_register(COMMAND, command, device_id=1)
        except ModbusException as error:
            raise DeviceError(str(error)) from error
        if answer.isError():
            raise DeviceError(f"writing the command: {answer}")


class Controller:
    def __init__(self, valve: Valve, tank: Neighbour, station: Neighbour, shared: Metadata, own: Metadata) -> None:
        self._valve = valve
        self._tank = tank
        self._station = station
        self._shared = shared
        self._own = own
        self._wanted = SetPoints()
        self._last: Decision | None = None
        self._told: dict[str, object] = {}
        self._number: int | None = None

    def act(self) -> None:
        """Decide once, and do it. The valve comes first; the store may fail."""
        sample = self._valve.sample()
        if sample is None:
            return
        command = self._valve.command()
        own = sample.values
        seen = Seen(
            self._tank.latest("level"),
            self._station.latest("pressure"),
            own["flow"],
            own["upstream"],
            own["downstream"],
        )
        filling = self._last.filling if self._last else command > 0
        throttled = self._last.throttled if self._last else command == THROTTLED
        self._read_set_points()
        decision = decide(seen, self._wanted, filling, throttled)
        if decision.command != command:
            self._valve.move(decision.command)
        self._last = decision
        self._keep(sample, decision)

    def _read_set_points(self) -> None:
        found = {}
        for key, text in self._shared.get("set-points/").items():
            try:
                found[key.rpartition("/")[2]] = float(text)
            except ValueError:
                continue  # not a number: the default stands
        self._wanted = set_points(found)

    def _keep(self, sample: Sample, decision: Decision) -> None:
        if self._number is None:
            last = self._own.last("decisions/")
            self._number = int(last.rpartition("/")[2]) if last else 0
        told: dict[str, object] = {
            "command": decision.command,
            "level-source": decision.level_source,
            "pressure-source": decision.pressure_source,
            "reason": decision.reason,
            "set-points": [self._wanted.level_low, self._wanted.level_high, self._wanted.pressure_min],
        }
        if told == self._told:
            return
        now = {"time": sample.time, **told, "level": decision.level, "pressure": decision.pressure}
        self._own.write({f"decisions/{self._number + 1:010}": now})
        self._number += 1
        self._told = told
        print(json.dumps(now), flush=True)


def main() -> None:
    controller = Controller(
        Valve(os.environ["DEVICE_ADDRESS"]),
        Neighbour(os.environ["TANK"]),
        Neighbour(os.environ["STATION"]),
        from_environment("all"),
        from_environment(f"node.{os.environ['NODE_NAME']}"),
    )
    problem = ""
    while True:
        try:
            controller.act()
            now = ""
        except (DeviceError, MetadataError) as error:
            now = str(error)
        if now != problem:
            print(now or "all is well again", flush=True)
            problem = now
        time.sleep(PERIOD)


if __name__ == "__main__":
    main()
