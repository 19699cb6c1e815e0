"""The dead man's switch: kills the containers of pods whose deadline has passed, whatever became of the agent.

``python -I -S switch.py SOCKET``, a process of its own. It imports nothing but the interpreter's own parts, so that it
is small (under 3 MB beside what it shares with the agent), and outlives the agent, whose containers live on in the
container engine too. It asks no container engine: one that hangs must not keep it from its work.

One agent at a time speaks to it over the socket, in lines; a new one takes the place of the last:

* ``pod UID UNTIL ID…``: the pod's containers may run until ``UNTIL`` (seconds of ``CLOCK_BOOTTIME``). Containers are
  added to those named before; they need not have been started yet.
* ``end UID``: the pod is over. Answered by ``ended UID`` once no process of its containers is left.
* ``sync N``: answered by ``synced N`` when all before it has been taken in.

It begins with a ``pod`` line for each pod that it knows, and ``ready``; it says ``lapsed UID`` when it has killed. What
starts late in a container of a lapsed pod is killed as well, until a later deadline comes.

It ends when no agent is there and nothing is left to be watched, or when its socket is gone.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import fcntl
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    Kill = Callable[[Collection[str]], set[str]]

MAX_LINE = 65536
MAX_PODS = 256
MAX_CONTAINERS = 256
"""Of one pod, those that have ended among them."""

ID_LENGTH = 64
"""Of a container's ID, in hexadecimal digits, with Docker as with Podman."""

LOOK_SECONDS = 1.0
"""``select`` waits by a clock that stands still while a device is suspended: the other one is looked at so often."""

SWEEP_SECONDS = 0.1
CALM_SWEEP_SECONDS = 2.0
"""Between looks at a lapsed pod: at first, and when nothing was found for a minute."""

CALM_AFTER = 60.0
FORGET_AFTER = 600.0
"""Without an agent. By then no container engine starts what it was asked to start before."""

FIRST_AGENT_SECONDS = 30.0
SEND_SECONDS = 0.2


def boottime() -> float:
    """Seconds since the boot, with those in which the machine was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Armed:
    """A pod: until when it may run, and the IDs of its containers."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.containers: dict[str, None] = {}
        self.lapsed: float | None = None
        self.ending = False


class Switch:
    """What is to be killed when. No input and output; time is passed in.

    :param kill: kills every process of the containers of these IDs, and tells of which there were any.
    """

    def __init__(self, kill: Kill) -> None:
        self._kill = kill
        self._pods: dict[str, Armed] = {}
        self._last_found = 0.0

    def __len__(self) -> int:
        return len(self._pods)

    def known(self) -> list[str]:
        """For an agent that has just come."""
        return [
            *(f"pod {uid} {p.until:.3f} {' '.join(p.containers)}".rstrip() for uid, p in self._pods.items()),
            "ready",
        ]

    def line(self, text: str, now: float) -> list[str]:
        """Take in a line of the agent's; the answers.

        :raises ValueError: for one that makes no sense.
        """
        what, *words = text.split()
        if what == "sync":
            return [f"synced {words[0]}"]
        if what == "pod":
            self._arm(words[0], float(words[1]), words[2:])
            return []
        if what == "end":
            self._pods.setdefault(words[0], Armed(now)).ending = True
            return self.tick(now)
        raise ValueError(f"{what[:20]!r} is no word of this conversation")

    def _arm(self, uid: str, until: float, containers: list[str]) -> None:
        if uid not in self._pods and len(self._pods) >= MAX_PODS:
            raise ValueError(f"more than {MAX_PODS} pods")
        pod = self._pods.setdefault(uid, Armed(until))
        pod.until = until
        pod.lapsed, pod.ending = None, False
        for identity in containers:
            # It is looked for in the names of groups: a part of one would be found in many.
            if len(identity) != ID_LENGTH or not set(identity) <= set("0123456789abcdef"):
                raise ValueError(f"{identity[:80]!r} is no container's ID")
            pod.containers.pop(identity, None)
            pod.containers[identity] = None
        while len(pod.containers) > MAX_CONTAINERS:
            # The oldest of a pod that restarts and restarts: long gone.
            del pod.containers[next(iter(pod.containers))]

    def tick(self, now: float) -> list[str]:
        """Do what is due; what is to be told of it."""
        due = {uid: pod for uid, pod in self._pods.items() if pod.ending or pod.until <= now}
        if not due:
            return []
        alive = self._kill({identity for pod in due.values() for identity in pod.containers})
        if alive:
            self._last_found = now
        told = []
        for uid, pod in due.items():
            if not pod.ending:
                told += [f"lapsed {uid}"] if pod.lapsed is None else []
                pod.lapsed = now if pod.lapsed is None else pod.lapsed
                self._last_found = max(self._last_found, pod.lapsed)
            elif alive.isdisjoint(pod.containers):
                del self._pods[uid]
                told.append(f"ended {uid}")
        return told

    def wait(self, now: float) -> float | None:
        """Seconds until the next look; ``None`` where there is nothing to be watched."""
        if not self._pods:
            return None
        first = min(now if pod.ending else pod.until for pod in self._pods.values())
        if first <= now:
            return SWEEP_SECONDS if now - self._last_found < CALM_AFTER else CALM_SWEEP_SECONDS
        return min(LOOK_SECONDS, first - now)

    def forget(self, now: float) -> None:
        """Nobody is there to tell: what has been quiet for long enough is over."""
        for uid, pod in list(self._pods.items()):
            if pod.lapsed is not None and now - max(pod.lapsed, self._last_found) > FORGET_AFTER:
                del self._pods[uid]


def processes_of(containers: Collection[str], proc: str = "/proc") -> Iterable[tuple[int, str]]:
    """(process, container) of all that run in these containers, as their control groups tell.

    Every container engine puts the container's full ID into the name of its group, whatever stands around it.
    """
    for name in os.listdir(proc):
        if not name.isdigit():
            continue
        try:
            with open(f"{proc}/{name}/cgroup", "rb", buffering=0) as file:
                groups = file.read(8192).decode("ascii", "replace")
        except OSError:
            continue
        for identity in containers:
            if identity in groups:
                yield int(name), identity


def kill_all(containers: Collection[str]) -> set[str]:
    """SIGKILL to every process of these containers; of which there were any."""
    found = set()
    if containers:
        for pid, identity in processes_of(containers):
            found.add(identity)
            try:
                os.kill(pid, _signal.SIGKILL)
            except ProcessLookupError:
                continue
    return found


class Serving:
    """The switch at its socket."""

    def __init__(self, path: str, switch: Switch) -> None:
        self._path = path
        self._switch = switch
        self._listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(8)
        self._inode = os.stat(path).st_ino
        self._agent: _socket.socket | None = None
        self._received = b""
        self._alone_until = boottime() + FIRST_AGENT_SECONDS

    def run(self) -> None:
        """Until there is nothing to be done any more."""
        while True:
            now = boottime()
            self._say(self._switch.tick(now))
            if self._agent is None and now >= self._alone_until:
                self._switch.forget(now)
                if not len(self._switch):
                    return
            if self._superseded():
                return
            self._wait(self._switch.wait(boottime()))

    def _superseded(self) -> bool:
        """Whether nobody can reach this switch any more, and nothing is left for it to do."""
        try:
            return os.stat(self._path).st_ino != self._inode
        except FileNotFoundError:
            return not len(self._switch)

    def _wait(self, seconds: float | None) -> None:
        ends = [self._listener] + ([self._agent] if self._agent is not None else [])
        seconds = FIRST_AGENT_SECONDS if seconds is None else seconds
        ready, _, _ = select.select(ends, [], [], seconds)
        if self._agent is not None and self._agent in ready:
            self._read(self._agent)
        if self._listener in ready:
            self._hang_up()
            descriptor, _ = self._listener._accept()  # type: ignore[attr-defined]
            self._agent = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptor)
            self._agent.settimeout(SEND_SECONDS)
            self._say(self._switch.known())

    def _read(self, agent: _socket.socket) -> None:
        try:
            data = agent.recv(MAX_LINE)
        except OSError:
            data = b""
        if not data:
            self._hang_up()
            return
        *lines, self._received = (self._received + data).split(b"\n")
        try:
            if len(self._received) > MAX_LINE:
                raise ValueError("a line without an end")
            for line in lines:
                self._say(self._switch.line(line.decode("ascii"), boottime()))
        except (ValueError, IndexError) as error:
            print(f"the dead man's switch lets the agent go: {error}", file=sys.stderr, flush=True)
            self._hang_up()

    def _say(self, lines: list[str]) -> None:
        if self._agent is None or not lines:
            return
        try:
            self._agent.sendall("".join(f"{line}\n" for line in lines).encode())
        except OSError:
            # One who does not read is asked no more: it comes again, and is told all.
            self._hang_up()

    def _hang_up(self) -> None:
        if self._agent is not None:
            self._agent.close()
            self._alone_until = boottime()
        self._agent, self._received = None, b""


def survive() -> None:
    """Stay when others are killed: not the agent's session, nor its control group, nor first in want of memory."""
    for signal in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM, _signal.SIGPIPE):
        _signal.signal(signal, _signal.SIG_IGN)
    if os.getpgrp() != os.getpid():
        os.setsid()
    attempts = [("/proc/self/oom_score_adj", "-1000")]
    # systemd's group tells which processes are of a service: in version 2 that of all, in version 1 its own.
    attempts += [(f"/sys/fs/cgroup{name}/cgroup.procs", "0") for name in ("", "/systemd", "/unified")]
    for path, value in attempts:
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write(value)
        except OSError:
            continue
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    except OSError:
        pass


def main(path: str) -> None:
    survive()
    os.umask(0o177)
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # There is one already, which knows more.
        return
    os.truncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    Serving(path, Switch(kill_all)).run()


if __name__ == "__main__":
    main(sys.argv[1])
