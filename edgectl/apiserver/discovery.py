"""What the API says of itself: versions, groups, resources, plain and aggregated."""

from __future__ import annotations

from typing import Any

from edgectl.apiserver.resources import Resource, group_versions, in_group

Obj = dict[str, Any]

EMULATED = (1, 29, 0)
"""The Kubernetes version whose behaviour this API follows."""

VERSION: Obj = {
    "major": str(EMULATED[0]),
    "minor": str(EMULATED[1]),
    "gitVersion": "v{}.{}.{}+kubebus".format(*EMULATED),
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "none",
    "compiler": "none",
    "platform": "linux/any",
}


def api_versions() -> Obj:
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group_list() -> Obj:
    groups = [group(name) for name in sorted({one for one, _ in group_versions() if one})]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(name: str) -> Obj:
    versions = [
        {"groupVersion": f"{one}/{version}", "version": version} for one, version in group_versions() if one == name
    ]
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": name,
        "versions": versions,
        "preferredVersion": versions[0],
    }


def resource_list(group: str, version: str) -> Obj:
    entries = [entry for one in in_group(group, version) for entry in _entries(one)]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": entries,
    }


def _entries(resource: Resource) -> list[Obj]:
    entry: Obj = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    return [entry, *(_sub_entry(resource, index) for index in range(len(resource.subresources)))]


def _sub_entry(resource: Resource, index: int) -> Obj:
    sub = resource.subresources[index]
    entry: Obj = {
        "name": f"{resource.plural}/{sub.name}",
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": sub.kind,
        "verbs": list(sub.verbs),
    }
    if sub.version:
        entry["group"], entry["version"] = sub.group, sub.version
    return entry


def aggregated(api_version: str, *, core: bool) -> Obj:
    """An ``APIGroupDiscoveryList``: all of ``/api`` or of ``/apis`` in one answer."""
    names = sorted({name for name, _ in group_versions() if (name == "") is core})
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": api_version,
        "metadata": {},
        "items": [_aggregated_group(name) for name in names],
    }


def _aggregated_group(name: str) -> Obj:
    versions = [
        {
            "version": version,
            "resources": [_aggregated_resource(one) for one in in_group(name, version)],
            "freshness": "Current",
        }
        for one_group, version in group_versions()
        if one_group == name
    ]
    return {"metadata": {"name": name, "creationTimestamp": None}, "versions": versions}


def _aggregated_resource(resource: Resource) -> Obj:
    entry: Obj = {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    if resource.subresources:
        entry["subresources"] = [
            {
                "subresource": sub.name,
                "responseKind": {
                    "group": sub.group if sub.version else resource.group,
                    "version": sub.version or resource.version,
                    "kind": sub.kind,
                },
                "verbs": list(sub.verbs),
            }
            for sub in resource.subresources
        ]
    return entry
