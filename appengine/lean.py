"""``python -m appengine.lean [twistd's options] edgenode …``: the agent in less memory than under ``twistd``.

What it leaves out, and what that brings on x86-64:

- docstrings and assertions (``python -OO``): 3 MB; the columns of a traceback's lines: 0.4 MB;
- a second OpenSSL: 5 MB. TLS is pyOpenSSL's here, which brings its own; ``asyncio``, which Twisted imports for its
  coroutines, loads the standard library's ``ssl``, and ``hashlib`` loads it for digests that Python has itself;
- modules that Twisted and pyroute2 import for what an agent does not do: 3 MB. They are there as soon as they are used;
- a heap for each thread, which stays as large as it ever was.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

_ENVIRONMENT = {
    # mallopt(3): one heap for all threads, and what is free at its end goes back.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}

LATE = ("ssl", "http.cookiejar", "pdb")
"""Modules that are imported, and never used by an agent."""


class Late(ModuleType):
    """Stands for a module until somebody wants something of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        real = importlib.import_module(self.__name__)
        self.__dict__.update(vars(real))
        return getattr(real, name)


def slim() -> None:
    """Keep out what is not needed, before anything else is imported."""
    if "hashlib" not in sys.modules:
        # As if this Python was built without it; hashlib and hmac know how to do without.
        sys.modules["_hashlib"] = None  # type: ignore[assignment]
    if "asyncio" not in sys.modules:
        sys.modules["ssl"] = None  # type: ignore[assignment]
        importlib.import_module("asyncio")
        del sys.modules["ssl"]
    for name in LATE:
        if name not in sys.modules:
            sys.modules[name] = Late(name)


def command(arguments: list[str]) -> list[str]:
    """The command line of the agent."""
    return [sys.executable, "-OO", "-X", "no_debug_ranges", "-m", __spec__.name, *arguments]


def main() -> None:
    if sys.flags.optimize < 2:
        os.execve(sys.executable, command(sys.argv[1:]), {**_ENVIRONMENT, **os.environ})
    slim()
    from twisted.scripts.twistd import run

    sys.argv[0] = "twistd"
    run()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
