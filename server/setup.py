"""From nothing to a signed alliance: the coordinator's folder, invitations, admissions."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import tomli_w
from cryptography.exceptions import UnsupportedAlgorithm

from privacy.errors import ConfigError
from privacy.randomness import Randomness
from protos import alliance, identity, joining
from protos.alliance import Contract, Coordinator, Party
from protos.toml import build, read_toml
from server import pki
from server.home import CoordinatorConfig, Home

TEMPLATE = """\
# Terms of the contract. Edit, agree, then admit the partners: the contract is written from this.
version = 1
name = "{alliance}"
expires = {expires}

[privacy]
epsilon = 4.0                # for a customer at one partner, in a period
epsilon_per_person = 12.0    # for a person at several partners, in a period
delta = 1e-5
period_days = 365
smallest_cohort = 50
colluders = 1                # c: partners who may pool what they see with the coordinator
dropouts = 0                 # d: partners who may vanish in a job; K > c + 2d
partners_per_person = 2      # at how many partners one person may be a customer
rows_per_person = 1

# Public facts about the columns. Never take them from the data.
[columns.recency]
type = "number"
low = 0
high = 560

[columns.frequency]
type = "number"
low = 1
high = 100
scale = "log"

[columns.returned]
type = "label"

[purposes.insight]
kinds = ["query", "segment", "propensity", "evaluate", "match"]

[matching]
identifiers = ["email", "phone"]
bucket = 4096
largest_set = 1000000
recipients = []              # who may receive match lists
platforms = []               # where they may be uploaded: google, meta, uid2, tiktok, linkedin
"""


def _private(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as target:
        target.write(data)


def init(
    root: Path,
    alliance_name: str,
    config: CoordinatorConfig,
    randomness: Randomness,
    now: datetime,
) -> Home:
    """Create a coordinator's folder: identity, authority, server certificate, token, draft."""
    for label, text in (("alliance", alliance_name), ("name", config.name)):
        if not alliance.NAME.fullmatch(text):
            raise ConfigError(label, "a-z, 0-9, - and _, starting with a letter, at most 32")
    home = Home(root)
    if home.keys.exists():
        raise ConfigError(str(home.keys), "keys exist already; they are never overwritten")
    for folder in (home.keys, home.state, home.invitations, root / "parties"):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    _private(home.keys / "identity.key", randomness(32))
    authority_key, authority = pki.new_authority(alliance_name, now)
    server_key, server = pki.server_certificate(authority_key, authority, config.host, now)
    _private(home.keys / "ca.key", authority_key)
    _private(home.keys / "ca.pem", authority)
    _private(home.keys / "server.key", server_key)
    _private(home.keys / "server.pem", server)
    _private(home.keys / "control.token", randomness(32).hex().encode())
    _private(home.keys / "runtime.secret", randomness(32).hex().encode())
    home.config_file.write_text(tomli_w.dumps(alliance.to_plain(config)), encoding="utf-8")
    expires = (now + timedelta(days=365)).strftime("%Y-%m-%dT00:00:00Z")
    if not home.draft_file.exists():
        text = TEMPLATE.format(alliance=alliance_name, expires=expires)
        home.draft_file.write_text(text, encoding="utf-8")
    return home


def coordinator(home: Home) -> Coordinator:
    """The coordinator as the contract names it."""
    config = home.config()
    return Coordinator(
        name=config.name,
        identity=identity.encode(home.identity().public_key().public_bytes_raw()),
        link=f"{config.host}:{config.link_port}",
        exchange=f"{config.host}:{config.exchange_port}",
        authority=home.key("ca.pem").decode(),
    )


def invite(home: Home, party: str) -> Path:
    """Write an invitation for a partner; send it by any channel."""
    if not alliance.NAME.fullmatch(party):
        raise ConfigError("party", "a-z, 0-9, - and _, starting with a letter, at most 32")
    name = str(read_toml(home.draft_file).get("name", ""))
    invitation = joining.Invitation(
        version=1, alliance=name, party=party, coordinator=coordinator(home)
    )
    target = home.invitations / f"{party}.invitation.toml"
    joining.write(target, invitation)
    return target


def admit(home: Home, path: Path, now: datetime) -> str:
    """Take an application, or a copy of the contract with more signatures. Says what is next."""
    if "parties" in read_toml(path):
        return _merge(home, path)
    application = joining.load_application(path)
    invitation = home.invitations / f"{application.party}.invitation.toml"
    if not invitation.exists():
        raise ConfigError("party", f"{application.party} was not invited")
    if application.alliance != joining.load_invitation(invitation).alliance:
        raise ConfigError("alliance", "the application is for another alliance")
    if home.contract_file.exists() and alliance.load(home.contract_file).signatures:
        raise ConfigError(str(home.contract_file), "is signed already; a new party needs a new one")
    try:
        certificate = pki.partner_certificate(
            home.key("ca.key"), home.key("ca.pem"), application.party, application.request, now
        )
    except (ValueError, UnsupportedAlgorithm):  # keys and signatures of kinds that are not for us
        raise ConfigError("request", "its signature or key type does not fit") from None
    party = Party(
        name=application.party,
        identity=application.identity,
        node_key=application.node_key,
        certificate=certificate,
        residency=application.residency,
    )
    folder = home.root / "parties"
    joining.write(folder / f"{party.name}.toml", party)
    invited = sorted(p.name.split(".")[0] for p in home.invitations.glob("*.invitation.toml"))
    missing = [name for name in invited if not (folder / f"{name}.toml").exists()]
    if missing:
        return f"admitted {party.name}; waiting for {', '.join(missing)}"
    write_contract(home, now)
    return f"admitted {party.name}; all are in: {home.contract_file} is ready to be signed"


def write_contract(home: Home, now: datetime) -> Contract:
    """The contract from the draft's terms and the admitted parties, unsigned."""
    terms: dict[str, Any] = read_toml(home.draft_file)
    for key in ("coordinator", "parties", "signatures"):
        if key in terms:
            raise ConfigError(key, "does not belong in the draft")
    folder = home.root / "parties"
    terms["coordinator"] = coordinator(home).model_dump()
    terms["parties"] = [read_toml(path) for path in sorted(folder.glob("*.toml"))]
    contract = build(Contract, terms)
    contract.check_terms(now)
    home.contract_file.write_text(alliance.dump(contract), encoding="utf-8")
    return contract


def _merge(home: Home, path: Path) -> str:
    ours, theirs = alliance.load(home.contract_file), alliance.load(path)
    if ours.digest() != theirs.digest():
        raise ConfigError(str(path), "is another contract than ours")
    merged = ours.model_copy(update={"signatures": {**ours.signatures, **theirs.signatures}})
    home.contract_file.write_text(alliance.dump(merged), encoding="utf-8")
    missing = [p.name for p in merged.parties if p.name not in merged.signatures]
    return f"signatures missing: {', '.join(missing)}" if missing else "all have signed"
