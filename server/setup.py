"""From nothing to a signed alliance: the coordinator's folder, invitations, admissions."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from privacy.errors import ConfigError
from privacy.randomness import Randomness
from protos import alliance, identity, joining
from protos.alliance import Contract, Coordinator
from protos.certificates import RENEW_DAYS, days_left
from protos.files import check_folder, new_folder, own_folder, write_private
from protos.joining import Application
from protos.toml import build, read_toml
from server import admission, pki
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


def init(
    root: Path,
    alliance_name: str,
    config: CoordinatorConfig,
    randomness: Randomness,
    now: datetime,
) -> Home:
    """Create a coordinator's folder: identity, authority, server certificate, token, draft."""
    if not alliance.NAME.fullmatch(alliance_name):
        raise ConfigError("alliance", alliance.NAMED)
    home = Home(root)
    if home.keys.exists() or home.keys.is_symlink():
        raise ConfigError(str(home.keys), "keys exist already; they are never overwritten")
    if root.exists() or root.is_symlink():
        check_folder(root)  # before anything is put into it
    for folder in (home.state, home.invitations, home.parties):
        own_folder(folder)
    server_key = pki.new_key()
    authority_key, authority = pki.new_authority(alliance_name, now)
    server = pki.server_certificate(authority_key, authority, server_key, config.host, now)
    expires = (now + timedelta(days=365)).strftime("%Y-%m-%dT00:00:00Z")
    with new_folder(home.keys) as keys:  # last, so that what failed can be begun again
        for name, data in (
            ("identity.key", randomness(32)),
            ("ca.key", authority_key),
            ("ca.pem", authority),
            ("server.key", server_key),
            ("server.pem", server),
            ("control.token", randomness(32).hex().encode()),
            ("runtime.secret", randomness(32).hex().encode()),
        ):
            write_private(keys / name, data, once=True)
        write_private(home.config_file, alliance.to_toml(config).encode())
        if not home.draft_file.exists():
            text = TEMPLATE.format(alliance=alliance_name, expires=expires)
            write_private(home.draft_file, text.encode())
    return home


def renew_server(home: Home, now: datetime, days: int = RENEW_DAYS) -> bool:
    """Renew the server's certificate over the key it has, if fewer than ``days`` are left. Says if it did.

    Who serves with it has to read it again. Raises ConfigError.
    """
    found = identity.read_certificate(home.key("server.pem").decode(), "keys/server.pem")
    if days_left(found, now) >= days:
        return False
    made = pki.server_certificate(
        home.key("ca.key"), home.key("ca.pem"), home.key("server.key"), home.config().host, now
    )
    write_private(home.keys / "server.pem", made)
    return True


def coordinator(home: Home) -> Coordinator:
    """The coordinator as the contract names it."""
    config = home.config()
    said = {
        "name": config.name,
        "identity": identity.encode(home.identity().public_key().public_bytes_raw()),
        "link": f"{config.host}:{config.link_port}",
        "exchange": f"{config.host}:{config.exchange_port}",
        "authority": home.key("ca.pem").decode(),
    }
    return build(Coordinator, said, str(home.config_file))


def invite(home: Home, party: str) -> Path:
    """Write an invitation for a partner; send it by any channel."""
    if not alliance.NAME.fullmatch(party):
        raise ConfigError("party", alliance.NAMED)
    if party == home.config().name:
        raise ConfigError("party", "is the coordinator's own name")
    said = {
        "version": 1,
        "alliance": read_toml(home.draft_file, own=True).get("name", ""),
        "party": party,
        "coordinator": coordinator(home),
    }
    check_folder(home.invitations)
    target = home.invitations / f"{party}.invitation.toml"
    made = build(joining.Invitation, said, str(home.draft_file))
    write_private(target, alliance.to_toml(made).encode())
    return target


def admit(home: Home, path: Path, now: datetime, *, replace: bool = False) -> str:
    """Take an application, or a copy of the contract with more signatures. Says what is next.

    For who has compared the fingerprint already: the command shows it first (:func:`load`).
    """
    return take(home, load(path), path, now, replace=replace)


def load(path: Path) -> Application | Contract:
    """What was sent: an application with its keys proved, or a copy of the contract. Raises ConfigError."""
    data = read_toml(path)
    if "parties" in data:
        return build(Contract, data, str(path))
    return joining.parse_application(data, str(path))


def take(
    home: Home, found: Application | Contract, source: Path, now: datetime, *, replace: bool = False
) -> str:
    """Admit what was read from ``source``; the contract is written once everybody is in."""
    if isinstance(found, Contract):
        return admission.merge(home, found, source)
    missing = admission.take(home, found, now, replace=replace)
    if missing:
        return f"admitted {found.party}; waiting for {missing}"
    write_contract(home, now)
    return f"admitted {found.party}; all are in: {home.contract_file} is ready to be signed"


def write_contract(home: Home, now: datetime) -> Contract:
    """The contract from the draft's terms and the admitted parties, unsigned."""
    terms: dict[str, Any] = read_toml(home.draft_file, own=True)
    for key in ("coordinator", "parties", "signatures"):
        if key in terms:
            raise ConfigError(key, "does not belong in the draft")
    terms["coordinator"] = coordinator(home)
    terms["parties"] = list(admission.admitted(home).values())
    contract = build(Contract, terms, str(home.draft_file))
    contract.check_terms(now)
    write_private(home.contract_file, alliance.dump(contract).encode())
    return contract
