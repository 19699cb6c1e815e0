"""Writes ``docs/pods.md``: every field of a v1 Pod, and what this node does with it.

``python -m appengine.poddocs > docs/pods.md``
"""

from __future__ import annotations

from collections.abc import Iterator

from appengine.podfields import POD
from appengine.schema import Field, Support, Type

_HEAD = """\
# What a node does with a Pod

The engine of an edge node takes v1 Pods. This page lists every field of them. A field is *supported*, *ignored* (it
says nothing to a node, for the reason given) or *refused*: a pod that sets it does not run, and its status says which
field it was (`phase: Failed`, `reason: UnsupportedPodSpec`). A field that is not in this list is refused as well.
Where a refused field says no more than if it were absent (`false`, `0`, an empty list), it is no obstacle.

The list is made from the table by which pods are checked (`appengine/podfields.py`): `python -m appengine.poddocs`.

## Where it differs from a kubelet

- **Restarts after a reboot.** When the machine or the container engine went down under a pod, the same containers are
  started again: same container IDs, restart counts unchanged, nothing copied, nothing pulled. A container that ended
  by itself is replaced by a new one, as everywhere.
- **`imagePullPolicy: Always`** pulls before each start of a new container; where the registry does not answer, an image
  that is present is used.
- **seccomp.** Without a `seccompProfile` containers run under the engine's default profile, not unconfined.
- **Service account tokens** are asked for by the cloud, which sends them as Secrets of their own and rewrites the pod's
  `serviceAccountToken` projection accordingly. In a pod that comes by another way (a static pod) the field is refused.
- **Secrets** are kept on a tmpfs. **ConfigMaps and Secrets** that change appear in running pods at once, by one swap of
  a symbolic link; environment variables and `subPath` mounts keep what they had, as everywhere.

## On the device

All of this works with no cloud at all.

- `kubebus pods`, `describe POD`, `logs POD`, `exec POD -- COMMAND`, `attach POD` and `stats` look after the pods.
- `kubebus takeovers` shows which of them [another node of the site](sites.md) may run, and which it runs for others.
- **Static pods**: manifests (JSON or YAML) in the folder `manifests` of the engine's directory
  (`pods/manifests` in the state directory). The folder is read every 20 seconds.
- **Images without a registry**: archives made by `docker save` in the folder `images` beside it. They are loaded when a
  pod needs an image that is not there, before anything is pulled.
- **Pressure**, as with a kubelet: memory below 100 MiB, disk below 10 % or inodes below 5 % free, processes above 95 %.
  Unused images go first, from 85 % of the disk on; then pods, one at a time: those over their requests first, then by
  priority. A condition ends five minutes after it was last true.
- **Host ports** lead to the pod from other machines and from the node itself, at its `127.0.0.1` too. (Not at `::1`.)

## Fields

| field | | remarks |
|---|---|---|
"""


def rows(type: Type, path: str = "") -> Iterator[tuple[str, Field]]:
    """Every field below a type, by its path; an element of a list is ``[]``."""
    if type.fields is not None:
        for name, field in type.fields.items():
            where = f"{path}.{name}" if path else name
            yield where, field
            if field.support is Support.SUPPORTED:
                yield from rows(field.type, where)
    elif type.items is not None:
        yield from rows(type.items, f"{path}[]")


def page() -> str:
    lines = []
    for path, field in rows(POD):
        if path.startswith("spec.initContainers[]."):
            continue
        remarks = field.note
        if field.only:
            values = ", ".join(f"`{value}`" for value in sorted(map(str, field.only)) if value)
            remarks = "; ".join(part for part in (remarks, f"only {values}") if part)
        lines.append(f"| `{path}` | {field.support.value} | {remarks} |")
        if path == "spec.initContainers":
            lines[-1] = f"| `{path}[]` | supported | the same fields as `spec.containers[]` |"
    return _HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
