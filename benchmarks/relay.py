"""A bad path between two namespaces: a process that passes packets from one TUN to another, as :mod:`.path` says.

A relay of packets, never a TCP proxy: that would end the congestion control which is being measured. Run as a program
it is the relay itself: two device names, then the path's figures; ``stall SECONDS`` on its standard input stalls it.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time
from pathlib import Path as FilePath

from benchmarks.path import Path, PathSpec
from tests.lab.namespace import Namespace
from tests.lab.state import Run
from tests.lab.waiting import LabError

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_MTU = 1500


class RelayLink:
    """Joins two namespaces by a bad path, with a TUN device in each."""

    def __init__(
        self, near: Namespace, near_device: str, near_address: str,
        far: Namespace, far_device: str, far_address: str, spec: PathSpec,
    ) -> None:  # fmt: skip
        unique = Run.current().unique("r")
        names = [f"{unique}{end}{os.getpid() % 10000}" for end in "ab"]
        rate = "none" if spec.rate is None else str(spec.rate)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.relay", *names, str(spec.delay), str(spec.loss), rate, str(spec.buffer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=FilePath(__file__).parents[1],
        )
        Run.current().record(self._process.pid)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise LabError("the packet relay did not start; see its error above")
        for name, namespace, device, address in (
            (names[0], near, near_device, f"{near_address} peer {far_address}"),
            (names[1], far, far_device, f"{far_address} peer {near_address}"),
        ):
            subprocess.run(["ip", "link", "set", name, "netns", namespace.full_name, "name", device], check=True)
            namespace.ip(f"address add {address} dev {device}", f"link set {device} mtu {_MTU} up")

    def stall(self, seconds: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"stall {seconds}\n")
        self._process.stdin.flush()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.communicate()


def open_tun(name: str) -> int:
    """The descriptor of a new TUN device, non-blocking, without packet information."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return tun


class Relay:
    """Moves the packets."""

    def __init__(self, ends: tuple[int, int], spec: PathSpec) -> None:
        self._ends = ends
        self._ways = {ends[0]: Path(spec, random.random), ends[1]: Path(spec, random.random)}
        self._other = {ends[0]: ends[1], ends[1]: ends[0]}

    def run(self) -> None:
        poll = select.epoll()
        for end in self._ends:
            poll.register(end, select.EPOLLIN)
        poll.register(0, select.EPOLLIN)
        while True:
            for source, event in poll.poll(self._patience()):
                if source == 0:
                    line = sys.stdin.readline()
                    if not line:
                        return
                    for way in self._ways.values():
                        way.stall(time.monotonic(), float(line.split()[1]))
                elif event & select.EPOLLIN:
                    self._take(source)
            for source, way in self._ways.items():
                for packet in way.arrivals(time.monotonic()):
                    self._give(self._other[source], packet)

    def _patience(self) -> float:
        arrivals = [at for way in self._ways.values() if (at := way.next_arrival()) is not None]
        return max(min(arrivals) - time.monotonic(), 0) if arrivals else -1

    def _take(self, source: int) -> None:
        for _ in range(64):
            try:
                packet = os.read(source, 65536)
            except BlockingIOError:
                return
            except OSError:
                return  # The device is not up yet.
            self._ways[source].send(packet, time.monotonic())

    @staticmethod
    def _give(target: int, packet: bytes) -> None:
        try:
            os.write(target, packet)
        except OSError:
            pass  # The other side is down: the packet is lost, as it would be.


def main() -> None:
    near, far, delay, loss, rate, buffer = sys.argv[1:]
    spec = PathSpec(float(delay), float(loss), None if rate == "none" else float(rate), float(buffer))
    relay = Relay((open_tun(near), open_tun(far)), spec)
    print("ready", flush=True)
    relay.run()


if __name__ == "__main__":
    main()
