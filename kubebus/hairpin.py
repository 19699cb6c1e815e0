"""Lets what hangs on a bridge reach itself by way of it: a pod that connects to the Service it is an endpoint of."""

from __future__ import annotations

from typing import Any

from kubebus.interfaces import IPAddress
from kubebus.rtnetlink import IPRoute


def reflect(gateway: IPAddress) -> int:
    """Set the hairpin mode of every port of the bridge with the address ``gateway``.

    Where the kernel lets bridged packets pass the firewall (``br_netfilter``), a packet that was led back to its
    sender is bridged, and a bridge sends nothing out where it came in, unless the port is told so.

    :returns: how many ports did not have it yet; 0 where there is no such bridge.
    :raises OSError: if netlink refuses.
    """
    host: Any
    with IPRoute() as host:
        owners = {each["index"] for each in host.get_addr(address=str(gateway))}
        ports = [link["index"] for link in host.get_links() if link.get_attr("IFLA_MASTER") in owners]
        missing = [index for index in ports if not _reflects(host, index)]
        for index in missing:
            host.brport("set", index=index, mode=1)
        return len(missing)


def _reflects(host: Any, index: int) -> bool:
    for port in host.brport("dump", index=index):
        info = port.get_attr("IFLA_PROTINFO")
        return bool(info is not None and info.get_attr("IFLA_BRPORT_MODE"))
    return False
