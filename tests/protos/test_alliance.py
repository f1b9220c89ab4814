from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from client import setup as partner_setup
from privacy.errors import ConfigError
from protos import alliance
from protos.toml import build, read_toml
from server import setup as coordinator_setup
from simulations.alliances import Alliance
from tests.conftest import PROPENSITY, QUERY, ROOT, job

NOW = datetime(2026, 12, 1, tzinfo=UTC)


def _edited(found: Alliance, change: Callable[[dict[str, Any]], object]) -> Path:
    path = found.coordinator.contract_file
    plain = read_toml(path)
    change(plain)
    path.write_text(tomli_w.dumps(plain))
    return path


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        (lambda c: c.update(colour="red"), "colour", "unknown key"),
        (lambda c: c["privacy"].update(epsilom=1), "privacy.epsilom", "unknown key"),
        (lambda c: c["columns"]["age"].pop("high"), "columns.age.number.high", "is missing"),
        (lambda c: c["columns"]["age"].update(low=99), "columns.age.number", "low must be under"),
        (
            lambda c: c["columns"]["age"].update(low=float("nan")),
            "columns.age.number.low",
            "finite",
        ),
        (lambda c: c["privacy"].update(epsilon=0), "privacy.epsilon", "greater than 0"),
        (lambda c: c.pop("purposes"), "purposes", "is missing"),
        (lambda c: c["coordinator"].update(link="nowhere"), "coordinator.link", "HOST:PORT"),
        (lambda c: c.update(expires=datetime(2030, 1, 1)), "expires", "time zone"),
        (lambda c: c["matching"].update(recipients=["nobody"]), "", "recipients"),
        (lambda c: c["parties"].append(dict(c["parties"][0])), "", "named twice"),
        (lambda c: c["columns"].update(fold={"type": "label"}), "", "reserved"),
    ],
)
def test_mistakes_name_their_key(
    make_alliance: Callable[..., Alliance],
    change: Callable[[dict[str, Any]], object],
    path: str,
    reason: str,
) -> None:
    file = _edited(make_alliance(), change)
    with pytest.raises(ConfigError) as caught:
        alliance.load(file)
    assert caught.value.path.removeprefix(str(file)).removeprefix(".") == path
    assert reason in caught.value.reason


def test_expired_unsigned_or_changed_contracts_are_refused(
    make_alliance: Callable[..., Alliance],
) -> None:
    found = make_alliance()
    path = found.coordinator.contract_file
    alliance.load_signed(path, NOW)
    with pytest.raises(ConfigError, match="expired"):
        alliance.load_signed(path, datetime(2036, 1, 1, tzinfo=UTC))
    _edited(found, lambda c: c["signatures"].pop("shop"))
    with pytest.raises(ConfigError, match="shop: has not signed"):
        alliance.load_signed(path, NOW)


def test_a_change_after_signing_is_found(make_alliance: Callable[..., Alliance]) -> None:
    path = _edited(make_alliance(), lambda c: c["privacy"].update(epsilon=50.0))
    with pytest.raises(ConfigError, match="changed after signing"):
        alliance.load_signed(path, NOW)


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31)])
def test_weak_keys_are_refused(make_alliance: Callable[..., Alliance], key: bytes) -> None:
    from protos.identity import encode

    path = _edited(make_alliance(), lambda c: c["parties"][0].update(identity=encode(key)))
    with pytest.raises(ConfigError, match=r"parties\.bank\.identity: weak key"):
        alliance.load_signed(path, NOW)


def test_tolerance_is_checked_when_the_contract_is_written(
    make_alliance: Callable[..., Alliance],
) -> None:
    with pytest.raises(ConfigError, match="K > c"):
        make_alliance(partners=3, dropouts=1)


def test_one_partner_is_no_alliance(make_alliance: Callable[..., Alliance]) -> None:
    with pytest.raises(ConfigError, match="parties"):
        make_alliance(partners=1, partners_per_person=1)


def test_a_partner_signs_only_its_own_key(
    make_alliance: Callable[..., Alliance], tmp_path: Path
) -> None:
    found = make_alliance()
    stranger = partner_setup.init(tmp_path / "stranger", "bank", os.urandom)
    with pytest.raises(ConfigError, match="is not this partner's key"):
        partner_setup.sign(stranger, found.coordinator.contract_file, NOW)


def test_keys_are_never_overwritten(make_alliance: Callable[..., Alliance]) -> None:
    found = make_alliance()
    with pytest.raises(ConfigError, match="never overwritten"):
        partner_setup.init(found.partners["bank"].root, "bank", os.urandom)


def test_applications_are_checked(make_alliance: Callable[..., Alliance], tmp_path: Path) -> None:
    found = make_alliance()
    application = tmp_path / "bank" / "application.toml"
    text = application.read_text().replace('residency = "EU"', 'residency = "US"')
    application.write_text(text)
    with pytest.raises(ConfigError, match="the file was changed"):
        coordinator_setup.admit(found.coordinator, application, NOW)


def test_the_draft_a_coordinator_starts_from_is_valid(tmp_path: Path) -> None:
    from server.home import CoordinatorConfig

    config = CoordinatorConfig(
        name="c", host="h.example", link_port=1, exchange_port=2, internal_port=3
    )
    home = coordinator_setup.init(tmp_path / "c", "club", config, os.urandom, datetime.now(UTC))
    for name in ("one", "two"):
        invitation = coordinator_setup.invite(home, name)
        partner = partner_setup.init(tmp_path / name, name, os.urandom)
        out = tmp_path / f"{name}.toml"
        partner_setup.join(partner, invitation, "DE", out)
    assert "waiting for two" in coordinator_setup.admit(home, tmp_path / "one.toml", NOW)
    assert "ready to be signed" in coordinator_setup.admit(home, tmp_path / "two.toml", NOW)


def test_a_contract_survives_writing_and_reading(make_alliance: Callable[..., Alliance]) -> None:
    contract = make_alliance().contract
    again = build(alliance.Contract, alliance.to_plain(contract))
    assert again.digest() == contract.digest()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({**QUERY, "purpose": "nothing"}, "not a purpose"),
        ({**PROPENSITY, "purpose": "counting"}, "does not allow propensity"),
        ({**QUERY, "query": {"measures": ["sum(nothing)"]}}, "nothing"),
        ({**QUERY, "query": {"measures": ["median(age)"]}}, "write count"),
        ({**QUERY, "query": {"measures": ["count"], "where": "nothing > 1"}}, "nothing"),
        ({**QUERY, "epsilon": 0.0}, "above 0"),
        ({**QUERY, "segment": {"columns": ["age"], "segments": 2}}, "does not belong"),
        ({**QUERY, "name": "Bad Name"}, "a-z"),
    ],
)
def test_jobs_outside_the_contract_are_refused(
    make_alliance: Callable[..., Alliance], settings: dict[str, Any], reason: str
) -> None:
    contract = make_alliance().contract
    with pytest.raises(ConfigError, match=reason):
        job(**settings).check(contract)


def test_generated_code_is_what_the_source_says(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}",
         f"--pyi_out={tmp_path}", "protos/v1/tallystick.proto"],
        cwd=ROOT, check=True,
    )  # fmt: skip
    for name in ("tallystick_pb2.py", "tallystick_pb2.pyi"):
        made = (tmp_path / "protos" / "v1" / name).read_text()
        assert made == (ROOT / "protos" / "v1" / name).read_text(), f"{name}: run protoc again"
