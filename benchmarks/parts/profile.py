"""Where the CPU goes under one stream: what each of our three processes does with it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping

from benchmarks.catalogue import OURS, PROFILED
from benchmarks.parts.base import TunnelPart
from benchmarks.processes import user_and_system
from benchmarks.profiling import KERNEL, samples, shares, top
from benchmarks.traffic import IperfServer, iperf_in_background, missing
from benchmarks.tunnels import Tunnel
from tests.lab.waiting import LabError

_PER_SECOND = 997


class Profile(TunnelPart):
    """``perf`` samples by the CPU's clock, which virtual machines have too. Time with interrupts switched off counts
    where they are switched on again. Without ``perf`` there are the kernel's share and the system calls only."""

    name = "profile"
    what = "where the CPU of router and edges goes under 1 stream: Python, kernel, cryptography, copying"
    subjects = (OURS,)
    rounds = 1
    seconds = (17, 11)

    def __init__(self) -> None:
        self._notes: list[str] = []

    def note(self) -> str:
        return "\n\n".join(self._notes)

    def take(self, tunnel: Tunnel, quick: bool) -> Mapping[str, float]:
        seconds = 3.0 if quick else 10.0
        assert tunnel.hub_process is not None
        pids = dict(zip(PROFILED, (tunnel.hub_process.pid, *(each.pid for each in tunnel.edge_processes)), strict=True))
        one, two = tunnel.hub.edges[:2]
        values: dict[str, float] = {}
        with IperfServer(two), iperf_in_background(one, tunnel.address(2), seconds + 3) as report:
            # What happens before the stream is at its rate is not meant.
            time.sleep(1.5)
            before = {name: user_and_system(pid) for name, pid in pids.items()}
            if without := missing("perf"):
                self._notes += [f"profile: {without}: the kernel's share is of its own clock", _calls(pids, seconds)]
            else:
                values = self._sampled(tunnel, pids, seconds)
            for name, pid in pids.items():
                user, system = (now - then for now, then in zip(user_and_system(pid), before[name], strict=True))
                values.setdefault(f"profile_{name}_{KERNEL}", 100 * system / max(user + system, 1))
            report()
        return values

    def _sampled(self, tunnel: Tunnel, pids: Mapping[str, int], seconds: float) -> dict[str, float]:
        file = tunnel.folder / "perf.data"
        whom = ",".join(str(pid) for pid in pids.values())
        record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(_PER_SECOND), "-p", whom, "-o", str(file)]
        done = subprocess.run([*record, "--", "sleep", f"{seconds:g}"], capture_output=True, text=True, check=False)
        script = ["perf", "script", "-i", str(file), "-F", "pid,ip,sym,dso"]
        read = subprocess.run(script, capture_output=True, text=True, errors="replace", check=False)
        found = list(samples(read.stdout.splitlines()))
        values = {}
        for name, pid in pids.items():
            own = [sample for sample in found if sample.pid == pid]
            if not own:
                raise LabError(f"perf has no samples of the {PROFILED[name]}: {done.stderr}{read.stderr}")
            values.update({f"profile_{name}_{kind}": share for kind, share in shares(own).items()})
            self._notes.append("\n".join([f"{PROFILED[name]}, {len(own)} samples", *top(own, 15)]))
        return values


def _calls(pids: Mapping[str, int], seconds: float) -> str:
    """What system calls are made, by ``strace``, under which all is slower; one process after the other."""
    if without := missing("strace"):
        return f"profile: {without} either"
    lines = []
    for name, pid in pids.items():
        share = f"{seconds / len(pids):g}"
        # strace ends by the signal, and then writes its table.
        command = ["timeout", "--signal=INT", share, "strace", "-c", "-f", "-p", str(pid)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines += [f"system calls of the {PROFILED[name]} in {share} s", *done.stderr.splitlines()[:14]]
    return "\n".join(lines)
