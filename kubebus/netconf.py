"""The host's network by rtnetlink (pyroute2) and ``/proc/sys``."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final

from kubebus.firewall import DockerFirewall
from kubebus.hostnetwork import HostAddress, HostNetworkError, HostSubnet
from kubebus.interfaces import IPAddress, IPNetwork
from kubebus.rtnetlink import IPRoute, NetlinkError

_PROTOCOL: Final = 107
"""Our routes carry this number (``ip route show proto 107``); rtnetlink(7) leaves those from 4 up to daemons."""

_HELD_METRIC: Final = 4278198272
"""The kernel's own metric for unreachable routes that any other route beats (0xff000000 and a little)."""

_MAIN_TABLE: Final = 254
_UNICAST: Final = 1
_NODAD: Final = 0x02
_ADDR_GEN_NONE: Final = 1
_UNIVERSE: Final = 0
_PASSING: Final = 0x01 | 0x20
"""Temporary or deprecated (if_addr.h): addresses that will be gone."""

_SYSCTL: Final = Path("/proc/sys/net")


class LinuxHostNetwork:
    """A :class:`~kubebus.hostnetwork.HostNetwork`.

    :param journal: a file that remembers which settings were changed, so that a process that is killed does not
        leave them for good: the next one to stop in good order puts them back.
    """

    def __init__(self, journal: Path | None = None, sysctl: Path = _SYSCTL) -> None:
        self._socket: Any = None
        self._sysctl = sysctl
        self._journal = SettingsJournal(journal, _place())
        self._firewall = DockerFirewall()
        # What was written over, to be put back in reverse.
        self._changed = self._journal.load()

    def close(self) -> None:
        """Let go of the netlink socket. Changes nothing on the host."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @property
    def _netlink(self) -> Any:
        if self._socket is None:
            self._socket = IPRoute()
        return self._socket

    def subnets(self, interface: str) -> Sequence[HostSubnet]:
        own = self._index(interface)
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in self._netlink.get_links()}
        found = []
        for family in (socket.AF_INET, socket.AF_INET6):
            for route in self._netlink.get_routes(family=family, table=_MAIN_TABLE, type=_UNICAST):
                subnet, device = _destination(route), route.get_attr("RTA_OIF")
                if subnet is not None and device != own:
                    found.append(HostSubnet(subnet, str(names.get(device, "several devices"))))
        return found

    def addresses(self) -> Sequence[HostAddress]:
        """The host's lasting addresses that are not for itself or one link alone."""
        names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in self._netlink.get_links()}
        found = []
        for message in self._netlink.get_addr():
            flags = message.get_attr("IFA_FLAGS") or message["flags"]
            if message["scope"] == _UNIVERSE and not flags & _PASSING:
                address = ip_address(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
                found.append(HostAddress(address, names.get(message["index"], "")))
        return found

    def has_ipv6(self) -> bool:
        try:
            return (self._sysctl / "ipv6/conf/all/disable_ipv6").read_text().strip() == "0"
        except FileNotFoundError:
            return False

    def bring_up(self, interface: str, mtu: int) -> None:
        index = self._index(interface)
        with _doing(f"set up interface {interface}"):
            if self.has_ipv6():
                self._allow_ipv6(interface)
                # No link-local address: nobody is on this link to talk with.
                self._netlink.link("set", index=index, IFLA_AF_SPEC={"attrs": [("AF_INET6", _no_generated_address())]})
            self._netlink.link("set", index=index, mtu=mtu, state="up")

    def _allow_ipv6(self, interface: str) -> None:
        """The host's default for new interfaces may be to have none of it; this one is ours."""
        path = self._sysctl / "ipv6/conf" / interface / "disable_ipv6"
        try:
            if path.read_text().strip() == "1":
                path.write_text("0")
        except OSError as error:
            raise HostNetworkError(f"{path} cannot be set to 0 ({error.strerror}): run as root") from error

    def add_address(self, interface: str, address: IPAddress) -> None:
        flags = {"flags": _NODAD} if address.version == 6 else {}
        with _doing(f"add address {address} to {interface}", errno.EEXIST):
            self._netlink.addr(
                "add",
                index=self._index(interface),
                address=str(address),
                prefixlen=address.max_prefixlen,
                family=_family(address),
                **flags,
            )

    def remove_address(self, interface: str, address: IPAddress) -> None:
        with _doing(f"remove address {address} from {interface}", errno.EADDRNOTAVAIL, errno.ENODEV):
            self._netlink.addr(
                "del",
                index=self._index(interface),
                address=str(address),
                prefixlen=address.max_prefixlen,
                family=_family(address),
            )

    def add_route(self, interface: str, subnet: IPNetwork) -> None:
        with _doing(f"add route {subnet} over {interface}"):
            self._netlink.route(
                "replace", dst=str(subnet), oif=self._index(interface), family=_family(subnet), proto=_PROTOCOL
            )

    def remove_route(self, interface: str, subnet: IPNetwork) -> None:
        with _doing(f"remove route {subnet} over {interface}", errno.ESRCH, errno.ENODEV):
            self._netlink.route(
                "del", dst=str(subnet), oif=self._index(interface), family=_family(subnet), proto=_PROTOCOL
            )

    def hold(self, subnet: IPNetwork) -> None:
        self._held("replace", subnet)

    def release(self, subnet: IPNetwork) -> None:
        self._held("del", subnet, errno.ESRCH)

    def forward(self, interface: str, ipv6: bool) -> None:
        self._firewall.open(interface)
        self._write("ipv4/ip_forward", "1")
        everywhere = self._sysctl / "ipv6/conf/all/forwarding"
        if not ipv6 or not self.has_ipv6() or everywhere.read_text().strip() == "1":
            return
        # A host that forwards stops to listen to router advertisements, unless accept_ra is 2.
        for conf in sorted((self._sysctl / "ipv6/conf").iterdir()):
            if conf.name != "all" and (conf / "accept_ra").read_text().strip() == "1":
                self._write(f"ipv6/conf/{conf.name}/accept_ra", "2")
        # Writing "all" writes to every interface; those that forwarded before are put back after it.
        for conf in sorted((self._sysctl / "ipv6/conf").iterdir()):
            if conf.name != "all" and (conf / "forwarding").read_text().strip() == "1":
                self._remember(conf / "forwarding", "1")
        self._write("ipv6/conf/all/forwarding", "1")

    def restore_forwarding(self) -> None:
        self._firewall.close()
        while self._changed:
            path, before = self._changed.pop()
            try:
                path.write_text(before)
            except FileNotFoundError:
                # The interface is gone, and its settings with it.
                continue
        self._journal.save(self._changed)

    def _remember(self, path: Path, before: str) -> None:
        self._changed.append((path, before))
        self._journal.save(self._changed)

    def _held(self, command: str, subnet: IPNetwork, *harmless: int) -> None:
        with _doing(f"{command} unreachable route {subnet}", *harmless):
            self._netlink.route(
                command,
                dst=str(subnet),
                family=_family(subnet),
                type="unreachable",
                priority=_HELD_METRIC,
                proto=_PROTOCOL,
            )

    def _index(self, interface: str) -> int:
        try:
            return socket.if_nametoindex(interface)
        except OSError:
            return 0

    def _write(self, name: str, value: str) -> None:
        path = self._sysctl / name
        try:
            before = path.read_text().strip()
            if before == value:
                return
            self._remember(path, before)
            path.write_text(value)
        except OSError as error:
            raise HostNetworkError(f"{path} cannot be set to {value} ({error.strerror}): run as root") from error


class SettingsJournal:
    """Settings that were changed, with what they were, in a file; or nowhere, for ``None``.

    :param place: where the settings are: those of another boot or network namespace are not ours to put back.
    """

    def __init__(self, path: Path | None, place: str) -> None:
        self._path, self._place = path, place

    def load(self) -> list[tuple[Path, str]]:
        if self._path is None:
            return []
        try:
            saved = json.loads(self._path.read_text())
            if saved["place"] != self._place:
                return []
            return [(Path(path), str(before)) for path, before in saved["changed"]]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return []

    def save(self, changed: Sequence[tuple[Path, str]]) -> None:
        if self._path is None:
            return
        if not changed:
            self._path.unlink(missing_ok=True)
            return
        content = {"place": self._place, "changed": [(str(path), before) for path, before in changed]}
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._path.with_name(self._path.name + ".new")
        new.write_text(json.dumps(content))
        new.rename(self._path)


def _place() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/net').readlink()}"


class _doing:
    """Turns netlink errors into ours, and lets those pass that say that there was nothing to do."""

    def __init__(self, what: str, *harmless: int) -> None:
        self._what, self._harmless = what, harmless

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, NetlinkError):
            return False
        if error.code in self._harmless:
            return True
        raise HostNetworkError(f"cannot {self._what}: {error}") from error


def _destination(route: Any) -> IPNetwork | None:
    """Where a route leads to; ``None`` for default routes, multicast and link-local ones."""
    address = route.get_attr("RTA_DST")
    if address is None or route["dst_len"] == 0:
        return None
    subnet = ip_network(f"{address}/{route['dst_len']}", strict=False)
    return None if subnet.is_multicast or subnet.is_link_local else subnet


def _family(thing: IPAddress | IPNetwork) -> int:
    return socket.AF_INET if thing.version == 4 else socket.AF_INET6


def _no_generated_address() -> dict[str, list[tuple[str, int]]]:
    return {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_NONE)]}
