"""The v1 NodeStatus of this node."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appengine.interfaces import NodeNetwork
from appengine.pauseimage import go_architecture
from appengine.podspec import Json
from appengine.runtime import EngineInfo, ImageView
from appengine.status import rfc3339

MAX_PODS = 110
"""The kubelet's default."""

_MAX_IMAGES = 50
"""The kubelet's ``nodeStatusMaxImages``."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What does not change while the machine runs."""

    machine_id: str = ""
    boot_id: str = ""
    system_uuid: str = ""
    kernel: str = ""
    os_image: str = ""
    architecture: str = ""
    cpus: int = 1
    memory: int = 0
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class Pressure:
    """Measured now. Sizes in bytes."""

    memory_available: int = 0
    disk_size: int = 0
    disk_available: int = 0
    inodes: int = 0
    inodes_free: int = 0
    pids: int = 0
    pids_max: int = 0


@dataclass(frozen=True, slots=True)
class Conditions:
    """Condition → (true, reason, message)."""

    values: dict[str, tuple[bool, str, str]] = field(default_factory=dict)


def read_machine(root: str = "/") -> Machine:
    """Ask the kernel and the distribution. What cannot be read is left empty."""
    uname = os.uname()
    release = _read(root, "etc/os-release")
    pretty = ""
    for line in release.splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            pretty = value.strip().strip('"')
    return Machine(
        machine_id=_read(root, "etc/machine-id").strip(),
        boot_id=_read(root, "proc/sys/kernel/random/boot_id").strip(),
        system_uuid=_read(root, "sys/class/dmi/id/product_uuid").strip(),
        kernel=uname.release,
        os_image=pretty or uname.sysname,
        architecture=go_architecture(uname.machine),
        cpus=len(os.sched_getaffinity(0)),
        memory=_meminfo(root).get("MemTotal", 0),
        hostname=uname.nodename,
    )


def read_pressure(disk: Path, root: str = "/") -> Pressure:
    memory = _meminfo(root)
    size = os.statvfs(disk)
    pids = 0
    loads = _read(root, "proc/loadavg").split()
    if len(loads) > 3 and "/" in loads[3]:
        pids = int(loads[3].split("/")[1])
    limit = _read(root, "proc/sys/kernel/pid_max").strip()
    return Pressure(
        memory_available=memory.get("MemAvailable", 0),
        disk_size=size.f_blocks * size.f_frsize,
        disk_available=size.f_bavail * size.f_frsize,
        inodes=size.f_files,
        inodes_free=size.f_favail,
        pids=pids,
        pids_max=int(limit) if limit.isdigit() else 0,
    )


def _read(root: str, path: str) -> str:
    try:
        return Path(root, path).read_text(errors="replace")
    except OSError:
        return ""


def _meminfo(root: str) -> dict[str, int]:
    found = {}
    for line in _read(root, "proc/meminfo").splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isdigit():
            found[words[0].rstrip(":")] = int(words[1]) * 1024
    return found


def node_status(
    machine: Machine,
    pressure: Pressure,
    engine: EngineInfo | None,
    images: Sequence[ImageView],
    place: NodeNetwork | None,
    node: str,
    conditions: Conditions,
    version: str,
    now: float,
    previous: Json | None,
) -> Json:
    """The status at ``now``; transitions are dated by comparing with ``previous``."""
    capacity = {
        "cpu": str(machine.cpus),
        "memory": f"{machine.memory // 1024}Ki",
        "ephemeral-storage": f"{pressure.disk_size // 1024}Ki",
        "pods": str(MAX_PODS),
    }
    addresses = [{"type": "InternalIP", "address": str(a)} for a in (place.addresses if place else ())]
    addresses.append({"type": "Hostname", "address": node})
    before = {c.get("type"): c for c in (previous or {}).get("conditions") or ()}
    runtime = (
        f"docker://{engine.version}"
        if engine
        else (previous or {}).get("nodeInfo", {}).get("containerRuntimeVersion", "")
    )
    return {
        "capacity": capacity,
        "allocatable": dict(capacity),
        "conditions": [_condition(kind, *value, now, before.get(kind)) for kind, value in conditions.values.items()],
        "addresses": addresses,
        "nodeInfo": {
            "machineID": machine.machine_id,
            "systemUUID": machine.system_uuid,
            "bootID": machine.boot_id,
            "kernelVersion": machine.kernel,
            "osImage": machine.os_image,
            "containerRuntimeVersion": runtime,
            "kubeletVersion": version,
            "kubeProxyVersion": version,
            "operatingSystem": "linux",
            "architecture": machine.architecture,
        },
        "images": [
            {"names": list(image.names), "sizeBytes": image.size}
            for image in sorted(images, key=lambda image: image.size, reverse=True)[:_MAX_IMAGES]
            if image.names
        ],
    }


def _condition(kind: str, true: bool, reason: str, message: str, now: float, before: Json | None) -> Json:
    value = "True" if true else "False"
    unchanged = before is not None and before.get("status") == value
    return {
        "type": kind,
        "status": value,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": rfc3339(now),
        "lastTransitionTime": before["lastTransitionTime"] if unchanged and before else rfc3339(now),
    }


def comparable(status: Json) -> Json:
    """The status without what changes every time it is looked at: to see whether it says anything new."""
    conditions = [
        {key: value for key, value in condition.items() if key != "lastHeartbeatTime"}
        for condition in status.get("conditions") or ()
    ]
    return {**status, "conditions": conditions}
