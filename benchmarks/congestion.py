"""TCP's congestion control in the namespaces that are measured in."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.waiting import LabError

_SETTINGS = Path("/proc/sys/net/ipv4")


def preset(settings: Path = _SETTINGS) -> str:
    """What the machine is set to, and namespaces with it."""
    return (settings / "tcp_congestion_control").read_text().strip()


def offered(settings: Path = _SETTINGS) -> list[str]:
    """What the kernel has."""
    return (settings / "tcp_available_congestion_control").read_text().split()


@contextmanager
def permitted(names: Collection[str], settings: Path = _SETTINGS) -> Iterator[None]:
    """Let namespaces have each of ``names`` as their default within the ``with`` statement.

    Linux lets them choose among those only that the machine's own setting permits to everybody; that is extended, and
    put back at the end.

    :raises LabError: if the kernel does not have one of them.
    """
    for name in names:
        if name not in offered(settings):
            raise LabError(f"this kernel has no congestion control {name!r}; it has {', '.join(offered(settings))}")
    allowed = settings / "tcp_allowed_congestion_control"
    before = allowed.read_text()
    more = sorted(set(names) - set(before.split()))
    if more:
        allowed.write_text(" ".join([*before.split(), *more]) + "\n")
    try:
        yield
    finally:
        if more:
            allowed.write_text(before)
