"""A small Internet: a public segment, a cloud, and sites behind NAT. All plain namespaces and cables.

::

                        198.51.100.0/24, 2001:db8:100::/64   (public)
      ────┬──────────────────┬───────────────────┬───────────────────┬────
       .1 │ host          .10│ eip            .21│ site1-nat      .22│ site2-nat
     a server          ┌─────┴──────┐        ┌───┴───┐           ┌───┴───┐
                       │  cloud LAN │        │  LAN  │           │  LAN  │   192.168.1.0/24, fd00:1::/64
                       │10.10.0.0/24│     .11│       │        .11│       │   (the same at every site)
                      .11           │     site1-edge1          site2-edge1
                      vm ─── 10.20.0.0/24 ─── pod .2
                                (cloud containers)

The cloud's route table sends everything unknown to the EIP VM, as a route table of a cloud provider would.
Nothing is reachable from outside at a site; the EIP VM has nothing open but what a test starts there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.lab.lifetime import Closing
from tests.lab.namespace import Namespace
from tests.lab.state import Run

PUBLIC4 = "198.51.100"  # RFC 5737
PUBLIC6 = "2001:db8:100:"  # RFC 3849
CLOUD_LAN4, CLOUD_LAN6 = "10.10.0", "fd00:10:"
CLOUD_PODS4, CLOUD_PODS6 = "10.20.0", "fd00:20:"
SITE_LAN4, SITE_LAN6 = "192.168.1", "fd00:1:"


class Nat:
    """A site's NAT router: ``wan`` and ``lan``; masquerades outwards, lets nothing in that was not asked for."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        namespace.forward()
        # A packet in the middle of an unknown flow is invalid, so that a flushed state is really lost.
        namespace.sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")
        namespace.nft("""
            table inet nat {
                chain out { type nat hook postrouting priority srcnat; oifname "wan" masquerade; }
                chain forward {
                    type filter hook forward priority filter; policy drop;
                    ct state invalid drop
                    iifname "lan" accept
                    ct state established,related accept
                }
                chain input {
                    type filter hook input priority filter; policy drop;
                    iifname { "lan", "lo" } accept
                    meta l4proto { icmp, ipv6-icmp } accept
                    ct state established,related accept
                }
                chain cut { type filter hook forward priority raw; }
            }
        """)

    def flush(self) -> None:
        """Forget every flow, as a NAT that was restarted has: packets of old flows vanish silently."""
        self.namespace.run(["conntrack", "--flush"])

    def cut(self, *, outward: bool = True, inward: bool = True) -> None:
        """Drop silently everything that crosses, in one direction or both, until :meth:`mend`."""
        rules = ["flush chain inet nat cut"]
        if outward:
            rules.append('add rule inet nat cut iifname "lan" oifname "wan" drop')
        if inward:
            rules.append('add rule inet nat cut iifname "wan" oifname "lan" drop')
        self.namespace.nft("\n".join(rules))

    def mend(self) -> None:
        """Undo :meth:`cut`."""
        self.namespace.nft("flush chain inet nat cut")

    def flows(self) -> str:
        """The flows it knows, as conntrack prints them."""
        return self.namespace.run(["conntrack", "--dump"]).stdout


@dataclass
class Site:
    """A place with its own NAT and LAN, and its edge nodes."""

    name: str
    public_address: str
    nat: Nat
    nodes: list[Namespace] = field(default_factory=list)

    @property
    def node(self) -> Namespace:
        """The first (often the only) node."""
        return self.nodes[0]


class Internet(Closing):
    """The whole of the picture above.

    :param sites: how many sites.
    :param nodes_per_site: how many edge nodes on each site's LAN.
    :param cloud: whether to build the second VM and the cloud containers too, beside the EIP VM.
    """

    def __init__(self, *, sites: int = 2, nodes_per_site: int = 1, cloud: bool = True, run: Run | None = None) -> None:
        self.run_of = run or Run.current()
        self._namespaces: list[Namespace] = []
        try:
            self._build(sites, nodes_per_site, cloud)
        except BaseException:
            self.close()
            raise

    def _build(self, sites: int, nodes_per_site: int, cloud: bool) -> None:
        self.switch = self.namespace("switch")
        self.switch.bridge("public")
        self.host = self.namespace("internet")
        self.host_address, self.host_address6 = self._public(self.host, "host", 1, default=False)
        self.eip = self.namespace("eip")
        self.eip_address, self.eip_address6 = self._public(self.eip, "eip", 10)
        self.switch.bridge("cloud")
        self.eip.plug("eth1", self.switch, "cloud", "c-eip", f"{CLOUD_LAN4}.10/24", f"{CLOUD_LAN6}:10/64")
        if cloud:
            self._cloud()
        self.sites = [self._site(number, nodes_per_site) for number in range(1, sites + 1)]

    def namespace(self, name: str) -> Namespace:
        """One more namespace that is closed with the rest."""
        namespace = Namespace(name, self.run_of)
        self._namespaces.append(namespace)
        return namespace

    def _public(self, namespace: Namespace, port: str, number: int, *, default: bool = True) -> tuple[str, str]:
        """Put a machine on the public segment with device ``wan``."""
        address, address6 = f"{PUBLIC4}.{number}", f"{PUBLIC6}:{number}"
        namespace.plug("wan", self.switch, "public", f"p-{port}", f"{address}/24", f"{address6}/64")
        if default:
            namespace.ip(f"route add default via {PUBLIC4}.1", f"route add default via {PUBLIC6}:1")
        return address, address6

    def _cloud(self) -> None:
        self.vm = self.namespace("vm")
        self.vm_address, self.vm_address6 = f"{CLOUD_LAN4}.11", f"{CLOUD_LAN6}:11"
        self.vm.plug("eth0", self.switch, "cloud", "c-vm", f"{self.vm_address}/24", f"{self.vm_address6}/64")
        self.vm.ip(f"route add default via {CLOUD_LAN4}.10", f"route add default via {CLOUD_LAN6}:10")
        self.vm.forward()
        self.pod = self.namespace("pod")
        self.pod_address, self.pod_address6 = f"{CLOUD_PODS4}.2", f"{CLOUD_PODS6}:2"
        self.pod.veth("eth0", self.vm, "pods", f"{self.pod_address}/24", f"{self.pod_address6}/64")
        self.vm.ip(f"address add {CLOUD_PODS4}.1/24 dev pods", f"address add {CLOUD_PODS6}:1/64 dev pods")
        self.pod.ip(f"route add default via {CLOUD_PODS4}.1", f"route add default via {CLOUD_PODS6}:1")
        self.eip.ip(
            f"route add {CLOUD_PODS4}.0/24 via {self.vm_address}",
            f"route add {CLOUD_PODS6}:/64 via {self.vm_address6}",
        )

    def _site(self, number: int, nodes: int) -> Site:
        name = f"site{number}"
        lan = f"lan{number}"
        router = self.namespace(f"{name}-nat")
        address, _ = self._public(router, name, 20 + number)
        self.switch.bridge(lan)
        router.plug("lan", self.switch, lan, f"s{number}-nat", f"{SITE_LAN4}.1/24", f"{SITE_LAN6}:1/64")
        site = Site(name, address, Nat(router))
        for index in range(1, nodes + 1):
            node = self.namespace(f"{name}-edge{index}")
            node.plug(
                "eth0", self.switch, lan, f"s{number}-e{index}",
                f"{SITE_LAN4}.{10 + index}/24", f"{SITE_LAN6}:{10 + index}/64",
            )  # fmt: skip
            node.ip(f"route add default via {SITE_LAN4}.1", f"route add default via {SITE_LAN6}:1")
            site.nodes.append(node)
        return site

    @property
    def cloud_cidrs(self) -> list[str]:
        """What the router is to advertise: the cloud's VM and container subnets."""
        return [f"{CLOUD_LAN4}.0/24", f"{CLOUD_PODS4}.0/24", f"{CLOUD_LAN6}:/64", f"{CLOUD_PODS6}:/64"]

    def close(self) -> None:
        """Delete all of it, with every process inside. May be repeated."""
        for namespace in reversed(self._namespaces):
            namespace.close()
