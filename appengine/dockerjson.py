"""The Docker Engine API's JSON, to and from the engine's own types (https://docs.docker.com/reference/api/engine/)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from appengine import labels
from appengine.podspec import Json
from appengine.runtime import (
    ContainerConfig,
    ContainerState,
    ContainerView,
    EngineInfo,
    ImageView,
    NetworkConfig,
    Usage,
)

MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
_CONFIG = "io.kubebus.network.config"
_BRIDGE = "com.docker.network.bridge.name"
_MTU = "com.docker.network.driver.mtu"
_GATEWAY_MODES = (
    "com.docker.network.bridge.gateway_mode_ipv4",
    "com.docker.network.bridge.gateway_mode_ipv6",
)
_STATES = {
    "created": ContainerState.CREATED,
    "configured": ContainerState.CREATED,
    "initialized": ContainerState.CREATED,
    "running": ContainerState.RUNNING,
    "paused": ContainerState.RUNNING,
    "restarting": ContainerState.RUNNING,
}


def timestamp(text: str | None) -> float:
    """UNIX seconds of an engine's time; 0 for its "never" (the year 1) and for nonsense."""
    if not text or text.startswith("0001-"):
        return 0.0
    head, _, tail = text.partition(".")
    digits = ""
    for character in tail:
        if not character.isdigit():
            break
        digits += character
    zone = tail[len(digits) :] if tail else ("Z" if head.endswith("Z") else head[19:])
    try:
        moment = datetime.fromisoformat(head[:19] + ("+00:00" if zone in ("Z", "") else zone))
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp() + (float("0." + digits) if digits else 0.0)


def create_body(config: ContainerConfig) -> Json:
    """The body of ``POST /containers/create``."""
    resources, security = config.resources, config.security
    host: Json = {
        "NetworkMode": config.network,
        "Mounts": [
            {
                "Type": "bind",
                "Source": mount.source,
                "Target": mount.target,
                "ReadOnly": mount.read_only,
                "BindOptions": {"Propagation": mount.propagation},
            }
            for mount in config.mounts
        ],
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": str(config.log_bytes), "max-file": str(config.log_files)},
        },
        "RestartPolicy": {"Name": "no"},
        "Privileged": security.privileged,
        "ReadonlyRootfs": security.read_only_root,
        "CapAdd": list(security.cap_add),
        "CapDrop": list(security.cap_drop),
        "SecurityOpt": list(security.options),
        "GroupAdd": list(security.groups),
        "OomScoreAdj": resources.oom_score_adj,
    }
    if config.pid_mode:
        host["PidMode"] = config.pid_mode
    if config.ipc_mode:
        host["IpcMode"] = config.ipc_mode
    if config.sysctls:
        host["Sysctls"] = dict(config.sysctls)
    if resources.memory:
        # Equal to the memory limit: no swap, as with the kubelet.
        host["Memory"] = host["MemorySwap"] = resources.memory
    if resources.cpu_shares:
        host["CpuShares"] = resources.cpu_shares
    if resources.cpu_quota:
        host["CpuQuota"], host["CpuPeriod"] = resources.cpu_quota, resources.cpu_period
    body: Json = {
        "Image": config.image,
        "Labels": dict(config.labels),
        "Env": list(config.env),
        "Tty": config.tty,
        "OpenStdin": config.stdin,
        "StdinOnce": config.stdin_once,
        "HostConfig": host,
        # A health check of the image is not Kubernetes' business, and would cost the node.
        "Healthcheck": {"Test": ["NONE"]},
    }
    for key, value in (
        ("Entrypoint", list(config.command) if config.command else None),
        ("Cmd", list(config.args) if config.args else None),
        ("WorkingDir", config.working_dir),
        ("Hostname", config.hostname),
        ("User", security.user),
        ("StopSignal", config.stop_signal),
    ):
        if value:
            body[key] = value
    return body


def network_body(config: NetworkConfig, network_labels: Mapping[str, str], engine: str) -> Json:
    """The body of ``POST /networks/create``.

    :param engine: the engine's version. From 27 on it must be told that packets are routed to containers.
    """
    major = engine.split(".")[0]
    routed = major.isdigit() and int(major) >= 27
    modes = dict.fromkeys(_GATEWAY_MODES, "routed") if routed else {}
    return {
        "Name": config.name,
        "CheckDuplicate": True,
        "Driver": "bridge",
        "EnableIPv6": any(subnet.version == 6 for subnet in config.subnets),
        "IPAM": {"Driver": "default", "Config": [{"Subnet": str(subnet)} for subnet in config.subnets]},
        "Options": {MASQUERADE: "false", _BRIDGE: config.bridge, _MTU: str(config.mtu), **modes},
        "Labels": {**network_labels, _CONFIG: _signature(config)},
    }


def same_network(found: Json, config: NetworkConfig) -> bool:
    """Whether a network that is there is the one that is wanted.

    It says so itself: engines do not all give back the options that a network was made with.
    """
    return (found.get("Labels") or {}).get(_CONFIG) == _signature(config)


def _signature(config: NetworkConfig) -> str:
    return " ".join([*map(str, config.subnets), str(config.mtu), config.bridge])


def container_view(inspected: Json) -> ContainerView:
    """A container from ``GET /containers/ID/json``."""
    config: Json = inspected.get("Config") or {}
    state: Json = inspected.get("State") or {}
    marks: dict[str, str] = config.get("Labels") or {}
    networks: Json = (inspected.get("NetworkSettings") or {}).get("Networks") or {}
    addresses: list[str] = []
    for network in networks.values():
        addresses.extend(str(a) for a in (network.get("IPAddress"), network.get("GlobalIPv6Address")) if a)
    return ContainerView(
        id=str(inspected.get("Id") or ""),
        pod=labels.ref_of(marks),
        name=marks.get(labels.CONTAINER_NAME, ""),
        kind=labels.kind_of(marks),
        attempt=labels.number(marks, labels.ATTEMPT),
        spec_hash=marks.get(labels.SPEC_HASH, ""),
        sandbox=marks.get(labels.SANDBOX, ""),
        state=_STATES.get(str(state.get("Status")), ContainerState.EXITED),
        created_at=timestamp(inspected.get("Created")),
        started_at=timestamp(state.get("StartedAt")),
        finished_at=timestamp(state.get("FinishedAt")),
        exit_code=int(state.get("ExitCode") or 0),
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        pid=int(state.get("Pid") or 0),
        image=str(config.get("Image") or ""),
        image_id=str(inspected.get("Image") or ""),
        addresses=tuple(addresses),
        labels=marks,
        stop_signal=str(config.get("StopSignal") or "SIGTERM"),
        log_path=str(inspected.get("LogPath") or ""),
        tty=bool(config.get("Tty")),
    )


def image_view(inspected: Json) -> ImageView:
    """An image from ``GET /images/NAME/json``."""
    config: Json = inspected.get("Config") or {}
    return ImageView(
        id=str(inspected.get("Id") or ""),
        names=_image_names(inspected),
        size=int(inspected.get("Size") or 0),
        user=str(config.get("User") or ""),
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
    )


def _image_names(described: Json) -> tuple[str, ...]:
    digests = [name for name in described.get("RepoDigests") or () if not name.startswith("<none>")]
    tags = [name for name in described.get("RepoTags") or () if not name.startswith("<none>")]
    return tuple(digests + tags)


def listed_image(listed: Json) -> ImageView:
    """An image from ``GET /images/json``."""
    return ImageView(str(listed.get("Id") or ""), _image_names(listed), int(listed.get("Size") or 0))


def engine_info(info: Json) -> EngineInfo:
    """From ``GET /info``."""
    return EngineInfo(
        version=str(info.get("ServerVersion") or ""),
        architecture=str(info.get("Architecture") or ""),
        operating_system=str(info.get("OperatingSystem") or ""),
        os_type=str(info.get("OSType") or "linux"),
        kernel=str(info.get("KernelVersion") or ""),
        cpus=int(info.get("NCPU") or 1),
        memory=int(info.get("MemTotal") or 0),
        root_dir=str(info.get("DockerRootDir") or ""),
    )


def usage(stats: Json) -> Usage:
    """From ``GET /containers/ID/stats``."""
    memory: Json = stats.get("memory_stats") or {}
    detail: Json = memory.get("stats") or {}
    # The working set, as the kubelet counts it: pages that could be dropped at once are not in use.
    idle = int(detail.get("total_inactive_file") or detail.get("inactive_file") or 0)
    networks = (stats.get("networks") or {}).values()
    return Usage(
        cpu_nanoseconds=int(((stats.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage") or 0),
        memory=max(0, int(memory.get("usage") or 0) - idle),
        memory_limit=int(memory.get("limit") or 0),
        pids=int((stats.get("pids_stats") or {}).get("current") or 0),
        received_bytes=sum(int(n.get("rx_bytes") or 0) for n in networks),
        sent_bytes=sum(int(n.get("tx_bytes") or 0) for n in networks),
    )


def error_message(body: Any) -> str:
    """The engine's own words in the body of an error."""
    return str(body.get("message") or body) if isinstance(body, dict) else str(body)
