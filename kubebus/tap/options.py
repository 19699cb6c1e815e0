"""The options of ``twistd kubebus``."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import ClassVar

from twisted.python.usage import UsageError

from kubebus import config
from kubebus.addresses import NODE_POOL, POD_POOL
from kubebus.config import Setting, SettingsOptions
from kubebus.identity import InvalidIdentity, check_name
from kubebus.sockets import ROUTER_SOCKET

STATE_DIR = Path("/var/lib/kubebus")


_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError("a label has a key and a value")
    return key, value


def taint(text: str) -> dict[str, str]:
    """As ``kubectl taint`` writes it."""
    pair, _, effect = text.rpartition(":")
    key, _, value = pair.partition("=")
    if not key or effect not in _EFFECTS:
        raise ValueError(f"the effect is one of {', '.join(_EFFECTS)}")
    return {"key": key, "effect": effect, **({"value": value} if value else {})}


class Options(SettingsOptions):
    """What the cloud side can be told."""

    longdesc = (
        "The cloud side of KubeBus, on the VM with the public address: edge nodes dial it over TLS; it is their "
        "router, keeps their metadata, and stands for them towards Kubernetes. Look at it with the command 'kubebus'."
    )

    settings: ClassVar = (
        Setting("network", "the network's name", config.name, "an RFC 1123 label", "default"),
        Setting("state-dir", "the directory of keys and of the embedded store", Path, "DIRECTORY", STATE_DIR),
        Setting(
            "store",
            "the metadata store [default: sqlite:STATE-DIR/store.db]",
            allowed="sqlite:PATH, etcd://HOST:PORT[,…] or etcds://…",
        ),
        Setting(
            "public-address",
            "a name or address by which edge nodes reach this VM; at least one",
            config.public_address,
            "NAME or ADDRESS, with :PORT if another one is forwarded",
            default=(),
            repeat=True,
        ),
        Setting("listen-port", "the TCP port that edge nodes dial", config.port, "PORT", 443),
        Setting("listen-address", "the local address to listen on [default: all]", allowed="ADDRESS", default=""),
        Setting("router-name", "this router's name in the network [default: the host's]", config.name, "a name"),
        Setting(
            "advertise",
            "a subnet on this side that edge nodes shall reach: cloud VMs, cloud containers",
            config.network,
            "CIDR",
            (),
            repeat=True,
        ),
        Setting("node-subnet", "where edge nodes get their addresses from", config.network4, "an IPv4 CIDR", NODE_POOL),
        Setting("pod-subnet", "where edge nodes get their pod subnets from", config.network4, "an IPv4 CIDR", POD_POOL),
        Setting("interface", "the name of the TUN device", allowed="NAME", default="kb0"),
        Setting("mtu", "the MTU of the TUN device", config.integer(1280, 65535), "1280 to 65535", 1500),
        Setting("standalone", "bring a small Kubernetes API, with scheduler and controllers", flag=True),
        Setting("api-address", "where the API of --standalone listens", allowed="ADDRESS", default="127.0.0.1"),
        Setting("api-port", "the TCP port of the API of --standalone", config.port, "PORT", 6443),
        Setting(
            "kubeconfig-out",
            "where --standalone writes a kubeconfig for kubectl [default: STATE-DIR/kubeconfig]",
            Path,
            "FILE",
        ),
        Setting("kubeconfig", "stand for the edge nodes towards the Kubernetes API in this kubeconfig", Path, "FILE"),
        Setting(
            "in-cluster", "stand for the edge nodes towards the cluster that this process runs in as a pod", flag=True
        ),
        Setting(
            "namespace",
            "towards a real cluster: the pods of this namespace may use its ConfigMaps, Secrets and tokens at the edge",
            allowed="NAME",
            default=(),
            repeat=True,
        ),
        Setting("all-namespaces", "as --namespace, for all: this VM can then read every Secret there is", flag=True),
        Setting("node-label", "a label of every Node", label, "KEY=VALUE", (), repeat=True),
        Setting("node-taint", "a taint that Nodes are registered with", taint, "KEY[=VALUE]:EFFECT", (), repeat=True),
        Setting(
            "kubelet-client-ca",
            "PEM of the authority behind the API server's client certificate for kubelets; without it, only bearer "
            "tokens are taken for logs and exec",
            Path,
            "FILE",
        ),
        Setting(
            "kubelet-serving-signer",
            "ask the cluster's signer kubernetes.io/kubelet-serving for the nodes' serving certificates; somebody must "
            "approve each",
            flag=True,
        ),
        Setting(
            "leader-namespace",
            "the namespace of the Lease by which several routers agree on a controller [default: there is one router]",
            allowed="NAME",
        ),
        Setting("keep-revoked", "keep the Kubernetes Node of a revoked edge node", flag=True),
        Setting("set-pod-cidr", "set spec.podCIDR of Nodes: only where the cluster allocates none itself", flag=True),
        Setting(
            "adopt-pod-cidr",
            "let nodes have the pod subnets that the cluster allocates (spec.podCIDR), which lie in an advertised one",
            flag=True,
        ),
        *config.HEARTBEAT_SETTINGS,
        config.CONGESTION_SETTING,
        Setting("socket", "the socket of the command 'kubebus'", Path, "PATH", Path(ROUTER_SOCKET)),
    )

    def check(self) -> None:
        if not self["public-address"]:
            raise UsageError("--public-address is missing: by which name or address do edge nodes reach this VM?")
        kubernetes = [name for name in ("standalone", "kubeconfig", "in-cluster") if self[name]]
        if len(kubernetes) > 1:
            raise UsageError(f"--{kubernetes[0]} and --{kubernetes[1]} exclude each other: choose one Kubernetes")
        self._check_namespaces()
        self._check_pod_cidrs()
        state: Path = self["state-dir"]
        self["store"] = self["store"] or f"sqlite:{state / 'store.db'}"
        self["kubeconfig-out"] = self["kubeconfig-out"] or state / "kubeconfig"
        self["router-name"] = self["router-name"] or _host_name()

    def _check_namespaces(self) -> None:
        """Whose Secrets come to this VM is said, never assumed."""
        if self["namespace"] and self["all-namespaces"]:
            raise UsageError("--namespace and --all-namespaces exclude each other: choose which Secrets to read")
        real = self["kubeconfig"] or self["in-cluster"]
        if real and not (self["namespace"] or self["all-namespaces"]):
            raise UsageError(
                "Whose ConfigMaps, Secrets and service account tokens may go to the edge? Choose --namespace NAME "
                "(repeatable), or --all-namespaces, with which this VM can read every Secret of the cluster"
            )

    def _check_pod_cidrs(self) -> None:
        if not self["adopt-pod-cidr"]:
            return
        if self["set-pod-cidr"]:
            raise UsageError(
                "--set-pod-cidr and --adopt-pod-cidr exclude each other: who allocates, this or the cluster?"
            )
        if not (self["kubeconfig"] or self["in-cluster"]):
            raise UsageError("--adopt-pod-cidr needs a real cluster: give --kubeconfig or --in-cluster")
        if not self["advertise"]:
            raise UsageError("--adopt-pod-cidr needs the cluster's pod subnet, which it allocates from, as --advertise")


def _host_name() -> str:
    name = socket.gethostname().partition(".")[0].lower()
    try:
        return check_name(name, "host name")
    except InvalidIdentity as error:
        raise UsageError(f"--router-name is needed: {error}") from error
