"""Where the daemons' administration sockets are, if nobody says otherwise."""

from __future__ import annotations

from typing import Final

ROUTER_SOCKET: Final = "/run/kubebus/router.sock"
EDGE_SOCKET: Final = "/run/kubebus/edge.sock"
SOCKETS: Final = (ROUTER_SOCKET, EDGE_SOCKET)
