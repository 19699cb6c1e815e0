"""A pod's directories and files on the node. Everything here blocks, so it is called off the reactor thread.

::

    <root>/pods/<uid>/volumes/<volume>      emptyDir, configMap, downwardAPI, projected
    <root>/pods/<uid>/subpaths/<container>/<n>   bind mounts of subPath
    <root>/pods/<uid>/etc-hosts, resolv.conf, messages/<container>-<attempt>
    <root>/memory/<uid>/<volume>            secrets, on a tmpfs

All of it can be made again at any time: after a boot, secrets and mounts are.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from appengine.atomicwriter import write_files
from appengine.environment import ConfigError, expand
from appengine.mounts import bind, mount_tmpfs, mounts_below, unmount
from appengine.podspec import Container, Json, Pod
from appengine.projection import PROJECTED_KINDS, File, is_secret
from appengine.quantity import bytes_of
from appengine.runtime import Mount

_PROPAGATION = {"None": "rprivate", "HostToContainer": "rslave", "Bidirectional": "rshared"}
_SECRETS_SIZE = "16m"
MAX_MESSAGE = 4096
"""The most of a termination message that is read (Kubernetes' own limit)."""


class VolumeError(ConfigError):
    """A volume cannot be provided; the message names it."""


class Volumes:
    """The volumes of all pods of one node.

    :param root: a directory of the engine's own.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._memory = root / "memory"

    def pod_dir(self, uid: str) -> Path:
        return self.root / "pods" / uid

    def path(self, pod: Pod, volume: Json) -> Path:
        """Where a volume is on the node."""
        if host := volume.get("hostPath"):
            return Path(str(host.get("path") or ""))
        if is_secret(volume):
            return self._memory / pod.ref.uid / str(volume["name"])
        return self.pod_dir(pod.ref.uid) / "volumes" / str(volume["name"])

    def prepare(self, pod: Pod, files: Mapping[str, Mapping[str, File]]) -> None:
        """Make the volumes of a pod, or bring them up to date.

        :param files: what the volumes of files hold, by volume.
        :raises VolumeError: if one cannot be provided.
        """
        directory = self.pod_dir(pod.ref.uid)
        directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        group = pod.security.get("fsGroup")
        for volume in pod.volumes:
            try:
                self._prepare(pod, volume, files.get(volume["name"]) or {}, group)
            except OSError as error:
                raise VolumeError(f"volume {volume['name']!r}: {error}") from error

    def _prepare(self, pod: Pod, volume: Json, files: Mapping[str, File], group: int | None) -> None:
        path = self.path(pod, volume)
        if volume.get("hostPath") is not None:
            _host_path(path, str(volume["hostPath"].get("type") or ""), volume["name"])
        elif any(volume.get(kind) is not None for kind in PROJECTED_KINDS):
            if is_secret(volume):
                self._memory.mkdir(parents=True, exist_ok=True, mode=0o700)
                mount_tmpfs(self._memory, f"mode=0700,size={_SECRETS_SIZE}")
            write_files(path, files, group)
        else:
            self._empty(path, volume.get("emptyDir") or {}, group)

    def _empty(self, path: Path, source: Json, group: int | None) -> None:
        fresh = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        if source.get("medium") == "Memory" and not os.path.ismount(path):
            limit = source.get("sizeLimit")
            mount_tmpfs(path, f"mode=0777,size={bytes_of(limit)}" if limit else "mode=0777", executable=True)
            fresh = True
        if fresh:
            os.chmod(path, 0o777)
            if group is not None:
                os.chown(path, -1, group)
                os.chmod(path, 0o2777)

    def container_mounts(self, pod: Pod, container: Container, variables: Mapping[str, str]) -> tuple[Mount, ...]:
        """The mounts of a container; ``subPath`` ones are bound anew, so that no symbolic link leads out of a volume.

        :raises VolumeError: if a path is not in its volume.
        """
        by_name = {volume["name"]: volume for volume in pod.volumes}
        found = []
        for index, mount in enumerate(container.objects("volumeMounts")):
            volume = by_name[mount["name"]]
            source = self.path(pod, volume)
            sub = mount.get("subPath") or ""
            if mount.get("subPathExpr"):
                sub = expand(mount["subPathExpr"], variables)
                if sub.startswith("/") or ".." in sub.split("/") or "$(" in sub:
                    raise VolumeError(f"volume {mount['name']!r}: subPathExpr gives {sub[:100]!r}, which is not valid")
            if sub:
                try:
                    source = self._bind_sub_path(pod, container, index, source, sub)
                except OSError as error:
                    raise VolumeError(f"volume {mount['name']!r}: subPath {sub[:100]!r}: {error}") from error
            read_only = bool(mount.get("readOnly")) or any(volume.get(k) is not None for k in PROJECTED_KINDS)
            propagation = _PROPAGATION[mount.get("mountPropagation") or "None"]
            found.append(Mount(str(source), mount["mountPath"], read_only, propagation))
        return tuple(found)

    def _bind_sub_path(self, pod: Pod, container: Container, index: int, root: Path, sub: str) -> Path:
        target = self.pod_dir(pod.ref.uid) / "subpaths" / container.name / str(index)
        unmount(target)
        descriptor = _open_below(root, sub)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            if target.is_dir() != directory and target.exists():
                target.rmdir() if target.is_dir() else target.unlink()
            target.mkdir(exist_ok=True) if directory else target.touch()
            bind(descriptor, target)
        finally:
            os.close(descriptor)
        return target

    def write_file(self, uid: str, name: str, content: str) -> Path:
        """Write a small file of the pod in place: a container that has it mounted sees the change."""
        path = self.pod_dir(uid) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode()
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)
            os.chmod(path, 0o644)
        return path

    def message_file(self, uid: str, container: str, attempt: int) -> Path:
        """The file a container writes its last words to: made empty."""
        path = self.pod_dir(uid) / "messages" / f"{container}-{attempt}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        os.chmod(path, 0o666)
        return path

    def message(self, uid: str, container: str, attempt: int) -> str:
        """A container's last words, if it left any."""
        path = self.pod_dir(uid) / "messages" / f"{container}-{attempt}"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return ""
        with open(descriptor, "rb") as file:
            return file.read(MAX_MESSAGE).decode("utf-8", "replace").strip()

    def forget_message(self, uid: str, container: str, attempt: int) -> None:
        (self.pod_dir(uid) / "messages" / f"{container}-{attempt}").unlink(missing_ok=True)

    def remove(self, uid: str) -> None:
        """Remove all of a pod that is here. Doing so twice is harmless."""
        for directory in (self.pod_dir(uid), self._memory / uid):
            if not directory.exists():
                continue
            for point in mounts_below(directory):
                unmount(point)
            if not mounts_below(directory):
                shutil.rmtree(directory)

    def uids(self) -> set[str]:
        """The pods that have anything here."""
        found: set[str] = set()
        for directory in (self.root / "pods", self._memory):
            if directory.is_dir():
                found.update(entry.name for entry in directory.iterdir() if entry.is_dir())
        return found


def _host_path(path: Path, kind: str, volume: str) -> None:
    if not path.is_absolute() or ".." in path.parts:
        raise VolumeError(f"volume {volume!r}: hostPath.path {str(path)[:100]!r} must be absolute, without '..'")
    if kind == "DirectoryOrCreate" and not path.exists():
        path.mkdir(parents=True, mode=0o755)
    elif kind == "FileOrCreate" and not path.exists():
        path.touch(mode=0o644)
    checks = {
        "DirectoryOrCreate": path.is_dir,
        "Directory": path.is_dir,
        "FileOrCreate": path.is_file,
        "File": path.is_file,
        "Socket": path.is_socket,
        "CharDevice": path.is_char_device,
        "BlockDevice": path.is_block_device,
    }
    if kind and not checks[kind]():
        raise VolumeError(f"volume {volume!r}: hostPath type check failed: {path} is not a {kind}")


def _open_below(root: Path, sub: str) -> int:
    """Open what is at ``sub`` below ``root``, making directories where there is nothing.

    Links may lead anywhere within the root; whatever changes meanwhile, the descriptor is of something within it.
    """
    top = os.path.realpath(root)
    resolved = os.path.realpath(os.path.join(top, sub))
    if resolved != top and not resolved.startswith(top + "/"):
        raise VolumeError("it leads out of the volume")
    descriptor = os.open(top, os.O_PATH | os.O_DIRECTORY)
    for part in os.path.relpath(resolved, top).split("/"):
        if part == ".":
            continue
        try:
            try:
                inner = os.open(part, os.O_PATH | os.O_NOFOLLOW, dir_fd=descriptor)
            except FileNotFoundError:
                os.mkdir(part, 0o750, dir_fd=descriptor)
                inner = os.open(part, os.O_PATH | os.O_NOFOLLOW, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = inner
    if stat.S_ISLNK(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise VolumeError("it changed while it was looked at")
    return descriptor
