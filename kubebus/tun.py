"""The TUN device of Linux (``/dev/net/tun``) on the reactor.

``IFF_VNET_HDR`` with offloads lets the kernel hand over TCP flows as packets of up to 64 KB, which it cuts into
segments, or never needs to, at the other end.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import struct
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from kubebus.fastpath.engine import scratch
from kubebus.fastpath.poll import busy_poll
from kubebus.frames import HEADER_SIZE as FRAME_HEADER
from kubebus.frames import PACKET, PacketFrames, frame_header
from kubebus.packets import GSO_UDP_L4, HEADER_SIZE, swap_header
from kubebus.tundevice import Receiver, TunCounters, TunError
from kubebus.udpgso import join, split

# linux/if_tun.h
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_TUN_F_CSUM: Final = 0x01
_TUN_F_TSO4: Final = 0x02
_TUN_F_TSO6: Final = 0x04
_TUN_F_TSO_ECN: Final = 0x08
_TUN_F_USO: Final = 0x20 | 0x40
_NR_SETIFF: Final = 202
_NR_SETOFFLOAD: Final = 208
_NR_SETVNETLE: Final = 220

_OFFLOADS: Final = _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6 | _TUN_F_TSO_ECN

_READ_SIZE: Final = HEADER_SIZE + 65535
_BATCH_PACKETS: Final = 64
_BATCH_BYTES: Final = 128 * 1024

_read_into = os.readv

# Used up before another device is read, so one for all.
_scratch = scratch(_BATCH_BYTES + FRAME_HEADER + _READ_SIZE)

_log = Logger()


def ioctl_write(number: int, machine: str, size: int = 4) -> int:
    """The request ``_IOW('T', number, <size bytes>)``, whose layout differs by architecture.

    MIPS, PowerPC, SPARC and Alpha have 13 bits of size and 3 of direction with ``write`` = 4
    (``arch/*/include/uapi/asm/ioctl.h``), all others 14 and 2 with ``write`` = 1.
    """
    old = machine.startswith(("mips", "ppc", "powerpc", "sparc", "alpha"))
    direction = 4 << 29 if old else 1 << 30
    return direction | size << 16 | ord("T") << 8 | number


def open_tun(reactor: IReactorFDSet, name: str) -> LinuxTun:
    """Make the TUN device ``name``; it is gone when it is closed, or the process ends.

    :raises TunError: if it cannot be made; the message says what to do.
    """
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise TunError(
            f"/dev/net/tun cannot be opened ({error.strerror}): run as root, and load the module with 'modprobe tun'"
        ) from None
    try:
        swapped = _configure(fd, name)
    except OSError as error:
        os.close(fd)
        hint = "another process has it; choose another name" if error.errno == errno.EBUSY else "root is needed"
        raise TunError(f"TUN device {name!r} cannot be made ({error.strerror}): {hint}") from None
    return LinuxTun(reactor, name, fd, swapped, cuts_udp=_cuts_udp(fd))


def _configure(fd: int, name: str) -> bool:
    """Whether the device speaks the host's byte order, and the host is big-endian."""
    machine = platform.machine()
    request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR)
    fcntl.ioctl(fd, ioctl_write(_NR_SETIFF, machine), request)
    fcntl.ioctl(fd, ioctl_write(_NR_SETOFFLOAD, machine), _OFFLOADS)
    try:
        fcntl.ioctl(fd, ioctl_write(_NR_SETVNETLE, machine), struct.pack("i", 1))
    except OSError:
        # Before Linux 4.2 headers are in the host's byte order.
        return sys.byteorder == "big"
    return False


def _cuts_udp(fd: int) -> bool:
    """Whether the kernel takes UDP packets with segments: since Linux 6.2, which also knows how to offer them."""
    request = ioctl_write(_NR_SETOFFLOAD, platform.machine())
    try:
        fcntl.ioctl(fd, request, _OFFLOADS | _TUN_F_USO)
    except OSError:
        return False
    # Only what is written: applications rarely send so, and join() does it for all of them.
    fcntl.ioctl(fd, request, _OFFLOADS)
    return True


@implementer(IReadDescriptor)
class LinuxTun:
    """A :class:`~kubebus.tundevice.TunDevice`.

    :param swapped: whether the kernel's virtio-net headers are big-endian.
    :param cuts_udp: whether it takes UDP packets with segments.
    """

    def __init__(
        self, reactor: IReactorFDSet, name: str, fd: int, swapped: bool = False, cuts_udp: bool = True
    ) -> None:
        self.name = name
        self.counters = TunCounters()
        self._poll, self._fd, self._swapped, self._cuts_udp = busy_poll(reactor), fd, swapped, cuts_udp
        self._receiver: Receiver | None = None
        self._on_lost: Callable[[], None] | None = None
        self._paused = False
        # Packets to read at once: about as many as were there last time. Asking for one more than there is costs as
        # much as reading one.
        self._expected = 1

    def start(self, receiver: Receiver, lost: Callable[[], None]) -> None:
        self._receiver, self._on_lost = receiver, lost
        if not self._paused:
            self._poll.addReader(self)

    def write(self, payload: bytes | memoryview) -> bool:
        if payload[1] == GSO_UDP_L4 and not self._cuts_udp:
            written = [self.write(packet) for packet in split(bytes(payload))]
            return all(written)
        counters = self.counters
        try:
            os.write(self._fd, swap_header(bytes(payload)) if self._swapped else payload)
        except OSError:
            # The interface is down, or the kernel's queue is full, or it knows better than check_packet().
            counters.refused += 1
            return False
        counters.written += 1
        counters.written_bytes += len(payload) - HEADER_SIZE
        return True

    def pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._poll.removeReader(self)

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._receiver is not None and self._fd >= 0:
                self._poll.addReader(self)

    def close(self) -> None:
        if self._fd >= 0:
            self._poll.removeReader(self)
            os.close(self._fd)
            self._fd = -1

    # IReadDescriptor

    def fileno(self) -> int:
        return self._fd

    def logPrefix(self) -> str:
        return f"tun {self.name}"

    def doRead(self) -> None:
        bounds = [0]
        at = 0
        fd, expected = self._fd, self._expected
        try:
            while len(bounds) <= expected and at < _BATCH_BYTES:
                begin = at + FRAME_HEADER
                size = _read_into(fd, (_scratch[begin : begin + _READ_SIZE],))
                _scratch[at:begin] = frame_header(PACKET, size)
                at = begin + size
                bounds.append(at)
        except BlockingIOError:
            pass
        except OSError as error:
            # EIO: somebody has set the interface down. It is readable again when it is up.
            if error.errno != errno.EIO:
                self._lost(str(error))
                return
        count = len(bounds) - 1
        self._expected = min(4 * count, _BATCH_PACKETS) if count >= expected else max(count, 1)
        if count:
            self.counters.read += count
            self.counters.read_bytes += at - (FRAME_HEADER + HEADER_SIZE) * count
            if self._swapped:
                _swap_headers(bounds)
            if count > 1:
                bounds = join(_scratch, bounds)
            if self._receiver is not None:
                self._receiver(PacketFrames(_scratch[: bounds[-1]], bounds))

    def connectionLost(self, reason: Failure) -> None:
        # The reactor says so when the device was removed: its file has an error for ever.
        self._lost(reason.getErrorMessage())

    def _lost(self, why: str) -> None:
        if self._fd < 0:
            return
        _log.error("TUN device {name} is gone: {why}", name=self.name, why=why)
        self.close()
        lost, self._on_lost = self._on_lost, None
        if lost is not None:
            lost()


def _swap_headers(bounds: list[int]) -> None:
    for start, end in pairwise(bounds):
        _scratch[start + FRAME_HEADER : end] = swap_header(bytes(_scratch[start + FRAME_HEADER : end]))
