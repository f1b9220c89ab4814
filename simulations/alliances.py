"""Whole alliances in a folder, made by the same steps that people take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from client import setup as partner_setup
from client.home import Home as PartnerHome
from privacy.randomness import Randomness
from protos.alliance import Contract
from server import setup as coordinator_setup
from server.home import CoordinatorConfig
from server.home import Home as CoordinatorHome

ALL_KINDS = ["query", "segment", "propensity", "evaluate", "match"]


@dataclass(frozen=True)
class Alliance:
    """Folders of an alliance that everyone has signed."""

    contract: Contract
    coordinator: CoordinatorHome
    partners: dict[str, PartnerHome]


def create(
    root: Path,
    names: Sequence[str],
    terms: Mapping[str, Any],
    data: Mapping[str, Mapping[str, Any]],
    *,
    ports: tuple[int, int, int] = (9, 9, 9),
    randomness: Randomness = os.urandom,
    largest_epsilon: float = 100.0,
) -> Alliance:
    """Init, invite, join, admit, sign, check: for a coordinator and ``names``.

    ``terms``: the contract without parties. ``data``: each partner's ``[data]`` table. Partners assume what
    the contract assumes.
    ``ports``: link, exchange, internal.
    """
    now = datetime.now(UTC)
    link, exchange, internal = ports
    config = CoordinatorConfig(
        name="coordinator", host="127.0.0.1", bind="127.0.0.1",
        link_port=link, exchange_port=exchange, internal_port=internal,
    )  # fmt: skip
    home = coordinator_setup.init(root / "coordinator", str(terms["name"]), config, randomness, now)
    home.draft_file.write_text(tomli_w.dumps(dict(terms)), encoding="utf-8")
    partners: dict[str, PartnerHome] = {}
    for name in names:
        invitation = coordinator_setup.invite(home, name)
        partner = partner_setup.init(root / name, name, randomness)
        matching = terms.get("matching", {})
        rules = {
            "kinds": ALL_KINDS,
            "purposes": list(terms["purposes"]),
            "largest_epsilon": largest_epsilon,
            "send_lists_to": list(matching.get("recipients", [])),
        }
        if "assumes" in matching:
            rules["assumes"] = matching["assumes"]
        settings = {"name": name, "data": dict(data[name]), "rules": rules}
        partner.config_file.write_text(tomli_w.dumps(settings), encoding="utf-8")
        application = root / name / "application.toml"
        partner_setup.join(partner, invitation, "EU", application)
        partners[name] = partner
    for name in names:
        coordinator_setup.admit(home, root / name / "application.toml", now)
    for partner in partners.values():
        partner_setup.sign(partner, home.contract_file, now)
    for partner in partners.values():
        partner_setup.install(partner, home.contract_file, now)
    return Alliance(home.contract(), home, partners)
