"""What a TUN device is to the rest: packets with virtio-net headers, little-endian, in both directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kubebus.frames import PacketFrames
from kubebus.status import TunStatus

Receiver = Callable[[PacketFrames], None]
"""Gets what the kernel routes into the device, framed already: as many packets as were there at once."""


class TunError(Exception):
    """The device cannot be made. The message says what to do."""


@dataclass(slots=True)
class TunCounters:
    """``refused`` are packets that the kernel did not take."""

    read: int = 0
    read_bytes: int = 0
    written: int = 0
    written_bytes: int = 0
    refused: int = 0


class TunDevice(Protocol):
    """An open TUN device. Calls are made on the reactor thread.

    A device gives no packets before :meth:`start`, nor while it is paused, nor after :meth:`close`.
    """

    name: str
    counters: TunCounters

    def start(self, receiver: Receiver, lost: Callable[[], None]) -> None:
        """Give packets to ``receiver``. ``lost`` is called once if somebody else removes the device."""

    def write(self, payload: bytes | memoryview) -> bool:
        """Hand a PACKET payload, which has been checked, to the kernel; it is used no longer than the call takes.
        ``False``: the kernel did not take it.
        """

    def pause(self) -> None:
        """Leave packets in the kernel's queue, which drops what it cannot hold."""

    def resume(self) -> None: ...

    def close(self) -> None:
        """Remove the device from the system, and every address and route with it. May be repeated."""


OpenTun = Callable[[str], TunDevice]
"""Makes the device of that name.

:raises TunError: if it cannot be.
"""


def tun_status(name: str, mtu: int, device: TunDevice | None) -> TunStatus:
    counters = TunCounters() if device is None else device.counters
    return TunStatus(
        name, mtu, counters.read, counters.read_bytes, counters.written, counters.written_bytes, counters.refused
    )
