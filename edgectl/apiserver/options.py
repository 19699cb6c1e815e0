"""What comes with a request beside the object: how to write, delete and list."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from edgectl.apiserver import errors

Obj = dict[str, Any]


@dataclass(frozen=True)
class WriteOptions:
    """``validation`` is ``Strict``, ``Warn`` or ``Ignore``: what becomes of unknown fields. ``warnings`` collects.

    ``manager`` is who makes the change, for those who apply on the server.
    """

    dry_run: bool = False
    validation: str = "Ignore"
    warnings: list[str] = field(default_factory=list)
    manager: str = "kubebus"


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """``grace`` in seconds (``None``: the object's own). ``propagation`` is ``Background|Foreground|Orphan``."""

    grace: int | None = None
    propagation: str = "Background"
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ListOptions:
    label_selector: str = ""
    field_selector: str = ""
    limit: int = 0
    continue_token: str = ""
    resource_version: str = ""
    exact: bool = False


@dataclass(frozen=True, slots=True)
class ListResult:
    items: list[Obj]
    revision: int
    continue_token: str = ""
    remaining: int = 0


def token(revision: int, next_key: bytes) -> str:
    data = {"v": "kubebus/1", "rv": revision, "start": next_key.decode()}
    return base64.urlsafe_b64encode(json.dumps(data).encode()).decode()


def position(options: ListOptions) -> tuple[int, bytes]:
    """Revision and first key of a page. The first page of a list is of now, unless an exact version is asked for."""
    if not options.continue_token:
        return (int(options.resource_version or 0) if options.exact else 0), b""
    try:
        data = json.loads(base64.urlsafe_b64decode(options.continue_token.encode()))
        return int(data["rv"]), str(data["start"]).encode()
    except (ValueError, KeyError, TypeError):
        raise errors.bad_request("continue key is not valid: list again without it") from None
