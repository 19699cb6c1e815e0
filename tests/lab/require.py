"""What the machine must have. Asked once, up front: a test that needs it may then simply use it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PACKAGES = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "nft": "nftables",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ping": "iputils-ping",
    "dockerd": "docker.io",
    "containerd": "docker.io",
    "etcd": "etcd-server",
    "etcdctl": "etcd-client",
    "kubectl": "kubernetes-client",
    "busybox": "busybox-static",
}
"""Programs of the lab, and the Debian package that has each."""


def root() -> str | None:
    if os.geteuid():
        return "not root: namespaces, routes and engines need it; run it as root"
    return None


def tun() -> str | None:
    device = Path("/dev/net/tun")
    try:
        if stat.S_ISCHR(device.stat().st_mode):
            with open(device, "rb+", buffering=0):
                return None
        problem = "is no device"
    except FileNotFoundError:
        problem = "does not exist"
    except OSError as error:
        problem = f"cannot be opened ({error.strerror})"
    return f"{device} {problem}: load the module (modprobe tun), and in a container pass the device (--device {device})"


def netns() -> str | None:
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        return (
            f"no network namespace can be made ({probe.stderr.strip()}): "
            "it needs CAP_SYS_ADMIN; in a container, run it with --privileged"
        )
    return None


def nat() -> str | None:
    rules = "table inet t { chain c { type nat hook postrouting priority srcnat; masquerade; }; }"
    probe = subprocess.run(
        ["unshare", "--net", "nft", "-f", "-"], input=rules, capture_output=True, text=True, check=False
    )
    if probe.returncode:
        said = probe.stderr.strip().splitlines()[0]
        return f"nftables cannot masquerade ({said}): the kernel needs nf_tables and nft_masq"
    return None


def cgroups() -> str | None:
    if not any(Path("/sys/fs/cgroup").glob("*/cgroup.procs")) and not Path("/sys/fs/cgroup/cgroup.procs").exists():
        return "no control groups are mounted at /sys/fs/cgroup: Docker needs them; mount cgroup2 there"
    return None


def programs() -> str | None:
    missing = [name for name in PACKAGES if shutil.which(name) is None]
    if not missing:
        return None
    packages = " ".join(sorted({PACKAGES[name] for name in missing}))
    return f"missing {', '.join(missing)}: apt-get install {packages}"


CHECKS: tuple[Callable[[], str | None], ...] = (root, programs, tun, netns, nat, cgroups)
"""In this order; each gives what is missing and what to do, or ``None``."""


def missing() -> str | None:
    """The first thing that the machine lacks, in one line with what to do; ``None`` if it has all."""
    for check in CHECKS:
        problem = check()
        if problem is not None:
            return problem
    return None


if __name__ == "__main__":
    found = missing()
    if found is not None:
        sys.exit(f"this machine cannot run it: {found}")
