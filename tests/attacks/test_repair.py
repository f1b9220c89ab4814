"""Row 22, the mend: a partner has signed a head that its journal never reaches. Every gate then refuses its
later heads, and all partners but that one agree to forget it; fewer cannot, and nothing else is forgotten."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from client import cli
from client import repair as repairing
from client.journal import verify
from client.offline import owner
from privacy.errors import ConfigError
from protos import console, repairs, wire
from protos.refusal import Code
from protos.repairs import Repair
from protos.statements import LARGEST_SEQUENCE, LAST_FOLLOWED
from server import cli as server_cli
from server import heads
from server.store import Store
from simulations.alliances import Alliance
from simulations.attacks.disk import copy_of, put_back
from simulations.room import Room
from tests.attacks.between import Change, Coordinator
from tests.attacks.hostile import Hostile, count

EVIL = "shop"
NOW = datetime.now(UTC)


@pytest.fixture
def coordinator(make_alliance: Callable[..., Alliance]) -> Iterator[Coordinator]:
    with Room(make_alliance(epsilon=50.0, epsilon_per_person=50.0), patience=5.0) as room:
        made = Coordinator(room)
        yield made
        made.close()


def signs(
    coordinator: Coordinator, sequence: int, digest: bytes = b"\x01" * 32, **more: Any
) -> Change:
    """Ends a job with a head of that number, of that very job."""

    def change(request: wire.Request, body: wire.ReplyBody) -> wire.ReplyBody | None:
        if not body.HasField("finish"):
            return None
        head = wire.JournalHead(
            contract=coordinator.alliance.contract.digest(), sequence=sequence, digest=digest,
            time=int(time.time()), job=request.job, **more,
        )  # fmt: skip
        key = coordinator.alliance.partners[EVIL].identity()
        return wire.ReplyBody(finish=wire.FinishReply(head=wire.state(key, EVIL, head)))

    return change


def poisoned(coordinator: Coordinator, sequence: int = LARGEST_SEQUENCE) -> wire.Signed:
    """A too high head, kept by the coordinator and by every gate."""
    row = coordinator.run(count(epsilon=0.1), **{EVIL: signs(coordinator, sequence)})
    assert row.state == "done", row.reason
    (_, signed) = heads.held(coordinator.store, coordinator.alliance.contract)[EVIL]
    refused(coordinator)
    return signed


def refused(coordinator: Coordinator) -> None:
    row = coordinator.run(count(epsilon=0.1))
    assert row.state == "failed"
    assert row.reason.startswith(f"{EVIL} refused: ledger_rolled_back"), row.reason


def stored(coordinator: Coordinator, name: str) -> list[tuple[Any, ...]]:
    gate = coordinator.room.gates[name]
    return gate.store.rows("SELECT sequence FROM heads WHERE party = ?", EVIL)


def partner(coordinator: Coordinator, name: str, *arguments: str) -> int:
    home = coordinator.alliance.partners[name].root
    return console.run(cli.app, ["heads", *arguments, "--home", str(home)])


def hub(coordinator: Coordinator, *arguments: str) -> int:
    home = coordinator.alliance.coordinator.root
    return console.run(server_cli.app, ["heads", *arguments, "--home", str(home)])


def signed_by_all(coordinator: Coordinator, file: Path) -> None:
    begin = [
        "repair",
        EVIL,
        "--out",
        str(file),
        "--reason",
        "its key was used by somebody",
        "--yes",
    ]
    assert partner(coordinator, "bank", *begin) == 0
    assert partner(coordinator, "telecom", "sign", str(file), "--yes") == 0


def test_a_head_that_is_too_high_is_forgotten_once_all_others_signed(
    coordinator: Coordinator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signed, file = poisoned(coordinator), tmp_path / "repair.toml"
    assert stored(coordinator, "bank") == [(LARGEST_SEQUENCE,)]
    refused(coordinator)  # for ever
    capsys.readouterr()
    assert partner(coordinator, "bank") == 0
    assert str(LARGEST_SEQUENCE) in capsys.readouterr().out
    assert hub(coordinator) == 0
    assert str(LARGEST_SEQUENCE) in capsys.readouterr().out
    signed_by_all(coordinator, file)
    said = capsys.readouterr().out
    for bound in (
        str(LARGEST_SEQUENCE),
        "01" * 32,
        "its key was used by somebody",
        "to be applied before",
    ):
        assert bound in said
    assert "this gate holds that head" in said
    for name in ("bank", "telecom", EVIL):
        assert partner(coordinator, name, "apply", str(file), "--yes") == 0
        assert not [row for row in stored(coordinator, name) if row[0] > 10_000]
    assert hub(coordinator, "--repair", str(file), "--yes") == 0
    assert EVIL not in heads.held(coordinator.store, coordinator.alliance.contract)

    assert coordinator.run(count(epsilon=0.1)).state == "done"  # the gates ran on all the while
    assert 0 < stored(coordinator, "bank")[0][0] < 10_000
    for name, home in coordinator.alliance.partners.items():
        gate = coordinator.room.gates[name]
        verify(gate.store, home.identity().public_key().public_bytes_raw())
        ((body, content),) = gate.store.rows(
            "SELECT body, content FROM journal WHERE kind = 'repair'"
        )
        assert repairs.from_kept(body).missing(coordinator.alliance.contract) == []
        assert len(content) == 32
    # Brought again by whoever has it, it is nothing.
    hostile = Hostile(coordinator.alliance, coordinator.room.gates)
    for name in coordinator.room.gates:
        opened = hostile.new(count(name="again", epsilon=0.1))
        assert hostile.hello(name, opened, [signed]).HasField("hello")
    assert stored(coordinator, "bank")[0][0] < 10_000
    assert heads.keep(coordinator.store, coordinator.alliance.contract, {EVIL: signed}) == [
        heads.note(EVIL, "all others agreed to forget it")
    ]


def test_a_head_that_a_journal_can_go_on_from_needs_no_repair(coordinator: Coordinator) -> None:
    poisoned(coordinator, LAST_FOLLOWED)
    assert coordinator.run(count(epsilon=0.1)).state == "done"
    assert coordinator.run(count(epsilon=0.1)).state == "done"
    assert stored(coordinator, "bank")[0][0] > LAST_FOLLOWED


def test_fewer_than_all_others_forget_nothing(
    coordinator: Coordinator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """c colluding partners and the coordinator, the one concerned among them."""
    poisoned(coordinator)
    contract, file = coordinator.alliance.contract, tmp_path / "repair.toml"
    begin = ["repair", EVIL, "--out", str(file), "--reason", "x", "--yes"]
    assert partner(coordinator, "telecom", *begin) == 0
    for command in (["bank", "apply"], ["telecom", "apply"], [EVIL, "apply"]):
        assert partner(coordinator, command[0], command[1], str(file), "--yes") == 2
    assert hub(coordinator, "--repair", str(file), "--yes") == 2
    assert "not signed yet by bank" in capsys.readouterr().err
    assert partner(coordinator, EVIL, "sign", str(file), "--yes") == 2
    assert "does not sign what concerns itself" in capsys.readouterr().err
    half = repairs.load(file, NOW)
    forged = {**half.signatures, "bank": half.signatures["telecom"]}
    with pytest.raises(ConfigError, match=r"signatures\.bank: does not fit"):
        half.model_copy(update={"signatures": forged}).check(contract, NOW)
    own = {**half.signatures, EVIL: half.signatures["telecom"]}
    with pytest.raises(ConfigError, match="nobody who has to sign"):
        half.model_copy(update={"signatures": own}).check(contract, NOW)
    assert stored(coordinator, "bank") == [(LARGEST_SEQUENCE,)]
    refused(coordinator)


@pytest.mark.parametrize(
    "change",
    [
        {"party": "telecom"}, {"sequence": 7}, {"digest": "02" * 32}, {"reason": "y"},
        {"expires": NOW + timedelta(days=60)}, {"contract": "00" * 32},
    ],
)  # fmt: skip
def test_a_repair_that_was_changed_after_signing_is_none(
    coordinator: Coordinator, tmp_path: Path, change: dict[str, Any]
) -> None:
    poisoned(coordinator)
    signed_by_all(coordinator, tmp_path / "repair.toml")
    whole = repairs.load(tmp_path / "repair.toml", NOW)
    whole.check(coordinator.alliance.contract, NOW)
    changed = whole.model_copy(update=change)
    (tmp_path / "repair.toml").write_text(repairs.to_text(changed))
    assert partner(coordinator, "bank", "apply", str(tmp_path / "repair.toml"), "--yes") == 2
    assert stored(coordinator, "bank") == [(LARGEST_SEQUENCE,)]


def test_an_old_repair_removes_no_later_head_and_none_twice(
    coordinator: Coordinator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poisoned(coordinator)
    file = tmp_path / "repair.toml"
    signed_by_all(coordinator, file)
    for name in coordinator.room.gates:
        assert partner(coordinator, name, "apply", str(file), "--yes") == 0
    assert hub(coordinator, "--repair", str(file), "--yes") == 0
    assert coordinator.run(count(epsilon=0.1)).state == "done"
    held = stored(coordinator, "bank")
    capsys.readouterr()
    assert partner(coordinator, "bank", "apply", str(file), "--yes") == 2
    assert "was applied here before" in capsys.readouterr().err
    assert stored(coordinator, "bank") == held
    assert hub(coordinator, "--repair", str(file), "--yes") == 0
    assert EVIL in heads.held(coordinator.store, coordinator.alliance.contract)
    with pytest.raises(ConfigError, match="expired"):
        repairs.load(file, NOW).check(coordinator.alliance.contract, NOW + timedelta(days=31))


def test_nobody_is_made_to_sign_what_he_did_not_see(
    coordinator: Coordinator,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Escapes in a reason are text, and without a yes nothing is signed."""
    poisoned(coordinator)
    contract, file = coordinator.alliance.contract, tmp_path / "repair.toml"
    reason = "fine\x1b[2K\rforget nothing\nsigned by bank\u202e"
    made = repairs.forget(contract, EVIL, LARGEST_SEQUENCE, b"\x01" * 32, reason, NOW, 30)
    file.write_text(repairs.to_text(made))
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert partner(coordinator, "bank", "sign", str(file)) == 1
    said = capsys.readouterr().out
    assert all(line.isprintable() for line in said.split("\n"))
    assert "\nsigned by bank" not in said
    assert repairs.load(file, NOW).signatures == {}
    with pytest.raises(ConfigError, match="reason"):
        repairs.forget(contract, EVIL, 7, bytes(32), "x" * 401, NOW, 30)
    with pytest.raises(ConfigError, match="expires"):
        repairs.forget(contract, EVIL, 7, bytes(32), "x", NOW, 91)
    assert partner(coordinator, "bank", "repair", "ghost", "--reason", "x", "--yes") == 2
    assert partner(coordinator, "bank", "repair", "bank", "--reason", "x", "--yes") == 2


def test_a_repair_reads_as_what_was_written(coordinator: Coordinator) -> None:
    contract = coordinator.alliance.contract
    made = repairs.forget(contract, EVIL, LARGEST_SEQUENCE, b"\x02" * 32, 'a "b" \\ c', NOW, 30)
    for name in ("bank", "telecom"):
        made = made.signed_by(name, coordinator.alliance.partners[name].identity(), contract)
    made.check(contract, NOW)
    again = Repair.model_validate(repairs.from_kept(made.kept()))
    assert again == made
    again.check(contract, NOW)


def test_what_is_lost_with_a_repair_is_the_floor_until_the_next_head(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    """A backup that the party puts back then is not found by this gate: docs/security.md says so. One that it
    puts back after its next head is."""
    home = coordinator.alliance.partners[EVIL]
    contract = coordinator.alliance.contract
    coordinator.run(count(epsilon=0.1))
    backup = copy_of(home)
    poisoned(coordinator)
    signed_by_all(coordinator, tmp_path / "repair.toml")
    for name in coordinator.room.gates:
        assert partner(coordinator, name, "apply", str(tmp_path / "repair.toml"), "--yes") == 0
    assert hub(coordinator, "--repair", str(tmp_path / "repair.toml"), "--yes") == 0
    assert coordinator.run(count(epsilon=0.1)).state == "done"
    gate = coordinator.room.gates[EVIL]
    gate.close()
    put_back(home, backup)
    coordinator.room.gates[EVIL] = type(gate)(
        home,
        randomness=coordinator.room.randomness,
        clock=time.time,
        open_stream=lambda job, peer: None,
    )  # type: ignore[arg-type, return-value]
    row = coordinator.run(count(epsilon=0.1))
    assert row.state == "failed"
    assert EVIL in row.reason
    assert coordinator.run(count(epsilon=0.1)).state == "done"
    with owner(home) as at:
        assert heads.held(coordinator.store, contract)[EVIL][0].sequence <= at.journal.head()[0]


def test_an_honest_head_that_is_forgotten_stops_nobody(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    """Agreed by mistake, over the very head that the party states next."""
    coordinator.run(count(epsilon=0.1))
    contract, gate = coordinator.alliance.contract, coordinator.room.gates[EVIL]
    sequence, digest = gate.journal.head()
    made = repairs.forget(contract, EVIL, sequence, digest, "x", NOW, 30)
    for name in ("bank", "telecom"):
        made = made.signed_by(name, coordinator.alliance.partners[name].identity(), contract)
    (tmp_path / "repair.toml").write_text(repairs.to_text(made))
    for name in ("bank", "telecom"):
        assert partner(coordinator, name, "apply", str(tmp_path / "repair.toml"), "--yes") == 0
    assert hub(coordinator, "--repair", str(tmp_path / "repair.toml"), "--yes") == 0
    assert coordinator.run(count(epsilon=0.1)).state == "done"
    assert stored(coordinator, "bank")[0][0] > sequence


def test_a_gate_that_cannot_go_on_from_its_own_head_says_so(coordinator: Coordinator) -> None:
    """And loses nothing by it: no job is abandoned, nothing is charged."""
    gate = coordinator.room.gates[EVIL]
    before = gate.journal.head()
    hostile = Hostile(coordinator.alliance, coordinator.room.gates)
    head = wire.JournalHead(
        contract=hostile.digest, sequence=LAST_FOLLOWED + 1, digest=bytes(32), time=int(time.time()),
        mu2=1e300,
    )  # fmt: skip
    signed = wire.state(gate.identity, EVIL, head)
    opened = hostile.new(count())
    assert hostile.hello(EVIL, opened, [signed]).refusal.code == Code.ROLLED_BACK
    assert gate.journal.head() == before
    assert gate.ledger.total()[0] == 0.0
    (reason,) = gate.store.rows("SELECT reason FROM refusals")[0]
    assert "`heads repair`" in reason


def test_at_two_partners_the_other_one_decides(
    make_alliance: Callable[..., Alliance], tmp_path: Path
) -> None:
    """As docs/alliance.md has it: what a partner could do to its own database anyway."""
    with Room(make_alliance(partners=2, epsilon=50.0, epsilon_per_person=50.0)) as room:
        made, file = Coordinator(room), str(tmp_path / "repair.toml")
        assert made.run(count(epsilon=0.1)).state == "done"
        begin = ["repair", EVIL, "--reason", "its key was used on another machine", "--out", file]
        assert partner(made, "bank", *begin, "--yes") == 0
        assert partner(made, "bank", *begin, "--yes") == 2  # never over another file
        for name in ("bank", EVIL):
            assert partner(made, name, "apply", file, "--yes") == 0
        assert hub(made, "--repair", file, "--yes") == 0
        assert made.run(count(epsilon=0.1)).state == "done"
        for name, home in made.alliance.partners.items():
            verify(room.gates[name].store, home.identity().public_key().public_bytes_raw())
        made.close()


def test_a_repair_that_says_it_will_be_made_is_none_yet(
    make_alliance: Callable[..., Alliance], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dated ten years on it could be applied for ten years, though a repair lives ninety days."""
    alliance, file = make_alliance(), tmp_path / "repair.toml"
    late = NOW + timedelta(days=3650)
    made = repairs.forget(alliance.contract, EVIL, 5, b"\xab" * 32, "x", late, 90)
    for name in ("bank", "telecom"):
        made = made.signed_by(name, alliance.partners[name].identity(), alliance.contract)
    for days in (0, 3000):
        with pytest.raises(ConfigError, match="made: is in the future"):
            made.check(alliance.contract, NOW + timedelta(days=days))
    file.write_text(repairs.to_text(made))
    with pytest.raises(ConfigError, match="made: is in the future"):
        repairs.load(file, NOW)
    with pytest.raises(ConfigError, match="expired"):
        repairs.load(file, late + timedelta(days=90))
    repairs.load(file, late - timedelta(hours=12)).check(alliance.contract, late)
    with owner(alliance.partners["bank"]) as at:
        with pytest.raises(ConfigError, match="made: is in the future"):
            repairing.sign(at, made, NOW)
        with pytest.raises(ConfigError, match="made: is in the future"):
            repairing.apply(at, made, NOW)
    for home, command, app in (
        (alliance.partners["bank"], ["sign", str(file)], cli.app),
        (alliance.partners["bank"], ["apply", str(file)], cli.app),
        (alliance.coordinator, ["--repair", str(file)], server_cli.app),
    ):
        arguments = ["heads", *command, "--yes", "--home", str(home.root)]
        assert console.run(app, arguments) == 2
        assert "is in the future" in capsys.readouterr().err


def test_a_head_that_comes_while_another_is_forgotten_stays(
    make_alliance: Callable[..., Alliance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job ends in another process between the look and the deletion."""
    alliance, threads = make_alliance(), []
    contract, database = alliance.contract, alliance.coordinator.database

    def signed(sequence: int) -> wire.Signed:
        head = wire.JournalHead(
            contract=contract.digest(), sequence=sequence, digest=b"\xab" * 32,
            time=int(time.time()),
        )  # fmt: skip
        return wire.state(alliance.partners[EVIL].identity(), EVIL, head)

    repair = repairs.forget(contract, EVIL, 5, b"\xab" * 32, "x", NOW, 30)
    for name in ("bank", "telecom"):
        repair = repair.signed_by(name, alliance.partners[name].identity(), contract)
    store, other = Store(database, time.time), Store(database, time.time)
    assert heads.keep(store, contract, {EVIL: signed(5)}) == []
    real = heads.held

    def meanwhile(*looked: Any) -> Any:
        found = real(*looked)
        threads.append(threading.Thread(target=other.keep_head, args=(signed(6),)))
        threads[-1].start()
        threads[-1].join(timeout=0.3)
        return found

    monkeypatch.setattr(heads, "held", meanwhile)
    assert heads.forget(store, contract, repair, NOW)
    threads[0].join()
    assert real(store, contract)[EVIL][0].sequence == 6
    store.close()
    other.close()


def test_the_coordinator_keeps_no_head_that_was_signed_far_ahead(
    coordinator: Coordinator,
) -> None:
    contract, store = coordinator.alliance.contract, coordinator.store
    head = wire.JournalHead(
        contract=contract.digest(), sequence=5, digest=bytes(32), time=int(time.time() + 2 * 86_400)
    )
    ahead = wire.state(coordinator.alliance.partners[EVIL].identity(), EVIL, head)
    why = "its clock is more than a day ahead of this machine's"
    assert heads.keep(store, contract, {EVIL: ahead}) == [heads.note(EVIL, why)]
    assert heads.held(store, contract) == {}
