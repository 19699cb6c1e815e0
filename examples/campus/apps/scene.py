"""What a camera sees: a fixed yard with persons and vehicles moving through, and the truth of where they are.

All of it is a function of the camera's number and the time, so that truth needs no bookkeeping. Brightness is in steps
of an 8-bit sensor, lengths are in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 160, 120
HEADER = b"P5 %d %d 255\n" % (WIDTH, HEIGHT)
"""Frames travel as PGM (netpbm): this, and a byte for each pixel."""

NOISE = 5.0
"""Standard deviation of the sensor's noise."""
CONTRAST = 60.0
"""How much brighter things are than the ground."""

SHAPES = {"person": (3.0, 7.0), "vehicle": (10.0, 5.0)}
"""Half axes of the ellipses that things are at the middle distance, across and down."""
SCALES = (0.8, 1.0, 1.25)
"""Things look smaller at the top of the picture, and larger at the bottom."""

_MARGIN = 12.0


@dataclass(frozen=True)
class Thing:
    kind: str
    x: float
    y: float
    scale: float = 1.0


def _bounce(start: float, speed: float, time: float, low: float, high: float) -> float:
    """A position that goes to and fro between two walls."""
    span = high - low
    way = (start + speed * time) % (2 * span)
    return low + (way if way <= span else 2 * span - way)


class Scene:
    """One camera's.

    :param camera: its number; each sees another yard.
    """

    def __init__(self, camera: int) -> None:
        self._random = np.random.default_rng(1000 + camera)
        self._ground = self._yard()
        # Each thing has a lane of its own: nothing is hidden by something else.
        self._things = [
            (kind, *self._random.uniform((0, speed * 0.8), (200, speed * 1.2)), 20.0 + 27.0 * lane)
            for lane, (kind, speed) in enumerate(
                (("person", 9.0), ("vehicle", 22.0), ("person", 7.0), ("vehicle", 16.0))
            )
        ]
        self._rows, self._columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)

    def _yard(self) -> NDArray[np.float32]:
        """A smooth ground with paths and a wall."""
        coarse = self._random.uniform(60, 110, (7, 9))
        rows, columns = np.linspace(0, 6, HEIGHT), np.linspace(0, 8, WIDTH)
        across = np.array([np.interp(columns, np.arange(9), row) for row in coarse])
        ground = np.array([np.interp(rows, np.arange(7), across[:, column]) for column in range(WIDTH)]).T
        ground[:, 70:78] += 12
        ground[0:6, :] -= 25
        return ground.astype(np.float32)

    def truth(self, time: float) -> list[Thing]:
        """Where everything is, ``time`` seconds after the scene began."""
        found = []
        for kind, start, speed, lane in self._things:
            x, y = _bounce(start, speed, time, _MARGIN, WIDTH - _MARGIN), lane + 4 * float(np.sin(time / 5 + lane))
            found.append(Thing(kind, x, y, SCALES[0] + (SCALES[-1] - SCALES[0]) * y / HEIGHT))
        return found

    def frame(self, time: float) -> bytes:
        """What the sensor gives, as PGM; with the light of a slowly clouding day, and noise."""
        image = self._ground * (1.0 + 0.15 * np.sin(time / 20.0))
        for thing in self.truth(time):
            across, down = SHAPES[thing.kind]
            inside = ((self._columns - thing.x) / across) ** 2 + ((self._rows - thing.y) / down) ** 2 <= thing.scale**2
            image = image + CONTRAST * inside
        image = image + NOISE * self._random.standard_normal(image.shape, dtype=np.float32)
        pixels: bytes = np.clip(image, 0, 255).astype(np.uint8).tobytes()
        return HEADER + pixels


def match(found: list[Thing], truth: list[Thing], within: float = 6.0) -> tuple[int, int, int]:
    """How many were found rightly, falsely, and not at all; each truth is found once at most, by its own kind."""
    left = list(truth)
    right = 0
    for thing in found:
        near = [
            each for each in left if each.kind == thing.kind and np.hypot(each.x - thing.x, each.y - thing.y) <= within
        ]
        if near:
            left.remove(near[0])
            right += 1
    return right, len(found) - right, len(left)
