"""Where to listen: the value of ``--site-listen``."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from kubebus.interfaces import IPAddress
from kubebus.joinstring import HostPort


@dataclass(frozen=True, slots=True)
class ListenAt:
    """:ivar address: ``None`` for all of the host's."""

    address: IPAddress | None
    port: int

    @classmethod
    def parse(cls, text: str) -> ListenAt:
        """``PORT``, ``ADDRESS:PORT`` or ``[IPV6]:PORT``.

        :raises ValueError: if it is none.
        """
        if text.isascii() and text.isdigit():
            return cls(None, HostPort.parse(f"0.0.0.0:{text}").port)
        place = HostPort.parse(text, 0)
        return cls(ip_address(place.host), place.port)
