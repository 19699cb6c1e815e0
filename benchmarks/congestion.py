"""TCP's congestion control in the namespaces that are measured in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.waiting import LabError

_SETTINGS = Path("/proc/sys/net/ipv4")


def preset(settings: Path = _SETTINGS) -> str:
    """What the machine is set to, and namespaces with it."""
    return (settings / "tcp_congestion_control").read_text().strip()


@contextmanager
def permitted(name: str, settings: Path = _SETTINGS) -> Iterator[None]:
    """Let namespaces have ``name`` as their default within the ``with`` statement.

    Linux lets them choose among those only that the machine's own setting permits to everybody; that is extended, and
    put back at the end.

    :raises LabError: if the kernel does not have it.
    """
    available = (settings / "tcp_available_congestion_control").read_text().split()
    if name not in available:
        raise LabError(f"this kernel has no congestion control {name!r}; it has {', '.join(available)}")
    allowed = settings / "tcp_allowed_congestion_control"
    before = allowed.read_text()
    if name in before.split():
        yield
        return
    allowed.write_text(f"{before.strip()} {name}\n")
    try:
        yield
    finally:
        allowed.write_text(before)
