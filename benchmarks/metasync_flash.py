"""How much the embedded store writes to a device's flash for each write that it acknowledges.

``python -m benchmarks.metasync_flash [--writes N] [--folder DIRECTORY]``. Fifty keys are written over and over, like
the statuses of pods: one at a time, and ten together. Counted is what the process hands to the file system (``wchar``)
and what that has to write of it, in its own blocks (``write_bytes``; both ``proc(5)``); a disk's own amplification is
not.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from metasync.model import Put
from metasync.sqlite import SQLiteStore

KEYS = 50


def counters() -> dict[str, int]:
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


async def measure(store: SQLiteStore, size: int, together: int, writes: int) -> None:
    async def write(count: int) -> None:
        for at in range(0, count, together):
            keys = [b"/kubebus/default/nodes/edge-17/reported/pods/%02d" % ((at + i) % KEYS) for i in range(together)]
            puts = [Put(key, os.urandom(size // 2).hex().encode()) for key in keys]
            await gatherResults([Deferred.fromCoroutine(store.txn((), [put])) for put in puts])

    await write(writes // 2)  # the log begins anew now and then; it is not counted while it grows first
    before, began = counters(), time.monotonic()
    await write(writes)
    after, seconds = counters(), time.monotonic() - began
    handed, written = ((after[name] - before[name]) / writes for name in ("wchar", "write_bytes"))
    print(
        f"{size:5} bytes, {together:2} together: {handed / 1000:6.1f} kB handed over, {written / 1000:6.1f} kB written "
        f"for each, {seconds / writes * 1000:6.2f} ms",
        flush=True,
    )


def main(reactor: Any, *arguments: str) -> Deferred[None]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--writes", type=int, default=1000)
    parser.add_argument("--folder", help="on the disk that is to be measured")
    args = parser.parse_args(arguments)

    async def run() -> None:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            store = SQLiteStore.open(reactor, Path(folder) / "store.sqlite")
            for size in (300, 2000):
                for together in (1, 10):
                    await measure(store, size, together, args.writes)
            await store.close()

    return Deferred.fromCoroutine(run())


if __name__ == "__main__":
    react(main, sys.argv[1:])
