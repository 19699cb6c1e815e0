"""What everything in the lab has: an end that may be repeated, and the ``with`` statement."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """Exists from the moment it is made. Leaving the ``with`` statement closes it."""

    def close(self) -> None:
        """Take it down, with all it has. May be repeated."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Starting(Closing):
    """Made stopped. The ``with`` statement starts it; if that fails, it is closed again."""

    def start(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self
