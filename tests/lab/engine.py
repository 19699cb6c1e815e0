"""A Docker engine of its own for each node: dockerd and containerd in the node's namespace, all state its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import docker

from tests.lab.daemon import Daemon
from tests.lab.images import busybox_rootfs
from tests.lab.janitor import container_processes, remove_cgroups, unmount_below
from tests.lab.lifetime import Starting
from tests.lab.namespace import Namespace
from tests.lab.state import Run
from tests.lab.waiting import wait_until

BUSYBOX = "busybox:lab"
"""The image that every engine has from the start. An ordinary busybox; its default command is ``sh``."""

_CONTAINERD_CONFIG = """\
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
"""


class Engine(Starting):
    """dockerd with its own containerd, so that neither a system's containerd nor another engine is shared.

    Made stopped; :meth:`start` and the ``with`` statement start it.

    :param firewall: leave Docker its defaults (iptables rules, the bridge ``docker0``); otherwise neither.
    :param live_restore: whether containers go on while dockerd is away.
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        firewall: bool = False,
        live_restore: bool = False,
        options: Sequence[str] = (),
        run: Run | None = None,
    ) -> None:
        self.run_of = run or Run.current()
        self.namespace = namespace
        # The janitor finds engines by this name.
        self.path = self.run_of.directory("engine")
        self.socket = self.path / "docker.sock"
        self._exec_root = self.path / "exec"
        containerd = self.path / "containerd"
        containerd.mkdir()
        (containerd / "config.toml").write_text(_CONTAINERD_CONFIG)
        self._cgroup = f"kb{self.run_of.id}-{self.path.name}"
        self.containerd = Daemon(
            f"containerd-{namespace.name}",
            [
                *("containerd", "--config", str(containerd / "config.toml")),
                *("--root", str(containerd / "root"), "--state", str(containerd / "state")),
                *("--address", str(containerd / "sock"), "--log-level", "warn"),
            ],
            namespace=namespace,
            run=self.run_of,
        )
        command = [
            *("dockerd", "--host", self.url, "--data-root", str(self.path / "data")),
            *("--exec-root", str(self._exec_root), "--pidfile", str(self.path / "docker.pid")),
            *("--containerd", str(containerd / "sock"), "--config-file", str(self.path / "daemon.json")),
            *("--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{self._cgroup}"),
        ]
        if not firewall:
            command += ["--iptables=false", "--ip6tables=false", "--bridge=none"]
        if live_restore:
            command += ["--live-restore"]
        (self.path / "daemon.json").write_text("{}")
        # Docker's own temporary files and /etc/docker/key.json stay out of the host's.
        env = {"DOCKER_TMPDIR": str(self.path / "tmp"), "HOME": str(self.path)}
        self.dockerd = Daemon(
            f"dockerd-{namespace.name}", [*command, *options], namespace=namespace, env=env, run=self.run_of
        )

    def __repr__(self) -> str:
        return f"<Engine of {self.namespace.full_name} at {self.url}>"

    @property
    def url(self) -> str:
        """What Docker clients call ``DOCKER_HOST``."""
        return f"unix://{self.socket}"

    def launch(self) -> None:
        """Start it without waiting; :meth:`ready` waits. So several can come up at once."""
        if not self.containerd.alive:
            self.containerd.start()
        wait_until(lambda: _listening(self.path / "containerd/sock"), 15, "containerd's socket")
        if not self.dockerd.alive:
            (self.path / "docker.pid").unlink(missing_ok=True)
            self.dockerd.start()

    def ready(self, timeout: float = 30) -> None:
        """Wait until it answers, and see that it has the busybox image."""
        self.dockerd.wait_for(self._answers, timeout)
        with closing(self.client()) as client:
            if not client.images.list(BUSYBOX):
                self.load_image(BUSYBOX, busybox_rootfs())

    def start(self, timeout: float = 30) -> None:
        """Start what of it is not running, and wait until it answers."""
        self.launch()
        self.ready(timeout)

    def _answers(self) -> bool:
        # Asked first, because the client leaks its socket when nobody listens.
        _listening(self.socket)
        with closing(self.client()) as client:
            return bool(client.ping())

    def client(self) -> docker.DockerClient:
        """A client of the ``docker`` package. Close it."""
        return docker.DockerClient(base_url=self.url, timeout=60)

    def load_image(self, reference: str, rootfs: Path, changes: Sequence[str] = ('CMD ["sh"]',)) -> None:
        """Import a root file system (a tar) as an image of one layer.

        :param changes: Dockerfile instructions, as ``docker import --change`` takes them.
        """
        repository, _, tag = reference.rpartition(":")
        with closing(self.client()) as client:
            client.api.import_image_from_file(str(rootfs), repository=repository, tag=tag, changes=list(changes))

    def suspend(self) -> None:
        """SIGSTOP to dockerd: it accepts connections and answers nothing."""
        self.dockerd.suspend()

    def resume(self) -> None:
        self.dockerd.resume()

    def stop(self) -> None:
        """Stop it as a service manager would: containers go down with it, except with ``live_restore``."""
        self.dockerd.stop(60)
        self.containerd.stop()

    def kill9(self, *, containerd: bool = False) -> None:
        """SIGKILL to dockerd alone, or to containerd too. The containers go on."""
        self.dockerd.kill9()
        if containerd:
            self.containerd.kill9()

    def power_cut(self) -> None:
        """As if the device had lost power: everything ends at once, and what a boot clears is gone.

        Processes, mounts, Docker's run-time folders, network devices of containers; images and dead containers
        stay on disk.
        """
        self._kill_all()
        shutil.rmtree(self._exec_root, ignore_errors=True)
        shutil.rmtree(self.path / "containerd/state", ignore_errors=True)
        self.socket.unlink(missing_ok=True)
        listed = self.namespace.run(["ip", "-o", "link", "show", "type", "bridge"]).stdout
        for line in listed.splitlines():
            self.namespace.ip(f"link delete {line.split(':')[1].strip()}")

    def kill_containers(self) -> None:
        """SIGKILL to the first process of every container."""
        for process in container_processes(self.path):
            process.kill(signal.SIGKILL)

    def _kill_all(self) -> None:
        # The engine first: it would take a container's end for its own to handle.
        self.dockerd.close(grace=0)
        self.containerd.close(grace=0)

        def gone() -> bool:
            # What is left of the engine in its namespace: the shims, proxies.
            marker = os.fsencode(self.path)
            shims = [pid for pid in self.namespace.processes() if marker in _command_line(pid)]
            containers = [process for process in container_processes(self.path) if process.alive]
            for pid in shims:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            for process in containers:
                process.kill()
            return not shims and not containers

        wait_until(gone, 10, f"the end of all processes of {self!r}")
        unmount_below(self.path)
        remove_cgroups(self._cgroup)

    def close(self) -> None:
        """Kill it with all containers, unmount and delete all it has. May be repeated."""
        if self.path.exists():
            self._kill_all()
            shutil.rmtree(self.path)


def _listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
    return True


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
