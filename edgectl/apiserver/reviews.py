"""Questions that are asked by creating an object which is never stored: who is this, and what may they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgectl.apiserver import errors
from edgectl.apiserver.identity import MASTERS, User
from edgectl.apiserver.resources import Resource

Obj = dict[str, Any]

TokenReviewer = Callable[[str, list[str]], User | None]
"""Whose token it is, for any of these audiences (none: the API's own)."""


def _user_info(user: User) -> Obj:
    info: Obj = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        info["uid"] = user.uid
    return info


def review(resource: Resource, data: Any, asking: User, of_token: TokenReviewer) -> Obj:
    """The answered review.

    :raises ApiError: (400) if the question is none.
    """
    spec = data.get("spec", {}) if isinstance(data, dict) else None
    if not isinstance(spec, dict):
        raise errors.bad_request(f"spec: a {resource.kind} needs one")
    answer: Obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": {}}
    if spec:
        answer["spec"] = spec
    return {**answer, "status": _STATUS[resource.kind](spec, asking, of_token)}


def _token(spec: Obj, asking: User, of_token: TokenReviewer) -> Obj:
    token, audiences = spec.get("token"), spec.get("audiences") or []
    if not isinstance(token, str) or not isinstance(audiences, list):
        raise errors.bad_request("spec.token: Required value")
    user = of_token(token, [str(one) for one in audiences])
    if user is None:
        return {"authenticated": False, "user": {}, "error": "invalid bearer token"}
    status: Obj = {"authenticated": True, "user": _user_info(user)}
    return {**status, "audiences": audiences} if audiences else status


def _self(spec: Obj, asking: User, of_token: TokenReviewer) -> Obj:
    return {"userInfo": _user_info(asking)}


def _allowed(groups: Any) -> Obj:
    allowed = isinstance(groups, list | tuple) and MASTERS in groups
    reason = f"members of {MASTERS} may do everything" if allowed else f"only members of {MASTERS} may use the API"
    return {"allowed": allowed, "reason": reason}


def _self_access(spec: Obj, asking: User, of_token: TokenReviewer) -> Obj:
    return _allowed(asking.groups)


def _access(spec: Obj, asking: User, of_token: TokenReviewer) -> Obj:
    return _allowed(spec.get("groups", spec.get("group")))


_STATUS: dict[str, Callable[[Obj, User, TokenReviewer], Obj]] = {
    "TokenReview": _token,
    "SelfSubjectReview": _self,
    "SelfSubjectAccessReview": _self_access,
    "SubjectAccessReview": _access,
}
