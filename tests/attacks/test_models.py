"""Row 5: what a partner is given, it took part in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from privacy.errors import ConfigError, RoundFailed
from protos import jobs, wire
from protos.refusal import Code
from server.tasks.noisy_sum import Memory, NoisySumDrive
from simulations.alliances import Alliance
from simulations.room import Room
from tests.attacks.hostile import Hostile
from tests.conftest import PROPENSITY, SEGMENT, job

PLANTED = {
    "columns": ["age", "spend", "region"], "kind": "propensity", "label": "returned",
    "platt": [1.0, 0.0], "weights": [-30.0, 30.0, 0.0, 0.0, 0.0, 0.0],
}  # fmt: skip


def driven(room: Room, wanted: jobs.Job) -> tuple[NoisySumDrive, dict[str, Any]]:
    """A job driven honestly up to its model."""
    hostile = Hostile(room.alliance, room.gates)
    opened = hostile.new(wanted)
    drive = NoisySumDrive(room.rounds(opened.id), wanted, opened.salt, Memory(), grace=0.5)
    return drive, drive.run()["model"]


def kept(room: Room, name: str = "bank") -> list[str]:
    return [row[0] for row in room.gates[name].store.rows("SELECT name FROM models")]


def test_a_model_after_no_release_is_refused(room: Room, hostile: Hostile) -> None:
    opened = hostile.new(job(**PROPENSITY))
    hostile.hello("bank", opened)
    finish = wire.Finish(model=jobs.model_bytes(PLANTED))
    # the gate answered nothing, so it cannot tell: it keeps nothing and asks for others' heads
    assert not hostile.send("bank", opened.id, finish=finish).finish.HasField("head")
    assert kept(room) == []
    assert hostile.code("bank", opened.id, finish=finish) == "finish"
    assert room.gates["bank"].store.rows("SELECT state FROM jobs") == [("open",)]


@pytest.mark.parametrize(
    "change",
    [
        {"weights": [-30.0, 30.0, 0.0, 0.0, 0.0, 0.0]},
        {"platt": [1.0, 0.5]},
        {"columns": ["spend", "age", "region"]},
        {"kind": "segment"},
        {"more": 1},
        {"label": "other"},
    ],
)
def test_a_model_that_its_totals_do_not_make_is_refused(room: Room, change: dict[str, Any]) -> None:
    drive, model = driven(room, job(**PROPENSITY))
    with pytest.raises(RoundFailed, match=r"plan|malformed"):
        drive.finish(jobs.model_bytes(model | change))
    assert kept(room) == []
    drive.finish(jobs.model_bytes(model))
    assert kept(room) == ["propensity"]


@pytest.mark.parametrize("release", [0, 3, 9])
def test_totals_that_do_not_lead_to_the_states_seen_are_refused(room: Room, release: int) -> None:
    drive, model = driven(room, job(**PROPENSITY))
    total, deviation = drive.totals[release]
    drive.totals[release] = (total + 1.0 + abs(total).max(), deviation)
    with pytest.raises(RoundFailed, match="plan"):
        drive.finish(jobs.model_bytes(model))
    assert kept(room) == []


@pytest.mark.parametrize("weights", [[float("nan")] * 6, [1e999] * 6, [10**400] * 6, [[1.0]] * 6])
def test_a_model_of_odd_numbers_is_malformed(room: Room, weights: list[Any]) -> None:
    drive, _ = driven(room, job(**PROPENSITY))
    text = str({**PLANTED, "weights": weights}).replace("'", '"').replace("nan", "NaN")
    with pytest.raises(RoundFailed, match="malformed"):
        drive.finish(text.replace("inf", "1e999").replace(" ", "").encode())
    assert kept(room) == []


def test_a_model_is_never_replaced_and_has_its_own_name_space(room: Room) -> None:
    bank = room.gates["bank"]
    first = room.run(job(**{**SEGMENT, "name": "age"}))
    second = room.run(job(**{**SEGMENT, "name": "age"}))
    assert kept(room) == ["age", "age"]
    assert bank.models.find("model:age").job == second.job_id
    assert bank.models.find(f"model:age@{first.job_id[:8]}").job == first.job_id
    with pytest.raises(ConfigError, match="no such model"):
        bank.models.find("model:spend")


def test_every_partner_signs_the_same_outcome(room: Room) -> None:
    drive, model = driven(room, job(**SEGMENT))
    heads = drive.finish(jobs.model_bytes(model))
    said = [wire.parse(wire.JournalHead, head.body) for head in heads]
    assert len({head.outcome for head in said}) == 1
    assert len(said[0].outcome) == 64
    assert {head.job for head in said} == {drive.rounds.job_id}


def test_partners_that_are_given_different_models_keep_none(room: Room) -> None:
    """Each finds what its totals make within the tolerance; the outcomes that they sign differ."""
    drive, model = driven(room, job(**SEGMENT))
    other = {**model, "centres": [[c + 1e-9 for c in row] for row in model["centres"]]}
    hostile = Hostile(room.alliance, room.gates)
    finishes, heads = {}, []
    for name in room.gates:
        finish = wire.Finish(model=jobs.model_bytes(other if name == "bank" else model))
        finish.totals.extend(drive.finish_totals())
        finishes[name] = finish
        heads.append(hostile.send(name, drive.rounds.job_id, finish=finish).finish.head)
    assert len({wire.parse(wire.JournalHead, head.body).outcome for head in heads}) == 2
    for name, finish in finishes.items():
        finish.heads.extend(heads)
        hostile.send(name, drive.rounds.job_id, finish=finish)
        assert kept(room, name) == []  # with d = 0 all three must agree
    for finish in finishes.values():
        finish.model = jobs.model_bytes(model)
        del finish.heads[:]
    heads = [
        hostile.send(n, drive.rounds.job_id, finish=f).finish.head for n, f in finishes.items()
    ]
    for name, finish in finishes.items():
        finish.heads.extend(heads)
        hostile.send(name, drive.rounds.job_id, finish=finish)
        assert kept(room, name) == ["segment"]


def test_a_gate_that_dropped_out_takes_a_model_on_t_heads_and_not_on_fewer(
    make_alliance: Callable[..., Alliance],
) -> None:
    names = ("bank", "shop", "telecom", "utility")
    with Room(make_alliance(partners=4, dropouts=1), patience=10.0, grace=0.5) as room:
        assert tuple(room.gates) == names
        wanted = job(**SEGMENT)
        hostile = Hostile(room.alliance, room.gates)
        opened = hostile.new(wanted)
        drive = NoisySumDrive(room.rounds(opened.id), wanted, opened.salt, Memory(), grace=0.5)
        original = room.exchange

        def silent_once(envelopes: Any, timeout: float) -> Any:
            room.silent = {"utility"} if len(drive.totals) >= 2 else set()
            return original(envelopes, timeout)

        room.exchange = silent_once  # type: ignore[method-assign]
        model = drive.run()["model"]
        room.exchange, room.silent = original, set()  # type: ignore[method-assign]
        data = jobs.model_bytes(model)
        heads = []
        finish = wire.Finish(model=data)
        finish.totals.extend(drive.finish_totals())
        assert not hostile.send("utility", opened.id, finish=finish).finish.HasField("head")
        for name in names[:3]:
            heads.append(hostile.send(name, opened.id, finish=finish).finish.head)
            assert kept(room, name) == []  # it has seen nobody else's head yet
        finish.heads.extend(heads[:2])
        assert not hostile.send("utility", opened.id, finish=finish).finish.HasField("head")
        finish.heads.extend([heads[0], heads[1]])  # the same again are no more parties
        assert not hostile.send("utility", opened.id, finish=finish).finish.HasField("head")
        assert kept(room, "utility") == []
        finish.heads.append(heads[2])
        assert hostile.send("utility", opened.id, finish=finish).finish.HasField("head")
        assert kept(room, "utility") == ["segment"]


def test_a_job_that_makes_no_model_takes_none(room: Room, hostile: Hostile) -> None:
    from tests.attacks.hostile import count

    opened = hostile.open(count())
    hostile.release("bank", opened, [0])
    finish = wire.Finish(model=jobs.model_bytes(PLANTED))
    assert hostile.code("bank", opened.id, finish=finish) == Code.MALFORMED
