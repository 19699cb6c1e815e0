"""Making a pod's sandbox and its containers, on the node: volumes, files, image, environment, container."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from appengine.assemble import DEFAULT_MESSAGE_PATH, container_config, sandbox_config
from appengine.credentials import auths_for, pull_auths
from appengine.environment import environment
from appengine.node import Node
from appengine.podnet import etc_hosts, resolv_conf
from appengine.podspec import Container, Pod
from appengine.projection import PROJECTED_KINDS, File, volume_files
from appengine.runtime import ContainerView, Mount


async def prepare_volumes(node: Node, pod: Pod, pod_ips: tuple[str, ...]) -> None:
    """Make all volumes of a pod, or bring them up to date.

    :raises ConfigError: if one cannot be provided.
    """
    facts = node.facts(pod_ips)
    files: dict[str, dict[str, File]] = {
        volume["name"]: volume_files(pod, volume, node.objects, facts)
        for volume in pod.volumes
        if any(volume.get(kind) is not None for kind in PROJECTED_KINDS)
    }
    await node.files.run(node.volumes.prepare, pod, files)


async def make_sandbox(node: Node, pod: Pod, attempt: int) -> ContainerView:
    """Make and start the pause container.

    :raises NotYet: while the node has no network for pods.
    """
    pod_network = "" if pod.host_network else await node.pod_network.ready()
    image = await node.images.pause()
    config = sandbox_config(
        pod,
        network=node.network,
        node=node.name,
        attempt=attempt,
        image=image,
        pod_network=pod_network,
        mounts=(),
    )
    identity = await node.runtime.create(config)
    await node.start_container(pod.ref, identity)
    return await node.runtime.inspect(identity)


async def make_container(
    node: Node,
    pod: Pod,
    container: Container,
    attempt: int,
    sandbox: ContainerView,
    wake: Callable[[], None],
) -> str:
    """Make (not start) a container and give its ID.

    :raises ImageWaiting: while there is no image.
    :raises ConfigError: if something that it needs is not there.
    """
    auths = auths_for(container.image, pull_auths(pod, node.objects))
    image = await node.images.find(container, f"{pod.ref.uid}/{container.name}/{attempt}", auths, wake)
    addresses = node.addresses.addresses if pod.host_network else sandbox.addresses
    variables = environment(pod, container, node.objects, node.facts(addresses))
    mounts = await prepare_mounts(node, pod, container, attempt, variables, addresses)
    config = container_config(
        pod,
        container,
        network=node.network,
        node=node.name,
        attempt=attempt,
        sandbox=sandbox.id,
        image=image,
        variables=variables,
        mounts=mounts,
        node_memory=node.memory,
    )
    return await node.runtime.create(config)


async def prepare_mounts(
    node: Node,
    pod: Pod,
    container: Container,
    attempt: int,
    variables: dict[str, str],
    addresses: tuple[str, ...],
) -> tuple[Mount, ...]:
    """The container's mounts, with what they lead to made and up to date."""
    hosts = etc_hosts(pod, addresses, node.dns.domain, node.host_files("/etc/hosts"))
    resolv = resolv_conf(pod, node.host_files("/etc/resolv.conf"), node.dns)
    return await node.files.run(_mounts, node, pod, container, attempt, variables, hosts, resolv)


def _mounts(
    node: Node,
    pod: Pod,
    container: Container,
    attempt: int,
    variables: dict[str, str],
    hosts: str,
    resolv: str,
) -> tuple[Mount, ...]:
    volumes, uid = node.volumes, pod.ref.uid
    mounts = list(volumes.container_mounts(pod, container, variables))
    taken = {mount.target.rstrip("/") for mount in mounts}
    own: list[tuple[Path, str]] = [
        (volumes.write_file(uid, "etc-hosts", hosts), "/etc/hosts"),
        (volumes.write_file(uid, "resolv.conf", resolv), "/etc/resolv.conf"),
        (
            volumes.message_file(uid, container.name, attempt),
            container.get("terminationMessagePath") or DEFAULT_MESSAGE_PATH,
        ),
    ]
    mounts.extend(Mount(str(source), target) for source, target in own if target not in taken)
    return tuple(mounts)
