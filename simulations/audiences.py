"""Audiences of simulated partners, frozen without asking anybody: what exact results are made of."""

from __future__ import annotations

import os
from typing import Any

import tomli_w

from client import freezing
from client.home import Home
from privacy.randomness import Randomness
from protos.toml import read_toml

EVERYONE = "everyone"
USES = 12
"""What ``limits.exact_disclosures`` allows by default."""


def define(home: Home, name: str = EVERYONE, **settings: Any) -> None:
    """Write ``[audiences.NAME]`` into a partner's settings; by default all customers, USES times."""
    plain = read_toml(home.config_file)
    plain.setdefault("audiences", {})[name] = {"uses": USES, **settings}
    home.config_file.write_text(tomli_w.dumps(plain), encoding="utf-8")


def freeze_all(home: Home, randomness: Randomness = os.urandom) -> list[freezing.Found]:
    """Freeze every audience that a partner defines; where it defines none, one of all its customers."""
    if not home.config().audiences:
        define(home)
    with freezing.owner(home, randomness) as at:
        made = [freezing.freeze(at, name, lambda _: True) for name in at.config.audiences]
    return [found for found in made if found is not None]
