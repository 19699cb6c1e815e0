"""TLS at the speed that the machine allows, behind the interfaces of Twisted's.

:func:`wrap_server_tls` and :func:`wrap_client_tls` stand in for Twisted's ``wrapServerTLS`` and ``wrapClientTLS``.
"""

from kubebus.fastpath.endpoints import client_factory, client_limits, server_factory, wrap_client_tls, wrap_server_tls
from kubebus.fastpath.transport import (
    CONGESTION,
    CloseTimeout,
    FastTLSTransport,
    HandshakeTimeout,
    IViewReceiver,
    Limits,
)

__all__ = [
    "CONGESTION",
    "CloseTimeout",
    "FastTLSTransport",
    "HandshakeTimeout",
    "IViewReceiver",
    "Limits",
    "client_factory",
    "client_limits",
    "server_factory",
    "wrap_client_tls",
    "wrap_server_tls",
]
