"""What the files of a ``configMap``, ``secret``, ``downwardAPI`` or ``projected`` volume hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from appengine.environment import ConfigError, Facts, Objects, contents, field_value, resource_value
from appengine.podspec import Json, Pod

_DEFAULT_MODE = 0o644

PROJECTED_KINDS = ("configMap", "secret", "downwardAPI", "projected")


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    mode: int


def is_secret(volume: Json) -> bool:
    """Whether a volume's files belong in memory only."""
    return bool(volume.get("secret")) or any(
        source.get("secret") for source in (volume.get("projected") or {}).get("sources") or ()
    )


def volume_files(pod: Pod, volume: Json, objects: Objects, facts: Facts) -> dict[str, File]:
    """Relative path → file.

    :raises ConfigError: if an object or a key that is not optional is not there, or a path leaves the volume.
    """
    files: dict[str, File] = {}
    for kind in PROJECTED_KINDS:
        source = volume.get(kind)
        if source is None:
            continue
        mode = _mode(source.get("defaultMode"), _DEFAULT_MODE)
        if kind != "projected":
            files.update(_source_files(pod, kind, source, mode, objects, facts))
            continue
        for part in source.get("sources") or ():
            for inner, described in part.items():
                files.update(_source_files(pod, inner, described or {}, mode, objects, facts))
    for path in files:
        if path.startswith(("/", "..")) or ".." in path.split("/") or not path:
            raise ConfigError(f"volume {volume.get('name')!r}: path {path[:100]!r} leaves the volume")
    return files


def _mode(value: int | None, default: int) -> int:
    return default if value is None else value & 0o777


def _source_files(pod: Pod, kind: str, source: Json, mode: int, objects: Objects, facts: Facts) -> dict[str, File]:
    if kind == "downwardAPI":
        return {
            str(item.get("path") or ""): File(
                _downward(pod, item, facts).encode("utf-8", "surrogateescape"), _mode(item.get("mode"), mode)
            )
            for item in source.get("items") or ()
        }
    what = "secret" if kind == "secret" else "configmap"
    name = str(source.get("secretName") or source.get("name") or "")
    optional = bool(source.get("optional"))
    found = contents(objects, what, pod.ref.namespace, name, optional)
    if found is None:
        return {}
    items = source.get("items")
    if not items:
        return {key: File(value, mode) for key, value in found.items()}
    return _chosen(found, items, mode, f'{what} "{name}"', optional)


def _chosen(found: Mapping[str, bytes], items: list[Json], mode: int, what: str, optional: bool) -> dict[str, File]:
    files = {}
    for item in items:
        key = str(item.get("key") or "")
        if key in found:
            files[str(item.get("path") or key)] = File(found[key], _mode(item.get("mode"), mode))
        elif not optional:
            raise ConfigError(f"{what}: references non-existent config key: {key}")
    return files


def _downward(pod: Pod, item: Json, facts: Facts) -> str:
    if ref := item.get("fieldRef"):
        return field_value(pod, str(ref.get("fieldPath") or ""), facts)
    ref = item.get("resourceFieldRef") or {}
    return resource_value(pod, pod.containers[0], ref, facts)
