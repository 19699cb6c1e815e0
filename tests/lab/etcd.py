"""etcd, one member or three, on loopback (of a namespace, or of the host on free ports)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.lab.daemon import Daemon
from tests.lab.lifetime import Starting
from tests.lab.namespace import Namespace, checked
from tests.lab.pki import Authority, KeyPair
from tests.lab.state import Run
from tests.lab.waiting import LabError, wait_until


class Member:
    """One etcd server. ``daemon`` is its process, ``data`` its folder."""

    def __init__(self, name: str, host: str, client_port: int, peer_port: int, data: Path) -> None:
        self.name = name
        self.host = host
        self.client_port = client_port
        self.peer_url = f"http://{host}:{peer_port}"
        self.data = data
        self.daemon: Daemon


class Etcd(Starting):
    """A cluster. Made stopped; :meth:`start` and the ``with`` statement start it.

    :param members: how many.
    :param namespace: where it runs.
    :param host: the address that clients use; another than loopback needs a namespace that has it.
    :param tls: serve clients over TLS only, and ask for a certificate of ``authority``; ``client`` is one.
    :param options: more of etcd's own, such as ``--quota-backend-bytes=…``.
    """

    def __init__(
        self,
        *,
        members: int = 1,
        namespace: Namespace | None = None,
        host: str = "127.0.0.1",
        tls: bool = False,
        options: Sequence[str] = (),
        run: Run | None = None,
    ) -> None:
        self.run_of = run or Run.current()
        self.namespace = namespace
        self.path = self.run_of.directory("etcd")
        self._options = list(options)
        self._scheme = "https" if tls else "http"
        self.authority: Authority | None = None
        self.client: KeyPair | None = None
        if tls:
            self.authority = Authority(self.path)
            self.client = self.authority.issue("root")
            self._server = self.authority.issue("server", hosts=[host, "localhost"])
        # A namespace's ports are all free; the host's are asked for.
        ports = iter(free_ports(2 * members) if namespace is None else range(2379, 2379 + 2 * members))
        self.members = [
            Member(f"m{index}", host, next(ports), next(ports), self.path / f"m{index}") for index in range(members)
        ]
        self._make_daemons()

    def _make_daemons(self) -> None:
        cluster = ",".join(f"{member.name}={member.peer_url}" for member in self.members)
        for member in self.members:
            url = self.url_of(member)
            command = [
                *("etcd", "--name", member.name, "--data-dir", str(member.data)),
                *("--listen-client-urls", url, "--advertise-client-urls", url),
                *("--listen-peer-urls", member.peer_url, "--initial-advertise-peer-urls", member.peer_url),
                *("--initial-cluster", cluster, "--initial-cluster-state", "new"),
                *("--initial-cluster-token", self.run_of.id, "--logger", "zap", "--log-level", "warn"),
                *self._options,
            ]
            if self.authority is not None:
                command += ["--cert-file", str(self._server.certificate), "--key-file", str(self._server.key)]
                command += ["--trusted-ca-file", str(self.authority.certificate), "--client-cert-auth"]
            member.daemon = Daemon(f"etcd-{member.name}", command, namespace=self.namespace, run=self.run_of)

    def url_of(self, member: Member) -> str:
        return f"{self._scheme}://{member.host}:{member.client_port}"

    @property
    def host(self) -> str:
        """The first member's address."""
        return self.members[0].host

    @property
    def port(self) -> int:
        """The first member's client port."""
        return self.members[0].client_port

    @property
    def urls(self) -> list[str]:
        return [self.url_of(member) for member in self.members]

    def start(self, timeout: float = 30) -> None:
        """Start every member that is not running, and wait until all are healthy."""
        for member in self.members:
            if not member.daemon.alive:
                member.daemon.start()
        self.healthy(timeout)

    def healthy(self, timeout: float = 30) -> None:
        """Wait until every member answers a read that needs a quorum."""
        for member in self.members:
            member.daemon.wait_for(partial(self._answers, member), timeout)

    def _answers(self, member: Member) -> bool:
        self.ctl("get", "health", members=[member], timeout=5)
        return True

    def ctl(
        self, *arguments: str, members: Sequence[Member] | None = None, timeout: float = 30, input: str | None = None
    ) -> str:
        """Run ``etcdctl`` (v3); its output.

        :raises LabError: if it fails.
        """
        endpoints = ",".join(self.url_of(member) for member in members or self.members)
        command = ["etcdctl", f"--endpoints={endpoints}", f"--command-timeout={max(1, int(timeout))}s"]
        if self.authority is not None and self.client is not None:
            command += [f"--cacert={self.authority.certificate}"]
            command += [f"--cert={self.client.certificate}", f"--key={self.client.key}"]
        command += arguments
        if self.namespace is not None:
            command = self.namespace.command(command)
        env = {**os.environ, "ETCDCTL_API": "3"}
        return checked(command, timeout=timeout + 5, input=input, env=env).stdout

    def status(self) -> list[dict[str, Any]]:
        """``etcdctl endpoint status`` of every member that answers."""
        try:
            text = self.ctl("endpoint", "status", "--write-out=json", timeout=5)
        except LabError as error:
            # It prints what it has of the others on standard output, and fails if one is down.
            text = next((line for line in str(error).splitlines() if line.startswith("[{")), "[]")
        found: list[dict[str, Any]] = json.loads(text)
        return found

    @property
    def revision(self) -> int:
        return max(int(each["Status"]["header"]["revision"]) for each in self.status())

    def leader(self) -> Member:
        """The member that leads now.

        :raises LabError: if none does.
        """
        for each in self.status():
            header = each["Status"]["header"]
            if header["member_id"] == each["Status"]["leader"]:
                return next(member for member in self.members if self.url_of(member) == each["Endpoint"])
        raise LabError("etcd has no leader")

    def kill_leader(self) -> Member:
        """SIGKILL to the leader; wait for another. The one that was killed."""
        killed = self.leader()
        killed.daemon.kill9()
        wait_until(self.leader, 30, "another leader")
        return killed

    def compact(self, revision: int | None = None) -> None:
        """Forget what is older than ``revision`` (``None``: than now)."""
        self.ctl("compact", str(revision or self.revision))

    def snapshot(self, path: Path) -> None:
        """Save the store to a file."""
        self.ctl("snapshot", "save", str(path), members=self.members[:1])

    def restore(self, path: Path) -> None:
        """Kill it, put back the snapshot under the same names, cluster and addresses, and start again."""
        self.kill9()
        cluster = ",".join(f"{member.name}={member.peer_url}" for member in self.members)
        for member in self.members:
            shutil.rmtree(member.data)
            command = [
                *("etcdctl", "snapshot", "restore", str(path), "--name", member.name),
                *("--data-dir", str(member.data), "--initial-cluster", cluster),
                *("--initial-cluster-token", self.run_of.id, "--initial-advertise-peer-urls", member.peer_url),
            ]
            checked(command, env={**os.environ, "ETCDCTL_API": "3"})
        self.start()

    def kill9(self) -> None:
        """SIGKILL to every member."""
        for member in self.members:
            member.daemon.kill9()

    def stop(self) -> None:
        for member in self.members:
            member.daemon.signal(signal.SIGTERM)
        for member in self.members:
            member.daemon.stop()

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill it and delete its data. May be repeated."""
        for member in self.members:
            member.daemon.close(grace=0)
        shutil.rmtree(self.path, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """TCP ports of the host's loopback that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
