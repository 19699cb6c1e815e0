"""When a container is probed and what the results mean (https://kubernetes.io/docs/concepts/workloads/pods/probes/).

No time and no IO here: a :class:`ProbeState` is told of results and says what they come to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from appengine.podspec import Container, Json


class ProbeKind(Enum):
    STARTUP = "startup"
    LIVENESS = "liveness"
    READINESS = "readiness"


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """A v1 Probe with its defaults filled in. Times in seconds."""

    kind: ProbeKind
    raw: Json
    initial_delay: float
    period: float
    timeout: float
    successes: int
    failures: int
    grace: int | None

    @classmethod
    def of(cls, kind: ProbeKind, raw: Json) -> ProbeSpec:
        def at_least(name: str, default: int, least: int) -> int:
            value = raw.get(name)
            return max(least, int(value)) if value else default

        return cls(
            kind,
            raw,
            float(at_least("initialDelaySeconds", 0, 0)),
            float(at_least("periodSeconds", 10, 1)),
            float(at_least("timeoutSeconds", 1, 1)),
            # More than one success means something for readiness only.
            at_least("successThreshold", 1, 1) if kind is ProbeKind.READINESS else 1,
            at_least("failureThreshold", 3, 1),
            raw.get("terminationGracePeriodSeconds"),
        )


def probes_of(container: Container) -> list[ProbeSpec]:
    return [ProbeSpec.of(kind, raw) for kind in ProbeKind if (raw := container.get(f"{kind.value}Probe")) is not None]


@dataclass(slots=True)
class ProbeState:
    """The results of one probe of one run of a container, so far."""

    spec: ProbeSpec
    passing: bool = field(default=False)
    _row: int = 0
    _last: bool | None = None

    def __post_init__(self) -> None:
        self.passing = self.passing or self.spec.kind is ProbeKind.LIVENESS

    def result(self, success: bool) -> bool:
        """Take a result; true if it settles anything: enough of a kind in a row."""
        self._row = self._row + 1 if success is self._last else 1
        self._last = success
        if self._row < (self.spec.successes if success else self.spec.failures):
            return False
        changed = self.passing != success
        self.passing = success
        # A failing startup or liveness probe says so every time: its container is to be replaced.
        return changed or (not success and self.spec.kind is not ProbeKind.READINESS)
