"""Contracts, jobs and databases of earlier versions: the same digests, no new signature."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import ConfigError
from protos import alliance, jobs
from protos.toml import build
from tests.conftest import job

V030 = Path(__file__).parent.parent / "vectors" / "v030"
FROZEN: dict[str, Any] = json.loads((V030 / "frozen.json").read_text())
CONTRACT = V030 / "partner" / "alliance.toml"


def test_a_contract_of_030_is_valid_without_a_new_signature() -> None:
    contract = alliance.load_signed(CONTRACT, datetime(2026, 12, 1, tzinfo=UTC))
    assert contract.digest().hex() == FROZEN["contract_digest"]
    assert contract.matching is not None
    assert contract.matching.assumes is None  # absent denies


@pytest.mark.parametrize(
    "frozen", FROZEN["jobs"], ids=lambda frozen: json.loads(frozen["spec"])["name"]
)
def test_jobs_of_030_have_the_ids_they_had(frozen: dict[str, str]) -> None:
    spec = frozen["spec"].encode()
    read = jobs.from_canonical(spec)
    assert read.canonical() == spec
    digest = bytes.fromhex(FROZEN["contract_digest"])
    assert jobs.job_id(digest, spec, bytes.fromhex(FROZEN["salt"])) == frozen["id"]


def test_a_key_that_came_later_is_in_the_digest_once_it_is_there() -> None:
    contract = alliance.load(CONTRACT)
    assert contract.matching is not None
    matching = contract.matching.model_copy(update={"assumes": "semi_honest"})
    assert contract.model_copy(update={"matching": matching}).digest() != contract.digest()
    plain = job(
        name="m",
        kind="match",
        match={"identifier": "email", "parties": ["bank", "shop"], "result": "list"},
    )
    match = {"identifier": "email", "parties": ["bank", "shop"], "result": "list"}
    named = job(name="m", kind="match", match={**match, "audiences": {"shop": "members"}})
    assert b"audiences" not in plain.canonical()
    assert b'"audiences":{"shop":"members"}' in named.canonical()


def test_an_explicit_null_is_not_another_spelling_of_absent() -> None:
    spec = FROZEN["jobs"][-1]["spec"].replace('"audience":null', '"audience":null,"audiences":null')
    assert spec != FROZEN["jobs"][-1]["spec"]
    with pytest.raises(ConfigError, match="canonical"):
        jobs.from_canonical(spec.encode())
    assert build(jobs.Job, json.loads(spec)).canonical() == FROZEN["jobs"][-1]["spec"].encode()
