"""``python -m appengine.lean [twistd's options] edgenode …``: the agent in less memory than under ``twistd``.

``twistd edgenode`` becomes that by itself, in the same process, before it has opened anything. With
:data:`PLAIN` in its environment it stays as it is: to look for a fault with docstrings and assertions.

What it leaves out, and what that brings on x86-64:

- docstrings and assertions (``python -OO``): 3 MB; the columns of a traceback's lines: 0.4 MB;
- a second OpenSSL: 5 MB. TLS is pyOpenSSL's here, which brings its own; ``asyncio``, which Twisted imports for its
  coroutines, loads the standard library's ``ssl``, and ``hashlib`` loads it for digests that Python has itself;
- Twisted's own way to TLS, with ``service_identity``: 2 MB. Ours is :mod:`kubebus.fastpath`;
- what else ``twistd`` could run: 1.5 MB (:mod:`appengine.twistd`);
- modules that Python, Twisted and pyroute2 import for what an agent does not do: 4 MB. They are there as soon as they
  are used;
- a heap for each thread, which stays as large as it ever was.
"""

from __future__ import annotations

import importlib
import os
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

_ENVIRONMENT = {
    # mallopt(3): one heap for all threads, and what is free at its end goes back.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}

PLAIN = "EDGENODE_PLAIN"

_TWISTED_TLS = "twisted.internet.ssl"

LATE: dict[str, tuple[str, ...]] = {
    "asyncio.sslproto": (),
    "calendar": (),
    "html": ("escape",),
    "http.cookiejar": (),
    "locale": (),
    "pdb": (),
    "pickle": (),
    "shutil": ("rmtree",),
    "ssl": (),
    "zipfile": ("ZipFile",),
}
"""Modules that are imported and never used by an agent, and what others import from them by its name."""


class Late(ModuleType):
    """Stands for a module until somebody wants something of it.

    :param calls: what may be imported from it without that, and is called later.
    """

    def __init__(self, name: str, calls: tuple[str, ...] = ()) -> None:
        super().__init__(name)
        for call in calls:
            setattr(self, call, partial(_call, self, call))
        package = Path(os.__file__).parent / name
        if "." not in name and package.is_dir():
            # Its modules are found without it.
            self.__path__ = [str(package)]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return getattr(_real(self), name)


def _real(late: Late) -> ModuleType:
    if sys.modules.get(late.__name__) is late:
        del sys.modules[late.__name__]
        late.__dict__.update(vars(importlib.import_module(late.__name__)))
    return importlib.import_module(late.__name__)


def _call(late: Late, name: str, *arguments: Any, **named: Any) -> Any:
    return getattr(_real(late), name)(*arguments, **named)


def _import_without(module: str, *missing: str) -> None:
    """Import a module as it is where ``missing`` cannot be had; it knows how to do without."""
    if module in sys.modules or any(name in sys.modules for name in missing):
        return
    for name in missing:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        importlib.import_module(module)
    finally:
        for name in missing:
            del sys.modules[name]


def slim() -> None:
    """Keep out what is not needed, before anything else is imported."""
    keep_out()
    endpoints_without_tls()
    reactor_without_tls()


def keep_out() -> None:
    """The part of :func:`slim` that is about the standard library, and needs to be first."""
    if "hashlib" not in sys.modules:
        # As if this Python was built without it; hashlib and hmac know how to do without.
        sys.modules["_hashlib"] = None  # type: ignore[assignment]
    late = dict(LATE)
    # While there is none, asyncio knows that it has no TLS.
    without = late.pop("ssl")
    _stand_in(late)
    _import_without("asyncio", "ssl")
    _stand_in({"ssl": without})


def endpoints_without_tls() -> None:
    """Twisted's endpoints, before OpenSSL is there."""
    _import_without("twisted.internet.endpoints", _TWISTED_TLS, "OpenSSL.SSL")


def reactor_without_tls() -> None:
    """What all reactors have in common. After it everything may be imported."""
    _import_without("twisted.internet.posixbase", _TWISTED_TLS)
    _stand_in({_TWISTED_TLS: ()})
    # All that wrapClientTLS() needs: a node joins with it. Endpoints from strings ("ssl:...") stay without TLS.
    endpoints = importlib.import_module("twisted.internet.endpoints")
    tls = importlib.import_module("twisted.protocols.tls")
    setattr(endpoints, "TLSMemoryBIOFactory", tls.TLSMemoryBIOFactory)  # noqa: B010


def _stand_in(late: dict[str, tuple[str, ...]]) -> None:
    for name, calls in late.items():
        if name not in sys.modules:
            sys.modules[name] = Late(name, calls)


def command(arguments: list[str]) -> list[str]:
    """The command line of the agent."""
    return [sys.executable, "-OO", "-X", "no_debug_ranges", "-m", __spec__.name, *arguments]


def replace_twistd() -> None:
    """Go on as the lean agent, if this process is ``twistd`` and nothing but that. Does not return then."""
    # Interpreter and its options stand before the script and the script's own arguments.
    before = sys.orig_argv[: -len(sys.argv)]
    is_twistd = os.path.basename(sys.argv[0]) == "twistd" and len(before) == 1 and bool(sys.executable)
    if sys.flags.optimize < 2 and is_twistd and not os.environ.get(PLAIN):
        _become(sys.argv[1:])


def _become(arguments: list[str]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command(arguments), {**_ENVIRONMENT, **os.environ})


def main() -> None:
    if sys.flags.optimize < 2:
        _become(sys.argv[1:])
    slim()
    from twisted.application.app import run
    from twisted.scripts.twistd import runApp

    from appengine.twistd import Options

    sys.argv[0] = "twistd"
    run(runApp, Options)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
