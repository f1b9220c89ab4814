"""Rows 27, 28 and 31: files that people send each other, and approvals."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import tomli_w
from cryptography.hazmat.primitives import serialization

from client import setup as partner_setup
from client.cli import app as partner_app
from client.home import Home as PartnerHome
from protos import joining
from protos.toml import read_toml
from server import setup
from server.cli import app as coordinator_app
from server.home import CoordinatorConfig, Home
from simulations.attacks.disk import everything
from simulations.attacks.lab import Lab
from simulations.attacks.rows.screens import _harmless, _text, shown_by
from simulations.attacks.table import Attack
from simulations.attacks.tables import terms


@dataclass
class Village:
    """A coordinator that admitted alice and invited bank; mallory applied in alice's name."""

    root: Path
    home: Home
    partners: dict[str, PartnerHome]

    @classmethod
    def found(cls, root: Path) -> Village:
        config = CoordinatorConfig(
            name="coordinator", host="127.0.0.1", bind="127.0.0.1", link_port=9, exchange_port=9,
            internal_port=9,
        )  # fmt: skip
        home = setup.init(root / "c", "trial", config, os.urandom, datetime.now(UTC))
        plain = terms("three")
        plain["matching"] = {**plain["matching"], "recipients": []}
        for unwanted in ("assumes", "engine"):
            plain["matching"].pop(unwanted, None)
        home.draft_file.write_text(tomli_w.dumps(plain), encoding="utf-8")
        made = {}
        for folder, name in (("alice", "alice"), ("bank", "bank"), ("mallory", "alice")):
            made[folder] = partner_setup.init(root / folder, name, os.urandom)
            partner_setup.join(
                made[folder], setup.invite(home, name), "EU", root / f"{folder}.toml"
            )
        setup.admit(home, root / "alice.toml", datetime.now(UTC))
        return cls(root, home, made)

    def forge(self, rng: Random, fields: tuple[str, ...]) -> Path:
        """An application of mallory's making, signed and proved with the keys that he has. ``fields``: those
        that he may change."""
        by, base = rng.choice([("mallory", "mallory"), ("bank", "bank"), ("mallory", "bank")])
        application = joining.load_application(self.root / f"{base}.toml")
        alice = joining.load_application(self.root / "alice.toml")
        changes: dict[str, Any] = {}
        for _ in range(rng.randint(0, 3)):
            field = rng.choice(fields)
            changes[field] = {
                "party": rng.choice(["../../evil", "./alice", "alice", "/evil", "bank\x1b[2J", "Alice"]),
                "residency": "EU" + _text(rng), "alliance": _text(rng), "identity": alice.identity,
                "node_key": rng.choice([alice.node_key, "hello" + _text(rng)]), "request": alice.request,
            }[field]  # fmt: skip
        keys = self.partners[by]
        made = application.model_copy(update=changes).signed(
            keys.identity(),
            serialization.load_ssh_private_key(keys.key_file("node.key"), None),  # type: ignore[arg-type]
            serialization.load_pem_private_key(keys.key_file("tls.key"), None),  # type: ignore[arg-type]
        )
        if "request" in fields and rng.random() < 0.3:
            made = made.model_copy(update={"proofs": alice.proofs})
        joining.write(self.root / "forged.toml", made)
        return self.root / "forged.toml"


def _named(lab: Lab, rng: Random) -> bool:
    """Paths, escapes and other names in an application."""
    return _applied(lab, rng, ("party", "residency", "alliance"))


def _keyed(lab: Lab, rng: Random) -> bool:
    """A second application in an admitted name, or one with keys of another's."""
    return _applied(lab, rng, ("node_key", "request", "identity"))


def _applied(lab: Lab, rng: Random, fields: tuple[str, ...]) -> bool:
    """Success: a file outside the coordinator's folders, alice's entry changed without ``--replace``, one of
    alice's keys in another's entry, or a raw control on the screen."""
    with lab.folder() as root:
        village = Village.found(root)
        entry = village.home.parties / "alice.toml"
        alice = joining.load_application(root / "alice.toml")
        before = entry.read_bytes(), _others(root)
        file = village.forge(rng, fields)
        screen = shown_by(
            coordinator_app, ["admit", str(file), "--home", str(village.home.root)], "y\ny\ny\n"
        )
        if entry.read_bytes() != before[0] or _others(root) != before[1] or not _harmless(screen):
            return True
        others = [path for path in village.home.parties.glob("*.toml") if path != entry]
        taken = b"".join(path.read_bytes() for path in others)
        return alice.node_key.encode() in taken or alice.identity.encode() in taken


def _others(root: Path) -> dict[str, bytes]:
    """Every file that is not the coordinator's, nor the forgery itself."""
    return {
        str(path): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and root / "c" not in path.parents and path.name != "forged.toml"
    }


POLICY = """\
version = 1
name = "p"
key = "file:{key}"
[columns.city]
kind = "category"
role = "quasi"
partner_join = "keep"
[columns.mobile]
kind = "phone"
role = "direct"
partner_join = "token"
"""


@dataclass
class Office:
    """A partner with a masked table, and an approver who signs what he is shown."""

    root: Path

    def run(self, *arguments: str, home: str = "me") -> str:
        """A command of the partner's."""
        at = ["--home", str(self.root / home)] if home else []
        return shown_by(partner_app, [*arguments, *at], "y\n")

    def path(self, name: str) -> str:
        """A file of the office."""
        return str(self.root / name)

    def open_up(self, cells: list[str]) -> None:
        """Key, policy, table masked, approver."""
        self.root.joinpath("policy.toml").write_text(
            POLICY.format(key=self.path("m.key")), encoding="utf-8"
        )
        lines = [f'"{cell}",1391234{n:04d}' for n, cell in enumerate(cells)]
        self.root.joinpath("c.csv").write_text(
            "city,mobile\n" + "\n".join(lines) + "\n", encoding="utf-8"
        )
        self.run("keys", "new", f"file:{self.path('m.key')}", home="")
        self.mask("j.csv")
        self.run("init", "me")
        said = self.run("reveal", "new-approver", "boss", "--out", self.path("boss.key"), home="")
        with (self.root / "me" / "partner.toml").open("a") as file:
            file.write(f"\n[masking.approvers]\n{said.strip().splitlines()[-1]}\n")

    def mask(self, out: str) -> str:
        """Mask the table."""
        return self.run("mask", self.path("c.csv"), "--policy", self.path("policy.toml"), "--purpose",
                        "partner_join", "--out", self.path(out), home="")  # fmt: skip

    def ask(self) -> None:
        """Ask for the mobile numbers, and approve it."""
        self.run("reveal", "ask", self.path("j.csv"), "--policy", self.path("policy.toml"), "--column",
                 "mobile", "--reason", "ticket 4711", "--out", self.path("r.toml"))  # fmt: skip
        self.run("reveal", "approve", self.path("r.toml"), "--name", "boss", "--key",
                 self.path("boss.key"), "--yes", home="")  # fmt: skip

    def reveal(self, out: str, home: str = "me") -> bool:
        """Whether tokens were turned back."""
        self.run("reveal", "open", self.path("j.csv"), "--request", self.path("r.toml"), "--policy",
                 self.path("policy.toml"), "--out", self.path(out), home=home)  # fmt: skip
        return (self.root / out).exists()


def _approved(lab: Lab, rng: Random) -> bool:
    """One approval, honestly given; success: it turns tokens back twice, or after it was changed."""
    with lab.folder() as root:
        office = Office(root)
        office.open_up(["Berlin", "Paris"])
        office.ask()
        how = rng.randrange(4)
        if how == 0:
            return office.reveal("first.parquet") and office.reveal("again.parquet")
        if how in (1, 2):
            if how == 2:
                office.reveal("first.parquet")
            shutil.copytree(root / "me", root / "copy")
            shutil.rmtree(root / "copy" / "state", ignore_errors=True)
            return office.reveal("again.parquet", home="copy")
        plain = read_toml(root / "r.toml")
        plain |= rng.choice([
            {"column": "city"}, {"expires": datetime.now(UTC) + timedelta(days=9000)}, {"by": "mallory"},
            {"reason": "yearly audit"}, {"id": "a" * 32}, {"purpose": "display"},
        ])  # fmt: skip
        (root / "r.toml").write_text(tomli_w.dumps(plain), encoding="utf-8")
        return office.reveal("changed.parquet")


def honest_reveal(root: Path) -> bool:
    """That the office works at all: an approval that nobody touched."""
    office = Office(root)
    office.open_up(["Berlin", "Paris"])
    office.ask()
    return office.reveal("first.parquet") and b"Berlin" in everything(root)


ATTACKS = [
    Attack("27", "applications with paths and escapes", "outsider, partner", "files changed, raw controls",
           _named, trials=30),
    Attack("28", "second applications, others' keys", "outsider, partner", "keys replaced or taken over",
           _keyed, trials=30),
    Attack("31", "an approval used twice, or changed", "insider", "tokens turned back", _approved, trials=20),
]  # fmt: skip
