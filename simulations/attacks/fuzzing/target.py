"""What a target of fuzzing is: something that takes one input after another, and says how far each came."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

from simulations.attacks.tables import Base


@dataclass(frozen=True)
class Came:
    """How far an input came. ``signed``: validly, with a key that whoever received it trusts; ``reached``:
    what is behind the first checks, a door or the job's own protocol; of a file: it was taken. ``word``: what
    came back; ``wrong``: what must not have."""

    word: str
    signed: bool = False
    reached: bool = False
    wrong: str = ""


class Target(Protocol):
    """A period of one target: a fresh world that is closed in the end."""

    last: bytes
    """The input that was given last, to be kept if it is at fault."""

    def one(self) -> Came:
        """Make the next input and give it. What it raises is a fault."""

    def left(self) -> str:
        """What lies on the disk though nothing that was journalled explains it; empty if all is well."""

    def close(self) -> None:
        """Close and remove everything."""


class Opener(Protocol):
    """Opens a period over an alliance, in a folder of its own."""

    def __call__(self, base: Base, folder: Path, rng: Random) -> Target: ...


@dataclass(frozen=True)
class Kind:
    """A target as the registry has it. ``weight``: its share of all inputs; ``period``: inputs for which one
    world lasts; ``door``: whether it takes signed messages, which have to reach a door."""

    open: Opener
    weight: float
    period: int
    door: bool = False


def size_of(folder: Path) -> int:
    """Bytes of all files under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
