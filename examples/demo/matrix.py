"""Who reaches whom, by ping and TCP, and which source address is seen there: asked of every kind of endpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from examples.demo.world import Edge, World
from tests.lab.daemon import Daemon
from tests.lab.namespace import Namespace
from tests.lab.waiting import wait_until

PORT = 7777

Address = IPv4Address | IPv6Address

_CGI = "#!/bin/sh\nprintf 'Content-type: text/plain\\n\\n%s\\n' \"$REMOTE_ADDR\"\n"
"""A page that tells who asks for it."""

_PROBE = """
for target in "$@"; do
    busybox ping -c 1 -W 3 "$target" >/dev/null 2>&1 && ping=yes || ping=no
    case "$target" in *:*) host="[$target]" ;; *) host="$target" ;; esac
    seen="$(busybox timeout 5 busybox wget -q -O - "http://$host:%(port)d/cgi-bin/who" 2>/dev/null)"
    echo "$target $ping $seen"
done
""" % {"port": PORT}  # noqa: UP031


@dataclass(frozen=True)
class Endpoint:
    """Something with addresses of its own that runs commands."""

    name: str
    own: frozenset[Address]
    """All that it has: any of them may be its source."""
    targets: tuple[Address, ...]
    """Where the others reach it."""
    execute: Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Crossing:
    """From one endpoint to an address of another."""

    source: Endpoint
    destination: Endpoint
    address: Address
    ping: bool
    seen: Address | None
    """The source address that the destination saw over TCP; ``None`` if nothing came through."""

    @property
    def good(self) -> bool:
        return self.ping and self.seen in self.source.own


def endpoints(world: World, pods: Sequence[tuple[Edge, str]]) -> list[Endpoint]:
    """The two cloud VMs, the cloud container, every device, and the given pods."""
    net = world.net
    found = [
        _machine("EIP VM", net.eip, "eth1"),
        _machine("second VM", net.vm, "eth0"),
        _machine("cloud container", net.pod, "eth0"),
    ]
    found += [_machine(edge.name, edge.site.node, "kb0") for edge in world.edges]
    return found + [_pod(edge, pod) for edge, pod in pods]


def _machine(name: str, namespace: Namespace, device: str) -> Endpoint:
    def execute(command: Sequence[str]) -> str:
        return namespace.run(command, check=False, timeout=120).stdout

    return _endpoint(name, device, execute)


def _pod(edge: Edge, pod: str) -> Endpoint:
    return _endpoint(f"pod {pod}", "eth0", lambda command: edge.execute(pod, *command))


def _endpoint(name: str, device: str, execute: Callable[[Sequence[str]], str]) -> Endpoint:
    everything = _addresses(execute(["ip", "address"]))
    targets = _addresses(execute(["ip", "address", "show", "dev", device]))
    return Endpoint(name, frozenset(everything), tuple(targets), execute)


def _addresses(text: str) -> list[Address]:
    """The global addresses in what ``ip address`` prints (busybox's or the real one)."""
    found = [ip_address(each) for each in re.findall(r"inet6? ([0-9a-f.:]+)/", text)]
    return [each for each in found if not (each.is_loopback or each.is_link_local)]


@contextmanager
def telling_who(world: World, pods: Sequence[tuple[Edge, str]]) -> Iterator[None]:
    """While this is entered, every endpoint answers at ``PORT`` with the address of who asks; so does the Internet."""
    folder = world.path / "who"
    (folder / "cgi-bin").mkdir(parents=True, exist_ok=True)
    (folder / "cgi-bin/who").write_text(_CGI)
    (folder / "cgi-bin/who").chmod(0o755)
    net = world.net
    with ExitStack() as kept:
        for namespace in (net.host, net.eip, net.vm, net.pod, *(edge.site.node for edge in world.edges)):
            command = ["busybox", "httpd", "-f", "-p", str(PORT), "-h", str(folder)]
            kept.enter_context(Daemon(f"who-{namespace.name}", command, namespace=namespace))
        for edge, pod in pods:
            _serve_in_pod(edge, pod)
            kept.callback(edge.execute, pod, "pkill", "-f", f"httpd -p {PORT}")
        everyone = [_machine("Internet", net.host, "wan"), *endpoints(world, pods)]
        wait_until(lambda: all(_listens(each) for each in everyone), 10, "all to answer themselves")
        yield


def _serve_in_pod(edge: Edge, pod: str) -> None:
    script = f"""
        mkdir -p /tmp/who/cgi-bin && cd /tmp/who && cat > cgi-bin/who <<'END'
{_CGI}
END
        chmod 755 cgi-bin/who
        exec busybox httpd -p {PORT} -h /tmp/who
    """
    edge.execute(pod, "sh", "-c", script)


def _listens(endpoint: Endpoint) -> bool:
    return f":{PORT} " in endpoint.execute(["busybox", "netstat", "-ltn"])


def crossings(found: Sequence[Endpoint]) -> list[Crossing]:
    """Try every endpoint from every other, all sources at once."""
    with ThreadPoolExecutor(len(found)) as pool:
        return [each for row in pool.map(lambda source: _row(source, found), found) for each in row]


def _row(source: Endpoint, found: Sequence[Endpoint]) -> list[Crossing]:
    targets = {address: each for each in found if each is not source for address in each.targets}
    told = source.execute(["busybox", "sh", "-c", _PROBE, "sh", *map(str, targets)])
    row = []
    for line in told.splitlines():
        target, ping, *seen = line.split()
        address = ip_address(target)
        row.append(Crossing(source, targets[address], address, ping == "yes", _plain(seen[0]) if seen else None))
    return row


def _plain(text: str) -> Address:
    """An address as busybox's httpd tells it: in brackets, or IPv4 mapped into IPv6."""
    address = ip_address(text.strip("[]"))
    return getattr(address, "ipv4_mapped", None) or address


def seen_from(edge: Edge, pod: str, address: str) -> Address | None:
    """The source that the machine at ``address`` sees when the pod asks it; ``None`` if nothing comes through."""
    told = edge.execute(pod, "sh", "-c", _PROBE, "sh", address).split()
    return _plain(told[2]) if len(told) > 2 else None


def table(found: Sequence[Endpoint], tried: Sequence[Crossing], version: int) -> str:
    """One row per source; a cell is the source address seen at the destination, or what failed."""
    cells = {(each.source, each.destination): _cell(each) for each in tried if each.address.version == version}
    head = ["from \\ to", *(each.name for each in found)]
    rows = [[row.name, *(cells.get((row, column), "·") for column in found)] for row in found]
    widths = [max(len(line[index]) for line in [head, *rows]) for index in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *rows]
    )


def _cell(crossing: Crossing) -> str:
    if crossing.seen is None:
        return "no TCP" if crossing.ping else "nothing"
    return f"{crossing.seen}" + ("" if crossing.good else " (wrong)" if crossing.ping else " (no ping)")
