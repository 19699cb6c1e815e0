"""A site's driver: reads the field device by Modbus, keeps every sample in the metadata service, serves the latest.

Each sample becomes a key ``readings/<number>`` in the scope of this node, which the cloud shares. What stands there
says where to go on, so that after any absence the device's memory is read from the first sample that is missing.
``GET /latest`` gives the newest sample to the other sites.
"""

from __future__ import annotations

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pymodbus import ModbusException
from pymodbus.client import ModbusTcpClient

from examples.metadata import Metadata, MetadataError, from_environment
from examples.water.apps.registers import MAX_READ, PORT, SLOTS, WIDTH, Sample, decode, number_in, slot

PERIOD = 0.2
"""Seconds between two looks at the device."""

BATCH = 15
"""Samples of one request, which are one transaction."""

KEEP = 20_000
"""So many samples stay in the store; at one every six minutes, those of eighty days."""


class DeviceError(Exception):
    """The field device does not answer as it should."""


class FieldDevice:
    """The registers of a site's device."""

    def __init__(self, site: str, address: str) -> None:
        self._site = site
        self._client = ModbusTcpClient(address, port=PORT, timeout=2, retries=1)

    def latest(self) -> int:
        """The number of its latest sample; 0 if there is none."""
        return number_in(self._read(0, 2))

    def samples(self, first: int, last: int) -> list[Sample]:
        """The samples from ``first`` to ``last`` as far as one request goes; only those still in its memory."""
        count = min(last - first + 1, MAX_READ // WIDTH, SLOTS - first % SLOTS)
        words = self._read(slot(first), count * WIDTH)
        found = [decode(self._site, words[at : at + WIDTH]) for at in range(0, len(words), WIDTH)]
        # A slot that was taken over by a later sample meanwhile is not what was asked for.
        return [each for wanted, each in enumerate(found, first) if each.number == wanted]

    def _read(self, address: int, count: int) -> list[int]:
        try:
            answer = self._client.read_input_registers(address, count=count, device_id=1)
        except ModbusException as error:
            raise DeviceError(str(error)) from error
        if answer.isError() or len(answer.registers) != count:
            raise DeviceError(f"registers {address} to {address + count - 1}: {answer}")
        return list(answer.registers)


class Driver:
    """From the device to the store."""

    def __init__(self, device: FieldDevice, store: Metadata) -> None:
        self._device = device
        self._store = store
        self._next: int | None = None
        self.newest: Sample | None = None

    def poll(self) -> int:
        """Take over what is new, at most one batch; how many samples of the device are still to come."""
        if self._next is None:
            last = self._store.last("readings/")
            self._next = int(last.rpartition("/")[2]) + 1 if last else 1
        latest = self._device.latest()
        if latest < self._next:
            if self.newest is None and latest:
                self.newest = self._device.samples(latest, latest)[0]
            return 0
        oldest = max(self._next, latest - SLOTS + 2)
        if oldest > self._next:
            print(f"samples {self._next} to {oldest - 1} are lost: the device no longer has them", flush=True)
        samples = self._device.samples(oldest, min(latest, oldest + BATCH - 1))
        if samples:
            self._keep(samples)
        return latest - self._next + 1

    def _keep(self, samples: list[Sample]) -> None:
        puts = {key(each.number): {"time": each.time, **each.values} for each in samples}
        old = [key(each.number - KEEP) for each in samples if each.number > KEEP]
        self._store.write(puts, old)
        self._next = samples[-1].number + 1
        self.newest = samples[-1]


def key(number: int) -> str:
    """Of a sample; keys sort as numbers do."""
    return f"readings/{number:010}"


class Latest:
    """What the other sites ask for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sample: Sample | None = None
        self._seen = 0.0

    def show(self, sample: Sample | None) -> None:
        """The device was just read; this is its newest sample."""
        with self._lock:
            self._sample, self._seen = sample, time.monotonic()

    def page(self) -> bytes | None:
        """As JSON with the seconds since the device was read; ``None`` before the first sample."""
        with self._lock:
            if self._sample is None:
                return None
            age = time.monotonic() - self._seen
            found = {"number": self._sample.number, "time": self._sample.time, "age": age, **self._sample.values}
        return json.dumps(found).encode()


def serve(latest: Latest, port: int = 8080) -> None:
    """Serve ``/latest`` in the background."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = latest.page()
            self.send_response(200 if page else 503)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(page or b"{}")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("", port), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main() -> None:
    site, node = os.environ["SITE"], os.environ["NODE_NAME"]
    driver = Driver(FieldDevice(site, os.environ["DEVICE_ADDRESS"]), from_environment(f"node.{node}"))
    latest = Latest()
    serve(latest)
    print(f"{site}: started", flush=True)
    told = ""
    while True:
        try:
            more = driver.poll()
            latest.show(driver.newest)
            problem = ""
        except (DeviceError, MetadataError) as error:
            more, problem = 0, str(error)
        if problem != told:
            print(problem or "all is well again", flush=True)
            told = problem
        if not more:
            time.sleep(PERIOD)


if __name__ == "__main__":
    main()
