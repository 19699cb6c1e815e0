"""``python -m examples.kubernetes.image [FILE]``: the image of the cloud side, for ``docker load`` or containerd.

Made without a registry of images: Debian's Python and nftables by ``apt-get download``, and the Python packages as they
are installed in the environment that runs this (``./scripts/setup`` makes one). Load it on the EIP node::

    ctr -n k8s.io images import kubebus.tar        # containerd
    docker load -i kubebus.tar                     # Docker
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import sys
import tarfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from examples.images import PYTHON, build_image

CHECKOUT = Path(__file__).parents[2]
TAG = "kubebus:example"

_NFTABLES = (
    *("nftables", "libnftables1", "libnftnl11", "libmnl0", "libxtables12", "libjansson4", "libgmp10", "libedit2"),
    *("libtinfo6", "libbsd0", "libmd0"),
)
"""The program and the library, with what they need."""

_DEBS = (*PYTHON, *_NFTABLES, "libstdc++6")
_SITE = "usr/lib/python3.11/site-packages"
_PACKAGES = ("kubebus", "metasync", "edgectl", "appengine")
_PROGRAMS = {
    "twistd": "from twisted.scripts.twistd import run as main",
    "kubebus": "from kubebus.cli import main",
}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


def build(output: Path) -> Path:
    """Write the image, as ``docker save`` would, to ``output``.

    :raises LabError: if a Debian package cannot be got.
    """
    files: dict[str, bytes | Path] = {f"{_SITE}/{package}": CHECKOUT / package for package in _PACKAGES}
    for plugin in (CHECKOUT / "twistd_plugins").glob("*.py"):
        files[f"{_SITE}/twisted/plugins/{plugin.name}"] = plugin
    files.update(_installed("kubebus"))
    # Debian's Python does not look where pip would put them; its own folder leads there.
    files["usr/lib/python3/dist-packages/kubebus-site.pth"] = f"/{_SITE}\n".encode()
    for name, line in _PROGRAMS.items():
        files[f"usr/local/bin/{name}"] = f"#!/usr/bin/python3.11\nimport sys\n{line}\nsys.exit(main())\n".encode()
    _save(build_image("kubebus", debs=_DEBS, files=files), output)
    return output


def _installed(name: str) -> dict[str, bytes | Path]:
    """The files of all that the distribution needs (not its own), as they are installed here."""
    found: dict[str, bytes | Path] = {}
    for each in _needed(distribution(name), set()):
        for file in each.files or ():
            path = Path(str(each.locate_file(file)))
            if ".." not in file.parts and file.suffix != ".pyc" and path.is_file():
                found[f"{_SITE}/{file.as_posix()}"] = path
    return found


def _needed(of: Distribution, known: set[str], extras: frozenset[str] = frozenset({""})) -> Iterator[Distribution]:
    for text in of.requires or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not any(requirement.marker.evaluate({"extra": e}) for e in extras):
            continue
        wanted = frozenset({"", *requirement.extras})
        key = f"{requirement.name.lower()}[{','.join(sorted(wanted))}]"
        if key in known:
            continue
        known.add(key)
        try:
            found = distribution(requirement.name)
        except PackageNotFoundError:
            sys.exit(
                f"{requirement.name}, which {of.name} needs, is not installed here: use the Python of ./scripts/setup"
            )
        yield found
        yield from _needed(found, known, wanted)


def _save(rootfs: Path, output: Path) -> None:
    """As the image specification of Docker has it (https://github.com/moby/docker-image-spec, v1.2)."""
    digest = hashlib.sha256()
    with open(rootfs, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    machine = platform.machine()
    config = {
        "architecture": _ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONUNBUFFERED=1", "HOME=/root"],
            "Cmd": ["twistd", "--nodaemon", "--pidfile=", "kubebus", "--help"],
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest.hexdigest()}"]},
    }
    encoded = json.dumps(config).encode()
    name = f"{hashlib.sha256(encoded).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [TAG], "Layers": ["layer.tar"]}]
    with tarfile.open(output, "w") as tar:
        for path, data in ((name, encoded), ("manifest.json", json.dumps(manifest).encode())):
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        tar.add(rootfs, "layer.tar")


if __name__ == "__main__":
    print(build(Path(sys.argv[1] if len(sys.argv) > 1 else "kubebus.tar")))
