"""The dead man's switch: its rules, its process, and the agent's end of it, on real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial import unittest

from appengine.takeover import deadman
from appengine.takeover import switch as module
from appengine.takeover.deadman import SwitchClient
from appengine.takeover.switch import (
    CALM_AFTER,
    CALM_SWEEP_SECONDS,
    FORGET_AFTER,
    SWEEP_SECONDS,
    Switch,
    boottime,
    processes_of,
)

A, B = "a" * 64, "b" * 64


class SwitchTests(unittest.SynchronousTestCase):
    """The rules."""

    def setUp(self) -> None:
        self.alive: set[str] = set()
        self.stubborn: set[str] = set()
        self.kills: list[set[str]] = []
        self.switch = Switch(self.kill)

    def kill(self, containers: Collection[str]) -> set[str]:
        found = self.alive & set(containers)
        self.kills.append(found)
        self.alive -= found - self.stubborn
        return found

    def test_kills_at_the_deadline_and_not_before(self) -> None:
        self.alive = {A, B}
        self.assertEqual(self.switch.line(f"pod one 10 {A}", 0), [])
        self.switch.line(f"pod two 20 {B}", 0)
        self.assertEqual(self.switch.tick(9.9), [])
        self.assertEqual(self.alive, {A, B})
        self.assertEqual(self.switch.tick(10), ["lapsed one"])
        self.assertEqual(self.alive, {B})
        self.assertEqual(self.switch.tick(10.1), [])

    def test_a_new_deadline_counts(self) -> None:
        self.alive = {A}
        self.switch.line(f"pod one 10 {A}", 0)
        self.switch.line("pod one 20", 5)
        self.switch.tick(15)
        self.assertEqual(self.alive, {A})
        self.switch.tick(20)
        self.assertEqual(self.alive, set())

    def test_what_starts_late_is_killed_too(self) -> None:
        self.switch.line(f"pod one 10 {A}", 0)
        self.switch.tick(10)
        self.alive = {A}
        self.switch.tick(10.1)
        self.assertEqual(self.alive, set())
        self.switch.line("pod one 30", 12)
        self.alive = {A}
        self.switch.tick(12.1)
        self.assertEqual(self.alive, {A})

    def test_an_end_is_told_when_nothing_is_left(self) -> None:
        self.alive = self.stubborn = {A}
        self.switch.line(f"pod one 10 {A}", 0)
        self.assertEqual(self.switch.line("end one", 1), [])
        self.assertEqual(self.switch.wait(1), SWEEP_SECONDS)
        self.assertEqual(self.switch.tick(2), [])
        self.alive = set()
        self.assertEqual(self.switch.tick(2.1), ["ended one"])
        self.assertEqual((len(self.switch), self.switch.wait(3)), (0, None))
        self.assertEqual(self.switch.line("end unknown", 4), ["ended unknown"])

    def test_an_end_is_called_off(self) -> None:
        self.alive = self.stubborn = {A}
        self.switch.line(f"pod one 10 {A}", 0)
        self.switch.line("end one", 1)
        self.switch.line("pod one 10", 2)
        self.assertEqual(self.switch.tick(3), [])
        self.assertEqual(len(self.switch), 1)

    def test_how_long_it_sleeps(self) -> None:
        self.assertIsNone(self.switch.wait(0))
        self.switch.line(f"pod one 10 {A}", 0)
        self.assertEqual(self.switch.wait(0), 1.0)
        self.assertAlmostEqual(self.switch.wait(9.5) or 0, 0.5)
        self.switch.tick(10)
        self.assertEqual(self.switch.wait(10), SWEEP_SECONDS)
        self.assertEqual(self.switch.wait(11 + CALM_AFTER), CALM_SWEEP_SECONDS)

    def test_the_next_agent_is_told(self) -> None:
        self.assertEqual(self.switch.known(), ["ready"])
        self.switch.line(f"pod one 10.5 {A} {B}", 0)
        self.switch.line("pod two 20", 0)
        self.assertEqual(self.switch.known(), [f"pod one 10.500 {A} {B}", "pod two 20.000", "ready"])

    def test_forgets_what_is_long_dead(self) -> None:
        self.switch.line(f"pod one 10 {A}", 0)
        self.switch.tick(10)
        self.switch.forget(10 + FORGET_AFTER)
        self.assertEqual(len(self.switch), 1)
        self.switch.forget(11 + FORGET_AFTER)
        self.assertEqual(len(self.switch), 0)

    def test_nonsense_is_refused(self) -> None:
        for line in ("pod one soon", "what", "pod one 10 abc", f"pod one 10 {A}/..", f"pod one 10 {A[:-1]}G"):
            with self.assertRaises(ValueError, msg=line):
                self.switch.line(line, 0)

    def test_finds_processes_by_their_groups(self) -> None:
        """As control groups of both versions, and both of Docker's drivers, name them."""
        proc = Path(self.mktemp())
        for pid, groups in {
            "10": f"0::/docker/{A}\n",
            "11": f"0::/system.slice/docker-{A}.scope/inner\n",
            "12": f"12:memory:/docker/{B}\n11:cpu,cpuacct:/docker/{B}\n",
            "13": "0::/system.slice/docker.service\n",
            "self": f"0::/docker/{A}\n",
        }.items():
            (proc / pid).mkdir(parents=True)
            (proc / pid / "cgroup").write_text(groups)
        (proc / "14").mkdir()
        self.assertEqual(sorted(processes_of({A}, str(proc))), [(10, A), (11, A)])
        self.assertEqual(sorted(processes_of({A, B}, str(proc))), [(10, A), (11, A), (12, B)])


class ProcessTests(unittest.TestCase):
    """The switch as a process of its own, which outlives the agent."""

    timeout = 30

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.folder = Path(mkdtemp(prefix="kubebus-switch-"))
        self.socket = self.folder / "takeover" / "switch.sock"
        self.addCleanup(self.end_switch)
        self.lapsed: list[str] = []
        self.client = self.make_client()

    def make_client(self) -> SwitchClient:
        client = SwitchClient(self.reactor, self.socket, self.lapsed.append)
        self.addCleanup(lambda: Deferred.fromCoroutine(client.stop()))
        return client

    def pid(self) -> int:
        return int(Path(f"{self.socket}.lock").read_text())

    def runs(self) -> bool:
        try:
            return "switch.py" in Path(f"/proc/{self.pid()}/cmdline").read_text()
        except OSError:
            return False

    def replaced(self, first: int) -> bool:
        try:
            return self.pid() != first and self.runs()
        except ValueError:
            # Empty for the moment between taking the lock and writing who has it.
            return False

    def second(self) -> int:
        """How another one ends that is started beside it."""
        command = [sys.executable, "-I", "-S", module.__file__, str(self.socket)]
        return subprocess.run(command, timeout=10).returncode

    def own_memory(self) -> int:
        """In kB."""
        lines = Path(f"/proc/{self.pid()}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    def end_switch(self) -> None:
        if self.runs():
            os.kill(self.pid(), 9)
        rmtree(self.folder)

    async def until(self, condition: Any, seconds: float = 10) -> None:
        from appengine.waiting import sleep

        deadline = self.reactor.seconds() + seconds
        while not condition():
            self.assertLess(self.reactor.seconds(), deadline, "in time")
            await sleep(self.reactor, 0.02)

    async def test_is_started_when_it_is_needed(self) -> None:
        self.assertEqual(await self.client.look(), {})
        await self.client.end("nothing")
        self.assertFalse(self.socket.exists())
        await self.client.arm("one", boottime() + 60, A)
        self.assertTrue(self.runs())
        self.assertEqual(os.getsid(self.pid()), self.pid())
        self.assertEqual(oct(self.socket.stat().st_mode & 0o777), "0o600")
        await self.client.end("one")
        await self.client.stop()
        # Nothing is left to be watched, and nobody is there.
        await self.until(lambda: not self.runs())

    async def test_the_next_agent_learns_what_is_armed(self) -> None:
        until = boottime() + 60
        await self.client.arm("one", until, A)
        await self.client.arm("one", until, B)
        await self.client.stop()
        found = await self.make_client().look()
        self.assertEqual({uid: watched.containers for uid, watched in found.items()}, {"one": {A, B}})
        self.assertAlmostEqual(found["one"].until, until, 2)

    async def test_a_pod_that_was_started_very_often(self) -> None:
        """Both ends forget its oldest containers alone, and the next agent, or switch, is told of the rest."""
        until = boottime() + 60
        often = [f"{number:064x}" for number in range(module.MAX_CONTAINERS + 900)]
        for each in reversed(often):
            await self.client.arm("one", until, each)
        os.kill(self.pid(), 9)
        await self.client.arm("two", until, A)
        await self.client.stop()
        found = await self.make_client().look()
        self.assertEqual(found["one"].containers, set(often[: module.MAX_CONTAINERS]))
        self.assertEqual((deadman.MAX_LINE, deadman.MAX_CONTAINERS), (module.MAX_LINE, module.MAX_CONTAINERS))

    async def test_tells_of_the_lapse(self) -> None:
        await self.client.arm("one", boottime() + 0.3, A)
        await self.until(lambda: self.lapsed == ["one"])

    async def test_one_that_dies_is_replaced(self) -> None:
        until = boottime() + 60
        await self.client.arm("one", until, A)
        first = self.pid()
        os.kill(first, 9)
        await self.until(lambda: self.replaced(first))
        await self.client.arm("two", until, B)
        await self.client.stop()
        found = await self.make_client().look()
        self.assertEqual({uid: watched.containers for uid, watched in found.items()}, {"one": {A}, "two": {B}})

    async def test_one_that_dies_while_it_is_asked(self) -> None:
        """The next one is asked, and not the dead one again and again."""
        asked: list[str] = []
        pod = deadman._Talk.pod

        def counted(talk: Any, uid: str, *rest: Any) -> None:
            asked.append(uid)
            self.assertLess(len(asked), 50)
            pod(talk, uid, *rest)

        self.patch(deadman._Talk, "pod", counted)
        await self.client.arm("one", boottime() + 60, A)
        os.kill(self.pid(), 9)
        await self.client.arm("two", boottime() + 60, B)
        self.assertTrue(self.runs())

    async def test_there_is_one_only(self) -> None:
        await self.client.arm("one", boottime() + 60, A)
        self.assertEqual(self.second(), 0)
        await self.client.arm("one", boottime() + 60, B)

    async def test_is_small(self) -> None:
        await self.client.arm("one", boottime() + 60, A)
        # The rest is the interpreter's code, which the agent has in memory already.
        self.assertLess(self.own_memory(), 5000)
