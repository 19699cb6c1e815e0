"""Files that must be whole or absent, and secret: a crash at any moment leaves the old content or the new."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Make ``path`` hold ``content`` with ``mode``, durably, in one step.

    The directory is made (0700) if it is missing. Readers see the old content or the new one, never a part.

    :raises OSError: if it cannot be written; the old content is then still there.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_directory(path.parent)


def remove_leftovers(path: Path) -> None:
    """Remove what a crash inside :func:`write_atomically` of ``path`` left behind. Nobody may be writing it."""
    for temporary in path.parent.glob(f".{path.name}.*"):
        with suppress(FileNotFoundError):
            temporary.unlink()


def read_secret(path: Path) -> bytes:
    """The content of a file that only its owner may read. Permissions that were opened up are closed again.

    :raises OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if mode & 0o077:
            os.fchmod(file.fileno(), mode & 0o700)
        return file.read()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
