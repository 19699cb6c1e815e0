"""A transaction for the embedded store that is gathered in a file, and so costs no memory however large it is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

from twisted.internet.defer import Deferred

from metasync.model import Compare, Op, TxnResult
from metasync.mvcc import Outcome
from metasync.opcodec import pack_op, unpack_ops
from metasync.sqlite_file import SQLiteFile


class Spool:
    """Operations in a file that nobody else sees, beside the store (``/tmp`` may be memory). One thread uses it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._error: OSError | None = None

    def write(self, ops: Sequence[Op]) -> None:
        """What goes wrong is told by :meth:`read`."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder, prefix=".staged-")  # noqa: SIM115
            self._file.write(b"".join(map(pack_op, ops)))
        except OSError as error:
            self._error = self._error or error

    def read(self) -> Iterator[Op]:
        """:raises OSError: if not everything could be written."""
        if self._error is not None:
            raise self._error
        if self._file is None:
            return
        self._file.seek(0)
        yield from unpack_ops(self._file)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class SQLiteStage:
    """A :class:`metasync.interfaces.Stage`."""

    def __init__(self, folder: Path, ask: Callable[..., Deferred[Any]], watched: Callable[[bytes], bool]) -> None:
        self._spool = Spool(folder)
        self._ask = ask
        self._watched = watched

    async def add(self, ops: Sequence[Op]) -> None:
        await self._ask(lambda file: self._spool.write(ops))

    async def commit(self, compares: Sequence[Compare], last: Sequence[Op] = ()) -> TxnResult:
        try:
            outcome: Outcome = await self._ask(self._apply(compares, last), writes=True)
        finally:
            self.discard()
        return outcome.result

    def _apply(self, compares: Sequence[Compare], last: Sequence[Op]) -> Callable[[SQLiteFile], Outcome]:
        return lambda file: file.long_txn(compares, chain(self._spool.read(), last), self._watched)

    def discard(self) -> None:
        self._ask(lambda file: self._spool.close()).addErrback(lambda _: None)
