"""Somebody on the LAN who connects to a node's site port: standard library only, to be run inside a namespace.

``HOST PORT FILE PACKET``: FILE has a key and a certificate (or nothing), PACKET is a frame's payload in hex, to be sent
once the link is up. Prints as JSON what was heard.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
from pathlib import Path


def main(host: str, port: str, file: str, packet: str = "") -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["kubebus-site/1"])
    if Path(file).stat().st_size:
        context.load_cert_chain(file)
    heard = b""
    try:
        with context.wrap_socket(socket.create_connection((host, int(port)), timeout=5)) as tls:
            tls.sendall(_frame(1, b'{"type":"hello","versions":[1],"agent":"intruder","epoch":0}'))
            heard = tls.recv(65536)
            if packet:
                tls.sendall(_frame(3, bytes.fromhex(packet)))
                tls.settimeout(1)
                while data := tls.recv(65536):
                    heard += data
    except OSError as error:
        print(error, file=sys.stderr)
    print(json.dumps({"heard": heard.decode("latin-1")}))


def _frame(kind: int, payload: bytes) -> bytes:
    return bytes([kind]) + len(payload).to_bytes(3, "big") + payload


if __name__ == "__main__":
    main(*sys.argv[1:])
