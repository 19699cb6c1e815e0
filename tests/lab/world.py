"""What all tests of a class share, built once. Trial never calls ``setUpClass``; this works under both runners."""

from __future__ import annotations

import atexit
from contextlib import AbstractContextManager, ExitStack
from typing import ClassVar, TypeVar

T = TypeVar("T")


class SharedWorld:
    """A mixin to put before the test case class: override :meth:`build_world`, and use :meth:`keep` in it.

    The world is built when the first test of the class starts, and taken down after its last one, or when a test of
    another class starts, or when the process ends. If building fails, every test of the class fails with that error.
    """

    _standing: ClassVar[ExitStack | None] = None
    _standing_for: ClassVar[type[SharedWorld] | None] = None
    _failure: ClassVar[BaseException | None] = None

    @classmethod
    def build_world(cls) -> None:
        """Make the shared things and put them into class attributes."""
        raise NotImplementedError

    @classmethod
    def keep(cls, thing: AbstractContextManager[T]) -> T:
        """Enter ``thing`` (for the lab's classes: start it), and leave it when the world is taken down."""
        assert SharedWorld._standing is not None
        return SharedWorld._standing.enter_context(thing)

    def setUp(self) -> None:
        cls = type(self)
        if SharedWorld._standing_for is not cls:
            _take_down()
            SharedWorld._standing_for, SharedWorld._standing = cls, ExitStack()
            try:
                cls.build_world()
            except BaseException as error:
                SharedWorld._failure = error
        if SharedWorld._failure is not None:
            raise SharedWorld._failure
        super().setUp()  # type: ignore[misc]

    @classmethod
    def tearDownClass(cls) -> None:
        _take_down()
        super().tearDownClass()  # type: ignore[misc]


@atexit.register
def _take_down() -> None:
    standing = SharedWorld._standing
    SharedWorld._standing = SharedWorld._standing_for = SharedWorld._failure = None
    if standing is not None:
        standing.close()
