"""Files that change all at once under a reader's eyes, as the kubelet's AtomicWriter (pkg/volume/util).

::

    volume/..2f6c9e       a directory with the files
    volume/..data       → ..2f6c9e
    volume/<path>       → ..data/<path>

A change writes a new directory and renames a new ``..data`` over the old one.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from appengine.projection import File

_DATA = "..data"


def write_files(root: Path, files: Mapping[str, File], group: int | None = None) -> bool:
    """Make the volume at ``root`` hold exactly these files; whether anything changed. Safe to be cut short."""
    root.mkdir(parents=True, exist_ok=True)
    data = root / _DATA
    if _holds(data, files, group):
        _link(root, files)
        return False
    fresh = root / f"..{secrets.token_hex(8)}"
    fresh.mkdir(mode=0o755)
    for path, file in files.items():
        target = fresh / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.content)
        if group is not None:
            os.chown(target, -1, group)
        os.chmod(target, _mode(file, group))
    os.chmod(fresh, 0o755)
    pointer = root / "..data_tmp"
    pointer.unlink(missing_ok=True)
    pointer.symlink_to(fresh.name)
    pointer.rename(data)
    _link(root, files)
    for entry in root.iterdir():
        if entry.name.startswith("..") and entry.name != _DATA and entry.name != fresh.name:
            shutil.rmtree(entry, ignore_errors=True)
    return True


def _mode(file: File, group: int | None) -> int:
    """With a group (fsGroup) its members can read whatever the owner can."""
    return file.mode if group is None else file.mode | ((file.mode & 0o500) >> 3)


def _holds(data: Path, files: Mapping[str, File], group: int | None) -> bool:
    if not data.is_dir():
        return False
    present = {str(path.relative_to(data)) for path in data.rglob("*") if path.is_file()}
    if present != set(files):
        return False
    for path, file in files.items():
        target = data / path
        if target.stat().st_mode & 0o777 != _mode(file, group) or target.read_bytes() != file.content:
            return False
    return True


def _link(root: Path, files: Mapping[str, File]) -> None:
    """The top-level names, which point through ``..data``; names that are no more are removed."""
    wanted = {path.split("/")[0] for path in files}
    for name in wanted:
        link = root / name
        target = f"{_DATA}/{name}"
        if not (link.is_symlink() and os.readlink(link) == target):
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    for entry in root.iterdir():
        if not entry.name.startswith("..") and entry.name not in wanted and entry.is_symlink():
            entry.unlink()
