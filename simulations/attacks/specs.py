"""Jobs of every kind, as a coordinator may write them: most of them allowed, some not."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from protos.alliance import Contract
from simulations.attacks.tables import ADULTS, LABELS, NUMBERS, TARGET
from simulations.audiences import EVERYONE

NAMES = ("ask", "second", "buyers", "third")
WEIGHTS = (0.0, -0.0, 1.0, -1.0, 1e6, -1e6, 1e6 + 1, 5e-324, 1e-300, 0.37, 1e308)
RULES = (
    "age >= 18", "age > 40", "spend > 999 and age < 19", 'region == "east"',
    'region == "east" and age == 43', 'region != "nowhere"', "wild < 0", "wild >= 1e99",
    "returned == 1", "rare == 1 or visits < 3", "not (returned == 0)", "nobody == 3", "age >",
    "visits == 5e-324", "spend <= -0",
)  # fmt: skip
EPSILONS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 1.0, 2.0)
ODD_EPSILONS = (1e-12, 1e-6, 14.0, 16.0, 99.0)


USUAL = (
    "query",
    "segment",
    "propensity",
    "query",
    "segment",
    "propensity",
    "evaluate",
    "match",
    "match",
)
"""Kinds, as often as they are asked for."""


def any_job(
    rng: Random, contract: Contract, models: list[str], kinds: Sequence[str]
) -> dict[str, Any]:
    """A job's canonical values. ``models``: names of models that were made."""
    kind = rng.choice(kinds)
    plain: dict[str, Any] = {
        "name": rng.choice(NAMES), "kind": kind, "purpose": "insight",
        "epsilon": rng.choice(EPSILONS if rng.random() < 0.93 else ODD_EPSILONS),
        "query": None, "segment": None, "propensity": None, "evaluate": None, "match": None,
    }  # fmt: skip
    if rng.random() < 0.03:
        plain["purpose"] = rng.choice(["counting", "gossip"])
    plain[kind] = _MAKERS[kind](rng)
    if kind == "match":
        plain["match"] = _match(rng, contract, models)
        if plain["match"]["result"] not in ("size", "sum", "overlap"):
            plain["epsilon"] = 0.0
        elif rng.random() < 0.9:  # noise that is not too wide for a match of a few hundred
            plain["epsilon"] = rng.choice([1.0, 2.0, 4.0])
    return plain


def _query(rng: Random) -> dict[str, Any]:
    column = rng.choice([*NUMBERS, *NUMBERS, "region", *LABELS])
    number = rng.choice(NUMBERS)
    some = [
        "count", f"sum({number})", f"mean({number})", f"histogram({column})", "mean(wild)",
        f"histogram({number},{rng.choice([2, 7, 50, 1000])})",
    ]  # fmt: skip
    measures = rng.sample(some, rng.randint(1, 4))
    if rng.random() < 0.05:
        measures.append(rng.choice(["sum(region)", "mean(nobody)", "histogram(age,1)", "max(age)"]))
    return {"measures": measures, "where": rng.choice([None, None, *RULES])}


def _segment(rng: Random) -> dict[str, Any]:
    columns = rng.sample(NUMBERS, rng.randint(1, 4))
    if rng.random() < 0.04:
        columns.append(rng.choice(["region", "nobody", "fold", columns[0]]))
    return {"columns": columns, "segments": rng.choice([2, 2, 3, 5, 8, 50])}


def _propensity(rng: Random) -> dict[str, Any]:
    label = rng.choice(LABELS)
    features = rng.sample(
        [*NUMBERS, "region", *(x for x in LABELS if x != label)], rng.randint(1, 4)
    )
    if rng.random() < 0.04:
        features.append(rng.choice([label, "nobody", "fold"]))
    return {
        "features": features, "label": label, "holdout": rng.choice([0.0, 0.2, 0.5]),
        "steps": rng.choice([5, 5, 6]),
    }  # fmt: skip


def _evaluate(rng: Random) -> dict[str, Any]:
    label = rng.choice(LABELS)
    features = rng.sample([*NUMBERS, "region"], rng.randint(1, 3))
    size = 1 + sum(3 if name == "region" else 1 for name in features)
    size += rng.choice([0, 0, 0, 0, 0, 0, 0, 1, -1])
    usual = WEIGHTS if rng.random() < 0.15 else WEIGHTS[:6] + WEIGHTS[7:10]
    return {
        "model": "buyers", "features": features, "label": label,
        "holdout": rng.choice([0.2, 0.5, 5e-324]),
        "weights": [rng.choice(usual) for _ in range(size)],
        "platt": [rng.choice(usual), rng.choice(usual)],
    }  # fmt: skip


def _match(rng: Random, contract: Contract, models: list[str]) -> dict[str, Any]:
    names = [party.name for party in contract.parties]
    result = rng.choice(
        ["size", "size", "sum", "overlap", "list", "lists", "ids", "cache", "cached"]
    )
    parties = [TARGET, rng.choice(["shop", "shop", *names[1:]])]
    if rng.random() < 0.5:
        parties.reverse()
    if result == "overlap" or (result == "list" and rng.random() < 0.2):
        parties = rng.sample(names, 3)
        if TARGET not in parties:
            parties[0] = TARGET
    plain: dict[str, Any] = {
        "identifier": rng.choice(["email", "email", "phone"]), "parties": parties, "rules": {},
        "result": "list" if result == "cached" else result, "value": None, "audience": None,
        "cache": None,
    }  # fmt: skip
    if result in ("list", "lists") and len(parties) == 2 and rng.random() < 0.3:
        plain["identifier"] = ["email", "phone"]
    if len(parties) == 3 and (result == "list" or rng.random() < 0.3):
        plain["audience"] = rng.choice(
            [" & ".join(parties), f"{parties[0]} & ({parties[1]} | {parties[2]})"]
        )
    if result == "sum":
        plain["value"] = rng.choice([*NUMBERS[:3], "region"])
    if result == "cached":
        plain["cache"] = rng.choice(NAMES)
    exact = result not in ("size", "sum", "overlap")
    entering = parties[1:] if result == "cache" else parties[: 1 if result == "cached" else None]
    if exact or rng.random() < 0.2:
        plain["audiences"] = {name: _audience(rng, name) for name in entering}
    allowed = contract.matching is not None and contract.matching.assumes
    if not plain.get("audiences") and rng.random() < (0.8 if allowed else 0.1):
        rules = [*RULES, *(f"model:{name} >= 0.5" for name in models), "model:nobody < 1"]
        plain["rules"] = {name: rng.choice(rules) for name in parties if rng.random() < 0.7}
        # one that does not parse makes the whole job malformed: now and then is enough
        if rng.random() < 0.9:
            plain["rules"] = {k: v for k, v in plain["rules"].items() if v != "age >"}
    return plain


def _audience(rng: Random, name: str) -> str:
    if rng.random() < 0.1:
        return rng.choice(["nobody", "x" * 33, "../keys"])
    return rng.choice([EVERYONE, EVERYONE, ADULTS]) if name == TARGET else EVERYONE


def planted(rng: Random, model: dict[str, Any]) -> dict[str, Any]:
    """A model that no totals made."""
    key = "weights" if "weights" in model else "centres"
    bent = {**model, key: model[key][:] if key == "weights" else [row[:] for row in model[key]]}
    what = rng.random()
    if what < 0.3:
        bent["columns"] = ["region", *bent["columns"][1:]]
    elif what < 0.6 and key == "weights":
        bent[key][0] = rng.choice(WEIGHTS)
    elif what < 0.8:
        bent[key] = bent[key][:-1]
    else:
        bent["more"] = 1
    return bent


_MAKERS: dict[str, Any] = {
    "query": _query, "segment": _segment, "propensity": _propensity, "evaluate": _evaluate,
    "match": lambda rng: None,
}  # fmt: skip
