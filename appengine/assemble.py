"""From a pod's specification to the containers that a runtime is to make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from appengine import labels
from appengine.environment import ConfigError, expand
from appengine.podspec import Container, Json, Kind, Pod
from appengine.qos import container_resources
from appengine.runtime import ContainerConfig, ImageView, Mount, Security

DEFAULT_MESSAGE_PATH = "/dev/termination-log"
_ROOT = ("", "0", "root")


def sandbox_config(
    pod: Pod,
    *,
    network: str,
    node: str,
    attempt: int,
    image: str,
    pod_network: str,
    mounts: Sequence[Mount],
) -> ContainerConfig:
    """The pause container, which holds the pod's network, IPC and (if shared) process namespace."""
    return ContainerConfig(
        name=labels.container_name(pod.ref, labels.PAUSE, attempt),
        image=image,
        labels={
            **labels.pod_labels(network, node, pod.ref, pod.grace),
            labels.KIND: Kind.PAUSE.value,
            labels.CONTAINER_NAME: labels.PAUSE,
            labels.ATTEMPT: str(attempt),
        },
        hostname="" if pod.host_network else sandbox_hostname(pod),
        network="host" if pod.host_network else pod_network,
        pid_mode="host" if pod.spec.get("hostPID") else "",
        ipc_mode="host" if pod.spec.get("hostIPC") else "shareable",
        mounts=tuple(mounts),
        sysctls={item["name"]: item.get("value") or "" for item in pod.security.get("sysctls") or ()},
        # It has nothing to clean up, so it need not hold up the engine's own shutdown.
        stop_signal="SIGKILL",
        log_bytes=2**16,
        log_files=1,
    )


def sandbox_hostname(pod: Pod) -> str:
    fqdn = pod_fqdn(pod)
    return fqdn[:64] if fqdn and pod.spec.get("setHostnameAsFQDN") else pod.hostname


def pod_fqdn(pod: Pod, domain: str = "cluster.local") -> str:
    """The full name of a pod with a subdomain, else an empty string."""
    subdomain = pod.spec.get("subdomain")
    return f"{pod.hostname}.{subdomain}.{pod.ref.namespace}.svc.{domain}" if subdomain else ""


def container_config(
    pod: Pod,
    container: Container,
    *,
    network: str,
    node: str,
    attempt: int,
    sandbox: str,
    image: ImageView,
    variables: Mapping[str, str],
    mounts: Sequence[Mount],
    node_memory: int = 0,
) -> ContainerConfig:
    """A container of the pod, in the sandbox whose container ID is given.

    :raises ConfigError: if it would run as root although it must not.
    """
    command = container.strings("command")
    arguments = container.strings("args")
    shared_pid = f"container:{sandbox}" if pod.spec.get("shareProcessNamespace") else ""
    return ContainerConfig(
        name=labels.container_name(pod.ref, container.name, attempt),
        image=image.id,
        labels={
            **labels.pod_labels(network, node, pod.ref, pod.grace),
            **labels.container_labels(pod, container, attempt, sandbox),
        },
        command=tuple(expand(part, variables) for part in command) or None,
        args=tuple(expand(part, variables) for part in arguments) or None,
        env=tuple(f"{name}={value}" for name, value in variables.items()),
        working_dir=container.get("workingDir") or "",
        network="host" if pod.host_network else f"container:{sandbox}",
        pid_mode="host" if pod.spec.get("hostPID") else shared_pid,
        ipc_mode="host" if pod.spec.get("hostIPC") else f"container:{sandbox}",
        mounts=tuple(mounts),
        resources=container_resources(pod, container, node_memory),
        security=security(pod, container, image),
        tty=bool(container.get("tty")),
        stdin=bool(container.get("stdin")),
        stdin_once=bool(container.get("stdinOnce")),
        stop_signal=(container.get("lifecycle") or {}).get("stopSignal") or "",
    )


def security(pod: Pod, container: Container, image: ImageView) -> Security:
    """What a container may do; its own settings go before the pod's.

    :raises ConfigError: if it would run as root although it must not.
    """
    both: Json = {**pod.security, **{k: v for k, v in container.security.items() if v is not None}}
    groups = [*(pod.security.get("supplementalGroups") or ())]
    if pod.security.get("fsGroup") is not None:
        groups.append(pod.security["fsGroup"])
    privileged = bool(both.get("privileged"))
    capabilities = container.security.get("capabilities") or {}
    return Security(
        user=_user(both, container, image),
        groups=tuple(str(group) for group in groups),
        privileged=privileged,
        read_only_root=bool(both.get("readOnlyRootFilesystem")),
        cap_add=tuple(capabilities.get("add") or ()),
        cap_drop=tuple(capabilities.get("drop") or ()),
        options=_options(both, privileged),
    )


def _user(both: Json, container: Container, image: ImageView) -> str:
    user, group = both.get("runAsUser"), both.get("runAsGroup")
    image_user = image.user.partition(":")[0]
    if both.get("runAsNonRoot"):
        if user == 0:
            raise ConfigError("container's runAsUser breaks non-root policy")
        if user is None and image_user in _ROOT:
            raise ConfigError("container has runAsNonRoot and image will run as root")
        if user is None and not image_user.isdigit():
            raise ConfigError(
                f"container has runAsNonRoot and image has non-numeric user ({image_user}), "
                "cannot verify user is non-root"
            )
    if user is None and group is None:
        return ""
    chosen = str(user) if user is not None else image_user or "0"
    if group is None:
        return chosen if user is not None else image.user
    return f"{chosen}:{group}"


def _options(both: Json, privileged: bool) -> tuple[str, ...]:
    options = []
    if both.get("allowPrivilegeEscalation") is False:
        options.append("no-new-privileges")
    seccomp = both.get("seccompProfile") or {}
    if seccomp.get("type") == "Unconfined" and not privileged:
        options.append("seccomp=unconfined")
    armor = both.get("appArmorProfile") or {}
    if armor.get("type") == "Unconfined":
        options.append("apparmor=unconfined")
    elif armor.get("type") == "Localhost":
        options.append(f"apparmor={armor.get('localhostProfile') or ''}")
    selinux = both.get("seLinuxOptions") or {}
    options.extend(f"label={key}:{selinux[key]}" for key in ("user", "role", "type", "level") if selinux.get(key))
    return tuple(options)
