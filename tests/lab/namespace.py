"""A network namespace of its own for each machine of the lab."""

from __future__ import annotations

import fcntl
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.janitor import NETNS, in_namespace
from tests.lab.lifetime import Closing
from tests.lab.state import Run
from tests.lab.waiting import LabError

_SYSCTLS = {
    # Addresses are usable at once: nothing in the lab has duplicates.
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/accept_ra": "0",
}


class Namespace(Closing):
    """A network namespace with loopback up. It shares files and process IDs with the host.

    ``name`` is for people; ``full_name`` is what ``ip netns`` knows it by.
    """

    def __init__(self, name: str, run: Run | None = None) -> None:
        self.run_of = run or Run.current()
        self.name = self.run_of.unique(name)
        self.full_name = f"kb{self.run_of.id}-{self.name}"
        self._started: list[subprocess.Popen[bytes]] = []
        with open(self.run_of.path.parent / "netns.lock", "w") as lock:
            # The first `ip netns add` of a machine mounts /run/netns; two at once would fail.
            fcntl.flock(lock, fcntl.LOCK_EX)
            checked(["ip", "netns", "add", self.full_name])
        self.ip("link set lo up")
        for key, value in _SYSCTLS.items():
            self.sysctl(key, value)

    @property
    def path(self) -> Path:
        return NETNS / self.full_name

    def __repr__(self) -> str:
        return f"<Namespace {self.full_name}>"

    def command(self, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` in here. It replaces itself: the process ID is the command's."""
        return ["nsenter", f"--net={self.path}", "--", *command]

    def run(
        self,
        command: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 30,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with its output captured.

        :raises LabError: if ``check`` and it fails; with its output.
        """
        return checked(self.command(command), check=check, timeout=timeout, input=input, env=env)

    def popen(self, command: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
        """Start a command; whatever is left of it is killed with the namespace. Options are Popen's."""
        process: subprocess.Popen[bytes] = subprocess.Popen(self.command(command), **options)  # type: ignore[call-overload]
        self.run_of.record(process.pid)
        self._started.append(process)
        return process

    def ip(self, *commands: str) -> None:
        """Each a command of ``ip`` without the ``ip``: ``ns.ip("link set eth0 up", "route add …")``."""
        checked(["ip", "-n", self.full_name, "-batch", "-"], input="".join(f"{c}\n" for c in commands))

    def sysctl(self, key: str, value: str) -> None:
        """Set a network setting; ``key`` with slashes, as under ``/proc/sys``."""
        self.run(["sh", "-c", 'printf %s "$2" > "/proc/sys/$1"', "sh", key, value])

    def forward(self) -> None:
        """Let packets be routed through here, IPv4 and IPv6."""
        self.sysctl("net/ipv4/ip_forward", "1")
        self.sysctl("net/ipv6/conf/all/forwarding", "1")

    def nft(self, ruleset: str) -> str:
        """Load nftables statements as one transaction; return what nft prints."""
        return self.run(["nft", "-f", "-"], input=ruleset).stdout

    def veth(self, device: str, peer: Namespace, peer_device: str, *addresses: str, mtu: int = 1500) -> None:
        """A cable: ``device`` here (up, with ``addresses`` in CIDR form), ``peer_device`` there (up)."""
        self.ip(
            f"link add {device} mtu {mtu} type veth peer name {peer_device} mtu {mtu} netns {peer.full_name}",
            *(f"address add {address} dev {device}" for address in addresses),
            f"link set {device} up",
        )
        peer.ip(f"link set {peer_device} up")

    def bridge(self, device: str) -> None:
        """A switch in here, up, without an address."""
        self.ip(f"link add {device} type bridge stp_state 0 forward_delay 0", f"link set {device} up")

    def plug(self, device: str, switch: Namespace, bridge: str, port: str, *addresses: str, mtu: int = 1500) -> None:
        """A cable from ``device`` here to port ``port`` of a ``bridge`` there."""
        self.veth(device, switch, port, *addresses, mtu=mtu)
        switch.ip(f"link set {port} master {bridge}")

    def unplug(self, device: str) -> None:
        """Pull the cable: the link goes down here and at its other end."""
        self.ip(f"link set {device} down")

    def ping(self, address: str, *, count: int = 1, timeout: float = 2, source: str | None = None) -> bool:
        """Whether ``address`` answers."""
        command = ["ping", "-n", "-q", "-c", str(count), "-i", "0.2", "-W", f"{timeout:g}"]
        if source is not None:
            command += ["-I", source]
        return self.run([*command, address], check=False, timeout=timeout + count + 5).returncode == 0

    def processes(self) -> list[int]:
        """The process IDs in here (containers have namespaces of their own)."""
        return [process.pid for process in in_namespace(self.path)]

    def close(self) -> None:
        """Kill the processes in here, by their IDs, and delete the namespace. May be repeated."""
        if not self.path.exists():
            return
        deadline = time.monotonic() + 5
        while (left := list(in_namespace(self.path))) and time.monotonic() < deadline:
            for process in left:
                process.kill()
            time.sleep(0.02)
        for started in self._started:
            if started.poll() is None:
                started.kill()
            started.wait()
        checked(["ip", "netns", "delete", self.full_name])


def checked(
    command: Sequence[str],
    *,
    check: bool = True,
    timeout: float = 30,
    input: str | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    :raises LabError: if ``check`` and it fails, or takes longer than ``timeout`` seconds; with its output.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout, input=input, env=env,
            stdin=subprocess.DEVNULL if input is None else None,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(command)}: no end after {timeout:g} s") from error
    if check and done.returncode:
        raise LabError(
            f"{' '.join(command)}: exit {done.returncode}\n{(input or '')[:2000]}{done.stdout}{done.stderr}".rstrip()
        )
    return done
