"""Removes what runs of the lab have left: processes, mounts, control groups, namespaces, files.

It works from the run's folder and from names alone, so it needs nothing of the process that made them.
As a program it waits until that process is gone::

    python -m tests.lab.janitor RUN-FOLDER DESCRIPTOR    # a pipe whose other end the owner holds
    python -m tests.lab.janitor                          # remove all that dead runs have left
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.lab.state import ROOT, ProcessId

NETNS = Path("/run/netns")
CGROUPS = Path("/sys/fs/cgroup")


def sweep(root: Path = ROOT) -> list[Path]:
    """Clean up after every run whose owner is dead; return their folders."""
    dead = []
    for path in sorted(root.glob("*")) if root.is_dir() else ():
        try:
            owner = ProcessId.parse((path / "owner").read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            continue
        if not owner.alive:
            clean(path)
            dead.append(path)
    return dead


def clean(path: Path) -> None:
    """Remove everything of the run at ``path``. May be repeated, also by two at once."""
    prefix = f"kb{path.name}-"
    namespaces = list(NETNS.glob(f"{prefix}*"))
    for _ in range(20):
        alive = _processes(path, namespaces)
        for process in alive:
            process.kill()
        if not alive:
            break
        time.sleep(0.05)
    unmount_below(path)
    remove_cgroups(f"{prefix}*")
    for namespace in namespaces:
        subprocess.run(["ip", "netns", "delete", namespace.name], stderr=subprocess.DEVNULL, check=False)
    shutil.rmtree(path, ignore_errors=True)


def _processes(path: Path, namespaces: Iterable[Path]) -> list[ProcessId]:
    """The living processes of a run: recorded, in its namespaces, or in its engines' containers."""
    found: set[ProcessId] = set()
    try:
        found.update(ProcessId.parse(line) for line in (path / "processes").read_text().splitlines())
    except FileNotFoundError:
        pass
    for namespace in namespaces:
        found.update(in_namespace(namespace))
    for engine in path.glob("engine*"):
        found.update(container_processes(engine))
    return [process for process in found if process.alive]


def in_namespace(namespace: Path) -> Iterator[ProcessId]:
    """The processes whose network namespace this is."""
    try:
        wanted = namespace.stat().st_ino
    except FileNotFoundError:
        return
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "ns/net").stat().st_ino == wanted:
                yield ProcessId.of(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue


def container_processes(engine: Path) -> Iterator[ProcessId]:
    """The first process of every container of the engine whose folder this is, by containerd's records."""
    for pid_file in engine.glob("containerd/state/io.containerd.runtime.v2.task/*/*/init.pid"):
        try:
            yield ProcessId.of(int(pid_file.read_text()))
        except (FileNotFoundError, ProcessLookupError, ValueError):
            continue


def unmount_below(path: Path) -> None:
    """Detach everything that is mounted below ``path``, innermost first."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{path}/")), key=len, reverse=True):
        subprocess.run(["umount", "--lazy", mount], stderr=subprocess.DEVNULL, check=False)


def remove_cgroups(pattern: str) -> None:
    """Remove emptied control groups, in every hierarchy (v1 has several, v2 one)."""
    for depth in ("", "*/"):
        for top in CGROUPS.glob(f"{depth}{pattern}"):
            for folder, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    pass


def _wait_and_clean(path: Path, descriptor: int) -> None:
    os.read(descriptor, 1)
    clean(path)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _wait_and_clean(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        for removed in sweep():
            print(f"removed what was left of {removed}")
