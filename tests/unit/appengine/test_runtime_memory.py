"""The runtime in memory keeps the contract of runtimes."""

from __future__ import annotations

from typing import Any

from twisted.trial import unittest

from appengine.runtime import ExecResult, Runtime
from appengine.testing import MemoryRuntime
from appengine.testing_contract import RuntimeContract


class MemoryRuntimeTests(RuntimeContract, unittest.TestCase):
    image = "busybox:lab"

    async def make_runtime(self) -> Runtime:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        runtime = MemoryRuntime(reactor)
        runtime.execs = lambda name, command: ExecResult(0 if command == ["true"] else 1, b"")
        return runtime
