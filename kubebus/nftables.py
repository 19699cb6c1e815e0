"""nftables by its own library, libnftables: one transaction from text, as ``nft -f`` does it, without a process.

The library's C API is documented in libnftables(3); Debian has it with the package ``nftables``.
"""

from __future__ import annotations

import ctypes
from typing import Any


class NftablesError(Exception):
    """The rules could not be put in place. Nothing of them was. The message is the library's."""


class Nftables:
    """Rules of this network namespace.

    The library is loaded with the first rules: who needs none does not pay for it.
    """

    def __init__(self) -> None:
        self._library: Any = None
        self._context: int | None = None

    def run(self, commands: str) -> None:
        """Do all of ``commands`` (the language of nft(8)) as one transaction, or nothing. Takes milliseconds.

        :raises NftablesError: if the library is missing, or the kernel or the grammar refuses.
        """
        if self._context is None:
            self._load()
        if self._library.nft_run_cmd_from_buffer(self._context, commands.encode()) != 0:
            message = self._library.nft_ctx_get_error_buffer(self._context) or b"no reason given"
            raise NftablesError(message.decode(errors="replace").strip()[:2000])

    def close(self) -> None:
        """Let go of the library's memory. Rules stay."""
        if self._context is not None:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def _load(self) -> None:
        try:
            library = ctypes.CDLL("libnftables.so.1")
        except OSError as error:
            raise NftablesError(f"libnftables is missing ({error}): install nftables") from error
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        for name in ("nft_ctx_buffer_error", "nft_ctx_buffer_output", "nft_ctx_free"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
        library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        library.nft_ctx_get_error_buffer.argtypes = [ctypes.c_void_p]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        context = library.nft_ctx_new(0)
        # Else it writes to the daemon's own standard streams.
        library.nft_ctx_buffer_error(context)
        library.nft_ctx_buffer_output(context)
        self._library, self._context = library, context
