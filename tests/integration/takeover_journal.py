"""When containers of pods ran, on all nodes of a site, by one clock: the machine's, which all their engines have."""

from __future__ import annotations

import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from tests.lab.engine import Engine

NAME = "io.kubernetes.container.name"
POD = "io.kubernetes.pod.name"
UID = "io.kubernetes.pod.uid"


@dataclass
class Run:
    """One run of one container, in UNIX seconds; ``end`` ``None``: it goes on."""

    pod: str
    node: str
    uid: str
    container: str
    start: float
    end: float | None = None

    def __str__(self) -> str:
        return f"{self.pod} on {self.node} as {self.uid[:8]}: {self.start:.3f} to {self.end or 0:.3f}"


class Journal:
    """What the engines say of starts and ends. One whose engine is killed ends when the test says so."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self._lock = threading.Lock()

    def follow(self, node: str, engine: Engine) -> None:
        """Until the engine goes away; to be called again for one that was started anew."""
        client = engine.client()
        stream = client.events(decode=True, filters={"type": "container", "event": ["start", "die"]})
        threading.Thread(target=self._read, args=(node, client, stream), daemon=True).start()

    def _read(self, node: str, client: Any, stream: Any) -> None:
        with closing(client), suppress(Exception):
            for event in stream:
                self._note(node, event)

    def _note(self, node: str, event: dict[str, Any]) -> None:
        labels, at = event["Actor"]["Attributes"], event["timeNano"] / 1e9
        if labels.get(NAME) != "main":
            return
        identity = event["Actor"]["ID"]
        with self._lock:
            if event["Action"] == "start":
                self.runs.append(Run(labels[POD], node, labels[UID], identity, at))
            for run in self.runs:
                if event["Action"] == "die" and run.container == identity and run.end is None:
                    run.end = at

    def power_cut(self, node: str) -> None:
        """Nothing runs on the node any more."""
        with self._lock:
            for run in self.runs:
                if run.node == node and run.end is None:
                    run.end = time.time()

    def of(self, pod: str) -> list[Run]:
        """In the order of their beginnings."""
        with self._lock:
            return sorted((run for run in self.runs if run.pod == pod), key=lambda run: run.start)

    def running(self, pod: str) -> list[tuple[str, str]]:
        """(node, UID) of what runs of a pod now."""
        return [(run.node, run.uid) for run in self.of(pod) if run.end is None]

    def overlaps(self, pod: str) -> list[str]:
        """Where two runs were at a time."""
        runs = self.of(pod)
        return [
            f"{one}; {other}"
            for number, one in enumerate(runs)
            for other in runs[number + 1 :]
            if one.end is None or other.start < one.end
        ]

    def gap(self, pod: str) -> float:
        """Seconds between the last two runs."""
        *_, before, last = self.of(pod)
        return last.start - (before.end or 0)
