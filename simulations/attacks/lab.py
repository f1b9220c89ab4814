"""Where attacks are tried: copies of a signed alliance, real gates over them, real matches between them.

What an attacker has is said in each attack. What it cannot have, and has here, is the truth that its guess is
judged by. Simulated: the transport and the exchange, as in :mod:`simulations.room`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import tomli_w

from client.home import Home
from privacy.programs.columns import Column
from protos import wire
from protos.toml import read_toml
from server.home import Home as CoordinatorHome
from simulations.alliances import Alliance, create
from simulations.attacks import tables
from simulations.attacks.hostile import Hostile, Opened, job
from simulations.attacks.tables import TARGET as TARGET
from simulations.attacks.tables import Person, person
from simulations.room import Room

T = TypeVar("T")
PEOPLE, APART = 120, 60
"""Customers of each partner, and how many of them the next one has not."""
KINDS: dict[str, dict[str, Any]] = {
    "three": {"names": ["bank", "shop", "telecom"]},
    "four": {"names": ["bank", "shop", "telecom", "utility"], "privacy": {"dropouts": 1}},
    "two": {"names": ["bank", "shop"]},
    "declared": {
        "names": ["bank", "shop"],
        "matching": {"assumes": "semi_honest"},
    },
    "fast": {
        "names": ["bank", "shop"],
        "matching": {"assumes": "semi_honest", "engine": "fast"},
    },
    "undeclared": {"names": ["bank", "shop"], "matching": {"engine": "fast"}},
    "small": {"names": ["bank", "shop"], "matching": {"bucket": 64}},
}
"""Contracts: with and without dropouts, and for matches of two with and without ``assumes``."""
WHO = person(900_001, Random(0)) | {"id": "C900001", "age": "43", "spend": "77", "region": "east"}
"""The person that attackers ask about: a customer of the bank, or not."""


@dataclass
class World:
    """An alliance of one's own, to be spoiled. ``root``: its folder."""

    root: Path
    alliance: Alliance

    @contextmanager
    def room(self, **settings: Any) -> Iterator[tuple[Room, Hostile]]:
        """Its gates, started, and who speaks to them."""
        with Room(self.alliance, patience=settings.pop("patience", 20.0), **settings) as room:
            yield room, Hostile(self.alliance, room.gates, room.clock)

    def settings(self, name: str = TARGET, **sections: Any) -> None:
        """Change sections of a ``partner.toml``."""
        home = self.alliance.partners[name]
        plain = read_toml(home.config_file)
        for section, values in sections.items():
            plain[section] = plain.get(section, {}) | values
        home.config_file.write_text(tomli_w.dumps(plain), encoding="utf-8")

    @property
    def bank(self) -> Home:
        """The attacked partner's folder."""
        return self.alliance.partners[TARGET]

    def table(self, rows: Sequence[Person], name: str = TARGET) -> None:
        """Write a partner's table."""
        tables.write(self.root / f"{name}.csv", list(rows))

    def columns(self) -> dict[str, Column]:
        """What the contract declares."""
        return self.alliance.contract.declared_columns()


@dataclass(frozen=True)
class Stage:
    """A world, its gates, and who speaks to them."""

    world: World
    room: Room
    hostile: Hostile


@dataclass
class Lab:
    """One run's folder. ``kept``: what an attacker worked out once, for all of its trials."""

    root: Path
    kept: dict[Any, Any] = field(default_factory=dict)
    _bases: dict[str, Alliance] = field(default_factory=dict)
    _made: int = 0
    _open: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """End what is open for several trials."""
        self._open.close()
        self.kept.clear()

    def until_closed(self, end: Callable[[], object]) -> None:
        """Do something when all trials are over."""
        self._open.callback(end)

    def stays(self, kind: str = "three", rows: Sequence[Person] | None = None) -> Stage:
        """A world with its gates started, open until all trials are over."""
        world = self._open.enter_context(self.world(kind, rows))
        room, hostile = self._open.enter_context(world.room())
        return Stage(world, room, hostile)

    @contextmanager
    def world(self, kind: str = "three", rows: Sequence[Person] | None = None) -> Iterator[World]:
        """A fresh copy of an alliance; ``rows``: of the bank, instead of its own."""
        base = self._base(kind)
        self._made += 1
        root = self.root / f"world-{self._made}"
        shutil.copytree(self.root / kind, root)
        homes = {name: Home(root / name) for name in base.partners}
        copy = Alliance(base.contract, CoordinatorHome(root / "coordinator"), homes)
        made = World(root, copy)
        if rows is not None:
            made.table(rows)
        try:
            yield made
        finally:
            shutil.rmtree(root, ignore_errors=True)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """An empty folder."""
        self._made += 1
        root = self.root / f"folder-{self._made}"
        root.mkdir()
        try:
            yield root
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What ``make`` gives, made at the first trial that asks."""
        if key not in self.kept:
            self.kept[key] = make()
        found: T = self.kept[key]
        return found

    def _base(self, kind: str) -> Alliance:
        if kind not in self._bases:
            self._bases[kind] = base(self.root / kind, **KINDS[kind])
        return self._bases[kind]


def base(
    root: Path,
    names: Sequence[str],
    ports: tuple[int, int, int] = (9, 9, 9),
    **changes: dict[str, Any],
) -> Alliance:
    """An alliance that everybody signed; ``changes``: to sections of the contract's terms."""
    root.mkdir(parents=True)
    terms = tables.terms("three")
    for unwanted in ("assumes", "engine"):
        terms["matching"].pop(unwanted, None)
    terms["privacy"] |= {"epsilon": 60.0, "epsilon_per_person": 100.0, "rows_per_person": 1}
    terms["matching"] |= {"bucket": 4096, "largest_set": 100_000}
    for section, values in changes.items():
        terms[section] |= values
    data: dict[str, Any] = {}
    for index, name in enumerate(names):
        tables.write(root / f"{name}.csv", people(APART * index))
        data[name] = {
            "source": f"../{name}.csv",
            "person": "id",
            "columns": {column: column for column in tables.COLUMNS},
            "identifiers": {"email": "mail", "phone": "mobile"},
        }
    made = create(root, names, terms, data, ports=ports)
    for home in made.partners.values():
        plain = read_toml(home.config_file) | {"limits": tables.LIMITS}
        plain["rules"]["send_lists_to"] = list(terms["matching"]["recipients"])
        home.config_file.write_text(tomli_w.dumps(plain), encoding="utf-8")
    return made


def people(first: int, count: int = PEOPLE) -> list[Person]:
    """Customers number ``first`` and on; the same number is the same person everywhere."""
    return [person(number, Random(number)) for number in range(first, first + count)]


def with_or_without(there: bool) -> list[Person]:
    """The bank's rows, :data:`WHO` among them or not; as many either way."""
    rows = people(0)
    if there:
        rows[17] = WHO
    return rows


def told_apart(seen: T, references: Sequence[T], rng: Random) -> int:
    """Which of the worlds that an attacker played through for himself looks like what he saw; one at random
    if several do, or none."""
    fits = [number for number, each in enumerate(references) if each == seen]
    return fits[0] if len(fits) == 1 else rng.randrange(len(references))


def matching(result: str, epsilon: float = 1.0, **more: Any) -> Any:
    """A match of bank and shop by e-mail; exact ones cost nothing."""
    plain = {"identifier": "email", "parties": ["bank", "shop"], "result": result, **more}
    noisy = result in ("size", "sum", "overlap")
    return job(name="match", kind="match", epsilon=epsilon if noisy else 0.0, match=plain)


def at_once(hostile: Hostile, opened: Opened, names: Sequence[str]) -> dict[str, wire.ReplyBody]:
    """What gates answer to ``match``, all asked at the same time."""
    with ThreadPoolExecutor(len(names)) as pool:
        asked = {n: pool.submit(hostile.send, n, opened.id, match=wire.Match()) for n in names}
        return {name: each.result() for name, each in asked.items()}


def files(root: Path) -> dict[str, bytes]:
    """Every file below a folder, but for SQLite's own."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith("gate.db")
    }
