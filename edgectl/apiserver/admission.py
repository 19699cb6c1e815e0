"""What the API adds to a pod that is made: its service account's token, as Kubernetes' plugin ``ServiceAccount`` does.

The rules and names are those of ``k8s.io/kubernetes/plugin/pkg/admission/serviceaccount``.
"""

from __future__ import annotations

import copy
import random
from typing import Any

Obj = dict[str, Any]

MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
VOLUME_PREFIX = "kube-api-access-"
TOKEN_SECONDS = 3607
"""Asked for where nobody asked for a token: it tells the API that it is to serve for long, see ``AccountTokens``."""

ROOT_CA = "kube-root-ca.crt"

_MIRROR = "kubernetes.io/config.mirror"
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def mounts_token(pod: Obj, account: Obj | None) -> bool:
    """Whether a pod gets a token it did not ask for: the pod's own word goes first, then its account's."""
    for said in (pod["spec"].get("automountServiceAccountToken"), (account or {}).get("automountServiceAccountToken")):
        if said is not None:
            return bool(said)
    return True


def admit(pod: Obj, account: Obj | None) -> None:
    """Give a new pod what its account has for it, in place.

    :param account: ``None``: it has not been made yet, and says nothing.
    """
    if _MIRROR in pod["metadata"].get("annotations", {}):
        return
    spec = pod["spec"]
    if account is not None and account.get("imagePullSecrets") and not spec.get("imagePullSecrets"):
        spec["imagePullSecrets"] = copy.deepcopy(account["imagePullSecrets"])
    if mounts_token(pod, account):
        _mount(spec)


def _mount(spec: Obj) -> None:
    volumes = spec.get("volumes", [])
    # A pod that was read somewhere and is made here again has its volume already.
    there = next((one["name"] for one in volumes if str(one.get("name")).startswith(VOLUME_PREFIX)), None)
    name = there or VOLUME_PREFIX + "".join(random.choices(_LETTERS, k=5))
    needed = False
    for container in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        mounts = container.get("volumeMounts", [])
        if all(one.get("mountPath") != MOUNT_PATH for one in mounts):
            container["volumeMounts"] = [*mounts, {"name": name, "readOnly": True, "mountPath": MOUNT_PATH}]
            needed = True
    if needed and there is None:
        spec["volumes"] = [*volumes, _volume(name)]


def _volume(name: str) -> Obj:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    sources: list[Obj] = [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": ROOT_CA, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]
    return {"name": name, "projected": {"sources": sources, "defaultMode": 0o644}}
