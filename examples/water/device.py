"""A field device: the plant's samples in Modbus registers, and the valve's command out of one.

``python -m examples.water.device SITE SOCKET``. On one side it is wired to the plant (a UNIX socket, in place of
4-20 mA loops); on the other it serves Modbus/TCP to whoever is on its LAN.
"""

from __future__ import annotations

import asyncio
import json
import sys

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from examples.water.apps.registers import COMMAND, PORT, REGISTERS, Sample, encode, slot

_READ_INPUTS = 4
_WRITES = (6, 16)


class Device:
    def __init__(self, site: str) -> None:
        self._site = site
        self._registers = [0] * REGISTERS
        self._plant: asyncio.StreamWriter | None = None

    async def run(self, socket: str) -> None:
        """Serve until the plant ends."""
        reader, self._plant = await asyncio.open_unix_connection(socket)
        self._tell({"site": self._site})
        server = ModbusTcpServer(self._layout(), address=("0.0.0.0", PORT))
        serving = asyncio.ensure_future(server.serve_forever())
        print(f"{self._site}: Modbus/TCP on port {PORT}", flush=True)
        while line := await reader.readline():
            fields = json.loads(line)
            self._take(Sample(fields["number"], fields["time"], fields["values"]))
        serving.cancel()

    def _layout(self) -> SimDevice:
        bits = [SimData(0, values=False, datatype=DataType.BITS)]
        holding = [SimData(COMMAND, count=1, datatype=DataType.REGISTERS)]
        inputs = [SimData(0, count=REGISTERS, datatype=DataType.REGISTERS)]
        return SimDevice(1, simdata=(bits, bits, holding, inputs), action=self._accessed)

    def _take(self, sample: Sample) -> None:
        words = encode(self._site, sample)
        first = slot(sample.number)
        self._registers[first : first + len(words)] = words
        self._registers[0:2] = words[0:2]

    async def _accessed(
        self,
        function: int,
        start: int,
        address: int,
        count: int,
        current: list[int],
        written: list[int] | list[bool] | None,
    ) -> ExcCodes | None:
        if function == _READ_INPUTS:
            first = address - start
            current[first : first + count] = self._registers[address : address + count]
        elif function in _WRITES and written:
            if not 0 <= written[0] <= 1000:
                return ExcCodes.ILLEGAL_VALUE
            self._tell({"command": int(written[0]) / 1000})
        return None

    def _tell(self, message: dict[str, object]) -> None:
        assert self._plant is not None
        self._plant.write(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    asyncio.run(Device(sys.argv[1]).run(sys.argv[2]))
