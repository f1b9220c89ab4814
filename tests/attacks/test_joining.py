"""Files that people send each other before anybody has signed: invitations, applications, signed copies."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from client import cli as partner_cli
from client import replacing
from client import setup as partner_setup
from client.home import Home as PartnerHome
from privacy.errors import ConfigError
from protos import alliance, console, identity, jobs, joining
from protos.alliance import Party
from protos.joining import Application
from protos.toml import build, read_toml
from server import admission, setup
from server import cli as coordinator_cli
from server.home import CoordinatorConfig, Home
from simulations.alliances import Alliance
from tests.attacks.test_terminal import is_harmless, leaves
from tests.conftest import QUERY, ROOT, job, terms

NOW = datetime(2026, 12, 1, tzinfo=UTC)
OPENSSH = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH


def private(home: PartnerHome, name: str) -> ec.EllipticCurvePrivateKey:
    data = home.key_file(name)
    load = (
        serialization.load_ssh_private_key
        if name == "node.key"
        else serialization.load_pem_private_key
    )
    key = load(data, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


@dataclass
class Village:
    """A coordinator that invited alice and bank, both with applications; and mallory, who says alice."""

    root: Path
    home: Home
    alice: PartnerHome
    bank: PartnerHome
    mallory: PartnerHome

    def file(self, name: str) -> Path:
        return self.root / f"{name}.toml"

    def load(self, name: str) -> Application:
        return joining.load_application(self.file(name))

    def forged(self, name: str, by: PartnerHome, **changes: Any) -> Path:
        """An application with other contents, signed and proved with the keys that ``by`` has."""
        changed = self.load(name).model_copy(update=changes)
        made = changed.signed(by.identity(), private(by, "node.key"), private(by, "tls.key"))
        joining.write(self.file("forged"), made)
        return self.file("forged")

    def admit(self, name: str, **more: Any) -> str:
        return setup.admit(self.home, self.file(name), NOW, **more)

    def admitted(self, name: str) -> Party:
        return build(Party, read_toml(self.home.parties / f"{name}.toml"))


@pytest.fixture
def village(tmp_path: Path) -> Village:
    config = CoordinatorConfig(
        name="coordinator", host="127.0.0.1", bind="127.0.0.1", link_port=9, exchange_port=9,
        internal_port=9,
    )  # fmt: skip
    home = setup.init(tmp_path / "c", "trial", config, os.urandom, NOW)
    home.draft_file.write_text(tomli_w.dumps(terms(matching={"recipients": []})))
    made = {}
    for folder, name in (("alice", "alice"), ("bank", "bank"), ("mallory", "alice")):
        made[folder] = partner_setup.init(tmp_path / folder, name, os.urandom)
        invitation = setup.invite(home, name)
        partner_setup.join(made[folder], invitation, "EU", tmp_path / f"{folder}.toml")
    return Village(tmp_path, home, **made)


def refused(work: Callable[[], object], path: str, reason: str = "") -> None:
    """At this path; a key's may begin with the name of its file."""
    with pytest.raises(ConfigError) as caught:
        work()
    found = caught.value.path
    assert found == path or found.endswith(f".toml.{path}"), found
    assert reason in caught.value.reason


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name", ["./alice", "../../evil", "/evil", "alice\n", "Alice", "alicé", "a" * 33, "", "a\x1b[8m"]
)  # fmt: skip
def test_a_party_that_is_no_name_reaches_no_folder(village: Village, name: str) -> None:
    (village.root / "evil.invitation.toml").write_text("")
    before = sorted(village.root.rglob("*"))
    file = village.forged("mallory", village.mallory, party=name)
    refused(lambda: setup.admit(village.home, file, NOW), "party", "a-z")
    after = set(village.root.rglob("*")) - {file}
    assert sorted(after) == before


def test_a_link_and_an_invitation_that_others_prepared_are_not_used(village: Village) -> None:
    """The party is a path to a folder of the attacker's, in which NAME.toml leads to the owner's .bashrc."""
    theirs, precious = village.root / "shared", village.root / "bashrc"
    theirs.mkdir()
    precious.write_text("# mine\n")
    (theirs / "x.invitation.toml").write_text("")
    (theirs / "x.toml").symlink_to(precious)
    file = village.forged(
        "mallory", village.mallory, party=str(theirs / "x"), residency="EU$(touch /tmp/ran)"
    )
    refused(lambda: setup.admit(village.home, file, NOW), "party")
    assert precious.read_text() == "# mine\n"


def test_a_link_in_the_coordinators_own_folder_is_replaced(village: Village) -> None:
    precious = village.root / "bashrc"
    precious.write_text("# mine\n")
    (village.home.parties / "bank.toml").symlink_to(precious)
    theirs = str(village.home.parties / "bank.toml")
    refused(lambda: village.admit("bank"), theirs, "is a link")  # nothing is written
    (village.home.parties / "bank.toml").unlink()
    village.home.contract_file.symlink_to(village.root / "nowhere")
    village.admit("alice")
    village.admit("bank")
    assert precious.read_text() == "# mine\n"
    assert not village.home.contract_file.is_symlink()
    assert not (village.root / "nowhere").exists()


@pytest.mark.parametrize("folder", ["invitations", "parties"])
def test_folders_that_others_write_into_are_not_believed(village: Village, folder: str) -> None:
    (village.home.root / folder).chmod(0o777)
    refused(lambda: village.admit("bank"), str(village.home.root / folder), "other users")


def test_a_party_in_a_file_of_another_name_is_not_taken(village: Village) -> None:
    village.admit("alice")
    (village.home.parties / "alice.toml").rename(village.home.parties / "bank.toml")
    with pytest.raises(ConfigError, match="named as its party"):
        village.admit("bank")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda i: i["coordinator"].update(name="the-bank\nyour fingerprint: OK\x1b[8m"), "coordinator.name"),
        (lambda i: i["coordinator"].update(name="../x"), "coordinator.name"),
        (lambda i: i["coordinator"].update(name="bank"), "coordinator.name"),
        (lambda i: i["coordinator"].update(authority="x"), "coordinator.authority"),
        (lambda i: i["coordinator"].update(identity="x"), "coordinator.identity"),
        (lambda i: i["coordinator"].update(link="unix:/tmp/x:1"), "coordinator.link"),
        (lambda i: i.update(alliance="trial\x1b[2J"), "alliance"),
        (lambda i: i.update(alliance=" trial"), "alliance"),
        (lambda i: i.update(party="bank/../alice"), "party"),
    ],
)  # fmt: skip
def test_an_invitation_with_other_than_names_is_not_answered(
    village: Village, change: Callable[[dict[str, Any]], object], path: str
) -> None:
    file = village.home.invitations / "bank.invitation.toml"
    plain = read_toml(file)
    change(plain)
    file.write_text(tomli_w.dumps(plain))
    out = village.root / "answer.toml"
    refused(lambda: partner_setup.join(village.bank, file, "EU", out), path)
    assert not out.exists()


@pytest.mark.parametrize("residency", ["\x1b[2JEU", "EU\n", "E", "E" * 65, "EU\u202e", " EU"])
def test_a_residency_is_a_short_printable_text(village: Village, residency: str) -> None:
    file = village.forged("bank", village.bank, residency=residency)
    refused(lambda: setup.admit(village.home, file, NOW), "residency")
    refused(
        lambda: partner_setup.join(
            village.bank, village.home.invitations / "bank.invitation.toml", residency, file
        ),
        "residency",
    )


@pytest.mark.parametrize(
    ("more", "path"),
    [
        (["--name", "Bad\x1b[8m"], "name"),
        (["--name", "../x"], "name"),
        (["--link-port", "70000"], "link_port"),
        (["--host", "unix:/tmp"], "host"),
        (["--host", "münchen.example"], "host"),
        (["--host", "a b"], "host"),
        (["--host", ""], "host"),
        (["--host", "http://hub"], "host"),
        (["--host", "h" * 65], "host"),
    ],
)
def test_a_coordinator_begins_with_names_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], path: str
) -> None:
    home = ["--home", str(tmp_path / "hub")]
    made = console.run(coordinator_cli.app, ["init", "trial", *more, *home])
    assert (made or console.run(coordinator_cli.app, ["invite", "bank", *home])) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1
    assert f"{path}: " in printed[0]
    assert is_harmless(printed[0])


def test_a_draft_with_an_odd_name_makes_no_invitation(village: Village) -> None:
    village.home.draft_file.write_text(tomli_w.dumps({**terms(), "name": "trial\x1b[8m"}))
    with pytest.raises(ConfigError, match="printable"):
        setup.invite(village.home, "shop")


def test_an_alliance_that_was_not_invited_to_is_refused(village: Village) -> None:
    file = village.forged("bank", village.bank, alliance="some-other")
    refused(lambda: setup.admit(village.home, file, NOW), "alliance", "another alliance")
    file = village.forged("bank", village.bank, party="telecom")
    refused(lambda: setup.admit(village.home, file, NOW), "party", "not invited")


# ---------------------------------------------------------------------- possession of keys


def test_somebody_elses_node_key_cannot_be_applied_with(village: Village) -> None:
    """It was admitted, and after everybody had signed the link could not start."""
    file = village.forged("bank", village.bank, node_key=village.load("alice").node_key)
    refused(lambda: setup.admit(village.home, file, NOW), "proofs.node", "does not hold the key")


def test_somebody_elses_tls_key_cannot_be_applied_with(village: Village) -> None:
    """Its certificate would be bank's by name, for alice's key."""
    file = village.forged("bank", village.bank, request=village.load("alice").request)
    refused(lambda: setup.admit(village.home, file, NOW), "proofs.tls", "does not hold the key")


def test_proofs_are_for_one_application_and_one_key(village: Village) -> None:
    bank, alice = village.load("bank"), village.load("alice")
    assert bank.proofs is not None
    assert alice.proofs is not None
    for proofs in (
        alice.proofs,
        joining.Proofs(node=alice.proofs.node, tls=bank.proofs.tls),
        joining.Proofs(node=bank.proofs.node, tls=bank.proofs.node),
        joining.Proofs(node="", tls=""),
        joining.Proofs(node="AAAA", tls=bank.proofs.tls),
    ):
        with pytest.raises(ConfigError, match=r"proofs\."):
            bank.model_copy(update={"proofs": proofs}).check()


def test_an_application_of_an_earlier_version_says_join_again(village: Village) -> None:
    plain = read_toml(village.file("bank"))
    del plain["proofs"]
    village.file("bank").write_text(tomli_w.dumps(plain))
    refused(lambda: village.admit("bank"), "proofs", "`join` again")


@pytest.mark.parametrize(
    "node_key",
    ["hello\x1b[2J", "", "ssh-ed25519 AAAA", "ecdsa-sha2-nistp384 AAAA", "ecdsa-sha2-nistp384"],
)
def test_a_node_key_that_is_none_is_refused(village: Village, node_key: str) -> None:
    file = village.forged("bank", village.bank, node_key=node_key)
    refused(lambda: setup.admit(village.home, file, NOW), "node_key")


def test_a_node_key_has_no_comment_and_one_spelling(village: Village) -> None:
    true = village.load("bank").node_key
    for other in (true + " me\x1b[8m", true + "\n", true.replace(" ", "  ")):
        file = village.forged("bank", village.bank, node_key=other)
        refused(lambda file=file: setup.admit(village.home, file, NOW), "node_key")  # type: ignore[misc]


def test_a_compressed_node_key_is_an_error_and_no_crash(village: Village) -> None:
    public = private(village.bank, "node.key").public_key()
    point = public.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    )
    parts = (b"ecdsa-sha2-nistp384", b"nistp384", point)
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    text = f"ecdsa-sha2-nistp384 {identity.encode(blob)}"
    file = village.forged("bank", village.bank, node_key=text)
    refused(lambda: setup.admit(village.home, file, NOW), "node_key")


@pytest.mark.parametrize("request_text", ["", "x", "x" * 20_000])
def test_a_request_that_is_none_is_refused(village: Village, request_text: str) -> None:
    file = village.forged("bank", village.bank, request=request_text)
    refused(lambda: setup.admit(village.home, file, NOW), "request")


def test_the_name_in_a_request_is_ignored(village: Village) -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    text = request.sign(private(village.bank, "tls.key"), hashes.SHA256())
    pem = text.public_bytes(serialization.Encoding.PEM).decode()
    setup.admit(village.home, village.forged("bank", village.bank, request=pem), NOW)
    made = identity.read_certificate(village.admitted("bank").certificate, "c")
    assert made.subject.rfc4514_string() == "CN=bank"


# ---------------------------------------------------------------------- keys are one party's alone


def shared_keys(village: Village, name: str) -> None:
    """Bank takes over one of alice's keys, private part and all: it proves possession of it."""
    for file in name.split():
        (village.bank.keys / file).write_bytes((village.alice.keys / file).read_bytes())
    invitation = village.home.invitations / "bank.invitation.toml"
    partner_setup.join(village.bank, invitation, "EU", village.file("bank"))


@pytest.mark.parametrize(
    ("name", "path"), [("identity.key", "identity"), ("node.key", "node_key"), ("tls.key", "request")]
)  # fmt: skip
def test_two_parties_cannot_share_a_key(village: Village, name: str, path: str) -> None:
    village.admit("alice")
    shared_keys(village, name)
    refused(lambda: village.admit("bank"), path, "alice")


def test_the_coordinators_keys_are_nobody_elses(village: Village) -> None:
    for mine, theirs, path in (
        ("identity.key", "identity.key", "identity"),
        ("ca.key", "tls.key", "request"),
        ("server.key", "tls.key", "request"),
    ):
        kept = (village.bank.keys / theirs).read_bytes()
        (village.bank.keys / theirs).write_bytes(village.home.key(mine))
        invitation = village.home.invitations / "bank.invitation.toml"
        partner_setup.join(village.bank, invitation, "EU", village.file("bank"))
        refused(lambda: village.admit("bank"), path, "coordinator")
        (village.bank.keys / theirs).write_bytes(kept)


def test_the_coordinators_name_is_nobody_elses(village: Village) -> None:
    refused(lambda: setup.invite(village.home, "coordinator"), "party", "own name")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("node_key", None, "is the key of bank too"),
        ("certificate", None, "is the key of bank too"),
        ("node_key", "x", "is not a public key"),
        ("node_key", "comment", "is the key of bank too"),
        ("certificate", "x", "is not a certificate"),
    ],
)
def test_a_contract_in_which_two_share_a_key_is_not_signed(
    make_alliance: Callable[..., Alliance], key: str, value: str | None, reason: str
) -> None:
    """By anybody: the third party finds it too, and a contract that everybody signed is not loaded."""
    found = make_alliance()
    contract = found.contract
    text = value or getattr(contract.parties[0], key)
    if value == "comment":
        text = f"{contract.parties[0].node_key} other"
    parties = [*contract.parties]
    parties[1] = parties[1].model_copy(update={key: text})
    bad = contract.model_copy(update={"parties": tuple(parties), "signatures": {}})
    path = found.coordinator.contract_file
    path.write_text(alliance.dump(bad))
    refused(
        lambda: partner_setup.sign(found.partners["telecom"], path, NOW),
        f"parties.shop.{key}",
        reason,
    )
    for name, home in found.partners.items():
        bad = bad.signed_by(name, home.identity())
    path.write_text(alliance.dump(bad))
    refused(lambda: alliance.load_signed(path, NOW), f"parties.shop.{key}", reason)


# ---------------------------------------------------------------------- a second application


def test_keys_that_were_admitted_are_not_replaced_in_silence(village: Village) -> None:
    village.admit("alice")
    first = village.admitted("alice")
    with pytest.raises(ConfigError, match="--replace") as caught:
        village.admit("mallory")
    for home in (village.alice, village.mallory):
        assert partner_setup.own_fingerprint(home) in str(caught.value)
    assert village.admitted("alice") == first
    village.admit("mallory", replace=True)
    assert village.admitted("alice").identity == village.load("mallory").identity


def test_the_same_application_again_makes_no_second_certificate(village: Village) -> None:
    village.admit("alice")
    first = village.admitted("alice")
    assert village.admit("alice") == "admitted alice; waiting for bank"
    assert village.admitted("alice") == first


@pytest.mark.parametrize("changed", ["node.key", "tls.key"])
def test_one_other_key_is_another_application(village: Village, changed: str) -> None:
    village.admit("alice")
    for name in ("identity.key", *({"node.key", "tls.key"} - {changed})):
        (village.mallory.keys / name).write_bytes((village.alice.keys / name).read_bytes())
    invitation = village.home.invitations / "alice.invitation.toml"
    partner_setup.join(village.mallory, invitation, "EU", village.file("mallory"))
    refused(lambda: village.admit("mallory"), "party", "admitted already")


def admit_command(village: Village, name: str, *more: str) -> int:
    arguments = ["admit", str(village.file(name)), "--home", str(village.home.root), *more]
    return console.run(coordinator_cli.app, arguments)


def test_admit_shows_the_fingerprint_and_asks(
    village: Village, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def no(text: str) -> bool:
        asked.append(text)
        return False

    monkeypatch.setattr("typer.confirm", no)
    assert admit_command(village, "alice") == 1
    assert not (village.home.parties / "alice.toml").exists()
    printed = capsys.readouterr().out
    assert partner_setup.own_fingerprint(village.alice) in printed
    for name in ("node.key", "tls.key"):
        public = identity.key_bytes(private(village.alice, name).public_key())
        assert identity.sha256_groups(public) in printed
    assert "telephone" in asked[0]
    assert admit_command(village, "alice", "--fingerprint-confirmed") == 0
    assert len(asked) == 1
    assert (village.home.parties / "alice.toml").exists()


def test_admit_shows_both_fingerprints_and_asks_before_it_replaces(
    village: Village, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    village.admit("alice")
    both = {partner_setup.own_fingerprint(home) for home in (village.alice, village.mallory)}
    assert admit_command(village, "mallory", "--fingerprint-confirmed") == 2
    said = capsys.readouterr()
    assert all(text in said.out and text in said.err for text in both)
    asked: list[str] = []
    monkeypatch.setattr("typer.confirm", lambda text: not asked.append(text))  # type: ignore[func-returns-value]
    assert admit_command(village, "mallory", "--replace") == 0
    assert "replace" in asked[0]
    assert village.admitted("alice").identity == village.load("mallory").identity


def test_what_was_shown_is_what_is_admitted(
    village: Village, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is swapped while somebody reads the fingerprint out."""

    def swap(*_: object, **__: object) -> bool:
        village.file("alice").write_text(village.file("mallory").read_text())
        return True

    monkeypatch.setattr("typer.confirm", swap)
    assert admit_command(village, "alice") == 0
    assert village.admitted("alice").identity == identity.encode(
        village.alice.identity().public_key().public_bytes_raw()
    )


def test_what_admit_shows_is_harmless(village: Village) -> None:
    """Names are names; the text that is free is escaped, and cannot leave its quotes."""
    spoiled = village.load("bank").model_copy(update={"residency": "EU'; compared\x1b[8m\r\n"})
    lines = list(admission.lines(spoiled, None))
    assert all(is_harmless(line.removeprefix("  ")) for line in lines)
    assert "'EU\\x27; compared" in "\n".join(lines)


# ---------------------------------------------------------------------- signed copies


@pytest.fixture
def copies(village: Village) -> dict[str, Path]:
    """Copies of the contract, each signed by one."""
    village.admit("alice")
    village.admit("bank")
    made = {}
    for name in ("alice", "bank"):
        made[name] = village.root / f"{name}-copy.toml"
        made[name].write_bytes(village.home.contract_file.read_bytes())
        partner_setup.sign(getattr(village, name), made[name], NOW)
    return made


def test_a_good_signature_is_not_lost_to_one_that_does_not_fit(
    village: Village, copies: dict[str, Path]
) -> None:
    home = village.home
    assert setup.admit(home, copies["alice"], NOW) == "signatures missing: bank"
    before = home.contract_file.read_bytes()
    bank = alliance.load(copies["bank"]).signatures["bank"]
    for signature in ("AAAA", "", "x", bank):
        bad = alliance.load(copies["alice"])
        bad = bad.model_copy(update={"signatures": {"alice": signature, "bank": "AAAA"}})
        file = village.root / "bad.toml"
        file.write_text(alliance.dump(bad))
        assert setup.admit(home, file, NOW) == (
            "not taken, for they do not fit the contract: alice, bank; signatures missing: bank"
        )
        assert home.contract_file.read_bytes() == before
    assert setup.admit(home, copies["bank"], NOW) == "all have signed"
    home.contract(lambda: NOW)


def test_a_bad_signature_that_got_in_before_is_mended_by_a_good_one(
    village: Village, copies: dict[str, Path]
) -> None:
    home = village.home
    spoiled = alliance.load(home.contract_file).model_copy(update={"signatures": {"alice": "AAAA"}})
    home.contract_file.write_text(alliance.dump(spoiled))
    setup.admit(home, copies["alice"], NOW)
    assert setup.admit(home, copies["bank"], NOW) == "all have signed"


def test_a_copy_of_another_contract_is_not_merged(
    village: Village, copies: dict[str, Path]
) -> None:
    plain = read_toml(copies["alice"])
    plain["privacy"]["epsilon"] = 9.0
    copies["alice"].write_text(tomli_w.dumps(plain))
    refused(
        lambda: setup.admit(village.home, copies["alice"], NOW),
        str(copies["alice"]),
        "another contract",
    )


def test_nobody_is_admitted_into_a_contract_that_somebody_signed(
    village: Village, copies: dict[str, Path]
) -> None:
    setup.admit(village.home, copies["alice"], NOW)
    first = village.admitted("alice")
    with pytest.raises(ConfigError, match="signed already"):
        village.admit("mallory", replace=True)
    assert village.admitted("alice") == first


def test_who_signs_hears_of_signatures_that_do_not_fit(
    village: Village, copies: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled = alliance.load(copies["bank"])
    both = {**spoiled.signatures, "alice": "AAAA"}
    copies["bank"].write_text(alliance.dump(spoiled.model_copy(update={"signatures": both})))
    arguments = ["sign", str(copies["bank"]), "--home", str(village.bank.root)]
    assert console.run(partner_cli.app, [*arguments, "--fingerprints-confirmed"]) == 0
    printed = capsys.readouterr().out
    assert "HAS A SIGNATURE THAT DOES NOT FIT" in printed
    assert "missing: alice" in printed


def test_a_party_with_the_coordinators_name_is_not_signed(village: Village) -> None:
    village.admit("alice")
    village.admit("bank")
    contract = alliance.load(village.home.contract_file)
    named = contract.coordinator.model_copy(update={"name": "alice"})
    bad = contract.model_copy(update={"coordinator": named})
    village.home.contract_file.write_text(alliance.dump(bad))
    refused(
        lambda: partner_setup.sign(village.bank, village.home.contract_file, NOW),
        "coordinator.name",
    )


# ---------------------------------------------------------------------- files


def test_no_umask_leaves_anything_to_others(tmp_path: Path) -> None:
    """Made, joined, admitted and signed by the commands under umask 0."""
    steps = [
        ("server.cli", "init trial --home hub"),
        ("server.cli", "invite bank --home hub"),
        ("server.cli", "invite shop --home hub"),
        ("client.cli", "init bank --home bank"),
        ("client.cli", "init shop --home shop"),
        ("client.cli", "join hub/invitations/bank.invitation.toml --out a.toml --home bank"),
        ("client.cli", "join hub/invitations/shop.invitation.toml --out b.toml --home shop"),
        ("server.cli", "admit a.toml --fingerprint-confirmed --home hub"),
        ("server.cli", "admit b.toml --fingerprint-confirmed --home hub"),
        ("client.cli", "sign hub/alliance.toml --fingerprints-confirmed --home bank"),
        ("client.cli", "sign hub/alliance.toml --fingerprints-confirmed --home shop"),
        ("client.cli", "check hub/alliance.toml --home bank"),
        ("server.cli", "renew --home hub"),
        ("client.cli", "renew hub/certificates/bank.pem --home bank"),
        ("server.cli", "revoke shop --reason moved --home hub"),
    ]
    code = (
        "import os, sys, importlib; os.umask(0)\n"
        "from protos import console\n"
        "for line in sys.argv[1:]:\n"
        "    module, _, rest = line.partition(' ')\n"
        "    assert console.run(importlib.import_module(module).app, rest.split()) == 0, line\n"
    )
    arguments = [f"{module} {rest}" for module, rest in steps]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments], cwd=tmp_path, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loose = [
        str(path.relative_to(tmp_path))
        for path in tmp_path.rglob("*")
        if stat.S_IMODE(path.lstat().st_mode) & 0o077
    ]
    assert not loose
    assert (tmp_path / "bank" / "keys" / "tls.pem").exists()


@pytest.mark.parametrize("side", ["partner", "coordinator"])
def test_no_keys_are_made_where_others_write(tmp_path: Path, side: str) -> None:
    config = CoordinatorConfig(name="c", host="h", link_port=1, exchange_port=2, internal_port=3)

    def init(root: Path) -> object:
        if side == "partner":
            return partner_setup.init(root, "bank", os.urandom)
        return setup.init(root, "trial", config, os.urandom, NOW)

    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    refused(lambda: init(open_to_all), str(open_to_all), "other users")
    refused(lambda: init(open_to_all / "new"), str(open_to_all), "other users")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    refused(lambda: init(tmp_path / "link"), str(tmp_path / "link"), "link")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "keys").symlink_to(tmp_path / "nowhere")
    refused(lambda: init(tmp_path / "mine"), str(tmp_path / "mine" / "keys"), "never overwritten")
    assert not list(open_to_all.rglob("*.key"))


def test_an_application_takes_no_file_of_ours_away(village: Village) -> None:
    invitation = village.home.invitations / "bank.invitation.toml"
    for out in (invitation, village.bank.keys / "identity.key", village.bank.config_file):
        before = out.read_bytes()
        refused(
            lambda out=out: partner_setup.join(village.bank, invitation, "EU", out),  # type: ignore[misc]
            str(out), "'s own",
        )  # fmt: skip
        assert out.read_bytes() == before


def test_what_stands_at_the_new_name_of_a_contract_is_not_written_into(
    village: Village, copies: dict[str, Path]
) -> None:
    precious = village.root / "precious"
    precious.write_text("mine")
    copy = copies["alice"]
    copy.with_name(copy.name + ".new").symlink_to(precious)
    partner_setup.sign(village.alice, copy, NOW)
    assert precious.read_text() == "mine"


def test_a_key_of_the_coordinator_that_others_read_is_not_used(village: Village) -> None:
    (village.home.keys / "ca.key").chmod(0o644)
    refused(lambda: village.admit("bank"), str(village.home.keys / "ca.key"), "readable by others")


# ---------------------------------------------------------------------- what is shown


def test_join_shows_whom_it_joins(village: Village, capsys: pytest.CaptureFixture[str]) -> None:
    file = village.home.invitations / "bank.invitation.toml"
    out = ["--out", str(village.root / "o.toml"), "--home", str(village.bank.root)]
    assert console.run(partner_cli.app, ["join", str(file), *out]) == 0
    printed = capsys.readouterr().out
    invitation = joining.load_invitation(file)
    authority = invitation.authority().fingerprint(hashes.SHA256())
    for text in (
        "trial", "bank", "coordinator", invitation.coordinator.link, invitation.coordinator.exchange,
        identity.groups(authority), partner_setup.own_fingerprint(village.bank),
    ):  # fmt: skip
        assert text in printed


EVIL_RULE = "age > 1 and spend > 2\x1b[8m\r\nallowed"
JOBS: dict[str, dict[str, Any]] = {
    "query": {
        "kind": "query", "epsilon": 0.75, "purpose": "p\u202e",
        "query": {"measures": ["count", "mean(age)"], "where": EVIL_RULE},
    },
    "segment": {
        "kind": "segment", "epsilon": 0.75, "purpose": "insight",
        "segment": {"columns": ["age'; done", "spend"], "segments": 37},
    },
    "propensity": {
        "kind": "propensity", "epsilon": 0.75, "purpose": "insight",
        "propensity": {"features": ["a\x9b2J"], "label": "l\r", "holdout": 0.125, "steps": 41},
    },
    "match": {
        "kind": "match", "purpose": "insight",
        "match": {
            "identifier": ["email", "phone"], "parties": ["bank\x1b[8m", "shop"], "result": "list",
            "audiences": {"shop": "members"},
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", JOBS)
def test_preview_shows_every_clause_of_a_job_and_nothing_raw(
    make_alliance: Callable[..., Alliance],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    kind: str,
) -> None:
    found, file = make_alliance(), tmp_path / "job.toml"
    file.write_text(tomli_w.dumps({"name": "ask", **JOBS[kind]}))
    home = str(found.partners["bank"].root)
    assert console.run(partner_cli.app, ["preview", str(file), "--home", home]) == 1
    printed = capsys.readouterr().out
    assert all(is_harmless(line.lstrip(" ")) for line in printed.splitlines())
    for path, value in leaves(jobs.load(file)):
        assert console.shown(value).replace("'", "\\x27") in printed, path
    assert ("EXACT" in printed) == (kind == "match")


def test_a_list_of_jobs_says_what_each_asked_for(
    make_alliance: Callable[..., Alliance], capsys: pytest.CaptureFixture[str]
) -> None:
    found = make_alliance()
    coordinator_cli.submit(found.coordinator, job(**QUERY))
    home = ["--home", str(found.coordinator.root)]
    assert console.run(coordinator_cli.app, ["results", *home]) == 0
    printed = capsys.readouterr().out
    for text in ("purpose", "epsilon", "insight", "query", "ask"):
        assert text in printed


def test_the_old_way_would_be_found_out(village: Village) -> None:
    """The planted bug: an application without proofs, taken by its signature alone."""
    file = village.forged("bank", village.bank, node_key=village.load("alice").node_key)
    plain = build(Application, read_toml(file))
    public = identity.decode_key(plain.identity, "identity")
    identity.verify(public, identity.INVITATION, plain._body(), identity.decode(plain.signature))
    with pytest.raises(ConfigError, match="does not hold the key"):
        plain.check()


# ---------------------------------------------------------------------- an earlier contract


def stricter(found: Alliance, tmp_path: Path) -> tuple[Path, Path]:
    """The contract that is installed, and a stricter one that everybody signed too."""
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text(alliance.dump(found.contract))
    plain = read_toml(old)
    plain["privacy"]["epsilon"] = 0.125
    plain["signatures"] = {}
    new.write_text(tomli_w.dumps(plain))
    for home in found.partners.values():
        partner_setup.sign(home, new, datetime.now(UTC))
    return old, new


def test_an_earlier_contract_does_not_come_back_in_silence(
    make_alliance: Callable[..., Alliance],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = make_alliance()
    old, new = stricter(found, tmp_path)
    bank = found.partners["bank"]

    def check(file: Path, *more: str, answer: str = "") -> tuple[int, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        capsys.readouterr()
        code = console.run(partner_cli.app, ["check", str(file), *more, "--home", str(bank.root)])
        return code, "".join(capsys.readouterr())

    assert check(old) == (0, check(old)[1])  # the same again: nothing is asked
    assert check(new, "--replace")[0] == 0
    strict = bank.contract().digest()
    for answer, code in (("n\n", 1), ("", 130)):
        ended, said = check(old, answer=answer)
        assert ended == code
        assert strict.hex()[:16] in said
        assert found.contract.digest().hex()[:16] in said
        assert f"privacy.epsilon: 0.125 -> {found.contract.privacy.epsilon}" in said
        assert ("interrupted" in said) == (code == 130)
        assert bank.contract().digest() == strict
    assert check(old, answer="y\n")[0] == 0
    assert bank.contract().digest() == found.contract.digest()


def test_other_keys_of_a_party_are_a_difference(make_alliance: Callable[..., Alliance]) -> None:
    contract = make_alliance().contract
    first = contract.parties[0].model_copy(update={"certificate": "one\nother\n", "identity": "x"})
    other = contract.model_copy(update={"parties": (first, *contract.parties[1:])})
    said = replacing.lines(contract, other)
    assert [line.split(":")[0] for line in said[2:]] == [
        f"parties.{first.name}.certificate", f"parties.{first.name}.identity",
    ]  # fmt: skip
    gone = contract.model_copy(update={"parties": contract.parties[1:]})
    assert any(f"parties.{first.name}.identity" in line for line in replacing.lines(contract, gone))


def test_what_is_installed_is_what_was_shown(
    make_alliance: Callable[..., Alliance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = make_alliance()
    old, new = stricter(found, tmp_path)
    bank = found.partners["bank"]
    home = ["--home", str(bank.root)]

    def swap(_: str) -> bool:
        new.write_text(old.read_text())
        return True

    monkeypatch.setattr("typer.confirm", swap)
    before = bank.contract_file.read_bytes()
    assert console.run(partner_cli.app, ["check", str(new), *home]) == 2
    assert bank.contract_file.read_bytes() == before


@pytest.mark.parametrize("command", ["sign", "check", "join"])
def test_what_is_wrong_with_a_file_names_the_file(
    village: Village, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    wrong = village.root / "wrong.toml"
    wrong.write_text("version = 1\n")
    arguments = [command, str(wrong), "--home", str(village.bank.root)]
    assert console.run(partner_cli.app, arguments) == 2
    assert "wrong.toml" in capsys.readouterr().err
    assert (
        console.run(coordinator_cli.app, ["admit", str(wrong), "--home", str(village.home.root)])
        == 2
    )
    assert "wrong.toml" in capsys.readouterr().err
