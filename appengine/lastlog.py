"""The end of a container's log, for its status (``terminationMessagePolicy: FallbackToLogsOnError``)."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from appengine.runtime import ContainerView, LogOptions, Runtime

# Kubernetes' limits: MaxContainerTerminationMessageLogLines and …LogLength.
_LINES = 80
_BYTES = 2048


class _Tail:
    def __init__(self) -> None:
        self.text = b""
        self.done: Deferred[None] = Deferred()

    def output(self, stream: int, data: bytes) -> None:
        self.text = (self.text + data)[-_BYTES:]

    def ended(self, error: Exception | None) -> None:
        if not self.done.called:
            self.done.callback(None)


async def log_tail(runtime: Runtime, view: ContainerView) -> str:
    """:raises EngineError: if the log cannot be read."""
    tail = _Tail()
    await runtime.log_session(view, LogOptions(tail=_LINES), tail)
    await tail.done
    return tail.text.decode("utf-8", "replace").strip()
