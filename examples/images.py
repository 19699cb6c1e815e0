"""Container images for the examples: Debian packages, Python wheels and files of ours, without a registry of images.

Packages and wheels are asked for by name from the machine's own package sources (``apt-get download``, ``pip``), once:
what was built stands in ``.state/images`` under a hash of everything that was asked for. Delete it to build anew, with
the newest packages.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.images import CACHE, busybox_rootfs
from tests.lab.namespace import checked

_RECIPE = "2"
"""Changes when what is done below does, so that caches are not taken for the new."""

PYTHON = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libgcc-s1", "zlib1g"),
    *("libexpat1", "libffi8", "libssl3", "libbz2-1.0", "liblzma5", "libsqlite3-0", "libuuid1", "libcrypt1"),
)
"""A Python 3.11 with its standard library and the libraries that it needs: Debian packages."""

_UNWANTED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/lib/python3.11/test")


def build_image(
    name: str,
    *,
    debs: Sequence[str] = (),
    wheels: Sequence[str] = (),
    files: Mapping[str, bytes | Path] | None = None,
) -> Path:
    """A root file system as a tar, for ``Engine.load_image``: busybox, and on top of it what is asked for.

    :param name: for people, in the tar's name.
    :param debs: Debian packages by name, unpacked without their scripts; name dependencies too.
    :param wheels: Python packages as pip takes them; installed where the image's ``python3.11`` finds them.
    :param files: where in the image to put what; a folder is taken with the Python modules and YAML files below it.
        What is in a folder ``bin`` can be run.
    :raises LabError: if a package cannot be got or unpacked; with what apt-get, dpkg-deb or pip said.
    """
    base = _base(debs, wheels)
    contents = dict(_contents(files or {}))
    digest = hashlib.sha256(base.name.encode())
    for path, data in sorted(contents.items()):
        digest.update(f"{path} {len(data)}\n".encode() + data)
    image = CACHE / f"{name}-{digest.hexdigest()[:16]}.tar"
    if not image.exists():
        fresh = image.with_suffix(f".{os.getpid()}")
        shutil.copyfile(base, fresh)
        with tarfile.open(fresh, "a") as tar:
            for path, data in sorted(contents.items()):
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(data), 0o755 if "bin/" in path.rpartition("/")[0] + "/" else 0o644
                tar.addfile(entry, io.BytesIO(data))
        fresh.rename(image)
    return image


def _contents(files: Mapping[str, bytes | Path]) -> list[tuple[str, bytes]]:
    found = []
    for where, what in files.items():
        place = where.strip("/")
        if isinstance(what, bytes):
            found.append((place, what))
        elif what.is_dir():
            wanted = (each for each in what.rglob("*") if each.suffix in (".py", ".yaml"))
            found += [(f"{place}/{each.relative_to(what)}", each.read_bytes()) for each in wanted]
        else:
            found.append((place, what.read_bytes()))
    return found


def _base(debs: Sequence[str], wheels: Sequence[str]) -> Path:
    """The part that is dear to make and seldom changes: everything but the files."""
    busybox = busybox_rootfs()
    asked = json.dumps([_RECIPE, busybox.name, sorted(debs), sorted(wheels)])
    path = CACHE / f"base-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.tar"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        _unpack(busybox, debs, Path(name), root)
        if wheels:
            site = root / "usr/lib/python3.11/site-packages"
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            checked([*pip, "--no-compile", "--only-binary=:all:", "--target", str(site), *wheels], timeout=600)
            # Debian's Python looks in dist-packages below /usr/local and /usr/lib/python3 only.
            (root / "usr/lib/python3").mkdir(exist_ok=True)
            (root / "usr/lib/python3/dist-packages").symlink_to("../python3.11/site-packages")
        for each in _UNWANTED:
            shutil.rmtree(root / each, ignore_errors=True)
        if (root / "usr/bin/python3.11").exists():
            compile_all = ["chroot", str(root), "/usr/bin/python3.11", "-m", "compileall", "-q", "/usr/lib/python3.11"]
            # Some files of wheels are templates and do not compile; they are left as they are.
            subprocess.run(compile_all, capture_output=True, check=False, timeout=600)
        fresh = path.with_suffix(f".{os.getpid()}")
        _pack(root, fresh)
        fresh.rename(path)
    return path


def _unpack(busybox: Path, debs: Sequence[str], work: Path, root: Path) -> None:
    # Debian's merged /usr: packages bring /lib/…, and a dynamic loader is looked for there.
    for each in ("bin", "lib", "lib64", "sbin"):
        (root / "usr" / each).mkdir(parents=True)
        (root / each).symlink_to(f"usr/{each}")
    archives = work / "debs"
    archives.mkdir()
    if debs:
        fetch = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *debs]
        there = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(archives), *fetch]
        if checked(there, check=False, timeout=600).returncode:
            # The lists may be old or missing.
            checked(["apt-get", "update", "-qq"], timeout=600)
            checked(there, timeout=600)
    # By tar into the folder, which unlike `dpkg-deb -x` keeps the links above.
    into = ["tar", "-x", "-C", str(root), "--keep-directory-symlink"]
    checked([*into, "-f", str(busybox)])
    for archive in sorted(archives.glob("*.deb")):
        unpack = 'archive="$1" && shift && dpkg-deb --fsys-tarfile "$archive" | "$@"'
        checked(["sh", "-c", unpack, "sh", str(archive), *into], timeout=120)


def _pack(root: Path, image: Path) -> None:
    with tarfile.open(image, "w") as tar:
        for path in sorted(root.rglob("*")):
            tar.add(path, str(path.relative_to(root)), recursive=False, filter=_plain)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry
