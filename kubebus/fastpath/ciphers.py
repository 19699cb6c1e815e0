"""Which TLS 1.3 cipher suites to offer, in which order: the fastest on this processor first."""

from __future__ import annotations

from pathlib import Path

_AES = b"TLS_AES_128_GCM_SHA256"
_CHACHA = b"TLS_CHACHA20_POLY1305_SHA256"
_AES_256 = b"TLS_AES_256_GCM_SHA384"


def has_aes(cpuinfo: str) -> bool:
    """Whether the processor computes AES itself, by what ``/proc/cpuinfo`` says of x86 (flags) and ARM (Features)."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return "aes" in value.split()
    return False


def cipher_suites(cpuinfo: Path = Path("/proc/cpuinfo")) -> bytes:
    """For ``Context.set_tls13_ciphersuites``. The router follows the edge, which has the weaker processor."""
    try:
        fast_aes = has_aes(cpuinfo.read_text())
    except OSError:
        fast_aes = False
    order = (_AES, _CHACHA, _AES_256) if fast_aes else (_CHACHA, _AES, _AES_256)
    return b":".join(order)
