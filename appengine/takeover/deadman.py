# mypy: disallow-untyped-calls=False
"""The agent's end of the dead man's switch (:mod:`appengine.takeover.switch`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as Timeout
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, ProcessProtocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from appengine.waiting import sleep

_RETRY = 0.1
_SLOW_RETRY = 2.0
_ANSWER_SECONDS = 5.0
_PATIENCE = 50
"""Attempts at the quick pace, before it is said that there is no switch."""

# The switch's own bounds, which is not imported for them.
MAX_LINE = 65536
MAX_CONTAINERS = 256


@dataclass(slots=True)
class Watched:
    """A pod as the switch has it: until when it may run (CLOCK_BOOTTIME), and the IDs of its containers."""

    until: float
    containers: set[str] = field(default_factory=set)


class _Pod:
    """The same, with the containers in the order in which they came: of very many the last ones count."""

    __slots__ = ("containers", "until")

    def __init__(self, until: float, containers: Iterable[str] = ()) -> None:
        self.until = until
        self.containers: dict[str, None] = {}
        self.add(containers)

    def add(self, containers: Iterable[str]) -> None:
        for identity in containers:
            self.containers.pop(identity, None)
            self.containers[identity] = None
        while len(self.containers) > MAX_CONTAINERS:
            del self.containers[next(iter(self.containers))]


class DeadMan(Protocol):
    """Kills a pod's containers at its deadline, also when this process is dead.

    A pod is known by the UID that it runs under.
    """

    async def look(self) -> dict[str, Watched]:
        """What a switch of an earlier agent watches. With none there is nothing."""

    async def arm(self, uid: str, until: float, container: str = "") -> None:
        """The pod may run until then; with a container, one more of its. When it returns, the switch knows."""

    def extend(self, deadlines: dict[str, float]) -> None:
        """New deadlines of pods that are armed."""

    async def end(self, uid: str) -> None:
        """Kill what there is. When it returns, no process of the pod is left, and the pod is watched no more."""

    async def stop(self) -> None:
        """Let go. What is armed stays armed."""


class SwitchClient:
    """A :class:`DeadMan` that has its switch in a process of its own, started when it is first needed.

    :param path: of the switch's socket.
    :param lapsed: told of pods that the switch has killed.
    """

    _log = Logger()

    def __init__(self, reactor: Any, path: Path, lapsed: Callable[[str], None] = lambda uid: None) -> None:
        self._reactor, self._path, self._lapsed = reactor, path, lapsed
        self._pods: dict[str, _Pod] = {}
        self._ends: dict[str, list[Deferred[None]]] = {}
        self._talk: _Talk | None = None
        self._connecting: Deferred[None] | None = None
        self._waiting: list[Deferred[_Talk]] = []
        self._stopped = False

    # -- DeadMan

    async def look(self) -> dict[str, Watched]:
        if self._path.exists():
            try:
                talk = await self._connect()
            except ConnectError:
                # It has ended, and with it all that it watched.
                return {}
            self._taken(talk)
        return {uid: Watched(pod.until, set(pod.containers)) for uid, pod in self._pods.items()}

    async def arm(self, uid: str, until: float, container: str = "") -> None:
        pod = self._pods.setdefault(uid, _Pod(until))
        pod.until = until
        if container:
            pod.add([container])
        for over in self._ends.pop(uid, ()):
            # It was to end, and goes on instead.
            over.callback(None)
        while True:
            talk = await self._ready()
            talk.pod(uid, pod.until, [container] if container else ())
            try:
                return await talk.sync()
            except ConnectError as error:
                self._log.info("Telling the dead man's switch of a pod again: {error}", error=str(error))

    def extend(self, deadlines: dict[str, float]) -> None:
        for uid, until in deadlines.items():
            pod = self._pods.get(uid)
            # One that is to end stays so.
            if pod is not None and uid not in self._ends:
                pod.until = until
                if self._talk is not None:
                    self._talk.pod(uid, until, ())

    async def end(self, uid: str) -> None:
        if uid not in self._pods:
            return
        over: Deferred[None] = Deferred()
        self._ends.setdefault(uid, []).append(over)
        talk = await self._ready()
        talk.say(f"end {uid}")
        await over

    async def stop(self) -> None:
        self._stopped = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._talk is not None and self._talk.transport is not None:
            self._talk.transport.loseConnection()

    # -- the switch

    async def _ready(self) -> _Talk:
        """The conversation with a switch that knows what this process knows."""
        if self._talk is not None:
            return self._talk
        waiting: Deferred[_Talk] = Deferred()
        self._waiting.append(waiting)
        self._reach()
        return await waiting

    def _reach(self) -> None:
        if self._connecting is None and not self._stopped:
            self._connecting = Deferred.fromCoroutine(self._keep_trying())
            self._connecting.addErrback(_cancelled)
            self._connecting.addErrback(lambda failure: self._log.failure("The dead man's switch failed", failure))

    async def _keep_trying(self) -> None:
        attempt = 0
        try:
            while not self._stopped:
                try:
                    self._taken(await self._connect())
                    return
                except ConnectError as error:
                    if attempt % _PATIENCE == 0:
                        self._spawn()
                    attempt += 1
                    if attempt % _PATIENCE == 0:
                        self._log.error(
                            "There is no dead man's switch at {path}, and pods that may be taken over do not start: "
                            "{error}",
                            path=str(self._path),
                            error=str(error),
                        )
                    await sleep(self._reactor, _RETRY if attempt < _PATIENCE else _SLOW_RETRY)
        finally:
            self._connecting = None

    async def _connect(self) -> _Talk:
        factory = Factory.forProtocol(lambda: _Talk(self))
        talk: Any = await UNIXClientEndpoint(self._reactor, str(self._path), timeout=_ANSWER_SECONDS).connect(factory)
        talk.ready.addTimeout(_ANSWER_SECONDS, self._reactor)
        try:
            await talk.ready
        except Timeout:
            talk.transport.abortConnection()
            raise ConnectError(string="it does not answer") from None
        return talk  # type: ignore[no-any-return]

    def _taken(self, talk: _Talk) -> None:
        """What it knew comes first: containers of an earlier agent's. Then it is told what this one knows."""
        if talk.lost:
            self._reach()
            return
        self._talk = talk
        for uid, watched in talk.known.items():
            mine = self._pods.get(uid)
            if mine is None:
                self._pods[uid] = watched
            else:
                # What this agent has named is later.
                mine.containers = _Pod(mine.until, [*watched.containers, *mine.containers]).containers
        for uid, mine in self._pods.items():
            talk.pod(uid, mine.until, mine.containers)
        for uid in self._ends:
            talk.say(f"end {uid}")
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(talk)

    def _spawn(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        script = Path(__file__).with_name("switch.py")
        command = [sys.executable, "-I", "-S", str(script), str(self._path)]
        null = os.open(os.devnull, os.O_RDWR)
        try:
            self._reactor.spawnProcess(
                _Process(), sys.executable, command, env={}, path="/", childFDs={0: null, 1: null, 2: 2}
            )
        finally:
            os.close(null)
        self._log.info("Started the dead man's switch of pods that may be taken over")

    # -- from the conversation

    def ended(self, uid: str) -> None:
        self._pods.pop(uid, None)
        for over in self._ends.pop(uid, ()):
            over.callback(None)

    def lapsed(self, uid: str) -> None:
        self._log.warn("The dead man's switch has stopped pod {uid}: its lease was not renewed", uid=uid)
        self._lapsed(uid)

    def hung_up(self, talk: _Talk) -> None:
        if self._talk is not talk:
            return
        self._talk = None
        if self._pods and not self._stopped:
            self._log.warn("The dead man's switch has gone; another one is started")
            self._reach()


class _Talk(LineOnlyReceiver):
    """One conversation with the switch."""

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE

    def __init__(self, client: SwitchClient) -> None:
        self._client = client
        self.known: dict[str, _Pod] = {}
        self.ready: Deferred[None] = Deferred()
        self.lost = False
        self._syncs: dict[str, Deferred[None]] = {}
        self._count = 0

    def say(self, line: str) -> None:
        self.sendLine(line.encode("ascii"))

    def pod(self, uid: str, until: float, containers: Iterable[str]) -> None:
        self.say(f"pod {uid} {until:.3f} {' '.join(containers)}".rstrip())

    async def sync(self) -> None:
        """Wait until all that was said has been taken in.

        :raises ConnectError: if the switch is lost meanwhile.
        """
        if self.lost:
            raise ConnectError(string="the dead man's switch has gone")
        self._count += 1
        done = self._syncs[str(self._count)] = Deferred()
        self.say(f"sync {self._count}")
        await done

    def lineReceived(self, line: bytes) -> None:
        what, *words = line.decode("ascii").split()
        if what == "pod":
            self.known[words[0]] = _Pod(float(words[1]), words[2:])
        elif what == "ready":
            self.ready.callback(None)
        elif what == "synced" and words[0] in self._syncs:
            self._syncs.pop(words[0]).callback(None)
        elif what == "lapsed":
            self._client.lapsed(words[0])
        elif what == "ended":
            self._client.ended(words[0])

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        gone = ConnectError(string="the dead man's switch has gone")
        syncs, self._syncs = self._syncs, {}
        # First: who waits tries again at once, and would have this one again and again.
        self._client.hung_up(self)
        if not self.ready.called:
            self.ready.errback(gone)
        for each in syncs.values():
            each.errback(gone)


def _cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)


class _Process(ProcessProtocol):
    """It is let go: it outlives this process."""
