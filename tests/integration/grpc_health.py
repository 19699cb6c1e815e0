"""A real gRPC server with the health service: ``python -m tests.integration.grpc_health PORT FILE``.

The service ``app`` serves while the file exists; no other service is known.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")

import grpc

# HealthCheckRequest{service: "app"}, HealthCheckResponse{status: SERVING | NOT_SERVING}, in protobuf's wire format
_APP, _SERVING, _NOT_SERVING = b"\x0a\x03app", b"\x08\x01", b"\x08\x02"


def main(port: int, file: Path) -> None:
    def check(request: bytes, context: Any) -> bytes:
        if request != _APP:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _SERVING if file.exists() else _NOT_SERVING

    handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers),))
    server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
