"""A model is accepted only with the totals that it was made from."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from privacy import accounting
from privacy.errors import ParameterError, ProtocolError
from privacy.noisy_sum import encoding
from privacy.noisy_sum.noise import discrete_gaussian
from privacy.programs.columns import Category, Column, Floats, Label, Number
from privacy.programs.evaluate import Evaluate
from privacy.programs.program import Program
from privacy.programs.propensity import Propensity
from privacy.programs.query import Measure, Query
from privacy.programs.replay import outcome_digest, replay, same_model
from privacy.programs.scoring import PropensityModel, model_from
from privacy.programs.segment import Segment
from privacy.randomness import stream
from tests.privacy.whole import Table, exact_sum

COLUMNS: dict[str, Column] = {
    "x": Number("x", 0.0, 9.0),
    "z": Number("z", 0.0, 9.0),
    "r": Category("r", ("a", "b")),
    "y": Label("y"),
}
MANY: dict[str, Column] = {name: Number(name, 0.0, 9.0) for name in ("x", "z", "u", "v")}
RNG = np.random.default_rng(0)
TABLE = Table.of(
    {
        **{name: RNG.uniform(0, 9, 500) for name in MANY},
        "r": RNG.integers(0, 2, 500).astype(float), "y": RNG.integers(0, 2, 500).astype(float),
    },
    [f"k{i:04d}" for i in range(500)],
)  # fmt: skip


def _evaluate() -> Program:
    program = Evaluate(COLUMNS, ("x",), "y", 0.5, 0.5)
    program.restore(np.array([1.0, 0.5, 1.0, 0.0]))
    return program


FRESH: list[Callable[[], Program]] = [
    lambda: Query(COLUMNS, [Measure("count"), Measure("mean", "x")], None, 0.5),
    lambda: Segment(COLUMNS, ("x", "z"), 3, 0.5),
    lambda: Segment(MANY, tuple(MANY), 3, 0.5),
    lambda: Propensity(COLUMNS, ("x", "z", "r"), "y", 0.5, holdout=0.2, steps=6),
    _evaluate,
]


def _run(program: Program) -> tuple[dict[int, Floats], dict[int, tuple[Floats, float]], Any]:
    """A job as its gates saw it."""
    source = stream(bytes(32))
    states: dict[int, Floats] = {}
    totals: dict[int, tuple[Floats, float]] = {}
    for index, release in enumerate(program.plan()):
        states.setdefault(release.stage, program.state().copy())
        variance = accounting.share_variance(encoding.SENSITIVITY, release.mu2, 1)
        total = exact_sum(program, index, TABLE) + discrete_gaussian(
            source, variance, release.length
        )
        natural = encoding.from_ring(encoding.to_ring(total), release.clip)
        totals[index] = natural, variance**0.5 * release.clip / encoding.SENSITIVITY
        program.absorb(index, *totals[index])
    return states, totals, program.result()


@pytest.mark.parametrize("fresh", FRESH)
def test_replaying_gives_the_result_bit_for_bit(fresh: Callable[[], Program]) -> None:
    states, totals, result = _run(fresh())
    assert replay(fresh(), states, totals) == result


@pytest.mark.parametrize("fresh", FRESH[1:4])
def test_a_processor_that_differs_in_last_bits_gives_the_same_model(
    fresh: Callable[[], Program],
) -> None:
    states, totals, result = _run(fresh())
    rng = np.random.default_rng(1)
    near = {s: v * (1 + rng.choice([-1, 1], v.shape) * 1e-15) for s, v in states.items()}
    near = {s: np.where(np.abs(v) > 1, states[s], v) for s, v in near.items()}  # within its bounds
    again = replay(fresh(), near, totals)
    assert same_model(again["model"], result["model"])


def test_differences_of_another_processor_do_not_add_up() -> None:
    """Every step off by nearly the tolerance, and the next from there: far off in the end, and accepted."""
    fresh = FRESH[3]
    clean, totals, _ = _run(fresh())
    other, states = fresh(), {}
    for index, release in enumerate(other.plan()):
        moved = other.state()
        if release.stage:
            moved[:4] += 8e-7
        other.restore(moved)
        states[release.stage] = moved
        other.absorb(index, *totals[index])
    assert (np.abs(states[6] - clean[6]) > 1e-6 * (1 + np.abs(clean[6]))).any()
    assert replay(fresh(), states, totals) == other.result()


def test_a_model_that_no_totals_made_is_found() -> None:
    fresh = FRESH[3]
    states, totals, result = _run(fresh())
    model = replay(fresh(), states, totals)["model"]
    forged = copy.deepcopy(result["model"])
    forged["weights"][0] += 1e-3
    assert same_model(model, result["model"])
    assert not same_model(model, forged)


def test_each_departure_is_a_protocol_error_with_a_private_reason() -> None:
    fresh = FRESH[3]
    states, totals, _ = _run(fresh())
    d = len(totals[1][0])

    def refused(why: str, change: Callable[[dict[int, Any], dict[int, Any]], None]) -> None:
        other_states, other_totals = copy.deepcopy(states), copy.deepcopy(totals)
        change(other_states, other_totals)
        with pytest.raises(ProtocolError) as caught:
            replay(fresh(), other_states, other_totals)
        assert why in caught.value.why
        assert str(caught.value) == "protocol check failed"

    def put(where: str, key: int, value: Any) -> Callable[..., None]:
        return lambda s, t: (s if where == "s" else t).__setitem__(key, value)

    refused("missing", lambda s, t: s.pop(3))
    refused("missing", lambda s, t: t.pop(3))
    refused("too many", put("s", 99, states[0]))
    refused("too many", put("t", 99, totals[0]))
    for stage in (0, 1, 4):
        moved = states[stage].copy()
        moved[0] += 1e-4
        refused(f"stage {stage} does not follow", put("s", stage, moved))
        for bad in (states[stage][:-1], np.append(states[stage], 0.0), states[stage][None]):
            refused(f"stage {stage} does not follow", put("s", stage, bad))
        refused(f"stage {stage} does not follow", put("s", stage, states[stage] * np.nan))
    # another total leads to another state
    refused("stage 3 does not follow", put("t", 2, (totals[2][0] + 5.0, totals[2][1])))
    for bad in (
        np.full(d, np.nan), np.full(d, np.inf), np.zeros(d + 1), np.zeros((1, d)), np.full(d, 1e15)
    ):  # fmt: skip
        refused("total of release 1 is malformed", put("t", 1, (bad, 1.0)))
    for deviation in (np.nan, np.inf, -1.0):
        refused("deviation of release 1", put("t", 1, (totals[1][0], deviation)))


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ({"a": 1.0}, {"a": 1.0 + 1e-7}, True),
        ({"a": 1.0}, {"a": 1.0 + 1e-5}, False),
        ({"a": 1e9}, {"a": 1e9 + 100}, True),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": [1.0, 2.0]}, {"a": (1.0, 2.0)}, True),
        ({"a": [1.0, 2.0]}, {"a": [1.0]}, False),
        ({"a": [1.0]}, {"a": [1.0, 2.0]}, False),
        ({"a": 1.0}, {"a": 1.0, "b": 2.0}, False),
        ({"a": 1.0, "b": 2.0}, {"a": 1.0}, False),
        ({"a": "x"}, {"a": "x"}, True),
        ({"a": "x"}, {"a": "y"}, False),
        ({"a": "1"}, {"a": 1}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": None}, {"a": None}, True),
        ({"a": None}, {"a": 0}, False),
        ({"a": float("nan")}, {"a": float("nan")}, False),
        ({"a": float("inf")}, {"a": float("inf")}, False),
        ({"a": 1.0}, {"a": float("nan")}, False),
        ({"a": 10**400}, {"a": 10**400}, False),
        ({"a": {"b": 1}}, {"a": {"b": 1}}, True),
        ({"a": {"b": 1}}, {"a": [1]}, False),
        ({"a": b"x"}, {"a": b"x"}, False),
        ({1: 1}, {"1": 1}, False),
    ],
)
def test_models_are_the_same_or_not(ours: Any, theirs: Any, same: bool) -> None:
    assert same_model(ours, theirs) is same


def test_endless_models_end() -> None:
    deep: Any = 1.0
    for _ in range(5000):
        deep = [deep]
    assert not same_model(deep, deep)
    assert not same_model([0.0] * ((1 << 20) + 1), [0.0] * ((1 << 20) + 1))


def test_the_digest_sees_every_part_and_where_it_ends() -> None:
    def digest(**changed: Any) -> str:
        parts: dict[str, Any] = {
            "states": {0: np.array([1.0, 2.0]), 1: np.array([3.0])},
            "totals": {0: (np.array([4.0]), 0.5), 1: (np.array([5.0]), 0.5)},
            "model_bytes": b"{}",
        }
        return outcome_digest(**(parts | changed)).hex()

    one = np.array([1.0])
    found = [
        digest(),
        digest(states={0: one, 1: np.array([2.0, 3.0])}),
        digest(states={0: np.array([1.0, 2.0, 3.0])}),
        digest(states={1: np.array([1.0, 2.0]), 2: np.array([3.0])}),
        digest(totals={0: (np.array([4.0]), 0.5), 1: (np.array([5.0]), 0.6)}),
        digest(totals={0: (np.array([4.0, 0.5]), 5.0), 1: (np.array([]), 0.5)}),
        digest(totals={0: (np.array([4.0]), 0.5)}),
        digest(model_bytes=b""),
        digest(model_bytes=b"{} "),
    ]
    assert len(set(found)) == len(found)
    assert digest(states={1: np.array([3.0]), 0: np.array([1.0, 2.0])}) == found[0]  # order of keys
    expected = hashlib.sha256(
        b"tallystick/v1/outcome" + b"m" + bytes(4) + bytes(7) + b"\x02" + b"{}"
    )
    assert outcome_digest({}, {}, b"{}") == expected.digest()
    with pytest.raises(ParameterError):
        outcome_digest({-1: one}, {}, b"")
    with pytest.raises(ParameterError):
        outcome_digest({}, {}, bytes((8 << 20) + 9))


# ------------------------------------------------------------------ models from outside

GOOD: dict[str, Any] = {
    "kind": "propensity", "columns": ["x", "r"], "label": "y",
    "weights": [0.1, 0.2, 0.3, 0.4], "platt": [1.0, 0.0],
}  # fmt: skip
SEGMENT: dict[str, Any] = {
    "kind": "segment",
    "columns": ["x", "z"],
    "centres": [[0.0, 1.0], [-1.0, 0.5]],
}


def test_good_models_are_accepted() -> None:
    assert isinstance(model_from(COLUMNS, GOOD), PropensityModel)
    scores = model_from(COLUMNS, SEGMENT).score({"x": np.array([4.5, np.nan]), "z": np.ones(2) * 9})
    assert scores[0] == 0.0
    assert np.isnan(scores[1])


@pytest.mark.parametrize(
    ("good", "change"),
    [
        (GOOD, {"kind": "tree"}), (GOOD, {"kind": ["propensity"]}), (GOOD, {"more": 1}),
        (GOOD, {"label": "x"}), (GOOD, {"label": "nobody"}), (GOOD, {"label": 1}), (GOOD, {"label": ["y"]}),
        (GOOD, {"columns": ["x", "y"]}), (GOOD, {"columns": ["x", "x"]}), (GOOD, {"columns": []}),
        (GOOD, {"columns": ["nobody"]}), (GOOD, {"columns": "xr"}), (GOOD, {"columns": [["x"]]}),
        (GOOD, {"columns": ["x"] * 201}), (GOOD, {"columns": None}),
        (GOOD, {"weights": [0.1] * 3}), (GOOD, {"weights": [0.1] * 5}), (GOOD, {"weights": [1e7] * 4}),
        (GOOD, {"weights": [float("nan")] * 4}), (GOOD, {"weights": ["0.1"] * 4}),
        (GOOD, {"weights": [True] * 4}), (GOOD, {"weights": [10**400] * 4}), (GOOD, {"weights": 1.0}),
        (GOOD, {"weights": [[0.1]] * 4}), (GOOD, {"weights": {"0": 1}}), (GOOD, {"weights": [None] * 4}),
        (GOOD, {"platt": [1.0, float("nan")]}), (GOOD, {"platt": [float("inf"), 0.0]}),
        (GOOD, {"platt": [1.0]}), (GOOD, {"platt": [1.0, -1e308]}),
        (SEGMENT, {"centres": [[0.0, float("nan")], [0.0, 0.0]]}), (SEGMENT, {"centres": [[0.0, 1.0]]}),
        (SEGMENT, {"centres": [[0.0], [0.0, 1.0]]}), (SEGMENT, {"centres": [[0.0, 1.1], [0.0, 0.0]]}),
        (SEGMENT, {"centres": [[0.0, 1.0]] * 51}), (SEGMENT, {"centres": []}),
        (SEGMENT, {"columns": ["x", "r"]}), (SEGMENT, {"columns": ["x", "nobody"]}),
        (SEGMENT, {"columns": ["x"] * 2}), (SEGMENT, {"label": "y"}),
    ],
)  # fmt: skip
def test_models_with_anything_off_are_refused(good: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=r"model|column"):
        model_from(COLUMNS, {**good, **change})
    for key in change:
        with pytest.raises(ParameterError):
            model_from(COLUMNS, {k: v for k, v in good.items() if k != key} if key in good else {})


def test_scores_of_the_largest_weights_are_finite() -> None:
    model = model_from(COLUMNS, {**GOOD, "weights": [1e6, -1e6, 1e6, 1e6], "platt": [1e6, -1e6]})
    rows = {"x": np.array([0.0, 9.0, 1e308]), "r": np.array([0.0, 1.0, 0.0])}
    assert np.isfinite(model.score(rows)).all()
    assert isinstance(model, PropensityModel)
    assert np.isfinite(model.logit(rows)).all()
