"""The plant in quick motion, wired to its field devices, and its record.

``python -m examples.water.plant SOCKET RECORD --scale N``. Time stands until somebody sends ``{"go": true}``; from
then on a second of ours is ``N`` of the plant's. On a machine that does not keep up the plant's clock falls back too:
no step is longer than it should be. Every sample is a line of the record, the first when all devices are there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

from examples.water.apps.registers import VALUES
from examples.water.hydraulics import Plant, demand_factor

SAMPLE = 360.0
"""Seconds of the plant's between two samples."""

TICK = 0.05
"""Seconds of ours between two steps."""


class Running:
    def __init__(self, scale: float, record: Path, first: int) -> None:
        self._scale = scale
        self._record = open(record, "w", buffering=1)  # noqa: SIM115
        self.plant = Plant()
        self._devices: dict[str, asyncio.StreamWriter] = {}
        self._going = asyncio.Event()
        self._next = self._first = first

    async def run(self, socket: str) -> None:
        await asyncio.start_unix_server(self._connected, socket)
        print("the plant waits", flush=True)
        await self._going.wait()
        next_sample = self.plant.time + SAMPLE
        last = time.monotonic()
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            seconds = min(now - last, 4 * TICK) * self._scale
            last = now
            while seconds > 0:
                part = min(seconds, next_sample - self.plant.time)
                if part > 1e-6:
                    self.plant.advance(part)
                    seconds -= part
                if self.plant.time >= next_sample - 1e-6:
                    self._sample()
                    next_sample += SAMPLE

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                fields = json.loads(line)
                if "site" in fields:
                    self._devices[fields["site"]] = writer
                    if len(self._devices) == len(VALUES) and self._next == self._first:
                        self._sample()
                if "command" in fields:
                    self.plant.command = fields["command"]
                if "go" in fields:
                    self._going.set()
        except ConnectionError:
            pass
        finally:
            writer.close()

    def _sample(self) -> None:
        plant, number = self.plant, self._next
        self._next += 1
        factor = demand_factor(plant.time)
        values = {
            "tank": {"level": plant.level_percent, "outflow": plant.outflow * 3600},
            "pressure": {
                "pressure": plant.station_pressure,
                "demand": plant.network.demand_a * factor * 3600,
            },
            "valve": {
                "opening": plant.opening * 1000,
                "flow": plant.inflow * 3600,
                "upstream": plant.valve_upstream,
                "downstream": plant.valve_downstream,
            },
        }
        moment = round(plant.time)
        for site, writer in self._devices.items():
            self._send(writer, {"number": number, "time": moment, "values": values[site]})
        line = {
            "number": number,
            "time": moment,
            "values": values,
            "command": plant.command,
            "overflowed": plant.overflowed,
            "missing": plant.missing,
        }
        self._record.write(json.dumps(line) + "\n")

    @staticmethod
    def _send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
        if not writer.is_closing():
            writer.write(json.dumps(message).encode() + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="plant")
    parser.add_argument("socket")
    parser.add_argument("record", type=Path)
    parser.add_argument("--scale", type=float, default=900.0)
    parser.add_argument("--first", type=int, default=1, help="the number of the first sample")
    options = parser.parse_args()
    asyncio.run(Running(options.scale, options.record, options.first).run(options.socket))


if __name__ == "__main__":
    main()
