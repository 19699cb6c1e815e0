"""The end of containers and of pods: their last words, and how they are stopped."""

from __future__ import annotations

from collections.abc import Callable

from appengine.events import NORMAL
from appengine.killing import kill_all
from appengine.lastlog import log_tail
from appengine.podspec import Kind
from appengine.podstate import PodState
from appengine.runtime import ContainerState, ContainerView, EngineError, RuntimeUnavailable

_RETRY = 10.0


class Ending:
    """Stops what there is of one pod, and keeps what its containers said last."""

    def __init__(self, state: PodState) -> None:
        self._state = state
        self._told_killing = False

    async def note_ends(self) -> None:
        """Read the last words of all containers that have ended: when it returns, none lacks them."""
        while ended := [v for v in self._state.views.values() if self._unnoted(v)]:
            for view in ended:
                self._state.history.unhealthy.pop(view.id, None)
                self._state.history.messages[view.id] = await self._last_words(view)

    def _unnoted(self, view: ContainerView) -> bool:
        ended = view.state is ContainerState.EXITED and view.kind is not Kind.PAUSE
        return ended and view.id not in self._state.history.messages

    async def _last_words(self, view: ContainerView) -> str:
        """The termination message: from its file, or (if the container asks for that) the log's end."""
        message = await self._state.node.files.run(
            self._state.node.volumes.message, self._state.ref.uid, view.name, view.attempt
        )
        if message or not view.exit_code or self._state.pod is None:
            return message
        container = next((c for c in self._state.pod.every_container if c.name == view.name), None)
        if container is None or container.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            return message
        try:
            return await log_tail(self._state.node.runtime, view)
        except RuntimeUnavailable:
            raise
        except EngineError:
            return message

    def left(self) -> float:
        """The seconds that are left of the pod's grace period."""
        grace = self._state.grace if self._state.grace is not None else 0.0
        return max(0.0, self._state.terminating_since + grace - self._state.node.now())

    async def clear(self) -> float | None:
        """Stop and remove all there is of the pod; a time to look again if it would not stop."""
        self._state.prober.stop()
        self._state.report()
        if not self._told_killing and any(v.running and v.kind is not Kind.PAUSE for v in self._state.views.values()):
            self._told_killing = True
            self._state.event(NORMAL, "Killing", "Stopping the pod")
        await self.kill_everything("the pod is to be stopped")
        await self.note_ends()
        if any(view.running and view.kind is not Kind.PAUSE for view in self._state.views.values()):
            return self._state.node.now() + _RETRY
        self._state.report()
        # The pause container last: an engine may refuse to remove what others depend on.
        for view in sorted(self._state.views.values(), key=lambda view: view.kind is Kind.PAUSE):
            await self._state.remove(view)
        await self._state.node.files.run(self._state.node.volumes.remove, self._state.ref.uid)
        return None

    async def kill_everything(self, reason: str, left: Callable[[], float] | None = None) -> None:
        """Stop what runs: the containers with what is left of the grace period, then the sandbox.

        :param left: another count of the seconds that are left.
        """
        running = [view for view in self._state.views.values() if view.running and view.kind is not Kind.PAUSE]
        await kill_all(self._state.killer, running, left or self.left, reason)
        for view in [view for view in self._state.views.values() if view.kind is Kind.PAUSE and view.running]:
            await self._state.node.runtime.signal(view.id, "SIGKILL")
