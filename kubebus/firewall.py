"""A way through the firewall of a Docker engine for what the tunnel carries.

Pods' own rules are the engine's business; these are for what a router, or a node without pods, forwards. Docker sets
the policy of ``FORWARD`` to ``DROP`` and leaves the chain ``DOCKER-USER`` to others
(https://docs.docker.com/engine/network/packet-filtering-firewalls/). Our rules stand there, and nowhere else; they
can be made before the engine starts, which keeps what it finds.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Final

from twisted.logger import Logger

_CHAIN: Final = "DOCKER-USER"
_TOOLS: Final = ("iptables", "ip6tables")
_TIMEOUT: Final = 10.0

_log = Logger()


class DockerFirewall:
    """Lets packets be forwarded from and to an interface on a host with a Docker engine; else does nothing."""

    def __init__(self) -> None:
        self._opened: list[tuple[str, list[str]]] = []

    def open(self, interface: str) -> None:
        """Add what is missing. A failure is logged: the tunnel may work for the host itself all the same."""
        for tool in _TOOLS:
            if not _installed(tool) or not _has_docker(tool):
                continue
            # Fails where the chain exists.
            _run(tool, "--new-chain", _CHAIN)
            for direction in ("--in-interface", "--out-interface"):
                comment = ["--match", "comment", "--comment", f"{interface} tunnel"]
                self._allow(tool, [direction, interface, *comment, "--jump", "ACCEPT"])

    def close(self) -> None:
        """Take back what was added."""
        while self._opened:
            tool, rule = self._opened.pop()
            _run(tool, "--delete", _CHAIN, *rule)
        for tool in _TOOLS:
            if _installed(tool):
                # Fails where the engine uses it, or others have rules there.
                _run(tool, "--delete-chain", _CHAIN)

    def _allow(self, tool: str, rule: list[str]) -> None:
        # It may be there already: a process that was killed left it.
        if _run(tool, "--check", _CHAIN, *rule):
            problem = _run(tool, "--insert", _CHAIN, "1", *rule)
            if problem:
                _log.warn("Docker's firewall may drop packets of the tunnel: {problem}", problem=problem)
                return
        self._opened.append((tool, rule))


def _installed(program: str) -> bool:
    # shutil.which() would bring two compression libraries with it, which no agent without pods ever uses.
    return any(os.access(os.path.join(folder, program), os.X_OK) for folder in os.get_exec_path())


def _has_docker(tool: str) -> bool:
    return _installed("dockerd") or not _run(tool, "--list", _CHAIN)


def _run(tool: str, *arguments: str) -> str:
    """What went wrong, or an empty string."""
    command: Sequence[str] = (tool, "--wait", "5", *arguments)
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""
