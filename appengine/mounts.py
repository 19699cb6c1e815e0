"""The few mount system calls that volumes need, without a subprocess. They block only as the kernel does."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

# include/uapi/linux/mount.h
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND = 2, 4, 8, 4096
_MNT_DETACH = 2


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount_tmpfs(path: Path, options: str, executable: bool = False) -> None:
    """Mount a tmpfs, unless something is mounted there already.

    :param options: as for mount(8): ``mode=0700,size=…``.
    """
    if os.path.ismount(path):
        return
    flags = _MS_NOSUID | _MS_NODEV | (0 if executable else _MS_NOEXEC)
    _check(_libc().mount(b"tmpfs", os.fsencode(path), b"tmpfs", flags, options.encode()), f"mounting tmpfs on {path}")


def bind(descriptor: int, target: Path) -> None:
    """Bind what an open descriptor names to a path: no symbolic link can come between look and bind."""
    source = f"/proc/self/fd/{descriptor}".encode()
    _check(_libc().mount(source, os.fsencode(target), None, _MS_BIND, None), f"binding to {target}")


def unmount(path: Path) -> None:
    """Unmount, at once for newcomers and later for those who still use it. What is not mounted is no error."""
    if _libc().umount2(os.fsencode(path), _MNT_DETACH) != 0:
        number = ctypes.get_errno()
        if number not in (22, 2):  # EINVAL: not a mount point; ENOENT
            raise OSError(number, f"unmounting {path}: {os.strerror(number)}")


def mounts_below(path: Path) -> list[Path]:
    """Mount points at or below a path, deepest first."""
    prefix = os.path.realpath(path)
    found = []
    with open("/proc/self/mounts", "rb") as lines:
        for line in lines:
            point = os.fsdecode(line.split(b" ")[1].decode("unicode_escape").encode("latin-1"))
            if point == prefix or point.startswith(prefix + "/"):
                found.append(Path(point))
    return sorted(found, key=lambda point: len(point.parts), reverse=True)
