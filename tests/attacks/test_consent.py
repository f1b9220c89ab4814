"""What was decided once stays decided, and what is decided anew is decided by the rules as they are now."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import tomli_w

from client import freezing, frozen, offline
from privacy.matching.deck import ranks
from protos import wire
from protos.alliance import dump
from protos.refusal import Code
from protos.toml import read_toml
from simulations.alliances import Alliance
from simulations.audiences import EVERYONE, define, freeze_all
from simulations.room import Room
from tests.attacks.hostile import Hostile, Opened, count
from tests.conftest import job

LIST: dict[str, Any] = {
    "identifier": "email", "parties": ["bank", "shop"], "result": "list",
    "audiences": {"bank": EVERYONE, "shop": EVERYONE},
}  # fmt: skip


def opened_list(alliance: Alliance) -> Opened:
    """A list that both gates have opened, and that nobody has begun."""
    for home in alliance.partners.values():
        freeze_all(home)
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        opened = hostile.new(job(name="old", kind="match", match=LIST))
        for name in room.gates:
            assert hostile.hello(name, opened).HasField("hello")
    return opened


@pytest.mark.parametrize(
    "rules", [{"send_lists_to": []}, {"kinds": []}, {"purposes": []}], ids=lambda r: next(iter(r))
)
def test_a_match_that_was_opened_under_yesterdays_rules_is_judged_by_todays(
    make_alliance: Callable[..., Alliance], rules: dict[str, Any]
) -> None:
    alliance = make_alliance(partners=2)
    opened, home = opened_list(alliance), alliance.partners["shop"]
    settings = read_toml(home.config_file)
    settings["rules"] |= rules
    home.config_file.write_text(tomli_w.dumps(settings))
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        assert hostile.code("shop", opened.id, match=wire.Match()) == Code.POLICY
        assert room.gates["shop"].store.rows("SELECT * FROM disclosures") == []


def test_a_sum_that_was_opened_under_yesterdays_rules_is_judged_by_todays(
    make_alliance: Callable[..., Alliance],
) -> None:
    alliance = make_alliance()
    with Room(alliance) as room:
        opened = Hostile(alliance, room.gates).open(count())
    home = alliance.partners["bank"]
    settings = read_toml(home.config_file)
    settings["rules"]["largest_epsilon"] = 0.0
    home.config_file.write_text(tomli_w.dumps(settings))
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        assert hostile.release("bank", opened, [0]).refusal.code == Code.POLICY
        assert hostile.charged("bank") == 0


def test_a_job_of_an_earlier_contract_is_none_of_the_present_one(
    make_alliance: Callable[..., Alliance],
) -> None:
    alliance = make_alliance(partners=2)
    opened = opened_list(alliance)
    contract = alliance.contract.model_copy(
        update={"expires": datetime(2036, 1, 1, tzinfo=UTC), "signatures": {}}
    )
    for name, each in alliance.partners.items():
        contract = contract.signed_by(name, each.identity())
    for each in alliance.partners.values():
        each.contract_file.write_text(dump(contract))
    renewed = Alliance(contract, alliance.coordinator, alliance.partners)
    with Room(renewed) as room:
        hostile = Hostile(renewed, room.gates)
        assert hostile.code("shop", opened.id, match=wire.Match()) == Code.STORAGE


def test_no_two_labels_that_a_customer_chooses_have_one_rank() -> None:
    """0.3.0 folded the halves: h ^ (d || d) stood where h stood, under every key, and the match failed if and
    only if somebody with h was a customer."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 256, (5_000, 32), np.uint8)
    twin = labels ^ np.tile(rng.integers(1, 256, (5_000, 16), np.uint8), 2)
    swapped = np.concatenate([labels[:, 16:], labels[:, :16]], axis=1)
    key = os.urandom(16)
    found = [ranks(key, each) for each in (labels, twin, swapped)]
    assert len(np.unique(np.concatenate(found))) == 15_000  # false alarms: under 2^-37


def test_an_older_epoch_serves_no_more_once_there_is_a_newer_one(
    make_alliance: Callable[..., Alliance],
) -> None:
    """Also not through a cache that is being made of it just now: its uses count as used."""
    alliance = make_alliance(partners=2)
    home = alliance.partners["shop"]
    define(home, "members", uses=4)
    with offline.owner(home) as at:
        for _ in range(3):
            freezing.freeze(at, "members", lambda _: True)
        epochs = frozen.epochs(at.store)
        assert [(e.number, e.uses - e.used) for e in epochs] == [(1, 0), (2, 0), (3, 4)]
