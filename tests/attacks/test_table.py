"""The table of attacks: its arithmetic, its exit code, and for each attack that it would be seen to succeed.

An attack that never succeeds proves nothing by itself: most are run here against a gate with the fault that
they look for, planted, and must then do better than chance.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from scipy.stats import binomtest

from client import lines, node, people
from client.gate import Gate
from client.heads import Heads
from client.jobkeys import JobKeys
from client.tasks.noisy_sum import NoisySumTask
from privacy.errors import Refused, RoundFailed
from privacy.matching.size import PaddingNoise
from privacy.noisy_sum import masks
from protos import console, wire
from protos.addresses import JobId
from protos.matches import MatchJob
from protos.refusal import Code
from simulations import cli
from simulations.attacks import rates, table
from simulations.attacks.lab import WHO, Lab
from simulations.attacks.rows import coordinator as worker
from simulations.attacks.rows import disk, outputs, papers, screens
from tests.attacks.test_tables import runs, whole_file

ATTACKS = {attack.name: attack for attack in table.attacks()}
SLOW = {
    "a partner that falls silent", "the time of an answer", "spoiled codes in the fast lane",
    "64 people or 65 by padded size", "sizes over a rule for one person",
    "a backup put back, heads left out", "clocks off by days, one liar",
    "all of state put back in a job", "does an audience freeze itself",
    "the matcher of an overlap colludes",
    "idle, half-open and huge requests", "start in a folder that shadows code", "two epochs compared",
    "no UTF-8 in a Parquet cell", "a database nobody saw a later head of", "uses of an epoch edited",
    "the same over frozen audiences", "all restore together", "an approval used twice, or changed",
}  # fmt: skip

SLOWER = {
    "charges edited, journal cut", "a collation of the source", "a model that totals do not make",
    "SIGKILL while a table is read", "plans that cannot be honoured",
    "outputs on inputs and through links", "figures, progress, texts bent",
    "second applications, others' keys",
}  # fmt: skip
"""Where more than one trial is needed to find the planted fault."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"))
    yield made
    made.close()


def times(lab: Lab, name: str, count: int, seed: str = "t") -> int:
    return sum(ATTACKS[name].attempt(lab, Random(f"{seed}/{name}/{i}")) for i in range(count))


# ---------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 20, 0.0, 0.1684),
        (20, 20, 0.8316, 1.0),
        (1, 10, 0.0025, 0.4450),
        (50, 100, 0.3983, 0.6017),
    ],
)
def test_intervals_are_clopper_and_pearsons(
    successes: int, trials: int, low: float, high: float
) -> None:
    assert rates.interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("trials", [1, 7, 60, 200])
def test_intervals_and_tails_are_those_of_another_library(trials: int) -> None:
    for successes in range(0, trials + 1, max(1, trials // 9)):
        known = binomtest(successes, trials).proportion_ci(0.95, "exact")
        assert rates.interval(successes, trials) == pytest.approx(
            (known.low, known.high), abs=1e-12
        )
        for rate in (0.01, 0.5, 0.93):
            tail = binomtest(successes, trials, rate, "greater").pvalue
            assert rates.at_least(successes, trials, rate) == pytest.approx(tail, rel=1e-9)


def test_a_table_at_chance_is_called_broken_once_in_a_thousand_runs() -> None:
    rows, trials = 25, 200
    least = next(n for n in range(trials) if rates.above(n, trials, 0.5, rows))
    alone = binomtest(least, trials, 0.5, "greater").pvalue
    assert 1.0 - (1.0 - alone) ** rows < rates.FALSE_ALARM
    assert not rates.above(least - 1, trials, 0.5, rows)
    assert rates.above(160, trials, 0.5, rows)  # three times in five what the noise allows
    assert rates.above(1, trials, 0.0, rows)  # where chance is 0 one success is enough
    assert not rates.above(0, trials, 0.0, rows)


# ---------------------------------------------------------------------- the command


@dataclass
class Coin:
    """An attack that succeeds as often as it says."""

    share: float
    seen: int = 0

    def __call__(self, lab: Lab, rng: Random) -> bool:
        self.seen += 1
        return self.seen % 10 < 10 * self.share


def made(share: float, **more: Any) -> table.Attack:
    plain = {
        "row": "1",
        "name": f"coin {share}",
        "who": "nobody",
        "success": "heads",
        "trials": 200,
    }
    return table.Attack(**{**plain, "attempt": Coin(share), **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        (made(0.0), 0),
        (made(0.1), 1),
        (made(0.5, chance=0.5), 0),
        (made(0.8, chance=0.5), 1),
        (made(0.8, breaks="nobody throws coins", row="R"), 0),
    ],
)
def test_the_exit_code_says_whether_one_is_above_chance(
    attack: table.Attack, code: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(table, "attacks", lambda: [attack])
    assert console.run(cli.app, ["attack", "table"]) == code
    seen = capsys.readouterr().out
    assert ("ABOVE CHANCE: coin" in seen) == bool(code)
    assert ("nobody throws coins" in seen) == bool(attack.breaks)
    assert console.run(cli.app, ["attack"]) == code  # alone it is the same
    capsys.readouterr()
    assert console.run(cli.app, ["attack", "table", "--json", "--trials", "0.1"]) in (0, code)
    (row,) = json.loads(capsys.readouterr().out)["attacks"]
    assert row["trials"] == 20
    assert row["breaks"] == attack.breaks


def test_only_what_is_named_is_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = made(0.0), replace(made(0.9), name="another", row="2")
    monkeypatch.setattr(table, "attacks", lambda: [one, other])
    assert console.run(cli.app, ["attack", "table", "--only", "coin", "--only", "1"]) == 0
    assert "another" not in capsys.readouterr().out
    assert console.run(cli.app, ["attack", "table", "--only", "nothing"]) == 2


def test_every_row_is_in_the_table_or_says_where_it_is_held() -> None:
    rows = {attack.row for attack in ATTACKS.values()} | set(table.ELSEWHERE)
    assert rows >= {str(number) for number in range(1, 33)} | {"R"}
    assert len(ATTACKS) == len(table.attacks())  # names are unique
    for attack in ATTACKS.values():
        assert bool(attack.breaks) == (attack.row == "R")
        assert attack.trials >= 10
        assert attack.chance == 0.0 or attack.chance >= 0.5


# ---------------------------------------------------------------------- each attack, once


def _names(slow: bool) -> list[Any]:
    mark = [pytest.mark.slow] if slow else []
    return [pytest.param(n, marks=mark) for n in ATTACKS if (n in SLOW) == slow]


@pytest.mark.parametrize("name", [*_names(False), *_names(True)])
def test_an_attack_runs_and_does_no_better_than_it_may(name: str, lab: Lab) -> None:
    attack, found = ATTACKS[name], times(lab, name, 1)
    if not attack.breaks and attack.chance == 0.0:
        assert found == 0
    if attack.breaks and attack.chance == 0.0:
        assert found == 1


# ---------------------------------------------------------------------- each attack, with its fault planted

Plant = Callable[[pytest.MonkeyPatch], None]


def _takes_paths(patch: pytest.MonkeyPatch) -> None:
    """0.3.0: ``cancel`` closes whatever it names."""
    import shutil

    def cancel(self: Gate, job: JobId) -> wire.ReplyBody:
        for path in (self.home.matches / job, Path(job)):
            if path.is_relative_to(self.home.root.parent) and path != path.parent:
                shutil.rmtree(path, ignore_errors=True)
        return wire.ReplyBody(finish=wire.FinishReply())

    patch.setattr("client.gate.job_id", JobId)
    patch.setattr(Gate, "_cancel", cancel)


def _reads_at_hello(patch: pytest.MonkeyPatch) -> None:
    plain = Gate._hello

    def hello(self: Gate, request: Any, job: JobId) -> wire.ReplyBody:
        (self.home.snapshots / job).write_bytes(b"rows")
        return plain(self, request, job)

    patch.setattr(Gate, "_hello", hello)


def _takes_anybodys(patch: pytest.MonkeyPatch) -> None:
    def authentic(self: Gate, envelope: bytes) -> wire.Request:
        return wire.parse(wire.Request, wire.parse(wire.Envelope, envelope).request)

    patch.setattr(Gate, "_authentic", authentic)
    patch.setattr(Gate, "_open", lambda self, request: None)


def _refuses_by_rows(patch: pytest.MonkeyPatch) -> None:
    plain = Gate._work

    def work(self: Gate, kind: str, request: Any, job: JobId) -> wire.ReplyBody:
        asks = kind in ("release", "match")
        if asks and WHO["id"] in Path(self.home.source().location).read_text():
            raise Refused(Code.PLAN, "a row that this gate does not like")
        return plain(self, kind, request, job)

    patch.setattr(Gate, "_work", work)


def _refuses_to_open_by_rows(patch: pytest.MonkeyPatch) -> None:
    plain = Gate._hello

    def hello(self: Gate, request: Any, job: JobId) -> wire.ReplyBody:
        if WHO["id"] in Path(self.home.source().location).read_text():
            raise Refused(Code.UNAVAILABLE, "differs by too few people from an earlier match")
        return plain(self, request, job)

    patch.setattr(Gate, "_hello", hello)


def _masks_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(masks, "signed_pairwise", lambda earlier, mask: mask * 0)


def _charges_first(patch: pytest.MonkeyPatch) -> None:
    plain = NoisySumTask.release

    def release(self: NoisySumTask, *arguments: Any) -> Any:
        plain(self, *arguments)
        raise Refused(Code.PLAN, "cannot be honoured after all")

    patch.setattr(NoisySumTask, "release", release)


def _keeps_any_model(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("client.gate.outcome_of", lambda *_: bytes(64))
    patch.setattr("client.gate.agreed_by", lambda *_: bytes(64))


def _compares_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Heads, "take", lambda self, statements, job="": None)
    patch.setattr(Heads, "note", lambda self, heads, job=None: None)


def _believes_its_clock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Heads, "confirmed", lambda self: self._clock())
    patch.setattr(Heads, "_needed", lambda self: 0)


def _spools_in_the_clear(patch: pytest.MonkeyPatch) -> None:
    plain = disk.killed

    def killed(place: Path, location: str, name: str, *_: Any) -> None:
        plain(place, location, name, "planted", "batch", 1)

    patch.setattr(disk, "killed", killed)


def _shows_raw(patch: pytest.MonkeyPatch) -> None:
    from client import terms

    plain = terms.lines
    patch.setattr(terms, "lines", lambda contract: plain(contract, str))


def _parses_anything(patch: pytest.MonkeyPatch) -> None:
    def load(file: Path) -> None:
        raise RecursionError

    patch.setattr(screens.joining, "load_application", load)


def _dies(patch: pytest.MonkeyPatch) -> None:
    plain = worker.drive

    def drive(home: Any, store: Any, transport: Any, job: str) -> None:
        plain(home, store, transport, job)
        if store.job(job).state == "failed":
            raise ValueError("as an exception of a job's drive was")

    patch.setattr(worker, "drive", drive)


def _declares(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MatchJob, "semi_honest", lambda self, contract: None)


def _checks_no_output(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("protos.files._check_output", lambda *_: None)


def _checks_no_application(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("server.admission.check", lambda *_: None)
    patch.setattr("server.admission.replaced", lambda *_: None)
    patch.setattr("server.admission.already", lambda *_: None)
    patch.setattr("protos.joining.Application.check", lambda self: None)


def _survives_nothing(patch: pytest.MonkeyPatch) -> None:
    def goes_on(app: Any, me: int, receive: Callable[[], Any], *rest: Any) -> bool:
        node._one(app, me, *receive(), *rest)
        return True

    patch.setattr(node, "_goes_on", goes_on)


def _searches_the_folder(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(outputs, "STRICT", ())


def _writes_as_is(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(outputs, "created", partial(outputs.created, as_is=True))
    patch.setattr(outputs, "write_people", partial(outputs.write_people, as_is=True))


PLANTED: dict[str, tuple[Plant, int, int]] = {
    "a path for a job's id": (_takes_paths, 6, 1),
    "hellos and junk": (_reads_at_hello, 1, 1),
    "envelopes replayed, bent, forged": (_takes_anybodys, 4, 1),
    "odd states, low-order mask keys": (_refuses_by_rows, 3, 2),
    "few people, by refusals": (_refuses_by_rows, 2, 2),
    "one masked vector, read alone": (_masks_nothing, 2, 2),
    "plans that cannot be honoured": (_charges_first, 8, 1),
    "a model that totals do not make": (_keeps_any_model, 3, 1),
    "a backup put back, heads left out": (_compares_nothing, 4, 1),
    "charges edited, journal cut": (_compares_nothing, 8, 1),
    "clocks off by days, one liar": (_believes_its_clock, 4, 1),
    "SIGKILL while a table is read": (_spools_in_the_clear, 1, 1),
    "keys of a job that ended": (
        lambda patch: patch.setattr(JobKeys, "wipe", lambda self, name: None), 1, 1
    ),
    "escapes in a contract's texts": (_shows_raw, 2, 1),
    "deep, long, repeated TOML and JSON": (_parses_anything, 1, 1),
    "a collation of the source": (lambda patch: patch.setattr(people, "grouped", runs), 5, 1),
    "a line of any bytes in a CSV": (
        lambda patch: patch.setattr(lines.Lines, "blocks", whole_file), 20, 1
    ),
    "sizes over a rule for one person": (_refuses_to_open_by_rows, 3, 3),
    "the fast lane, not declared by both": (_declares, 1, 1),
    "noise over a rule, not declared": (_declares, 1, 1),
    "64 people or 65 by padded size": (
        lambda patch: patch.setattr(PaddingNoise, "draw", lambda self, randomness: 0), 4, 4
    ),
    "statements bent and signed": (_dies, 2, 1),
    "figures, progress, texts bent": (_dies, 3, 1),
    "start in a folder that shadows code": (_searches_the_folder, 1, 1),
    "second applications, others' keys": (_checks_no_application, 8, 1),
    "outputs on inputs and through links": (_checks_no_output, 8, 1),
    "messages in the link's name": (_survives_nothing, 10, 1),
    "cells that begin a formula": (_writes_as_is, 2, 2),
}  # fmt: skip
"""The fault, trials, and how many must succeed."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW | SLOWER else []) for n in PLANTED],
)
def test_an_attack_succeeds_where_its_fault_is_planted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, count, least = PLANTED[name]
    plant(monkeypatch)
    lab = Lab(tmp_path)
    try:
        assert times(lab, name, count) >= least
    finally:
        lab.close()


def test_the_office_that_approvals_are_attacked_in_works(tmp_path: Path) -> None:
    assert papers.honest_reveal(tmp_path)


def test_what_no_trial_can_judge_is_an_error_and_no_zero(tmp_path: Path) -> None:
    """An attack that cannot even be started must not look like one that failed."""

    def broken(lab: Lab, rng: Random) -> bool:
        raise RoundFailed("no world")

    with pytest.raises(RoundFailed):
        table.run([replace(made(0.0), attempt=broken)], 1, tmp_path)
    assert math.isclose(rates.interval(1, 1)[0], 0.025)
