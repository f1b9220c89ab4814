"""Foreign text in a real terminal: no command prints a byte of it that a terminal would act on."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import select
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from client import cli as partner_cli
from client import setup as partner_setup
from client import terms
from client.masking import cli as masking_cli
from client.masking import reveal
from privacy.errors import ConfigError
from protos import alliance, console, logs
from protos.toml import Strict, build, read_toml
from server import cli as coordinator_cli
from server.store import Store
from simulations.alliances import Alliance
from tests.conftest import QUERY, ROOT, job

HIDE = "\x1b[8m"
INVENTED = "epsilon 0.1 for a customer here"
EVIL = f"retail, until 2027\r\n{INVENTED}\r\n  bank   6666 7777{HIDE}"
NASTY = [
    "\x1b[2J", "\x9b2J", "\r", "\n", "\b\b\b", "\x7f", "\x00", "\x07", "\x85", "\u202e", "\u2066", "\u200b",
    "\u200d", "\ufeff", "\u2028", "\u2029", "\xad", "\ue000", "\U000e0041", "\u0378", "\ufe0f", "\u3164",
    "\u115f", "\u2800", "\u034f", "\xa0", "\u3000", "\ud800",
]  # fmt: skip


def is_harmless(text: str) -> bool:
    """One line of letters, marks, signs and single spaces; an oracle of its own."""
    safe = ("L", "M", "N", "P", "S")
    return all(c == " " or unicodedata.category(c)[0] in safe for c in text)


# ---------------------------------------------------------------------- the escape itself


@pytest.mark.parametrize("bad", NASTY, ids=ascii)
def test_what_a_terminal_acts_on_is_escaped(bad: str) -> None:
    text = console.shown(f"a{bad}b")
    assert bad not in text
    assert is_harmless(text)
    assert "\\" in text


@given(st.text(st.characters(), max_size=60))
def test_any_text_is_one_harmless_line(text: str) -> None:
    shown = console.shown(text)
    assert is_harmless(shown)
    assert "  " not in shown
    assert shown == shown.strip()


def test_escapes_are_ours_alone() -> None:
    assert console.shown("a\\x1b\x1b") == "a\\x5cx1b\\x1b"
    assert console.shown("\u202e\U000e0001") == "\\u202e\\U000e0001"


def test_names_that_people_have_stay_readable() -> None:
    for text in ("北京市朝阳区", "Zürich", "naïve café", "हिन्दी", "a-b_c (d)", "👍", "i\u0307"):
        assert console.shown(text) == text


def test_length_is_bounded_and_told() -> None:
    assert console.shown("a" * 600, 5) == "aaaaa... (595 more characters)"
    assert len(console.shown("\x1b" * 10**6)) < 3000
    assert console.shown("a" + "\u0301" * 50).count("\u0301") == 2


def test_spaces_cannot_push_text_to_where_a_terminal_wraps() -> None:
    assert "  " not in console.shown("retail" + " " * 100 + INVENTED)


def test_cells_and_messages_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    printed = console.table(["x", EVIL], [[EVIL, 1], ["b", 2.5]])
    assert len(printed.splitlines()) == 4
    assert all(map(is_harmless, printed.splitlines()))
    console.say("of {}: {}", EVIL, EVIL, err=True)
    app = console.new_app("x")

    @app.command()
    def fail() -> None:
        raise ConfigError(EVIL, EVIL)

    assert console.run(app, []) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(map(is_harmless, lines))


def test_a_pasted_argument_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.run(partner_cli.app, [EVIL]) == 2
    assert all(map(is_harmless, capsys.readouterr().err.splitlines()))


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3))
def test_json_says_the_same_and_harms_nothing(value: dict[str, str]) -> None:
    text = console.json_text(value)
    assert json.loads(text) == value
    assert all(is_harmless(line) for line in text.splitlines())


# ---------------------------------------------------------------------- signing


def edited(found: Alliance, change: Callable[[dict[str, Any]], object]) -> Path:
    plain = read_toml(found.coordinator.contract_file)
    plain.pop("signatures", None)
    change(plain)
    found.coordinator.contract_file.write_text(tomli_w.dumps(plain))
    return found.coordinator.contract_file


def spoil(plain: dict[str, Any]) -> None:
    plain["name"] = EVIL
    plain["purposes"]["p" + EVIL] = {"kinds": ["query"]}
    plain["columns"]["region"]["values"] = ["north" + EVIL, "south\u202e"]
    plain["parties"][1]["residency"] = "EU\x1b[8m\r\n"
    plain["privacy"]["epsilon"] = 99.0


def in_a_terminal(*arguments: str, answer: bytes = b"n\n", code: str = "") -> bytes:
    """What a command of a partner writes to a terminal of its own."""
    run = code or "from client.cli import main; main()"
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.environ["COLUMNS"] = "100"
        os.execv(sys.executable, [sys.executable, "-c", run, *arguments])  # noqa: S606
    seen, ends, answered = b"", time.monotonic() + 60, False
    while time.monotonic() < ends:
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                data = os.read(terminal, 65536)
            except OSError:
                break
            if not data:
                break
            seen += data
        if b"in person" in seen and not answered:
            os.write(terminal, answer)
            answered = True
    os.close(terminal)
    os.waitpid(child, 0)
    return seen


def hides_the_truth(seen: bytes) -> bool:
    lines = seen.decode().replace("\r\n", "\n").split("\n")
    return any(line.startswith(INVENTED) for line in lines) or not all(map(is_harmless, lines))


def test_a_name_cannot_hide_the_terms_from_who_signs(
    make_alliance: Callable[..., Alliance],
) -> None:
    found = make_alliance()
    file = edited(found, spoil)
    seen = in_a_terminal("sign", str(file), "--home", str(found.partners["bank"].root))
    assert b"in person" in seen, seen
    assert not hides_the_truth(seen)
    assert b"epsilon 99.0" in seen
    for text in alliance.load(file).fingerprints().values():
        assert text.encode() in seen


def test_the_raw_text_would_be_found_in_that_terminal(
    make_alliance: Callable[..., Alliance],
) -> None:
    """The planted bug: the terms with ``str`` in place of ``shown``."""
    file = edited(make_alliance(), spoil)
    code = (
        "import sys; from pathlib import Path; from client import terms; from protos import alliance\n"
        "print('\\n'.join(terms.lines(alliance.load(Path(sys.argv[1])), str)))"
    )
    assert hides_the_truth(in_a_terminal(str(file), code=code))


@pytest.mark.parametrize("bad", [b for b in NASTY if b not in ("\x00", "\ud800")], ids=ascii)
def test_every_foreign_text_of_the_terms_is_escaped(
    make_alliance: Callable[..., Alliance], bad: str
) -> None:
    def change(plain: dict[str, Any]) -> None:
        plain["name"] += bad
        plain["purposes"]["p" + bad] = {"kinds": ["query"]}
        plain["columns"]["region"]["values"] = ["x" + bad, "y"]
        plain["parties"][0]["residency"] += bad

    contract = alliance.load(edited(make_alliance(), change))
    lines = terms.lines(contract)
    assert all(map(is_harmless, lines))
    assert bad not in "".join(lines)
    assert bad in "".join(terms.lines(contract, str))  # the planted bug


def test_a_text_cannot_leave_its_quotes(make_alliance: Callable[..., Alliance]) -> None:
    def change(plain: dict[str, Any]) -> None:
        plain["parties"][0]["residency"] = "EU'; all fingerprints were compared"
        plain["columns"]["region"]["values"] = ["a', 'b", "c"]

    text = "\n".join(terms.lines(alliance.load(edited(make_alliance(), change))))
    assert "'EU\\x27; all fingerprints were compared'" in text
    assert "2 values: 'a\\x27, \\x27b', 'c'" in text


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Strict):
        for name in type(value).model_fields:
            yield from leaves(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}.{key}", key
            yield from leaves(item, f"{path}.{key}")
    elif isinstance(value, tuple):
        for item in value:
            yield from leaves(item, path)
    elif value is not None:
        yield path, value


def full(plain: dict[str, Any]) -> None:
    plain["privacy"] |= {
        "epsilon": 3.25, "epsilon_per_person": 7.125, "delta": 3e-6, "period_days": 183,
        "smallest_cohort": 71, "rows_per_person": 17,
    }  # fmt: skip
    plain["matching"] |= {
        "bucket": 192, "largest_set": 4321, "platforms": ["google"], "engine": "fast",
        "assumes": "semi_honest",
    }  # fmt: skip
    plain["columns"]["spend"] |= {"low": 0.125, "high": 777.5}


def test_every_term_that_binds_is_shown(make_alliance: Callable[..., Alliance]) -> None:
    contract = alliance.load(edited(make_alliance(), full))
    text = "\n".join(terms.lines(contract))
    # Checked below, or by another tool; "number", "category" and "label" are said in words.
    opaque = {
        "identity",
        "node_key",
        "certificate",
        "authority",
        "signatures",
        "expires",
        "type",
        "scale",
    }
    for path, value in leaves(contract):
        if path.rpartition(".")[2] not in opaque:
            assert str(value) in text, path
    assert contract.digest().hex() in text.replace(" ", "")
    assert "only while every party runs this code" in text
    assert "not against one that deviates" in text
    assert "adding or removing one person" in text
    assert "on a logarithmic scale" in text
    assert f"{contract.expires:%Y-%m-%d}" in text


def test_keys_and_certificates_are_shown_by_fingerprints_of_another_tool(
    make_alliance: Callable[..., Alliance], tmp_path: Path
) -> None:
    contract = make_alliance().contract
    text = "\n".join(terms.lines(contract)).replace(" ", "").lower()
    for name, pem in [("a", contract.coordinator.authority)] + [
        (p.name, p.certificate) for p in contract.parties
    ]:
        file = tmp_path / f"{name}.pem"
        file.write_text(pem)
        said = subprocess.run(
            ["openssl", "x509", "-in", str(file), "-noout", "-fingerprint", "-sha256"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert said.strip().partition("=")[2].replace(":", "").lower() in text


def test_a_term_that_came_later_is_shown_under_its_name() -> None:
    class Newer(Strict):
        name: str
        tomorrow: str

    shown = list(terms._others(Newer(name="x", tomorrow=EVIL), {"name"}, console.shown))
    assert len(shown) == 1
    assert "tomorrow" in shown[0]
    assert is_harmless(shown[0])


def test_a_long_vocabulary_is_counted_and_pinned(make_alliance: Callable[..., Alliance]) -> None:
    def texts(last: str) -> list[str]:
        values = [f"v{i}" for i in range(999)] + [last]
        file = edited(found, lambda plain: plain["columns"]["region"].update(values=values))
        return [line for line in terms.lines(alliance.load(file)) if "region" in line]

    found = make_alliance()
    one, other = texts("a"), texts("b")
    assert "1000 values" in one[0]
    assert "988 more" in one[0]
    assert one != other


def test_a_file_that_is_swapped_while_it_is_read_is_not_signed(
    make_alliance: Callable[..., Alliance],
) -> None:
    found = make_alliance()
    agreed = found.contract.digest()
    file = edited(found, lambda plain: plain["privacy"].update(epsilon=99.0))
    now = datetime(2026, 12, 1, tzinfo=UTC)
    with pytest.raises(ConfigError, match="changed while it was shown"):
        partner_setup.sign(found.partners["bank"], file, now, agreed=agreed)
    assert not alliance.load(file).signatures


def at(plain: dict[str, Any], party: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = plain["coordinator"] if party is None else plain["parties"][party]
    return found


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda c: at(c).update(authority=at(c)["authority"] * 2), "coordinator.authority"),
        (lambda c: at(c).update(authority="x"), "coordinator.authority"),
        (lambda c: at(c).update(authority="x" * 20_000), "coordinator.authority"),
        (lambda c: at(c).update(link="unix:/tmp/x:1"), "coordinator.link"),
        (lambda c: at(c).update(exchange="a\x1b[8m:1"), "coordinator.exchange"),
        (lambda c: at(c).update(exchange="a:\u0661"), "coordinator.exchange"),
        (lambda c: at(c, 1).update(certificate="x"), "parties.shop.certificate"),
        (lambda c: at(c, 1).update(node_key="ssh-ed25519 AAAA"), "parties.shop.node_key"),
        (lambda c: at(c, 0).update(certificate=at(c, 1)["certificate"]), "parties.shop.certificate"),
        (lambda c: at(c, 1).update(identity="A" * 5000), "parties.1.identity"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_not_signed(
    make_alliance: Callable[..., Alliance], change: Callable[[dict[str, Any]], object], path: str
) -> None:
    found = make_alliance()
    file = edited(found, change)
    with pytest.raises(ConfigError) as caught:
        partner_setup.sign(found.partners["bank"], file, datetime(2026, 12, 1, tzinfo=UTC))
    assert caught.value.path in (path, f"{file}.{path}")


# ---------------------------------------------------------------------- the other commands


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    both = capsys.readouterr()
    return [*both.out.splitlines(), *both.err.splitlines()]


def test_an_installed_contract_and_an_invitation_are_shown_escaped(
    make_alliance: Callable[..., Alliance], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = make_alliance()
    file = edited(found, spoil)
    now = datetime(2026, 12, 1, tzinfo=UTC)
    for home in found.partners.values():
        partner_setup.sign(home, file, now)
    home = str(found.partners["bank"].root)
    assert console.run(partner_cli.app, ["check", str(file), "--replace", "--home", home]) == 0
    out = ["--out", str(tmp_path / "a.toml"), "--home", home]
    invitation = found.coordinator.invitations / "bank.invitation.toml"
    text = invitation.read_text()
    invitation.write_text(text.replace('name = "coordinator"', 'name = "x\\u001b[8m\\r\\ny"'))
    assert console.run(partner_cli.app, ["join", str(invitation), *out]) == 2
    invitation.write_text(text.replace('party = "bank"', 'party = "x\\u001b[8m"'))
    assert console.run(partner_cli.app, ["join", str(invitation), *out]) == 2
    printed = lines_of(capsys)
    assert len([line for line in printed if "error: " in line]) == 2
    assert all(map(is_harmless, printed))


def test_an_application_cannot_name_a_path(
    make_alliance: Callable[..., Alliance], tmp_path: Path
) -> None:
    from server import setup as coordinator_setup

    found = make_alliance()
    file = tmp_path / "bank" / "application.toml"
    text = file.read_text()
    file.write_text(text.replace('party = "bank"', 'party = "../invitations/bank"'))
    with pytest.raises(ConfigError, match=r"\.party: a-z"):
        coordinator_setup.admit(found.coordinator, file, datetime(2026, 12, 1, tzinfo=UTC))


def test_results_and_lists_of_jobs_are_escaped(
    make_alliance: Callable[..., Alliance], capsys: pytest.CaptureFixture[str]
) -> None:
    found = make_alliance()
    store = Store(found.coordinator.database, time.time)
    row = coordinator_cli.submit(found.coordinator, job(**QUERY))
    store.end(row.id, "done", {"engine\u202e": EVIL, "category\x9b": ["\u200b"]})
    failed = coordinator_cli.submit(found.coordinator, job(**QUERY))
    store.end(failed.id, "failed", {}, f"shop said {EVIL}")
    store.close()
    home = ["--home", str(found.coordinator.root)]
    assert console.run(coordinator_cli.app, ["results", row.id, *home]) == 0
    assert console.run(coordinator_cli.app, ["results", *home]) == 0
    assert console.run(coordinator_cli.app, ["results", failed.id, *home]) == 1
    assert all(map(is_harmless, lines_of(capsys)))


def test_a_table_of_others_is_scanned_with_its_headings_escaped(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table = tmp_path / "t.csv"
    table.write_text("a\u202e\x1b[8m,b\nuser@example.com,\u200b\x9b\nuser2@example.com,x\n")
    console.run(partner_cli.app, ["scan", str(table), "--masked"])
    console.run(partner_cli.app, ["scan", str(table), "--json"])
    printed = lines_of(capsys)
    assert any("unmasked personal data in: a" in line for line in printed)
    assert all(map(is_harmless, printed))


def test_a_request_to_turn_tokens_back_is_shown_whole_and_escaped(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    request = reveal.Request(
        id="0" * 32, table="a" * 64, table_name="t" + HIDE, rows=5, policy="b" * 64, policy_name="p" + HIDE,
        column="mail" + HIDE, purpose="partner_join", kind="email" + HIDE, domain="d" + HIDE,
        transform="token",
        key="k\u202e", reason="because\r\nApprove? [y/N]: ", by="ann\x1b[2J", partner="bank",
        asked=datetime.now(UTC), expires=datetime.now(UTC) + timedelta(days=1), entry=7, digest="c" * 64,
    )  # fmt: skip
    file = tmp_path / "request.toml"
    file.write_text(tomli_w.dumps(request.model_dump(exclude_none=True)))
    reveal.new_approver("boss", tmp_path / "key", os.urandom)
    arguments = ["reveal", "approve", str(file), "--name", "boss", "--key", str(tmp_path / "key")]
    assert console.run(partner_cli.app, [*arguments, "--yes"]) == 0
    printed = lines_of(capsys)
    assert all(map(is_harmless, printed))
    whole = "\n".join(printed)
    for part in ("a" * 64, "b" * 64, "partner_join", f"{request.expires:%Y-%m-%d}"):
        assert part in whole


def test_a_request_that_is_swapped_while_it_is_shown_is_not_approved(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = reveal.Request(
        id="0" * 32, table="a" * 64, table_name="t.csv", rows=5, policy="b" * 64, policy_name="p",
        column="mail", purpose="partner_join", kind="email", domain="partner_join/mail", transform="token",
        reason="because of it", by="ann", partner="bank", asked=datetime.now(UTC),
        expires=datetime.now(UTC) + timedelta(days=1), entry=7, digest="c" * 64,
    )  # fmt: skip
    file = tmp_path / "request.toml"
    file.write_text(tomli_w.dumps(request.model_dump(exclude_none=True)))
    reveal.new_approver("boss", tmp_path / "key", os.urandom)
    other = request.model_copy(update={"column": "id_card"})

    def swap(*_: object, **__: object) -> bool:
        file.write_text(tomli_w.dumps(other.model_dump(exclude_none=True)))
        return True

    monkeypatch.setattr("typer.confirm", swap)
    arguments = ["reveal", "approve", str(file), "--name", "boss", "--key", str(tmp_path / "key")]
    assert console.run(partner_cli.app, arguments) == 2
    assert "changed while it was shown" in capsys.readouterr().err
    assert "signature" not in file.read_text()


def test_no_command_echoes_a_text_that_it_filled_in_with_names_of_others() -> None:
    """Reads the commands: what is foreign goes through say, table, json_text or shown."""
    foreign = ("contract.name", "installed.name", "invited.", "wanted.", "purpose}", "exposed", "dropped",
               "objection", "json.dumps", "ensure_ascii", "finding.text", "row.reason")  # fmt: skip
    for module in (partner_cli, masking_cli, coordinator_cli):
        for number, line in enumerate(Path(str(module.__file__)).read_text().splitlines(), start=1):
            if "typer.echo(" in line and "console." not in line:
                found = [word for word in foreign if word in line]
                assert not found, f"{module.__name__}:{number}"


# ---------------------------------------------------------------------- logs


def test_log_lines_are_one_escaped_line_without_data() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.EscapedFormatter(logs.FORMAT))
    log = logging.Logger("tallystick.\x1b[8m")
    log.addHandler(handler)
    log.warning("job %s refused", EVIL)
    log.warning("%d %d", "user@example.com")
    try:
        secret = "user@example.com"
        try:
            raise ValueError(secret)
        except ValueError as error:
            raise KeyError(secret) from error
    except KeyError:
        log.exception("failed", stack_info=True)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert all(map(is_harmless, lines))
    assert "user@example.com" not in stream.getvalue()
    assert "KeyError at" in lines[2]
    assert "after ValueError at" in lines[2]


def test_what_nobody_caught_is_one_line_without_its_text() -> None:
    code = (
        "from protos import logs; import threading, warnings\n"
        "logs.configure()\n"
        "def bad(): raise ValueError('user@example.com\\x1b[8m')\n"
        "t = threading.Thread(target=bad); t.start(); t.join()\n"
        "warnings.warn('odd \\x1b[8m')\n"
        "bad()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert len(lines) == 3
    assert all(map(is_harmless, lines))
    assert "user@example.com" not in done.stderr


def test_terms_of_a_contract_that_nobody_spoiled_are_readable(
    make_alliance: Callable[..., Alliance],
) -> None:
    contract = build(alliance.Contract, alliance.to_plain(make_alliance().contract))
    assert "\\" not in "\n".join(terms.lines(contract))
