"""The agent of a device that runs no pods, in the memory of such a device: 64 MB, enforced by the kernel."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from twisted.trial import unittest

from benchmarks.processes import rss
from benchmarks.tunnels.ours import Kubebus, kubebus
from benchmarks.world import Hub
from metasync.keys import NodeKeys
from tests.lab.daemon import Daemon
from tests.lab.waiting import wait_until

LIMIT = 64_000_000
KEYS = 8

_V2 = Path("/sys/fs/cgroup/cgroup.controllers")


class MemoryGroup:
    """A memory cgroup of either version. Page cache counts."""

    def __init__(self, name: str, limit: int) -> None:
        root = Path("/sys/fs/cgroup") if _V2.exists() else Path("/sys/fs/cgroup/memory")
        self.path = root / name
        self.path.mkdir()
        prefix = "memory.max" if _V2.exists() else "memory.limit_in_bytes"
        (self.path / prefix).write_text(str(limit))

    def most(self) -> int:
        """The most bytes that it ever had."""
        name = "memory.peak" if _V2.exists() else "memory.max_usage_in_bytes"
        return int((self.path / name).read_text())

    def killed(self) -> int:
        """How often somebody in it was killed for its limit."""
        name = "memory.events" if _V2.exists() else "memory.oom_control"
        lines = (self.path / name).read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))

    def remove(self) -> None:
        self.path.rmdir()


class SmallMemoryTests(unittest.SynchronousTestCase):
    def test_lives_in_64_megabytes(self) -> None:
        try:
            group = MemoryGroup(f"kubebus-test-{os.getpid()}", LIMIT)
        except OSError as error:
            raise unittest.SkipTest(f"no memory cgroup can be made here: {error}") from error
        self.addCleanup(group.remove)
        with Hub(1) as hub, Kubebus(hub) as tunnel:
            free = tunnel.edge_processes.pop()
            free.stop()
            edge = Daemon(
                "confined",
                ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(group.path), *free.command],
                namespace=free.namespace,
                cwd=free.cwd,
                env=free.env,
            )
            tunnel.edge_processes.append(edge)
            edge.start()
            self.live(tunnel, edge)
            self.assertEqual(group.killed(), 0)
            print(f"at most {group.most() / 1e6:.1f} MB of {LIMIT / 1e6:g}, {rss(edge.pid) / 1e6:.1f} MB resident now")
            self.assertLess(rss(edge.pid), LIMIT)
            edge.stop()

    def has(self, socket: Path, key: str, text: str) -> bool:
        return text in kubebus(socket, "meta", "get", key)

    def live(self, tunnel: Kubebus, edge: Daemon) -> None:
        """Connect, sync, lose the router three times, with all that comes with it."""
        assert tunnel.hub_process is not None
        socket = tunnel.folder / "e1.sock"
        desired = NodeKeys("default", "e1").desired
        edge.wait_for(lambda: kubebus(socket, "--json", "status").count('"connected": true'), 30)
        for life in range(3):
            for number in range(KEYS):
                kubebus(tunnel.socket, "meta", "put", f"{desired}test/{number}", f"{life}-" + "v" * 20_000)
            edge.wait_for(partial(self.has, socket, f"{desired}test/{KEYS - 1}", f"{life}-v"), 30)
            tunnel.hub_process.kill9()
            tunnel.hub_process.start()
            wait_until(lambda: tunnel.address(1), 60, "the agent is connected again")
        self.assertTrue(edge.alive)
