"""iperf3 and ping between two namespaces, their output read."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import inf
from statistics import median
from typing import Any, Self

from tests.lab.daemon import Daemon
from tests.lab.namespace import Namespace
from tests.lab.waiting import LabError

# Seconds after which a ping is taken for lost.
PATIENCE = 3.0


class IperfServer:
    """An iperf3 server in a namespace, for one client at a time."""

    def __init__(self, namespace: Namespace, port: int = 5201) -> None:
        self.namespace = namespace
        self.port = port
        self._daemon = Daemon(f"iperf-{port}", ["iperf3", "-s", "-p", str(port), "--forceflush"], namespace=namespace)
        self._daemon.start()
        self._daemon.wait_for("listening")

    def close(self) -> None:
        self._daemon.close()

    def __enter__(self) -> IperfServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def iperf(source: Namespace, address: str, seconds: float, *arguments: str, port: int = 5201) -> dict[str, Any]:
    """Run a client to its end; what it reports.

    :raises LabError: if it fails.
    """
    command = ["iperf3", "-c", address, "-p", str(port), "-t", f"{seconds:g}", "--json", *arguments]
    done = source.run(command, check=False, timeout=seconds + 30)
    report: dict[str, Any] = json.loads(done.stdout or "{}")
    if "error" in report or done.returncode:
        raise LabError(f"iperf3 to {address}: {report.get('error') or done.stderr}")
    return report


def received_mbit(report: dict[str, Any]) -> float:
    """What the receivers of a TCP run got, in Mbit/s, both directions added."""
    end = report["end"]
    total = end["sum_received"]["bits_per_second"]
    reverse = end.get("sum_received_bidir_reverse")
    return float(total + (reverse["bits_per_second"] if reverse else 0)) / 1e6


def received_kpps(report: dict[str, Any]) -> float:
    """What the receiver of a UDP run got, in thousands of packets a second.

    Where the report of the receiver itself is there (``--get-server-output``) its clock counts, else the sender's.
    """
    total = report["end"]["sum"]
    return float(total["packets"] - total["lost_packets"]) / float(total["seconds"]) / 1e3


def received_udp_mbit(report: dict[str, Any]) -> float:
    """What the receiver of a UDP run got of payload, in Mbit/s."""
    total = report["end"]["sum"]
    return float(total["bits_per_second"]) * (1 - float(total["lost_percent"]) / 100) / 1e6


def ping(source: Namespace, address: str, count: int, interval: float = 0.01) -> list[float]:
    """Round-trip times in ms, in order; after them one that is infinite for each ping that was not answered."""
    done = source.run(
        ["ping", "-n", "-c", str(count), "-i", f"{interval:g}", "-W", f"{PATIENCE:g}", address],
        check=False,
        timeout=count * interval + 30,
    )
    answered = [float(each) for each in re.findall(r"time=([\d.]+) ms", done.stdout)]
    return answered + [inf] * (count - len(answered))


class Replies:
    """Pings an address all the time within the ``with`` statement, and knows when which answer came."""

    def __init__(self, source: Namespace, address: str, interval: float = 0.01) -> None:
        self._command = ["ping", "-n", "-D", "-i", f"{interval:g}", address]
        self._source = source
        self._output = b""

    def __enter__(self) -> Self:
        self._process = self._source.popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._output, _ = self._process.communicate()

    def first_after(self, moment: float) -> float:
        """Seconds from ``moment`` (UNIX time) to the first answer to a ping that was sent after it.

        :raises LabError: if there was none by the end of the ``with`` statement.
        """
        for at, rtt in re.findall(rb"\[([\d.]+)\] .* time=([\d.]+) ms", self._output):
            received = float(at)
            if received - float(rtt) / 1e3 >= moment:
                return received - moment
        raise LabError("no ping was answered any more")


@contextmanager
def iperf_in_background(
    source: Namespace, address: str, seconds: float, *arguments: str, port: int = 5201
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Run a client beside the body. What it gives returns the report, waiting for it."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(iperf, source, address, seconds, *arguments, port=port)
        yield running.result


def device_bytes(namespace: Namespace, device: str) -> int:
    """Bytes that a network device has received so far."""
    for line in namespace.run(["cat", "/proc/net/dev"]).stdout.splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == device:
            return int(counters.split()[0])
    raise LabError(f"there is no device {device} in {namespace}")


def middle(values: Sequence[float]) -> float:
    """The median.

    :raises LabError: if it is not a number: half of the pings or more were not answered.
    """
    result = median(values) if values else inf
    if result == inf:
        raise LabError(f"of {len(values)} pings {sum(each < inf for each in values)} were answered")
    return result


def missing(*programs: str) -> str | None:
    """Which of the programs is not installed, as a reason to skip."""
    for program in programs:
        if subprocess.run(["sh", "-c", 'command -v "$0" >/dev/null', program]).returncode:
            return f"{program} is not installed"
    return None
