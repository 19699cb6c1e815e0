"""How far a target has come with a source: an opaque token to the target, a place in history to the source.

A revision alone does not name a place: a store restored from a snapshot counts on from there and may grow past
the saved revision, under the same cluster ID. So every connection of a sync server to its store writes a nonce,
and a cursor names the newest nonce at its revision. A store that shows another newest nonce at that revision has
another history.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

MAX_TOKEN = 1024
"""The most bytes of a token that anybody takes from a peer."""


class InvalidCursor(ValueError):
    """A token is none of ours. The target then gets a full comparison."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """All changes up to ``revision`` of the store ``identity``, in the history that ``nonce`` marks."""

    identity: str
    nonce: str
    revision: int

    @property
    def partial(self) -> bool:
        """The target has taken only a part of what makes it agree with the source: it stands at no place in history."""
        return not self.revision

    def token(self) -> bytes:
        return json.dumps([self.identity, self.nonce, self.revision], separators=(",", ":")).encode()

    @classmethod
    def parse(cls, token: bytes) -> Cursor:
        """:raises InvalidCursor: if it is no token of :meth:`token`."""
        try:
            identity, nonce, revision = json.loads(token[: MAX_TOKEN + 1])
        except (ValueError, TypeError) as error:
            raise InvalidCursor(f"not a cursor: {token[:40]!r}") from error
        if not (isinstance(identity, str) and isinstance(nonce, str) and type(revision) is int):
            raise InvalidCursor(f"not a cursor: {token[:40]!r}")
        return cls(identity, nonce, revision)


NO_PLACE = Cursor("", "", 0).token()
"""Of a target that has only a part of what makes it agree with its source."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A nonce and the revision that wrote it."""

    nonce: str
    revision: int


def newest_mark(marks: Sequence[Mark], revision: int) -> str | None:
    """The nonce that a history shows at ``revision``."""
    seen = [mark for mark in marks if mark.revision <= revision]
    return max(seen, key=lambda mark: mark.revision).nonce if seen else None


def continues(cursor: Cursor, identity: str, revision: int, marks: Sequence[Mark]) -> bool:
    """Whether a store, now at ``revision`` and with these marks, has the cursor's history behind it."""
    return (
        cursor.identity == identity
        and 0 < cursor.revision <= revision
        and newest_mark(marks, cursor.revision) == cursor.nonce
    )
