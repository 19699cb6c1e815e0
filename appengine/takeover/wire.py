"""Letters as bytes: one JSON object each. Everything that comes is checked before it is used.

``standing`` is left out where it is what the same stream has said last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, NoReturn

from appengine.takeover.electorate import MAX_CONFIGS
from appengine.takeover.messages import (
    MAX_BALLOT,
    MAX_UIDS,
    Answer,
    Config,
    Hello,
    Kind,
    Letter,
    Refused,
    Request,
    Standing,
    Why,
)
from appengine.takeover.timing import LONGEST, USUAL

MAX_LETTER: Final = 256 * 1024
"""Bytes. The longest there can be: eight rosters of 256 nodes (140 KB), and 500 refusals (100 KB)."""

_MAX_MEMBERS: Final = 256
_MAX_SECONDS: Final = 3600.0
_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
_NAME = re.compile(r"[0-9a-z]([0-9a-z-]{0,61}[0-9a-z])?")
_RUN = re.compile(r"[0-9a-f]{1,32}")


class InvalidLetter(ValueError):
    """What came is no letter. The message says why."""


class Writer:
    """The letters of one direction of a stream."""

    def __init__(self) -> None:
        self._told: Standing | None = None

    def encode(self, letter: Letter) -> bytes:
        fields: dict[str, Any] = {}
        if letter.standing != self._told:
            self._told = letter.standing
            fields["standing"] = standing_fields(letter.standing)
        name, content = _body(letter.body)
        fields[name] = content
        return json.dumps(fields, separators=(",", ":")).encode()


class Reader:
    """The letters of the other."""

    def __init__(self) -> None:
        self._told: Standing | None = None

    def decode(self, data: bytes) -> Letter:
        """:raises InvalidLetter: if it is none; the stream is of no use then."""
        if len(data) > MAX_LETTER:
            raise InvalidLetter(f"it has {len(data)} bytes; {MAX_LETTER} are allowed")
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InvalidLetter(f"it is not JSON: {type(error).__name__}") from None
        if not isinstance(fields, dict):
            _wrong("the letter", "an object")
        if "standing" in fields:
            self._told = _standing(_object(fields, "standing"))
        if self._told is None:
            _wrong("standing", "in the first letter of a stream")
        name = next((each for each in _BODIES if each in fields), None)
        if name is None:
            _wrong("the letter", f"one with {', '.join(_BODIES)}")
        return Letter(self._told, _BODIES[name](_object(fields, name)))


def read_standing(fields: object) -> Standing:
    """What :func:`standing_fields` has made, from disk.

    :raises InvalidLetter: if it is anything else.
    """
    if not isinstance(fields, dict):
        _wrong("the standing", "an object")
    return _standing(fields)


def standing_fields(standing: Standing) -> dict[str, Any]:
    rosters = [[config.revision, list(config.members)] for config in standing.configs]
    return {"voter": standing.established, "rosters": rosters, "lease": standing.lease}


# Within: writing


def _body(body: Request | Answer | Hello) -> tuple[str, dict[str, Any]]:
    if isinstance(body, Hello):
        return "hello", {"answer": body.answer}
    told: dict[str, Any] = {"kind": body.kind.value, "run": body.run, "ballot": body.ballot}
    if isinstance(body, Request):
        return "request", {**told, "length": body.length, "uids": body.uids}
    refused = [[each.uid, each.why.value, each.holder, round(each.remaining, 3), each.ballot] for each in body.refused]
    return "answer", {**told, "granted": body.granted, "refused": refused}


# Within: reading


def _standing(fields: dict[str, Any]) -> Standing:
    voter = _is_bool(fields, "voter")
    configs = []
    for entry in _list(fields, "rosters", MAX_CONFIGS):
        if not isinstance(entry, list) or len(entry) != 2:
            _wrong("rosters", "pairs of revision and members")
        members = _texts(entry[1], "members", _MAX_MEMBERS, _NAME)
        if not members or list(members) != sorted(set(members)):
            _wrong("members", "names in order, each once")
        configs.append(Config(_whole(entry[0], "revision"), members))
    if sorted(configs, key=lambda config: config.revision) != configs:
        _wrong("rosters", "by revision")
    lease = _seconds(fields.get("lease", USUAL), "lease", LONGEST)
    return Standing(voter, tuple(configs), lease)


def _request(fields: dict[str, Any]) -> Request:
    kind, run, ballot = _head(fields)
    length = _seconds(fields.get("length"), "length")
    return Request(kind, run, ballot, length, _texts(fields.get("uids"), "uids", MAX_UIDS, _UID))


def _answer(fields: dict[str, Any]) -> Answer:
    granted = _texts(fields.get("granted"), "granted", MAX_UIDS, _UID)
    refused = tuple(_refused(entry) for entry in _list(fields, "refused", MAX_UIDS))
    return Answer(*_head(fields), granted, refused)


def _refused(entry: object) -> Refused:
    if not isinstance(entry, list) or len(entry) != 5:
        _wrong("refused", "lists of five")
    uid, why, holder, remaining, ballot = entry
    if not isinstance(why, str) or why not in set(Why):
        _wrong("refused", "with a reason that is known")
    if holder != "":
        holder = _text(holder, "holder", _NAME)
    return Refused(
        _text(uid, "uid", _UID), Why(why), holder, _seconds(remaining, "remaining"), _whole(ballot, "ballot")
    )


def _hello(fields: dict[str, Any]) -> Hello:
    return Hello(_is_bool(fields, "answer"))


_BODIES: Final[dict[str, Callable[[dict[str, Any]], Request | Answer | Hello]]] = {
    "request": _request,
    "answer": _answer,
    "hello": _hello,
}


def _head(fields: dict[str, Any]) -> tuple[Kind, str, int]:
    kind = fields.get("kind")
    if not isinstance(kind, str) or kind not in set(Kind):
        _wrong("kind", "one that is known")
    return Kind(kind), _text(fields.get("run"), "run", _RUN), _whole(fields.get("ballot"), "ballot")


def _object(fields: dict[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    if not isinstance(value, dict):
        _wrong(name, "an object")
    return value


def _is_bool(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name)
    if not isinstance(value, bool):
        _wrong(name, "true or false")
    return value


def _list(fields: dict[str, Any], name: str, most: int) -> list[Any]:
    value = fields.get(name)
    if not isinstance(value, list) or len(value) > most:
        _wrong(name, f"a list of at most {most}")
    return value


def _texts(value: object, name: str, most: int, form: re.Pattern[str]) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > most:
        _wrong(name, f"a list of at most {most}")
    return tuple(_text(each, name, form) for each in value)


def _text(value: object, name: str, form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        _wrong(name, f"a text like {form.pattern}")
    return value


def _whole(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_BALLOT:
        _wrong(name, "a whole number below 2^52")
    return value


def _seconds(value: object, name: str, most: float = _MAX_SECONDS) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
        _wrong(name, f"seconds, at most {most:.0f}")
    return float(value)


def _wrong(name: str, wanted: str) -> NoReturn:
    raise InvalidLetter(f"{name} is wrong: it must be {wanted}")
