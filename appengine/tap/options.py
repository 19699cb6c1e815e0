"""The options of ``twistd edgenode``."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from pathlib import Path
from typing import ClassVar

from twisted.python.usage import UsageError

from appengine.takeover.timing import LONGEST, SHORTEST, USUAL
from kubebus import config
from kubebus.config import Setting, SettingsOptions
from kubebus.identity import InvalidIdentity, check_name
from kubebus.joinstring import InvalidJoinString, JoinString
from kubebus.listenat import ListenAt
from kubebus.sockets import EDGE_SOCKET

STATE_DIR = Path("/var/lib/edgenode")

DNS_ADDRESS = IPv4Address("169.254.20.10")
"""What Kubernetes' own NodeLocal DNSCache uses (https://kubernetes.io/docs/tasks/administer-cluster/nodelocaldns/)."""


def _join_string(text: str) -> JoinString:
    try:
        return JoinString.decode(text)
    except InvalidJoinString as error:
        raise ValueError(str(error)) from error


class Options(SettingsOptions):
    """What the device side can be told."""

    longdesc = (
        "The device side of KubeBus: joins the network of a router, mirrors its metadata into a local store, and runs "
        "the pods that are in it, with or without the cloud. Look at it with the command 'kubebus'."
    )

    settings: ClassVar = (
        Setting(
            "join",
            "what 'kubebus token create' printed; needed for the first start only",
            _join_string,
            "a join string",
        ),
        Setting("join-file", "a file with the join string, which then is in no process list", Path, "FILE"),
        Setting("state-dir", "the directory of keys, store and volumes", Path, "DIRECTORY", STATE_DIR),
        Setting("node-name", "this node's name [default: the join string's, else the host's]", config.name, "a name"),
        Setting("store", "the metadata store [default: sqlite:STATE-DIR/store.db]", allowed="sqlite:PATH, etcd://…"),
        Setting(
            "docker",
            "the Docker engine (or a Podman that speaks its API)",
            allowed="unix:///PATH or tcp://HOST:PORT",
            default="unix:///var/run/docker.sock",
        ),
        Setting(
            "image-dir",
            "archives of images (docker save) to use where no registry is in reach [default: STATE-DIR/pods/images]",
            Path,
            "DIRECTORY",
        ),
        Setting("manifest-dir", "manifests of static pods [default: STATE-DIR/pods/manifests]", Path, "DIRECTORY"),
        Setting(
            "data-port",
            "a TCP port at --dns-address by which pods reach the metadata's application data [default: none]",
            config.port,
            "PORT",
        ),
        Setting("no-pods", "run no pods: network and metadata only", flag=True),
        Setting(
            "dns-address",
            "a link-local address of this host at which pods find the names of Services",
            config.address,
            "ADDRESS",
            DNS_ADDRESS,
        ),
        Setting(
            "cluster-dns",
            "a name service for pods instead of this node's own",
            config.address,
            "ADDRESS",
            (),
            repeat=True,
        ),
        Setting("cluster-domain", "the cluster's domain, for pods", allowed="DOMAIN", default="cluster.local"),
        Setting("interface", "the name of the TUN device", allowed="NAME", default="kb0"),
        Setting(
            "site-listen",
            "let nodes of the same site connect to this one over their LAN, and no others [default: listen nowhere]",
            ListenAt.parse,
            "[ADDRESS:]PORT",
        ),
        Setting(
            "takeover-lease",
            "for how long a pod that may be taken over has its node; the same on all nodes of a site",
            config.seconds(SHORTEST, LONGEST),
            f"{config.DURATION}, from {SHORTEST:g}s to {LONGEST:g}s",
            USUAL,
        ),
        *config.HEARTBEAT_SETTINGS,
        Setting(
            "redial",
            "how long to wait at most before dialling a router again that cannot be reached; the waits double from 1 s",
            config.seconds(1, 3600),
            config.DURATION,
            60.0,
        ),
        config.CONGESTION_SETTING,
        Setting("socket", "the socket of the command 'kubebus'", Path, "PATH", Path(EDGE_SOCKET)),
    )

    def check(self) -> None:
        if self["join"] is not None and self["join-file"] is not None:
            raise UsageError("--join and --join-file exclude each other: give the join string once")
        if self["join-file"] is not None:
            self["join"] = _read_join_string(self["join-file"])
        state: Path = self["state-dir"]
        self["store"] = self["store"] or f"sqlite:{state / 'store.db'}"

    def node_name(self) -> str:
        """The name to enrol with.

        :raises UsageError: if the host's own is none, and no other was given.
        """
        join: JoinString | None = self["join"]
        given: str | None = self["node-name"] or (join.node if join is not None else None)
        if given is not None:
            return given
        try:
            return check_name(socket.gethostname().partition(".")[0].lower(), "host name")
        except InvalidIdentity as error:
            raise UsageError(f"--node-name is needed: {error}") from error


def _read_join_string(path: Path) -> JoinString:
    try:
        return _join_string(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise UsageError(f"--join-file {path}: {error}") from error
