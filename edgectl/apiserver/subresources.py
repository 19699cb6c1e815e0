"""Subresources that are no part of the object: binding, eviction and scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgectl.apiserver import errors
from edgectl.apiserver.disruption import budget_of, spent
from edgectl.apiserver.meta import timestamp
from edgectl.apiserver.options import DeleteOptions, ListOptions, WriteOptions
from edgectl.apiserver.resources import DISRUPTION_BUDGET, POD
from edgectl.apiserver.routes import delete_options
from edgectl.apiserver.tables import format_selector
from edgectl.apiserver.verbs import Api

Obj = dict[str, Any]


async def bind(api: Api, namespace: str, name: str, data: Any, options: WriteOptions) -> Obj:
    """Assign a pod to the node that a ``v1 Binding`` names.

    :raises ApiError: (409) if it is assigned to one already.
    """
    node = (data.get("target") or {}).get("name") if isinstance(data, dict) else None
    if not isinstance(node, str) or not node:
        raise errors.bad_request("target.name: Required value: the node to bind the pod to")
    uid = (data.get("metadata") or {}).get("uid")
    now = api.seconds()
    await api.rewrite(POD, namespace, name, lambda pod: assigned(pod, node, now, uid), dry_run=options.dry_run)
    return dict(_SUCCESS)


_SUCCESS: Obj = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
_EVICTIONS = ("policy/v1", "policy/v1beta1")


async def evict(api: Api, namespace: str, name: str, data: Any, options: WriteOptions) -> Obj:
    """Delete a pod as a ``policy Eviction`` asks, if its disruption budget allows it now.

    :raises ApiError: (400) if it is no eviction of this pod; (429) if it must wait.
    """
    data = data if isinstance(data, dict) else {}
    if data.get("kind") != "Eviction" or data.get("apiVersion") not in _EVICTIONS:
        raise errors.bad_request(f"the body of the request is no Eviction of {' or '.join(_EVICTIONS)}")
    if (data.get("metadata") or {}).get("name", name) != name:
        raise errors.bad_request("name in URL does not match name in Eviction object")
    asked: DeleteOptions = delete_options({"dryRun": "All"} if options.dry_run else {}, data.get("deleteOptions"))
    await _spend(api, namespace, name, dry_run=options.dry_run)
    await api.delete(POD, namespace, name, asked)
    return dict(_SUCCESS)


async def _spend(api: Api, namespace: str, name: str, *, dry_run: bool) -> None:
    """Take the eviction off the pod's disruption budget before the pod is deleted: two at once cannot both have it."""
    pod = await api.get(POD, namespace, name)
    budgets = await api.list(DISRUPTION_BUDGET, namespace, ListOptions())
    budget = budget_of(budgets.items, pod)
    if budget is None:
        return

    def edit(budget: Obj) -> Obj:
        return spent(budget, pod, api.seconds()) or budget

    await api.rewrite(DISRUPTION_BUDGET, namespace, budget["metadata"]["name"], edit, dry_run=dry_run)


def assigned(pod: Obj, node: str, now: float, uid: str | None = None) -> Obj:
    """The pod on its node, which its condition says.

    :raises ApiError: (409) if it has one, is being deleted, or is not the one of this uid.
    """
    name = pod["metadata"]["name"]
    if uid and uid != pod["metadata"]["uid"]:
        raise errors.conflict("", "pods/binding", name, f"the pod has the UID {pod['metadata']['uid']}, not {uid}")
    if pod["spec"].get("nodeName"):
        why = f'pod {name} is already assigned to node "{pod["spec"]["nodeName"]}"'
        raise errors.conflict("", "pods/binding", name, why)
    if "deletionTimestamp" in pod["metadata"]:
        raise errors.conflict("", "pods/binding", name, f"pod {name} is being deleted, cannot be assigned to a host")
    pod["spec"]["nodeName"] = node
    conditions = [one for one in pod["status"].get("conditions", ()) if one["type"] != "PodScheduled"]
    conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": timestamp(now)})
    pod["status"]["conditions"] = conditions
    return pod


def scale_of(obj: Obj) -> Obj:
    """The ``autoscaling/v1 Scale`` of a workload."""
    meta = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: meta[key] for key in kept if key in meta},
        "spec": {"replicas": obj["spec"].get("replicas", 0)},
        "status": {
            "replicas": obj.get("status", {}).get("replicas", 0),
            "selector": format_selector(obj["spec"].get("selector")),
        },
    }


def scaled(obj: Obj, edit: Callable[[Obj], Any]) -> Obj:
    """The workload with the replicas that an edit of its Scale asks for."""
    wanted = edit(scale_of(obj))
    replicas = (wanted.get("spec") or {}).get("replicas", 0) if isinstance(wanted, dict) else None
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        cause = errors.wrong("spec.replicas", replicas, "must be a whole number greater than or equal to 0")
        raise errors.invalid("autoscaling", "Scale", obj["metadata"]["name"], [cause])
    version = (wanted.get("metadata") or {}).get("resourceVersion")
    if version:
        obj["metadata"]["resourceVersion"] = version
    obj["spec"]["replicas"] = replicas
    return obj
