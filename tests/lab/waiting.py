"""Waiting for conditions instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class LabError(Exception):
    """Something in the lab did not come up or did not happen in time. The message holds what was seen."""


def wait_until(condition: Callable[[], T], timeout: float, what: str, interval: float = 0.05) -> T:
    """Call ``condition`` until it gives something true, and return that.

    An exception of it counts as "not yet"; the last one is the cause of the error.

    :param timeout: seconds.
    :raises LabError: after ``timeout``, naming ``what`` was awaited.
    """
    deadline = time.monotonic() + timeout
    while True:
        cause: Exception | None = None
        try:
            result = condition()
            if result:
                return result
            seen = repr(result)
        except Exception as error:
            cause = error
            seen = f"{type(error).__name__}: {error}"
        if time.monotonic() >= deadline:
            raise LabError(f"not within {timeout:g} s: {what} (last: {seen[:500]})") from cause
        time.sleep(interval)
