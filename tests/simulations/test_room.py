from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from privacy.errors import ConfigError, RoundFailed
from protos import jobs, wire
from server.tasks.noisy_sum import Memory, NoisySumDrive
from simulations.alliances import Alliance
from simulations.audiences import define, freeze_all
from simulations.room import Room
from tests.conftest import PROPENSITY, QUERY, SEGMENT, job


def test_a_query_over_three_partners(make_alliance: Callable[..., Alliance]) -> None:
    with Room(make_alliance()) as room:
        outcome = room.run(job(**QUERY))
    count = outcome.result["count"]
    # 900 rows; the answer is off by seven deviations with probability under 1e-11
    assert abs(count["value"] - 900) < 7 * count["deviation"]
    assert outcome.traffic.rounds == 4
    assert sum(outcome.result["histogram(region)"]["value"]) == pytest.approx(
        900, abs=7 * 3 * outcome.result["histogram(region)"]["deviation"]
    )


@pytest.mark.parametrize("vanishes", ["", "bank", "shop"])
def test_four_partners_recover_one_dropout(
    make_alliance: Callable[..., Alliance], vanishes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Room(make_alliance(partners=4, dropouts=1), grace=0.2, patience=5.0) as room:
        original, calls = room.exchange, []

        def exchange(envelopes, timeout):  # type: ignore[no-untyped-def]
            answers = original(envelopes, timeout)
            calls.append(1)
            if len(calls) == 2 and vanishes:  # hello and prepare are through
                room.silent = {vanishes}
            return answers

        monkeypatch.setattr(room, "exchange", exchange)
        count = room.run(job(**{**QUERY, "epsilon": 4.0})).result["count"]
        people = 900 if vanishes else 1200
        assert abs(count["value"] - people) < 7 * count["deviation"]
        survivor = room.gates["telecom"].ledger.standing()
        assert survivor.epsilon == pytest.approx(4.0, rel=1e-3)


def test_totals_after_a_dropout_are_those_of_the_survivors(
    make_alliance: Callable[..., Alliance],
) -> None:
    with Room(make_alliance(partners=4, dropouts=1), grace=0.2, patience=3.0) as room:
        wanted, salt = job(**{**QUERY, "epsilon": 4.0}), bytes(16)
        job_id = jobs.job_id(room.alliance.contract.digest(), wanted.canonical(), salt)
        drive = NoisySumDrive(room.rounds(job_id), wanted, salt, Memory(), grace=0.2)
        drive._hello_and_prepare()
        room.silent = {"utility"}
        total, deviation = drive._release([0])[0]
        assert abs(total[0] - 900) < 7 * deviation
        room.silent = {"utility", "shop"}
        with pytest.raises(RoundFailed, match="no answer from"):
            drive._release([1])


def test_a_survivor_never_locks_a_second_set(make_alliance: Callable[..., Alliance]) -> None:
    with Room(make_alliance(partners=4, dropouts=1), grace=0.2, patience=1.0) as room:
        wanted, salt = job(**QUERY), bytes(16)
        job_id = jobs.job_id(room.alliance.contract.digest(), wanted.canonical(), salt)
        drive = NoisySumDrive(room.rounds(job_id), wanted, salt, Memory(), grace=0.2)
        drive._hello_and_prepare()
        requests = {n: drive._request(n, [0], drive.program.state()) for n in drive.roster.parties}
        answers = drive.rounds.ask(requests)
        digests = {n: a.masked.vectors[0].digest for n, a in answers.items()}
        three = [digests[n] for n in ("bank", "shop", "telecom")]
        other = [digests[n] for n in ("bank", "shop", "utility")]
        lock = drive._ask_present(wire.Unmask(index=0, masked=three), ["bank", "shop", "telecom"])
        assert all(not a.unmask.opened for a in lock.values())
        with pytest.raises(RoundFailed, match="state_changed"):
            drive._ask_present(wire.Unmask(index=0, masked=other), ["bank", "shop", "utility"])
        with pytest.raises(RoundFailed, match="state_changed"):
            drive._ask_present(wire.Unmask(index=0, masked=list(digests.values())), ["bank"])
        with pytest.raises(RoundFailed, match="roster"):
            drive._ask_present(wire.Unmask(index=0, masked=three[:2]), ["bank"])


def test_with_no_dropouts_tolerated_nothing_is_ever_unmasked(
    make_alliance: Callable[..., Alliance],
) -> None:
    with Room(make_alliance(), patience=0.5) as room:
        room.silent = {"telecom"}
        with pytest.raises(RoundFailed, match="no answer from telecom"):
            room.run(job(**QUERY))


def test_the_coordinator_holds_masked_vectors_only(make_alliance: Callable[..., Alliance]) -> None:
    """What passes through the coordinator, opened: vectors, none near a partner's own sum."""
    with Room(make_alliance()) as room:
        seen: list[np.ndarray] = []
        original = room.exchange

        def tap(envelopes, timeout):  # type: ignore[no-untyped-def]
            answers = original(envelopes, timeout)
            for delivered in answers.values():
                body = wire.parse(wire.ReplyBody, wire.parse(wire.Reply, delivered.reply).body)
                seen.extend(
                    np.frombuffer(v.vector, "<i8") for v in body.masked.vectors if v.index == 0
                )
            return answers

        room.exchange = tap  # type: ignore[method-assign]
        room.run(job(**QUERY))
    assert len(seen) == 3
    # a partner's true count is 300 * 2^18 < 2^27; a masked word is that small with chance 2^-36
    assert all(abs(int(vector[0])) > 1 << 40 for vector in seen)


def test_learning_scoring_and_a_joint_audience(make_alliance: Callable[..., Alliance]) -> None:
    alliance = make_alliance(
        epsilon=60.0, epsilon_per_person=90.0, matching={"assumes": "semi_honest"}
    )
    with Room(alliance) as room:
        learnt, grouped = room.run(job(**PROPENSITY)), room.run(job(**SEGMENT))
        found = room.run(job(name="quality", kind="evaluate", epsilon=2.0,
                             evaluate={"model": "propensity"})).result  # fmt: skip
        assert 0.0 <= found["auc"] <= 1.0
        rules = {"bank": "model:propensity >= 0.0", "shop": "model:segment >= 0 and age >= 18"}
        match = {"identifier": "email", "parties": ["bank", "shop"]}
        size = room.run(job(name="joint", kind="match", epsilon=4.0,
                            match={**match, "rules": rules, "result": "size"})).result  # fmt: skip
        assert abs(size["size"] - 100) < 7 * size["deviation"]
        for name, rule in rules.items():
            pinned = rule.replace("model:propensity", f"model:propensity@{learnt.job_id[:8]}")
            pinned = pinned.replace("model:segment", f"model:segment@{grouped.job_id[:8]}")
            define(alliance.partners[name], "members", rule=pinned)
            freeze_all(alliance.partners[name])
        named = {"result": "list", "audiences": {"bank": "members", "shop": "members"}}
        room.run(job(name="list", kind="match", match={**match, **named}))
        files = list(room.alliance.partners["bank"].audiences.glob("list-*.csv"))
        lines = files[0].read_text().splitlines()
        assert lines[0] == "person"
        assert sorted(lines[1:]) == [f"C{n:05d}" for n in range(200, 300)]
        assert not list(room.alliance.partners["shop"].audiences.iterdir())
        gate = room.gates["shop"]
        assert gate.store.rows("SELECT kind, recipient, purpose FROM disclosures") == [
            ("match list", "bank", "insight")
        ]
        assert gate.store.rows("SELECT audience, epoch FROM disclosures") == [("members", 1)]


def test_lists_go_to_the_contracts_recipients_only(make_alliance: Callable[..., Alliance]) -> None:
    with Room(make_alliance()) as room:
        wanted = job(
            name="list", kind="match",
            match={"identifier": "email", "parties": ["shop", "bank"], "result": "list"},
        )  # fmt: skip
        with pytest.raises(ConfigError, match="does not let shop receive"):
            room.run(wanted)


def test_a_rule_that_needs_a_model_nobody_delivered(make_alliance: Callable[..., Alliance]) -> None:
    with Room(make_alliance(matching={"assumes": "semi_honest"}), patience=2.0) as room:
        for rule in ("model:propensity >= 0.7", "propensity >= 0.7"):
            wanted = job(
                name="joint", kind="match", epsilon=1.0,
                match={"identifier": "email", "parties": ["bank", "shop"], "result": "size",
                       "rules": {"bank": rule}},
            )  # fmt: skip
            with pytest.raises(RoundFailed, match="bank refused: policy"):
                room.run(wanted)


def test_nothing_private_in_what_a_partner_stores_in_the_clear(
    make_alliance: Callable[..., Alliance],
) -> None:
    alliance = make_alliance()
    with Room(alliance) as room:
        room.run(job(**PROPENSITY))
        with sqlite3.connect(alliance.partners["bank"].database) as direct:
            dump = "\n".join(direct.iterdump())
        assert "user1@example.com" not in dump
        assert "C00001" not in dump


def test_a_job_sees_the_rows_of_its_first_release(make_alliance: Callable[..., Alliance]) -> None:
    alliance = make_alliance()
    with Room(alliance, patience=2.0) as room:
        wanted, salt = job(**{**QUERY, "epsilon": 6.0}), bytes(16)
        job_id = jobs.job_id(alliance.contract.digest(), wanted.canonical(), salt)
        drive = NoisySumDrive(room.rounds(job_id), wanted, salt, Memory())
        drive._hello_and_prepare()
        drive._release([1])
        for home in alliance.partners.values():
            Path(home.source().location).unlink()
        total, deviation = drive._release([0])[0]
        assert abs(total[0] - 900) < 7 * deviation
