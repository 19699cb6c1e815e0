"""What an operator says of the balancing: places in order of preference, bounds, times. Read from JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


class PolicyError(ValueError):
    """The policy cannot be used. The message names the field and what is allowed."""


@dataclass(frozen=True)
class Place:
    """Where workers are. Earlier places are preferred while they are fast enough."""

    name: str
    url: str
    """Where items are posted. Every address of the host name is a worker of its own."""
    in_flight: int = 2
    """Items that one worker has at once: one to work on, one to have at hand."""
    uplink: bool = False
    """Whether items go there over a link that is slow enough to be measured and shared by all its workers."""


@dataclass(frozen=True)
class Policy:
    places: tuple[Place, ...]
    deadline: float = 2.0
    """Seconds after which the answer to an item is worth nothing."""
    patience: float = 0.8
    """A place is passed over for the next one when its answer is expected later than so many seconds."""
    queue: int = 8
    """Items that wait at most. One more, and the oldest is refused."""
    attempt: float = 1.2
    """Seconds after which an item is taken back from a worker, to be given to another while there is time."""
    probe: float = 2.0
    """Seconds between probes of workers that are down, or of a link that carries nothing."""
    least_rate: float = 0.5
    """Items a second that a source is never told to fall below."""
    places_by_name: Mapping[str, Place] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "places_by_name", {place.name: place for place in self.places})

    @classmethod
    def parse(cls, text: str) -> Policy:
        """:raises PolicyError: for anything that is unknown, missing or out of range."""
        try:
            found = json.loads(text)
        except ValueError as error:
            raise PolicyError(f"the policy is not JSON: {error}") from error
        if not isinstance(found, dict) or not isinstance(found.get("places"), list) or not found["places"]:
            raise PolicyError("places: a list of at least one place is needed")
        places = tuple(_place(each, f"places[{index}]") for index, each in enumerate(found.pop("places")))
        names = [place.name for place in places]
        if len(set(names)) < len(names):
            raise PolicyError(f"places: each name may be there once; found {', '.join(names)}")
        settings: dict[str, Any] = {}
        for name, value in found.items():
            key = name.replace("-", "_")
            if key not in _BOUNDS:
                raise PolicyError(f"{name}: there is no such setting; there are {', '.join(sorted(_BOUNDS))}")
            settings[key] = _number(value, name, *_BOUNDS[key])
        if "queue" in settings:
            settings["queue"] = int(settings["queue"])
        policy = cls(places, **settings)
        if not policy.patience <= policy.deadline or not policy.attempt <= policy.deadline:
            raise PolicyError("patience and attempt: may not be longer than deadline")
        return policy


_BOUNDS = {
    "deadline": (0.05, 3600.0),
    "patience": (0.01, 3600.0),
    "queue": (1.0, 10_000.0),
    "attempt": (0.05, 3600.0),
    "probe": (0.1, 3600.0),
    "least_rate": (0.01, 1000.0),
}


def _number(value: object, name: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise PolicyError(f"{name}: {value!r} is not allowed; a number from {least:g} to {most:g} is")
    return float(value)


def _place(found: object, where: str) -> Place:
    if not isinstance(found, dict) or not isinstance(found.get("name"), str) or not found["name"]:
        raise PolicyError(f"{where}: an object with a name is needed")
    if set(found) - {"name", "url", "in-flight", "uplink"}:
        raise PolicyError(f"{where}: has {', '.join(sorted(found))}; allowed are name, url, in-flight, uplink")
    url = found.get("url")
    try:
        good = isinstance(url, str) and urlsplit(url).scheme == "http" and bool(urlsplit(url).hostname)
        good = good and isinstance(url, str) and urlsplit(url).port != 0
    except ValueError:
        good = False
    if not good or not isinstance(url, str):
        raise PolicyError(f"{where}.url: {url!r} is not allowed; http://NAME[:PORT]/PATH is")
    uplink = found.get("uplink", False)
    if not isinstance(uplink, bool):
        raise PolicyError(f"{where}.uplink: {uplink!r} is not allowed; true or false is")
    in_flight = int(_number(found.get("in-flight", 2), f"{where}.in-flight", 1, 1000))
    return Place(found["name"], url, in_flight, uplink)
