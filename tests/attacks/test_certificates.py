"""The contract pins keys; whatever else an authority issued, or somebody kept, opens nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from client import cli as partner_cli
from client import doctor as partner_doctor
from client import renewal as partner_renewal
from client import setup as partner_setup
from privacy.errors import ConfigError, WireError
from protos import alliance, console
from protos.alliance import Contract
from protos.certificates import LEAF_DAYS, days_left, pinned_key
from protos.identity import key_bytes, read_certificate
from protos.supervise import Child
from server import cli as coordinator_cli
from server import doctor as coordinator_doctor
from server import pki, renewal, setup
from server.callers import FILE, Callers, allow, revoke, revoked
from server.exchange import Exchange, serve
from server.home import Home
from server.service import Service
from simulations.alliances import Alliance
from simulations.live import free_ports

NOW = datetime(2026, 12, 1, tzinfo=UTC)
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@dataclass
class Office:
    """An alliance whose authority is in the hands of a test."""

    found: Alliance

    @property
    def home(self) -> Home:
        return self.found.coordinator

    @property
    def contract(self) -> Contract:
        return self.found.contract

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        return partner_setup.tls_key(self.found.partners[name])

    def issue(
        self,
        name: str,
        public: ec.EllipticCurvePublicKey | None = None,
        *,
        usage: x509.ObjectIdentifier | None = CLIENT,
        since: datetime = NOW - timedelta(hours=1),
        days: int = LEAF_DAYS,
        by: tuple[bytes, bytes] | None = None,
        ca: bool = False,
        critical: bool = False,
    ) -> bytes:
        """What an authority can be made to issue; for the party's own key if none is given."""
        key, authority = by or (self.home.key("ca.key"), self.home.key("ca.pem"))
        signer = serialization.load_pem_private_key(key, None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        issuer = x509.load_pem_x509_certificate(authority)
        identifier = x509.SubjectKeyIdentifier.from_public_key(signer.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer.subject)
            .public_key(public or self.key(name).public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(since)
            .not_valid_after(since + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName(f"{name}.partner")]), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
                critical=False,
            )
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if critical:
            odd = x509.UnrecognizedExtension(
                x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00"
            )
            builder = builder.add_extension(odd, critical=True)
        return pki.pem(builder.sign(signer, hashes.SHA256()))

    def callers(self, now: datetime = NOW) -> Callers:
        return Callers(self.home, lambda: now, self.contract)


@pytest.fixture
def office(make_alliance: Callable[..., Alliance]) -> Office:
    return Office(make_alliance())


def of(contract: Contract, name: str) -> bytes:
    return contract.party(name).certificate.encode()


def serial_of(pem: bytes) -> str:
    return f"{x509.load_pem_x509_certificate(pem).serial_number:x}"


# ---------------------------------------------------------------------- who is calling


def test_the_key_says_who_is_calling(office: Office) -> None:
    callers = office.callers(datetime.now(UTC))
    for name in ("bank", "shop", "telecom"):
        assert callers.party_of(of(office.contract, name)) == name
    callers = office.callers()
    assert (
        callers.party_of(office.issue("bank")) == "bank"
    )  # renewed: another certificate, the same key
    assert callers.party_of(office.issue("shop", office.key("bank").public_key())) == "bank"


def other(_: Office) -> ec.EllipticCurvePublicKey:
    return ec.generate_private_key(ec.SECP256R1()).public_key()


BAD: dict[str, Callable[[Office], bytes]] = {
    "right name, other key": lambda o: o.issue("bank", other(o)),
    "expired": lambda o: o.issue("bank", since=NOW - timedelta(days=91)),
    "not yet valid": lambda o: o.issue("bank", since=NOW + timedelta(days=1)),
    "another authority of the same name": lambda o: o.issue("bank", by=pki.new_authority("trial", NOW)),
    "for servers": lambda o: o.issue("bank", usage=SERVER),
    "for anything": lambda o: o.issue("bank", usage=ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE),
    "for nothing": lambda o: o.issue("bank", usage=None),
    "an authority itself": lambda o: o.issue("bank", ca=True),
    "with a critical extension that nobody knows": lambda o: o.issue("bank", critical=True),
    "the authority's own": lambda o: o.home.key("ca.pem"),
    "the server's own": lambda o: o.home.key("server.pem"),
    "issued by a partner": lambda o: o.issue(
        "bank",
        by=(pki.key_pem(o.key("shop")), of(o.contract, "shop")),
    ),
    "two in one text": lambda o: o.issue("bank") + o.issue("shop"),
    "a key on no curve": lambda o: o.issue("bank", rsa.generate_private_key(65537, 2048).public_key()),  # type: ignore[arg-type]
    "empty": lambda _: b"",
    "no PEM": lambda _: b"\xff\x00",
    "no certificate": lambda o: o.home.key("ca.key"),
    "large": lambda o: o.issue("bank") + b" " * (1 << 20),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_no_other_certificate_is_anybody(office: Office, kind: str) -> None:
    assert office.callers().party_of(BAD[kind](office)) is None


def test_only_a_name_would_let_them_in(office: Office) -> None:
    """The planted bug: who a caller is comes from the name in a certificate of our authority."""
    pem = BAD["right name, other key"](office)
    found = x509.load_pem_x509_certificate(pem)
    found.verify_directly_issued_by(x509.load_pem_x509_certificate(office.home.key("ca.pem")))
    assert found.subject.rfc4514_string() == "CN=bank"
    assert office.callers().party_of(pem) is None


def test_the_certificate_of_a_replaced_application_is_nobodys(
    office: Office, tmp_path: Path
) -> None:
    """Mallory was admitted as the shop for a while: its certificate is genuine."""
    home = office.home
    draft = alliance.load(home.contract_file).model_copy(update={"signatures": {}})
    home.contract_file.write_text(alliance.dump(draft))
    mallory = partner_setup.init(tmp_path / "mallory", "shop", os.urandom)
    file = tmp_path / "m.toml"
    partner_setup.join(mallory, home.invitations / "shop.invitation.toml", "EU", file)
    setup.admit(home, file, NOW, replace=True)
    old = alliance.load(home.contract_file).party("shop").certificate.encode()
    setup.admit(home, tmp_path / "shop" / "application.toml", NOW, replace=True)
    agreed = alliance.load(home.contract_file)
    callers = Callers(home, lambda: NOW, agreed)
    assert callers.party_of(of(agreed, "shop")) == "shop"
    assert callers.party_of(old) is None


def test_an_825_day_certificate_of_an_earlier_version_serves_until_it_ends(office: Office) -> None:
    old = office.issue("bank", since=NOW - timedelta(days=800), days=825)
    assert office.callers().party_of(old) == "bank"
    assert office.callers(NOW + timedelta(days=26)).party_of(old) is None


def test_what_is_issued_is_short_and_the_authority_is_not(office: Office) -> None:
    now = datetime.now(UTC)
    for name in ("bank", "shop"):
        assert days_left(read_certificate(office.contract.party(name).certificate, "c"), now) <= 90
    assert days_left(x509.load_pem_x509_certificate(office.home.key("server.pem")), now) <= 90
    assert days_left(x509.load_pem_x509_certificate(office.home.key("ca.pem")), now) > 3600


# ---------------------------------------------------------------------- revoking


def test_a_revoked_partner_is_shut_out_at_once_and_can_come_back(office: Office) -> None:
    callers, pem = office.callers(), office.issue("bank")
    assert callers.party_of(pem) == "bank"
    assert len(callers.node_keys()) == 3
    revoke(office.home, "bank", "left the alliance", NOW)
    assert callers.party_of(pem) is None
    assert callers.party_of(office.issue("bank")) is None
    assert not callers.allows("bank")
    assert callers.allows("shop")
    assert not callers.allows("nobody")
    assert callers.party_of(office.issue("shop")) == "shop"
    assert len(callers.node_keys()) == 2
    allow(office.home, "bank")
    assert callers.party_of(pem) == "bank"
    assert len(callers.node_keys()) == 3


def test_node_keys_are_as_flower_registers_them(office: Office) -> None:
    from server.link import node_key_bytes

    expected = {node_key_bytes(party.node_key) for party in office.contract.parties}
    assert office.callers().node_keys() == expected


def test_one_certificate_is_revoked_and_another_with_its_key_goes_on(office: Office) -> None:
    callers, old, new = office.callers(), office.issue("bank"), office.issue("bank")
    revoke(office.home, "bank", "a copy was sent to a wrong address", NOW, serial=serial_of(old))
    assert callers.party_of(old) is None
    assert callers.party_of(new) == "bank"
    assert len(callers.node_keys()) == 3
    revoke(office.home, "shop", "x", NOW)
    allow(office.home, "bank", serial=serial_of(old))
    assert callers.party_of(old) == "bank"
    assert callers.party_of(office.issue("shop")) is None


@pytest.mark.parametrize(
    "text", ["", "version = 1", "entries = [1]", "\x00", "[[entries]]\nparty='bank'"]
)
def test_a_list_that_cannot_be_read_lets_nobody_in(office: Office, text: str) -> None:
    callers, path = office.callers(), office.home.state / FILE
    assert callers.party_of(office.issue("shop")) == "shop"
    path.write_text(text)
    expected = "shop" if text == "" else None
    assert callers.party_of(office.issue("shop")) == expected
    assert callers.allows("shop") == (expected is not None)
    path.unlink()
    assert callers.party_of(office.issue("shop")) == "shop"


def test_only_parties_are_revoked_and_only_what_is_listed_is_undone(office: Office) -> None:
    with pytest.raises(ConfigError, match="not a party"):
        revoke(office.home, "../bank", "x", NOW)
    with pytest.raises(ConfigError, match="not on the list"):
        allow(office.home, "bank")
    revoke(office.home, "bank", "x", NOW)
    revoke(office.home, "bank", "y", NOW)
    assert [entry.reason for entry in revoked(office.home).entries] == ["y"]


def run(office: Office, *arguments: str) -> int:
    return console.run(coordinator_cli.app, [*arguments, "--home", str(office.home.root)])


def test_the_commands_revoke_undo_and_renew(
    office: Office, capsys: pytest.CaptureFixture[str]
) -> None:
    callers = office.callers(datetime.now(UTC))
    pem = of(office.contract, "bank")
    assert run(office, "revoke", "bank") == 2
    assert "--reason" in capsys.readouterr().err
    assert run(office, "revoke", "bank", "--reason", "left\x1b[8m") == 0
    assert callers.party_of(pem) is None
    assert run(office, "renew", "bank") == 2
    assert run(office, "renew") == 0
    assert sorted(p.name for p in (office.home.root / "certificates").iterdir()) == [
        "shop.pem", "telecom.pem",
    ]  # fmt: skip
    assert run(office, "revoke", "bank", "--undo") == 0
    assert callers.party_of(pem) == "bank"
    serial = ":".join(serial_of(pem).upper().zfill(40)[i : i + 2] for i in range(0, 40, 2))
    assert run(office, "revoke", "bank", "--serial", serial, "--reason", "lost") == 0
    assert callers.party_of(pem) is None
    assert run(office, "revoke", "bank", "--serial", "0x", "--reason", "lost") == 2
    assert run(office, "renew", "bank") == 0
    renewed = (office.home.root / "certificates" / "bank.pem").read_bytes()
    assert callers.party_of(renewed) == "bank"


# ---------------------------------------------------------------------- renewing, the coordinator


def test_a_renewed_certificate_is_for_the_pinned_key_and_the_partys_name(office: Office) -> None:
    made = renewal.renew(office.home, "bank", b"", NOW)
    found = x509.load_pem_x509_certificate(made)
    assert found.subject.rfc4514_string() == "CN=bank"
    assert key_bytes(found.public_key()) == pinned_key(office.contract, "bank")
    assert office.callers().party_of(made) == "bank"
    assert days_left(found, NOW) == 90


def test_asking_often_makes_no_certificates(office: Office) -> None:
    first = renewal.renew(office.home, "bank", b"", NOW)
    assert renewal.renew(office.home, "bank", b"", NOW + timedelta(days=29)) == first
    later = renewal.renew(office.home, "bank", b"", NOW + timedelta(days=31))
    assert later != first
    revoke(office.home, "bank", "x", NOW, serial=serial_of(later))
    assert renewal.renew(office.home, "bank", b"", NOW + timedelta(days=31)) != later


def test_a_request_says_nothing(office: Office) -> None:
    """Whose key and name are certified is not up to who asks."""
    with pytest.raises(WireError):
        renewal.renew(office.home, "bank", b"CN=shop", NOW)
    with pytest.raises(ConfigError, match="not a party"):
        renewal.renew(office.home, "../../bank", b"", NOW)


def test_a_revoked_party_gets_no_certificate(office: Office) -> None:
    renewal.renew(office.home, "bank", b"", NOW)
    revoke(office.home, "bank", "x", NOW)
    with pytest.raises(ConfigError, match="revoked"):
        renewal.renew(office.home, "bank", b"", NOW)


def test_a_prepared_certificate_file_is_not_handed_out(office: Office) -> None:
    """The file is our own; were it another's certificate, or a link, it would be replaced."""
    folder = office.home.root / "certificates"
    folder.mkdir(mode=0o700)
    (folder / "bank.pem").write_bytes(office.issue("shop"))
    assert office.callers().party_of(renewal.renew(office.home, "bank", b"", NOW)) == "bank"
    precious = office.home.root / "precious"
    precious.write_text("mine")
    (folder / "bank.pem").unlink()
    (folder / "bank.pem").symlink_to(precious)
    assert office.callers().party_of(renewal.renew(office.home, "bank", b"", NOW)) == "bank"
    assert precious.read_text() == "mine"
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="other users"):
        renewal.renew(office.home, "bank", b"", NOW)


def test_the_servers_certificate_is_renewed_over_its_key(office: Office) -> None:
    home, now = office.home, datetime.now(UTC)
    key, before = home.key("server.key"), home.key("server.pem")
    assert not setup.renew_server(home, now)
    assert home.key("server.pem") == before
    assert setup.renew_server(home, now + timedelta(days=61))
    made = x509.load_pem_x509_certificate(home.key("server.pem"))
    assert home.key("server.key") == key
    old = x509.load_pem_x509_certificate(before)
    assert made.public_key() == old.public_key()
    names = x509.SubjectAlternativeName
    assert (
        made.extensions.get_extension_for_class(names).value
        == old.extensions.get_extension_for_class(names).value
    )
    assert days_left(made, now) > 140


# ---------------------------------------------------------------------- renewing, the partner


def partner(office: Office) -> Any:
    return office.found.partners["bank"]


def in_use(office: Office, now: datetime) -> x509.Certificate:
    return partner_renewal.current(partner(office), office.contract, now)


def test_a_partner_takes_a_certificate_for_its_own_key(office: Office) -> None:
    home, later = partner(office), datetime.now(UTC) + timedelta(days=50)
    made = renewal.renew(office.home, "bank", b"", later)
    partner_renewal.install(home, made, later)
    assert pki.pem(in_use(office, later)) == made
    assert (home.keys / "tls.pem").stat().st_mode & 0o077 == 0


REFUSED: dict[str, Callable[[Office, datetime], bytes]] = {
    "another party's": lambda o, now: o.issue("shop", since=now),
    "another key's": lambda o, now: o.issue("bank", other(o), since=now),
    "another authority's": lambda o, now: o.issue(
        "bank", since=now, by=pki.new_authority("trial", now)
    ),
    "for servers": lambda o, now: o.issue("bank", since=now, usage=SERVER),
    "expired": lambda o, now: o.issue("bank", since=now - timedelta(days=91)),
    "older": lambda o, _: o.issue("bank", since=NOW - timedelta(days=400), days=3000),
    "two": lambda o, now: o.issue("bank", since=now) * 2,
    "with more": lambda o, now: o.issue("bank", since=now) + b"\x1b[8m",
    "none": lambda *_: b"\xff",
    "empty": lambda *_: b"",
    "large": lambda *_: b"x" * (1 << 20),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_partner_takes_no_other_certificate(office: Office, kind: str) -> None:
    now = datetime.now(UTC)
    data = REFUSED[kind](office, now)
    with pytest.raises(ConfigError):
        partner_renewal.install(partner(office), data, now)
    assert not (partner(office).keys / "tls.pem").exists()


def test_a_renewed_certificate_that_does_not_serve_gives_way_to_the_contracts(
    office: Office,
) -> None:
    home, now = partner(office), datetime.now(UTC)
    agreed = of(office.contract, "bank")
    for data in (office.issue("shop", since=now), office.issue("bank", since=now, days=1), b"\xff"):
        (home.keys / "tls.pem").write_bytes(data)
        (home.keys / "tls.pem").chmod(0o600)
        assert pki.pem(in_use(office, now + timedelta(days=2))) == agreed
    (home.keys / "tls.pem").write_bytes(office.issue("bank", since=now))
    (home.keys / "tls.pem").chmod(0o644)  # somebody else may have put it there
    assert pki.pem(in_use(office, now)) == agreed


def test_a_partner_asks_when_thirty_days_are_left_and_not_before(office: Office) -> None:
    home, now = partner(office), datetime.now(UTC)
    asked: list[datetime] = []

    def ask(_: object, __: Contract, moment: datetime) -> bytes:
        asked.append(moment)
        return renewal.renew(office.home, "bank", b"", moment)

    assert not partner_renewal.renew_if_due(home, now + timedelta(days=59), ask)
    assert not asked
    assert partner_renewal.renew_if_due(home, now + timedelta(days=61), ask)
    assert not partner_renewal.renew_if_due(home, now + timedelta(days=62), ask)
    assert len(asked) == 1
    moment = now
    for _ in range(10):  # it goes on for as long as the contract
        moment += timedelta(days=61)
        partner_renewal.renew_if_due(home, moment, ask)
    assert days_left(in_use(office, moment), moment) >= 30


def test_an_exchange_that_cannot_renew_leaves_what_there_is(office: Office) -> None:
    """It listens nowhere."""
    now = datetime.now(UTC) + timedelta(days=70)
    with pytest.raises(ConfigError, match="ask the coordinator for a file"):
        partner_renewal.renew_if_due(partner(office), now)
    assert pki.pem(in_use(office, now)) == of(office.contract, "bank")


def test_a_coordinator_that_answers_with_another_certificate_changes_nothing(
    office: Office,
) -> None:
    now = datetime.now(UTC) + timedelta(days=70)
    for data in (office.issue("shop", since=now), b"", b"x" * 100_000):
        with pytest.raises(ConfigError):
            partner_renewal.renew_if_due(partner(office), now, lambda *_, data=data: data)  # type: ignore[misc]
    assert pki.pem(in_use(office, now)) == of(office.contract, "bank")


def test_the_command_renews_from_a_file(office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(office, "renew", "bank") == 0
    file = office.home.root / "certificates" / "bank.pem"
    home = ["--home", str(partner(office).root)]
    assert console.run(partner_cli.app, ["renew", str(file), *home]) == 0
    assert "valid until" in capsys.readouterr().out
    shop = office.home.root / "shop.pem"
    shop.write_bytes(office.issue("shop"))
    assert console.run(partner_cli.app, ["renew", str(shop), *home]) == 2
    assert console.run(partner_cli.app, ["renew", "nowhere.pem", *home]) == 2


def test_a_partner_renews_over_the_exchange_and_goes_on_with_it(
    make_alliance: Callable[..., Alliance],
) -> None:
    """Over real TLS; then it is revoked, and is given nothing more."""
    first, second, third = free_ports(3)
    office = Office(make_alliance(ports=(first, second, third)))
    home, now = partner(office), datetime.now(UTC)
    server = serve(office.home, Exchange(lambda _: ()))
    try:
        assert partner_renewal.renew_if_due(home, now + timedelta(days=61))
        renewed = in_use(office, now + timedelta(days=1))
        assert pki.pem(renewed) == (office.home.root / "certificates" / "bank.pem").read_bytes()
        assert pki.pem(renewed) != of(office.contract, "bank")
        assert partner_renewal.ask(home, office.contract, now + timedelta(days=1)) == pki.pem(
            renewed
        )
        revoke(office.home, "bank", "left", now)
        with pytest.raises(ConfigError, match="did not renew it"):
            partner_renewal.ask(home, office.contract, now + timedelta(days=1))
    finally:
        server.stop(0.2).wait(5)


def test_the_server_renews_between_jobs_while_there_is_time(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, asked = Service(office.home), []
    monkeypatch.setattr(Child, "ask", lambda child: asked.append(child.name))
    service._renew(0.0)
    assert not asked
    due = service._next_look
    late = datetime.now(UTC) - timedelta(days=65)  # 25 days are left
    made = pki.server_certificate(
        office.home.key("ca.key"),
        office.home.key("ca.pem"),
        office.home.key("server.key"),
        "127.0.0.1",
        late,
    )
    (office.home.keys / "server.pem").write_bytes(made)
    service.workers["a"] = Child("job", [], office.home.state / "x")
    service._renew(due)
    assert not asked
    service.workers.clear()
    service._renew(due + 1)
    assert not asked  # not looked at again yet
    service._renew(due + 3600)
    assert asked == ["link", "exchange"]
    assert (
        days_left(x509.load_pem_x509_certificate(office.home.key("server.pem")), datetime.now(UTC))
        > 80
    )
    service.store.close()


# ---------------------------------------------------------------------- doctor


def test_the_coordinators_doctor_counts_days_and_fails_under_fourteen(office: Office) -> None:
    def look(now: datetime) -> dict[str, tuple[bool, str]]:
        return {
            s: (good, text) for good, s, text in renewal.look(office.home, office.contract, now)
        }

    now = datetime.now(UTC)
    assert all(good for good, _ in look(now).values())
    assert (
        "89 days" in look(now)["bank's certificate"][1]
        or "90 days" in look(now)["bank's certificate"][1]
    )
    late = look(now + timedelta(days=80))
    assert not late["server certificate"][0]
    assert not late["bank's certificate"][0]
    assert "renew bank" in late["bank's certificate"][1]
    assert late["authority"][0]
    renewal.issue(office.home, "bank", now + timedelta(days=80))
    assert look(now + timedelta(days=80))["bank's certificate"][0]
    revoke(office.home, "shop", "x", now)
    assert "revoked" in look(now)["shop's certificate"][1]
    assert any(s == "bank's certificate" for _, s, _ in coordinator_doctor.examine(office.home))


def test_the_partners_doctor_counts_days_and_fails_under_fourteen(office: Office) -> None:
    now, home = datetime.now(UTC), partner(office)
    assert partner_doctor._certificate(home, office.contract, now).good
    late = partner_doctor._certificate(home, office.contract, now + timedelta(days=77))
    assert not late.good
    assert "renew" in late.text
