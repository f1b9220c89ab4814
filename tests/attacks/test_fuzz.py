"""Bent inputs of every kind lead to an answer or a sentence; with a crash planted in what takes them, the
fuzzer finds it."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from client import cells
from client.source import ReadAs
from privacy.errors import DataError, ParameterError, TallystickError
from privacy.matching import intersection
from privacy.matching.deck import CHUNK
from privacy.noisy_sum import encoding
from protos import console, jobs, wire
from protos.refusal import Code
from simulations.alliances import Alliance
from simulations.attacks import fuzz
from simulations.attacks.fuzzing import files, watch
from simulations.attacks.fuzzing.mutate import Mutator
from simulations.attacks.fuzzing.registry import TARGETS
from simulations.attacks.fuzzing.report import Report
from simulations.attacks.fuzzing.worker import Done, Period
from simulations.room import Room
from tests.attacks.hostile import Hostile, count

FEW = {"gate": 100, "match": 8, "coordinator": 20, "file": 400, "table": 40}


@pytest.fixture
def place() -> Iterator[Path]:
    """In memory where there is such: databases are synced at every message."""
    with fuzz.workplace() as folder:
        yield folder


def given(place: Path, target: str, inputs: int, seed: int = 1) -> Report:
    """A run in this process."""
    return fuzz.run(inputs, seed, place, only=f"{target}/0", workers=0)


@pytest.mark.parametrize("target", FEW)
def test_no_input_of_a_target_is_at_fault(target: str, place: Path) -> None:
    report = given(place, target, FEW[target])
    assert not report.faults, report.render()
    assert report.inputs == FEW[target]
    done = report.done[target]
    assert done.reached > 0
    if TARGETS[target].door:
        assert done.both >= 0.6 * done.inputs, report.render()
    assert not list(place.iterdir())


# ---------------------------------------------------------------------- crashes, planted


def believes_a_specification(patch: pytest.MonkeyPatch) -> None:
    real = jobs.from_canonical

    def read(data: bytes) -> jobs.Job:
        json.loads(data)["purpose"].strip()
        return real(data)

    patch.setattr(jobs, "from_canonical", read)


def believes_a_frame(patch: pytest.MonkeyPatch) -> None:
    def rows(data: bytes, width: int, index: int, items: int) -> NDArray[np.uint8]:
        count = min(CHUNK, items - index * CHUNK)
        return np.frombuffer(data, np.uint8).reshape(count, width)

    patch.setattr(intersection, "rows", rows)


def believes_a_vector(patch: pytest.MonkeyPatch) -> None:
    real = encoding.ring_from

    def read(data: bytes, length: int) -> encoding.Ring:
        if len(data) != 8 * length:
            raise IndexError
        return real(data, length)

    patch.setattr(encoding, "ring_from", read)


def shows_what_it_is_given(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(console, "shown", lambda text, limit=0: str(text))


def believes_a_model(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(files, "model_from", lambda columns, data: data["weights"])


def believes_a_cell(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cells, "_number", lambda cell: float(cell or 0))


PLANTED: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None], str, int]] = {
    "specification": ("gate", believes_a_specification, "internal", 200),
    "frame": ("match", believes_a_frame, "failed", 24),
    "vector": ("coordinator", believes_a_vector, "IndexError", 60),
    "terminal": ("file", shows_what_it_is_given, "control characters", 400),
    "model": ("file", believes_a_model, "Error", 400),
    "cell": ("table", believes_a_cell, "ValueError", 60),
}
"""The target, the fault, what is said of it, and how many inputs it may take."""


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_crash_is_found(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, plant, said, most = PLANTED[name]
    plant(monkeypatch)
    for seed in range(3, 9):  # threads decide some orders of a match: a seed is not always as good
        report = given(place, target, most, seed=seed)
        found = [fault for fault in report.faults if said in fault.what]
        if found:
            break
    assert found, report.render()
    assert found[0].target == target
    assert found[0].input > 0


def test_an_input_at_fault_is_kept_where_it_was_asked_for(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shows_what_it_is_given(monkeypatch)
    fuzz.run(200, 1, place / "w", only="file/0", workers=0, keep=place / "kept")
    monkeypatch.undo()
    kept = sorted(path.suffix for path in (place / "kept").iterdir())
    assert kept
    assert kept.count(".bin") == kept.count(".txt") == len(kept) / 2


# ---------------------------------------------------------------------- what is watched


def test_tracebacks_that_nobody_raises_are_seen() -> None:
    with watch.Watch() as seen:
        log = logging.getLogger("tallystick.gate")
        log.warning("job 0, hello refused: plan: OverflowError")
        try:
            raise KeyError("x")
        except KeyError:
            log.exception("told")
        thread = threading.Thread(target=lambda: {}["there is none"])
        thread.start()
        thread.join()
        log.warning("job 0, hello refused: policy: another rule")
    found = seen.take()
    assert len(found) == 3
    assert "OverflowError" in found[0]
    assert "KeyError" in found[1]
    assert found[2].startswith("in a thread: KeyError")


def test_growth_counts_once_everything_was_loaded() -> None:
    report = Report(1, ("file",))
    for megabytes in (100, 180, 200, 210, 240):
        done = Done(Period("file", 0, 1), held=watch.Held(megabytes << 20, 0, 0, 0))
        report.add(done, 0)
    assert report.growth == 40 << 20
    report.judge()
    assert not report.faults
    report.add(Done(Period("file", 0, 1), held=watch.Held(260 << 20, 0, 0, 0)), 0)
    report.judge()
    assert "grew" in report.faults[0].what


def test_a_process_that_dies_is_a_fault_and_is_replaced(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, killed = fuzz._Process.give, list[int]()

    def give(self: fuzz._Process, period: Period) -> None:
        real(self, period)
        if not killed:
            killed.append(int(self.process.pid or 0))
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(fuzz._Process, "give", give)
    report = fuzz.run(60, 1, place, only="file", workers=1, count=False)
    assert [fault.what for fault in report.faults] == ["the process died (-9)"]
    assert report.inputs == 40


# ---------------------------------------------------------------------- what is given


def test_periods_share_the_inputs_by_weight_and_are_interleaved() -> None:
    periods = list(fuzz.plan(100_000, tuple(TARGETS)))
    assert sum(period.inputs for period in periods) == 100_000
    half = periods[: len(periods) // 2]
    for name, kind in TARGETS.items():
        whole = sum(period.inputs for period in periods if period.target == name)
        assert whole == round(100_000 * kind.weight)
        assert 0.4 * whole < sum(p.inputs for p in half if p.target == name) < 0.6 * whole
    doors = sum(kind.weight for kind in TARGETS.values() if kind.door)
    assert doors > 0.6
    start = list(fuzz.plan(200_000, tuple(TARGETS), at_least=200))[: 3 * len(TARGETS)]
    at_doors = sum(period.inputs for period in start if TARGETS[period.target].door)
    assert at_doors > 0.6 * sum(period.inputs for period in start)


def test_a_period_is_the_same_again(place: Path) -> None:
    """As far as keys and clocks, which are new, let it."""
    words = [given(place / str(n), "file", 300).done["file"].words for n in range(2)]
    assert words[0] == words[1]
    assert words[0] != given(place / "other", "file", 300, seed=2).done["file"].words


@pytest.mark.parametrize("text", ["nothing", "gate/", "gate/-1", "gate/x", "/3", "gate/1/2"])
def test_only_a_target_or_a_period_of_one_can_be_asked_for(text: str) -> None:
    with pytest.raises(ParameterError, match="--only"):
        fuzz.parse_only(text)


def test_a_bent_statement_is_signed_again_where_its_party_colludes() -> None:
    """Otherwise nothing behind a signature would ever be reached."""
    from random import Random

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    honest = wire.SealingKey(contract=b"c" * 32, job="0" * 32, plan=b"p" * 32, key=b"k" * 32)
    mutator = Mutator(
        Random(1), lambda party, said: wire.state(key, party, said) if party == "shop" else None
    )
    changed = 0
    for _ in range(200):
        request = wire.Prepare(hellos=[wire.state(key, "shop", honest)])
        mutator.bend(request)
        for signed in request.hellos:
            try:
                said = wire.read_statement(wire.SealingKey, signed, public)
            except TallystickError:
                continue
            changed += said != honest
    assert changed > 50


# ---------------------------------------------------------------------- what it found


def test_a_share_in_a_strangers_name_is_refused_though_a_colluder_makes_room_for_it(
    make_alliance: Callable[..., Alliance],
) -> None:
    """It was kept, and unmasking looked for the stranger's key: `internal`."""
    with Room(make_alliance(partners=4, dropouts=1), patience=5.0) as room:
        hostile = Hostile(room.alliance, room.gates)
        opened = hostile.open(count())
        target, evil = list(room.gates)[:2]
        at = hostile.contract.roster().parties.index(target)
        for number, signed in enumerate(opened.prepared):
            if signed.party == evil:
                said = wire.parse(wire.Prepared, signed.body)
                said.shares[at] = wire.digest_shares([])
                opened.prepared[number] = wire.state(room.gates[evil].identity, evil, said)
        for share in opened.shares:
            if (share.sender, share.receiver) == (evil, target):
                share.sender = "nobody"
        refused = hostile.release(target, opened, [0])
        assert refused.refusal.code == Code.ROSTER
        assert hostile.charged(target) == 0


@pytest.mark.parametrize("data", [b"[" * 20_000, b'{"format":' * 20_000, b"9" * 5000, b"[]", b"{}"])
def test_a_pin_of_a_table_that_was_tampered_with_is_an_error_with_a_sentence(
    data: bytes, place: Path
) -> None:
    """RecursionError, where it was nested too deeply."""
    file = place / "admitted.json"
    file.write_bytes(data)
    with pytest.raises(DataError, match="doctor --data"):
        ReadAs.load(file)


@pytest.mark.slow
def test_a_minute_finds_nothing_and_most_of_it_reaches_a_door() -> None:
    """As CI runs it."""
    asked = [sys.executable, "-m", "simulations.cli", "attack", "fuzz", "--seconds", "60"]
    done = subprocess.run(
        [*asked, "--inputs", "200000", "--json"], capture_output=True, text=True, timeout=280
    )
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert report["faults"] == []
    assert "Traceback" not in done.stderr
    assert report["signed_at_a_door"] >= 0.5 * report["inputs"], report
    assert set(report["targets"]) == set(TARGETS)
    some, many = map(sum, zip(*report["coverage"]["files"].values(), strict=True))
    assert some > 0.5 * many
