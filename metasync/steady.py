"""A reactor whose timers nobody can set back.

Twisted's timers follow the wall clock. On a device that boots in 1970, or whose clock is set back, every timer would
fire at once, or not for years: heartbeats, retries and probes with it.
"""

from __future__ import annotations

import time
from typing import Any


def steady(reactor: Any) -> None:
    """Let the reactor's time begin at the wall clock's, and go on evenly whatever becomes of that.

    To be called before the reactor's first timer.
    """
    offset = time.time() - time.monotonic()
    reactor.seconds = lambda: time.monotonic() + offset
