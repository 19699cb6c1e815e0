"""Traffic for the tests of the network: standard library only, to be run inside namespaces.

``serve PORT`` answers TCP and UDP on both IP versions, ``tcp HOST PORT BYTES [SECONDS]`` and ``udp HOST PORT SIZE``
ask it and print what they saw as JSON. The server tells the source address that it sees.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time

_CHUNK = 64 * 1024


def serve(port: int) -> None:
    tcp = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=_serve_udp, args=(port,), daemon=True).start()
    print("ready", flush=True)
    while True:
        connection, peer = tcp.accept()
        threading.Thread(target=_count, args=(connection, _plain(peer[0])), daemon=True).start()


def _serve_udp(port: int) -> None:
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.bind(("::", port))
    while True:
        data, peer = udp.recvfrom(65536)
        udp.sendto(_plain(peer[0]).encode().ljust(len(data)), peer)


def _count(connection: socket.socket, source: str) -> None:
    total = 0
    while data := connection.recv(_CHUNK):
        total += len(data)
    connection.sendall(json.dumps({"source": source, "bytes": total}).encode())
    connection.close()


def tcp(host: str, port: int, size: int, seconds: float = 0.0) -> dict[str, object]:
    """Send ``size`` bytes, spread over ``seconds``; what the server saw."""
    began = time.monotonic()
    connection = socket.create_connection((host, port), timeout=60)
    sent = 0
    while sent < size:
        connection.sendall(bytes(min(_CHUNK, size - sent)))
        sent = min(size, sent + _CHUNK)
        ahead = began + seconds * sent / size - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
    connection.shutdown(socket.SHUT_WR)
    answer = b""
    while data := connection.recv(_CHUNK):
        answer += data
    return {**json.loads(answer), "seconds": time.monotonic() - began}


def udp(host: str, port: int, size: int) -> dict[str, object]:
    """One datagram of ``size`` bytes there and back, with DF set."""
    version = socket.getaddrinfo(host, port)[0][0]
    client = socket.socket(version, socket.SOCK_DGRAM)
    client.settimeout(3)
    if version == socket.AF_INET:
        client.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
    client.connect((host, port))
    client.send(bytes(size))
    data = client.recv(65536)
    return {"source": data.decode().strip(), "bytes": len(data)}


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:")


def main(command: str, *arguments: str) -> None:
    if command == "serve":
        serve(int(arguments[0]))
    elif command == "tcp":
        host, port, size, *seconds = arguments
        print(json.dumps(tcp(host, int(port), int(size), *map(float, seconds))))
    else:
        host, port, size = arguments
        print(json.dumps(udp(host, int(port), int(size))))


if __name__ == "__main__":
    main(*sys.argv[1:])
