"""Runs ``postStart`` and ``preStop`` handlers."""

from __future__ import annotations

from appengine.httpget import HttpTarget, http_get
from appengine.node import Node
from appengine.podspec import Json
from appengine.runtime import ContainerView

_HOOK_SECONDS = 3600.0
"""A handler has no limit of its own; the grace period cuts ``preStop``, and a failing start is for people to see."""


class HookFailed(Exception):
    """A handler failed; the message says how."""


async def run_hook(node: Node, view: ContainerView, handler: Json, ports: list[Json], host: str) -> None:
    """Run a v1 LifecycleHandler.

    :param host: the pod's address, for HTTP.
    :raises HookFailed: if it failed.
    """
    if command := (handler.get("exec") or {}).get("command"):
        result = await node.runtime.execute(view.id, command, _HOOK_SECONDS)
        if result.exit_code:
            raise HookFailed(
                f"command {command[0]!r} exited with {result.exit_code}: "
                + result.output.decode("utf-8", "replace").strip()[:500]
            )
    elif get := handler.get("httpGet"):
        answer = await http_get(node.reactor, HttpTarget.of(get, ports, host), 60.0)
        if not 200 <= answer.status < 400:
            raise HookFailed(f"HTTP answered {answer.status}")
    elif sleep := handler.get("sleep"):
        await sleep(node.reactor, float(sleep.get("seconds") or 0))
