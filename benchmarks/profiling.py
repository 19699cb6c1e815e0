"""Where a process's CPU goes: samples of ``perf``, counted by kind. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

PYTHON: Final = "python"
KERNEL: Final = "kernel"
CRYPTO: Final = "crypto"
COPYING: Final = "copying"
OTHER: Final = "other"
KINDS: Final = (PYTHON, KERNEL, CRYPTO, COPYING, OTHER)

# Where Linux 5.10 to 6.18 copies to and from users' memory, on x86-64 and ARM; and libc, under any of its variants.
_COPIES = re.compile(
    r"^(_?copy_(to|from)_(user|iter)|_copy_(to|from)_iter|__arch_copy_|__copy_user|copy_user_|rep_movs|copyin|copyout"
    r"|copy_page|_?_?memcpy|_?_?memmove|memcpy_orig|__mem(cpy|move)_|__pi_mem(cpy|move))"
)
_CRYPTO = ("_rust.abi3.so", "libcrypto", "libssl")
_PYTHON = ("libpython", "python3", "python")
# A line of `perf script -F pid,ip,sym,dso`.
_LINE = re.compile(r"^\s*(?P<pid>\d+)\s+[0-9a-f]+ (?P<symbol>.*) \((?P<object>[^()]*)\)\s*$")


@dataclass(frozen=True, slots=True)
class Sample:
    """Where one process was found at one moment."""

    pid: int
    symbol: str
    object: str

    @property
    def kind(self) -> str:
        name = self.object.rpartition("/")[2]
        if _COPIES.match(self.symbol):
            return COPYING
        if name.startswith("[") and name != "[vdso]":
            return KERNEL
        if name.startswith(_CRYPTO):
            return CRYPTO
        if name.startswith(_PYTHON) or (".cpython-" in name and "cffi" not in name):
            return PYTHON
        return OTHER

    def __str__(self) -> str:
        return f"{self.symbol.partition('+')[0]} ({self.object.rpartition('/')[2]})"


def samples(lines: Iterable[str]) -> Iterator[Sample]:
    """What ``perf script`` printed; lines that are none of a sample are passed over."""
    for line in lines:
        if match := _LINE.match(line):
            yield Sample(int(match["pid"]), match["symbol"], match["object"])


def shares(found: Iterable[Sample]) -> dict[str, float]:
    """Percent of the samples, by kind; empty if there are none."""
    counts = Counter(sample.kind for sample in found)
    whole = counts.total()
    return {kind: 100 * counts[kind] / whole for kind in KINDS} if whole else {}


def top(found: Iterable[Sample], most: int) -> list[str]:
    """The functions with the most samples, as lines of text."""
    counts = Counter(str(sample) for sample in found)
    whole = counts.total()
    return [f"{100 * count / whole:5.1f} %  {name}" for name, count in counts.most_common(most)]
