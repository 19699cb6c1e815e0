"""Container images made offline, from what Debian has installed. Cached in ``.state/images`` of the checkout."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.lab.waiting import LabError

CACHE = Path(__file__).parents[2] / ".state" / "images"
_RECIPE = b"2"
"""Changes when the contents below do, so that caches are not taken for the new."""

_FILES = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": b"hosts: files dns\n",
}
_FOLDERS = {"bin": 0o755, "dev": 0o755, "etc": 0o755, "proc": 0o755, "root": 0o700, "sys": 0o755, "tmp": 0o1777,
            "usr": 0o755, "var": 0o755}  # fmt: skip


def busybox_rootfs() -> Path:
    """A root file system as a tar: busybox (static) under every one of its names.

    :raises LabError: if there is no static busybox.
    """
    found = shutil.which("busybox")
    if found is None:
        raise LabError("there is no busybox: apt-get install busybox-static")
    binary = Path(found).read_bytes()
    digest = hashlib.sha256(_RECIPE + binary).hexdigest()[:16]
    path = CACHE / f"busybox-{digest}.tar"
    if path.exists():
        return path
    names = subprocess.run([found, "--list"], capture_output=True, text=True, check=True).stdout.split()
    CACHE.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    with tarfile.open(fresh, "w") as tar:
        for folder, mode in _FOLDERS.items():
            _add(tar, folder, tarfile.DIRTYPE, mode=mode)
        _add(tar, "bin/busybox", data=binary, mode=0o755)
        for name in sorted(set(names) - {"busybox"}):
            _add(tar, f"bin/{name}", tarfile.SYMTYPE, link="busybox")
        for name, data in _FILES.items():
            _add(tar, name, data=data)
    fresh.rename(path)
    return path


def _add(
    tar: tarfile.TarFile,
    name: str,
    kind: bytes = tarfile.REGTYPE,
    *,
    data: bytes = b"",
    mode: int = 0o644,
    link: str = "",
) -> None:
    """Add an entry that depends on nothing but the arguments (no times, no owner)."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(data), link
    tar.addfile(entry, io.BytesIO(data))


if __name__ == "__main__":
    print(busybox_rootfs().relative_to(Path.cwd()))
