"""The pause container's image, made on the node: nothing is pulled, so a pod starts where there is no registry.

The program asks the kernel to reap orphans (``SIGCHLD`` ignored) and sleeps for ever. It is assembled by hand for
each architecture into a static ELF file of one segment; system call numbers and the layout of ``struct sigaction``
are the kernel's (include/uapi, arch/*/include/uapi/asm/signal.h).
"""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Callable

PAUSE_PATH = "pause"
PAUSE_VERSION = "1"

_LINUX_BASE = 0x400000


class UnknownArchitecture(ValueError):
    """There is no pause program for this machine."""


def _elf64(machine: int, code: bytes) -> bytes:
    size = 64 + 56 + len(code)
    entry = _LINUX_BASE + 64 + 56
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, entry, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LINUX_BASE, _LINUX_BASE, size, size, 0x10000)
    return header + segment + code


def _elf32(machine: int, flags: int, code: bytes, order: str) -> bytes:
    size = 52 + 32 + len(code)
    entry = _LINUX_BASE + 52 + 32
    header = b"\x7fELF\x01" + (b"\x01" if order == "<" else b"\x02") + b"\x01" + bytes(9)
    header += struct.pack(order + "HHIIIIIHHHHHH", 2, machine, 1, entry, 52, 0, flags, 52, 32, 1, 40, 0, 0)
    segment = struct.pack(order + "IIIIIIII", 1, 0, _LINUX_BASE, _LINUX_BASE, size, size, 5, 0x10000)
    return header + segment + code


def _amd64() -> bytes:
    before, after = bytes.fromhex("b80d000000 bf11000000 be"), bytes.fromhex("31d2 41ba08000000 0f05")
    loop = bytes.fromhex("b822000000 0f05 ebf7 9090")
    length = len(before) + 4 + len(after) + len(loop)
    address = _LINUX_BASE + 64 + 56 + length
    action = struct.pack("<QQQQ", 1, 0, 0, 0)
    return _elf64(62, before + struct.pack("<I", address) + after + loop + action)


def _arm64() -> bytes:
    def movz(register: int, value: int) -> int:
        return 0xD2800000 | (value << 5) | register

    count = 14
    address = _LINUX_BASE + 64 + 56 + 4 * (count + 1)
    words = [
        movz(8, 134),
        movz(0, 17),
        movz(1, address & 0xFFFF),
        0xF2A00000 | ((address >> 16) << 5) | 1,
        movz(2, 0),
        movz(3, 8),
        0xD4000001,
        movz(0, 0),
        movz(1, 0),
        movz(2, 0),
        movz(3, 0),
        movz(8, 73),
        0xD4000001,
        0x14000000 | (-6 & 0x3FFFFFF),
        0xD503201F,
    ]
    action = struct.pack("<QQQQ", 1, 0, 0, 0)
    return _elf64(183, struct.pack(f"<{len(words)}I", *words) + action)


def _arm() -> bytes:
    # The literal with the action's address stands behind the ten instructions; the action behind the literal.
    literal = _LINUX_BASE + 52 + 32 + 4 * 9 + 4
    words = [
        0xE3A070AE,
        0xE3A00011,
        0xE59F1000 | (4 * 9 - 4 * 2 - 8),
        0xE3A02000,
        0xE3A03008,
        0xEF000000,
        0xE3A0701D,
        0xEF000000,
        0xEAFFFFFC,
        literal,
    ]
    action = struct.pack("<IIIQ", 1, 0, 0, 0)
    return _elf32(40, 0x05000000, struct.pack("<10I", *words) + action, "<")


def _mips(order: str) -> bytes:
    count = 11
    address = _LINUX_BASE + 52 + 32 + 4 * count
    words = [
        0x24020000 | 4194,
        0x24040000 | 18,
        0x3C050000 | (address >> 16),
        0x34A50000 | (address & 0xFFFF),
        0x24060000,
        0x24070000 | 16,
        0x0000000C,
        0x24020000 | 4029,
        0x0000000C,
        0x1000FFFD,
        0x00000000,
    ]
    action = struct.pack(order + "II", 0, 1) + bytes(16)
    return _elf32(8, 0x50001001, struct.pack(f"{order}{count}I", *words) + action, order)


# Keys are Go's names of architectures, which Docker and Kubernetes use; values also take the kernel's names.
_PROGRAMS: dict[str, Callable[[], bytes]] = {
    "amd64": _amd64,
    "arm64": _arm64,
    "arm": _arm,
    "mips": lambda: _mips(">"),
    "mipsle": lambda: _mips("<"),
    "mips64": lambda: _mips(">"),
    "mips64le": lambda: _mips("<"),
}
_ALIASES = {"x86_64": "amd64", "aarch64": "arm64", "mipsel": "mipsle", "mips64el": "mips64le"}


def go_architecture(machine: str) -> str:
    """Go's name for what ``uname -m`` or an engine calls a machine."""
    if machine.startswith("armv") and not machine.startswith("armv8"):
        return "arm"
    return _ALIASES.get(machine, machine)


def pause_program(architecture: str) -> bytes:
    """The ELF file for an architecture (Go's or the kernel's name).

    :raises UnknownArchitecture: if there is none.
    """
    try:
        build = _PROGRAMS[go_architecture(architecture)]
    except KeyError:
        known = ", ".join(_PROGRAMS)
        raise UnknownArchitecture(f"no pause program for architecture {architecture!r} (known: {known})") from None
    return build()


def pause_layer(architecture: str) -> bytes:
    """A tar with the program as its one file, the same bytes every time: what ``docker import`` takes."""
    program = pause_program(architecture)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo(PAUSE_PATH)
        member.size = len(program)
        member.mode = 0o755
        tar.addfile(member, io.BytesIO(program))
    return out.getvalue()
