"""A room of three gates, and a hostile coordinator before them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from simulations.alliances import Alliance
from simulations.room import Room
from tests.attacks.hostile import Hostile


@pytest.fixture
def room(make_alliance: Callable[..., Alliance]) -> Iterator[Room]:
    with Room(make_alliance(), patience=5.0) as made:
        yield made


@pytest.fixture
def hostile(room: Room) -> Hostile:
    return Hostile(room.alliance, room.gates)
