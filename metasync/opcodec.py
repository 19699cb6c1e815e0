"""Puts and single deletions as bytes, for what is put aside before it is done."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO

from metasync.interfaces import StoreError
from metasync.model import Delete, Op, Put

_HEAD = struct.Struct("<BII")
_PUT, _DELETE = 1, 2


def pack_op(op: Op) -> bytes:
    """:raises StoreError: if it is another kind of operation."""
    if isinstance(op, Put) and not op.lease:
        return _HEAD.pack(_PUT, len(op.key), len(op.value)) + op.key + op.value
    if isinstance(op, Delete) and op.keys.end is None:
        return _HEAD.pack(_DELETE, len(op.keys.start), 0) + op.keys.start
    raise StoreError(f"{op} cannot be staged: only puts without a lease, and deletions of single keys")


def unpack_ops(file: IO[bytes]) -> Iterator[Op]:
    """What stands in a file from where it is, one after the other."""
    while head := file.read(_HEAD.size):
        kind, key, value = _HEAD.unpack(head)
        name = file.read(key)
        yield Put(name, file.read(value)) if kind == _PUT else Delete.single(name)
