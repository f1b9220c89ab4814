"""What a plan alone decides is decided when it is quoted: nothing is charged for what cannot be."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from privacy import accounting
from privacy.errors import ConfigError, ParameterError
from privacy.noisy_sum import encoding
from privacy.noisy_sum.feasible import check_feasible
from privacy.noisy_sum.noise import LARGEST_VARIANCE, discrete_gaussian
from privacy.programs.program import Release
from privacy.randomness import stream
from protos import alliance, jobs
from protos.alliance import CategoryColumn, Contract, LabelColumn, NumberColumn
from protos.toml import build
from server.quote import quote

V030 = Path(__file__).parent.parent / "vectors" / "v030" / "partner" / "alliance.toml"


def _contract(*, parties: int = 3, **privacy: Any) -> Contract:
    """The frozen contract with other terms; nobody checks signatures here."""
    found = alliance.load(V030)
    third = found.parties[0].model_copy(update={"name": "telecom"})
    columns = {
        "x": NumberColumn(type="number", low=0, high=9),
        "r": CategoryColumn(type="category", values=("a", "b")),
        "y": LabelColumn(type="label"),
    }
    kinds: Any = ("query", "segment", "propensity", "evaluate", "match")
    return found.model_copy(
        update={
            "columns": columns,
            "parties": (*found.parties, third)[:parties],
            "privacy": found.privacy.model_copy(
                update={"partners_per_person": 1, "colluders": 1, "dropouts": 0, **privacy}
            ),
            "purposes": {"p": alliance.Purpose(kinds=kinds)},
        }
    )


def _job(kind: str, epsilon: float, table: dict[str, Any]) -> jobs.Job:
    plain = {"name": "j", "kind": kind, "purpose": "p", "epsilon": epsilon, kind: table}
    return build(jobs.Job, plain)


MODEL = {"features": ["x", "r"], "label": "y", "steps": 500}


def test_what_was_charged_once_and_then_refused_is_not_quoted() -> None:
    """0.06 in 500 steps at K = 2: the first release could be drawn, the gradients could not."""
    contract = _contract(parties=2)
    with pytest.raises(ConfigError, match=r"release gradient 0.*more noise than can be drawn") as e:
        quote(_job("propensity", 0.06, MODEL), contract)
    assert e.value.path == "propensity"
    assert "raise epsilon, or ask for fewer steps" in str(e.value)
    quote(_job("propensity", 0.6, MODEL), contract)


@pytest.mark.parametrize("epsilon", [1e-300, 1e-9, 1e-5, 1e-3, 0.02, 1.0, 30.0, 100.0])
@pytest.mark.parametrize(
    ("kind", "table"),
    [
        ("query", {"measures": ["count", "mean(x)", "histogram(r)"]}),
        ("segment", {"columns": ["x"], "segments": 3}),
        ("propensity", MODEL),
        ("match", {"identifier": "email", "parties": ["bank", "shop"], "result": "size"}),
        ("match", {"identifier": "email", "parties": ["bank", "shop"], "result": "sum", "value": "x"}),
        ("match", {"identifier": "email", "parties": ["bank", "shop", "telecom"], "result": "overlap"}),
    ],
)  # fmt: skip
def test_what_is_quoted_can_be_drawn(epsilon: float, kind: str, table: dict[str, Any]) -> None:
    contract = _contract()
    job = _job(kind, epsilon, table)
    try:
        quote(job, contract)
    except ConfigError:
        assert epsilon < 0.1 or epsilon > 10  # and only at absurd epsilons is it refused
        return
    mu2 = job.mu2(contract)
    if job.match:
        noises = [job.match.size_noise(mu2), job.match.padding_noise(mu2)]
        noises = [*noises, job.match.sum_noise(contract, mu2)]
        variances = [noise.variance for noise in noises if noise]
        charges = job.match.price(contract, mu2)
        assert sum(c[1] for c in charges) <= mu2
        assert charges[0][0] == "match padding"
        assert charges[0][1] == pytest.approx(mu2 / 10, rel=1e-3)
        assert sum(c[1] for c in charges) == pytest.approx(mu2, rel=1e-3)
        assert sum(c[2] for c in charges) < 1.4e-11
    else:
        roster = contract.roster()
        plan = job.program(contract).plan()
        variances = [
            accounting.share_variance(encoding.SENSITIVITY, r.mu2, roster.honest) for r in plan
        ]
    for variance in set(variances):
        assert len(discrete_gaussian(stream(bytes(32)), variance, 1)) == 1


def test_each_way_to_be_infeasible_says_what_to_change() -> None:
    most = encoding.SENSITIVITY**2 / LARGEST_VARIANCE
    check_feasible([Release("r", 0, 1, 1.0, most * 1.01)], 1, 2)
    with pytest.raises(ParameterError, match=r"release r: .*raise epsilon"):
        check_feasible([Release("r", 0, 1, 1.0, most * 0.99)], 1, 2)
    check_feasible([Release("r", 0, 1, 1.0, most * 0.99)], 2, 3)  # two share the noise
    with pytest.raises(ParameterError, match=r"release r: .*smaller epsilon"):
        check_feasible([Release("r", 0, 1, 1.0, 1e9)], 1, 2)
    with pytest.raises(ParameterError, match=r"release r: .*larger epsilon"):
        check_feasible([Release("r", 0, 1, 1.0, 5e-324)], 1, 2)
    with pytest.raises(ParameterError, match="release r: too many people or too much noise"):
        check_feasible([Release("r", 0, 1, 1.0, most * 1.01)], 1, 1 << 65)


def test_a_delta_under_the_cut_is_refused_before_it_is_charged() -> None:
    table = {"identifier": "email", "parties": ["bank", "shop"], "result": "size"}
    with pytest.raises(ConfigError, match="delta") as caught:
        _job("match", 1.0, table).check(_contract(delta=2e-12))
    assert caught.value.path == "match"
    _job("match", 1.0, table).check(_contract(delta=3e-12))
    with pytest.raises(ConfigError, match="delta"):
        _job("match", 1.0, table).check(_contract(delta=3e-12, partners_per_person=3))


def test_a_job_above_the_contracts_own_limit_is_not_quoted() -> None:
    table = {"measures": ["count"]}
    quote(_job("query", 8.0, table), _contract())
    with pytest.raises(ConfigError, match="limit for a period"):
        quote(_job("query", 8.1, table), _contract())
    with pytest.raises(ConfigError, match="limit for a period"):
        quote(_job("query", 8.0, table), _contract(epsilon_per_person=8.0, partners_per_person=2))


def test_exact_results_have_no_noise_and_no_price() -> None:
    table = {"identifier": "email", "parties": ["bank", "shop"], "result": "ids"}
    match = _job("match", 0.0, table).match
    assert match is not None
    assert match.padding_noise(0.1) is None
    assert match.price(_contract(), 0.1) == []


@pytest.mark.parametrize(
    ("low", "high", "scale"),
    [
        (0.0, 1e-303, "linear"), (0.0, 1e-101, "linear"), (-1.1e100, 0.0, "linear"),
        (0.0, 1.7e308, "linear"), (1e99, 1.0000000000000002e99, "log"),
    ],
)  # fmt: skip
def test_a_contract_names_the_column_whose_bounds_have_no_arithmetic(
    low: float, high: float, scale: Any
) -> None:
    contract = _contract(parties=2)
    column = NumberColumn(type="number", low=low, high=high, scale=scale)
    wrong = contract.model_copy(update={"columns": {**contract.columns, "spend": column}})
    with pytest.raises(ConfigError, match=r"bounds|high must be above low") as caught:
        wrong.check_terms(datetime(2026, 12, 1, tzinfo=UTC))
    assert caught.value.path == "columns.spend"
    assert "column spend" not in caught.value.reason
    contract.check_terms(datetime(2026, 12, 1, tzinfo=UTC))
