"""The demo world, drawn once a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.wat2mds.programs import Programs
from wat2mds.world.demo_world import World, draw_world
from wat2mds.world.origin import Origin


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return draw_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def origin(world: World) -> Iterator[Origin]:
    """The demo world's web."""
    with world.origin() as server:
        yield server


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    """``wat2mds`` as processes that start at once."""
    with Programs() as server:
        yield server
