"""Rows 5 and R: models that were not made from what the partners answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from privacy.errors import RoundFailed
from protos import jobs, wire
from protos.addresses import JobId
from server.tasks.noisy_sum import Memory, NoisySumDrive
from simulations.attacks.hostile import job
from simulations.attacks.lab import TARGET, Lab, Stage
from simulations.attacks.table import Attack

SEGMENT: dict[str, Any] = {
    "kind": "segment", "epsilon": 0.1, "segment": {"columns": ["age", "spend"], "segments": 3},
}  # fmt: skip
PROPENSITY: dict[str, Any] = {
    "kind": "propensity", "epsilon": 0.1,
    "propensity": {"features": ["age", "spend"], "label": "returned", "steps": 5},
}  # fmt: skip
NAMES = ["ask", "spend", "age", "earlier"]


def _driven(stage: Stage, settings: dict[str, Any]) -> tuple[NoisySumDrive, dict[str, Any]]:
    """A job driven honestly up to its model."""
    opened = stage.hostile.new(job(**settings))
    rounds = stage.room.rounds(opened.id)
    drive = NoisySumDrive(rounds, opened.job, opened.salt, Memory(), grace=0.5)
    return drive, drive.run()["model"]


def _kept(stage: Stage) -> dict[str, dict[tuple[str, str], bytes]]:
    """By partner, name and job: the digest of each model."""
    rows = "SELECT name, job, digest FROM models"
    return {
        name: {(row[0], row[1]): bytes(row[2]) for row in gate.store.rows(rows)}
        for name, gate in stage.room.gates.items()
    }


def _bent(model: dict[str, Any], rng: Random) -> bytes:
    """Another model in place of one."""
    other = json.loads(jobs.model_bytes(model))
    how = rng.randrange(6)
    if how == 0:
        key = "centres" if "centres" in other else "weights"
        other[key] = (np.array(other[key]) + rng.choice([1e-3, 1.0, -30.0])).tolist()
    elif how == 1:
        other["columns"] = other["columns"][::-1]
    elif how == 2:
        other["label"] = "rare"
    elif how == 3:
        other["kind"] = "segment" if other["kind"] == "propensity" else "propensity"
    elif how == 4:
        text = json.dumps(other)
        digit = next(c for c in text if c.isdigit())
        return text.replace(digit, rng.choice(["NaN", "1e999", "[[1.0]]"]), 1).encode()
    else:
        other["more"] = rng.choice([1, "x", None])
    return json.dumps(other, separators=(",", ":"), sort_keys=True).encode()


def _planted(lab: Lab, rng: Random) -> bool:
    """After no release, with other weights, as NaN, in a column's or an earlier model's name, or another one
    for each partner. Success: a model is kept that its job's totals do not make, or that the others were not
    given, or an earlier one is gone."""

    def start() -> Stage:
        stage = lab.stays()
        stage.room.run(job(name="earlier", **SEGMENT))
        return stage

    stage = lab.once("models", start)
    hostile, before = stage.hostile, _kept(stage)
    settings = {"name": rng.choice(NAMES), **rng.choice([SEGMENT, PROPENSITY])}
    if rng.random() < 0.2:  # after no release
        opened = hostile.open(job(**settings))
        _finish(stage, opened.id, lambda name: _finishing(_bent(_invented(settings), rng), []))
        _cancel(stage, opened.id)
        return _kept(stage) != before
    drive, model = _driven(stage, settings)
    job_id, honest, totals = drive.rounds.job_id, jobs.model_bytes(model), drive.finish_totals()
    if rng.random() < 0.3:
        key = "centres" if "centres" in model else "weights"
        other = jobs.model_bytes(model | {key: (np.array(model[key]) + 1e-9).tolist()})
        _finish(stage, job_id, lambda name: _finishing(other if name == TARGET else honest, totals))
    else:
        bent = _bent(model, rng)
        _finish(stage, job_id, lambda name: _finishing(bent, totals))
    after = _kept(stage)
    lost = any(before[name].items() - after[name].items() for name in after)
    _finish(stage, job_id, lambda name: _finishing(honest, totals))  # closes the job
    _cancel(stage, job_id)
    held = {kept.get((settings["name"], job_id)) for kept in after.values()}
    fine = {kept.get((settings["name"], job_id)) for kept in _kept(stage).values()}
    return lost or not (held == {None} or held == fine)


def _finishing(model: bytes, totals: list[wire.Total]) -> wire.Finish:
    return wire.Finish(model=model, totals=totals)


def _invented(settings: dict[str, Any]) -> dict[str, Any]:
    if settings["kind"] == "propensity":
        return {"columns": ["age", "spend"], "kind": "propensity", "label": "returned",
                "platt": [1.0, 0.0], "weights": [-30.0, 30.0, 0.0]}  # fmt: skip
    return {"columns": ["age", "spend"], "kind": "segment", "centres": [[0.5, 0.5]] * 3}


def _finish(stage: Stage, job_id: str, of: Callable[[str], wire.Finish]) -> None:
    """Twice, as the coordinator does: the second time with everybody's heads."""
    heads: list[wire.Signed] = []
    for _ in range(2):
        said = list(heads)
        for name in stage.room.gates:
            finish = of(name)
            finish.heads.extend(said)
            reply = stage.hostile.send(name, job_id, finish=finish)
            if reply.finish.HasField("head"):
                heads.append(reply.finish.head)


def _cancel(stage: Stage, job_id: str) -> None:
    """Whatever is still open; limits on open jobs are for another attack."""
    for name in stage.room.gates:
        stage.hostile.send(name, job_id, cancel=wire.Cancel())


def _lied(lab: Lab, rng: Random) -> bool:
    """A coordinator hands out totals that it invented, from the first release on, the same to all; success is
    a model of its choice that every partner keeps."""
    stage = lab.once("lied", lab.stays)
    settings = {"name": "lied", **SEGMENT}
    wanted = job(**settings)
    opened = stage.hostile.new(wanted)
    drive = NoisySumDrive(stage.room.rounds(opened.id), wanted, opened.salt, Memory(), grace=0.5)
    release, factor = drive._release, rng.choice([3.0, 10.0])

    def invented(indexes: list[int]) -> Any:
        return {
            i: (total * factor + 1.0, spread) for i, (total, spread) in release(indexes).items()
        }

    drive._release = invented  # type: ignore[method-assign]
    try:
        model = drive.run()["model"]
        drive.finish(jobs.model_bytes(model))
    except RoundFailed:
        _cancel(stage, opened.id)
        return False
    held = [gate.store.row("SELECT 1 FROM models WHERE job = ?", JobId(opened.id))
            for gate in stage.room.gates.values()]  # fmt: skip
    return all(row is not None for row in held)


ATTACKS = [
    Attack("5", "a model that totals do not make", "coordinator", "kept, or one replaced", _planted,
           trials=60),
    Attack("R", "invented totals with a model", "coordinator", "all keep the model made of them",
           _lied, trials=10, breaks="the coordinator reports true totals"),
]  # fmt: skip
