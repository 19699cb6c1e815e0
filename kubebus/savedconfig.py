"""A node's network configuration on disk, so that it can boot without a cloud."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from twisted.logger import Logger

from kubebus.control import LinkConfig, decode_config, encode_config
from kubebus.linkerrors import BadControlMessage

_log = Logger()


class SavedConfig:
    """The file ``path``. It always holds a whole configuration, the old one or the new one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> LinkConfig | None:
        """What was saved, or ``None``. A damaged file counts as none: the router tells everything again."""
        try:
            return decode_config(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError, BadControlMessage) as error:
            _log.error("{path} is damaged and not used: {error}", path=str(self._path), error=str(error))
            return None

    def save(self, config: LinkConfig) -> None:
        """Write it durably, if it differs from what is there by more than the time."""
        before = self.load()
        if before is not None and replace(before, time=config.time) == config:
            return
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._path.with_name(self._path.name + ".new")
        with open(new, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(json.dumps(encode_config(config), indent=1).encode())
            file.flush()
            os.fsync(file.fileno())
        new.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
