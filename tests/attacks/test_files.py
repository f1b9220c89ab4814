"""Another user of the machine prepares files, links and folders where a partner's commands will write or
read, and a partner's own slip names an input as the output; two commands at once; a disk that is full."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest
import tomli_w

from client import cli as partner_cli
from client import setup
from client.home import Home
from client.jobkeys import JobKeys
from client.masking.keys import KeySource
from client.spill import DiskSpool
from client.store import Store
from privacy.errors import ConfigError
from protos import alliance, console, files
from protos.addresses import JobId
from protos.files import open_private, own_folder, write_private
from protos.places import check_output
from protos.toml import read_toml
from server import admission, callers
from server import setup as coordinator_setup
from server.home import CoordinatorConfig
from server.home import Home as CoordinatorHome
from simulations.alliances import Alliance
from tests.client.masking.conftest import prepared
from tests.conftest import ROOT

OTHER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
Ran = subprocess.CompletedProcess[str]


def run(folder: Path, *arguments: str, umask: int = 0o022, timeout: float = 60) -> Ran:
    return subprocess.run(
        [sys.executable, "-m", "client.cli", *arguments], cwd=folder, umask=umask, timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def theirs(path: Path, mode: int = 0o666) -> None:
    """A file of another user's."""
    path.write_bytes(b"")
    path.chmod(mode)
    os.chown(path, OTHER, OTHER)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A table, a policy and a key."""
    return prepared(tmp_path)


MASK = ("mask", "customers.csv", "--policy", "policy.toml", "--purpose", "display", "--out")


@as_root
def test_what_others_prepared_is_neither_written_into_nor_followed(place: Path) -> None:
    place.chmod(0o2777)  # a folder that everybody writes in, as /tmp without its sticky bit
    victim = place / "victim"
    victim.write_bytes(b"precious")
    for name in (
        "new.key.new",
        ".new.key.new",
        "shown.csv.new",
        "shown.csv",
        "shown.csv.lineage.json.new",
    ):
        theirs(place / name)
    (place / "other.csv.new").symlink_to("victim")
    (place / "other.csv").symlink_to("victim")
    (place / "other.csv.lineage.json").symlink_to("victim")
    assert run(place, "keys", "new", "file:new.key").returncode == 0
    for out in ("shown.csv", "other.csv"):
        done = run(place, *MASK, out)
        assert done.returncode == 0, done.stderr
    assert victim.read_bytes() == b"precious"
    for name in (
        "new.key",
        "shown.csv",
        "shown.csv.lineage.json",
        "other.csv",
        "other.csv.lineage.json",
    ):
        found = (place / name).lstat()
        assert stat.S_ISREG(found.st_mode), name
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (os.geteuid(), 0o600), name
    assert (place / "shown.csv.new").stat().st_size == 0


@as_root
def test_a_key_that_somebody_else_made_is_no_key(place: Path) -> None:
    for source in ("theirs.key", "link.key"):
        write_private(place / "theirs.key", b"ab" * 32 + b"\n")
        os.chown(place / "theirs.key", OTHER, OTHER)
        (place / "link.key").unlink(missing_ok=True)
        (place / "link.key").symlink_to("masking.key")
        done = run(place, "keys", "list", f"file:{source}")
        assert done.returncode == 2
        assert "another user" in done.stderr or "is a link" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_pipe_in_the_place_of_a_key_holds_nobody_up(place: Path) -> None:
    os.mkfifo(place / "pipe.key", 0o600)
    done = run(place, "keys", "list", "file:pipe.key", timeout=30)
    assert (done.returncode, "regular file" in done.stderr) == (2, True)


def test_keys_are_made_once(place: Path) -> None:
    """Two at the same time too: the second does not replace what the first printed."""
    source = KeySource("file", str(place / "k"))
    ring = source.create(os.urandom)
    with pytest.raises(ConfigError, match="is there already"):
        source._write("aa" * 32, once=True)
    assert source.read().current.id == ring.current.id


@pytest.mark.parametrize("taken", ["customers.csv", "link.csv", "hard.csv"])
@pytest.mark.parametrize("command", ["mask", "dedupe", "retoken"])
def test_no_output_takes_the_place_of_a_commands_table(
    place: Path,
    command: str,
    taken: str,
) -> None:
    (place / "link.csv").symlink_to("customers.csv")
    os.link(place / "customers.csv", place / "hard.csv")
    before = (place / "customers.csv").read_bytes()
    arguments = {
        "mask": (*MASK, taken),
        "dedupe": ("dedupe", "customers.csv", "--policy", "policy.toml", "--out", taken),
        "retoken": ("keys", "retoken", "customers.csv", "--policy", "policy.toml", "--purpose",
                    "partner_join", "--out", taken),
    }[command]  # fmt: skip
    done = run(place, *arguments)
    assert (done.returncode, "would be lost" in done.stderr) == (2, True), done.stderr
    assert (place / "customers.csv").read_bytes() == before


@pytest.mark.parametrize("name", ["policy.toml", "masking.key"])
def test_nor_of_its_policy_or_key(place: Path, name: str) -> None:
    """Whatever they are called: a suffix is no protection."""
    (place / name).rename(place / "input.csv")
    policy = "input.csv" if name == "policy.toml" else "policy.toml"
    keys = "file:input.csv" if name == "masking.key" else "file:masking.key"
    before = (place / "input.csv").read_bytes()
    done = run(place, "mask", "customers.csv", "--policy", policy, "--purpose", "display", "--keys", keys,
               "--out", "input.csv")  # fmt: skip
    assert (done.returncode, "would be lost" in done.stderr) == (2, True), done.stderr
    assert (place / "input.csv").read_bytes() == before


@pytest.fixture
def bank(place: Path) -> Home:
    """A partner whose table lies in its folder."""
    home = setup.init(place / "bank", "bank", os.urandom)
    shutil.copy(place / "customers.csv", home.root / "customers.csv")
    home.config_file.write_text(
        'name = "bank"\n[data]\nsource = "customers.csv"\nperson = "id"\n'
        "[masking]\napprovers = {}\n"
    )
    Store(home.database, home.storage_key(), os.urandom).close()
    return home


OWN = ["customers.csv", "partner.toml", "alliance.toml", "keys/identity.key", "keys/new.csv", "state/gate.db",
       "state/new.csv", "state/../keys/x.csv", "keys"]  # fmt: skip


def snapshot(home: Home) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in home.root.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


@pytest.mark.parametrize("name", OWN)
def test_nothing_in_a_partners_folder_is_an_output(bank: Home, name: str) -> None:
    with pytest.raises(ConfigError, match="partner's own"):
        bank.check_output(bank.root / name)


def test_upload_ask_and_all_others_refuse_a_partners_own_files(place: Path, bank: Home) -> None:
    """0.3.0 cut the customer table to 71 bytes."""
    before = snapshot(bank)
    policy = ("--policy", "policy.toml")
    for out in ("bank/customers.csv", "bank/state/audiences/x.csv", "bank/keys/x.csv"):
        for command in (
            ("upload", "list", "--platform", "google", *policy, "--home", "bank"),
            ("mask", "customers.parquet", *policy, "--purpose", "display"),
            ("dedupe", "customers.parquet", *policy),
            ("score", "model", "--home", "bank"),
        ):
            done = run(place, *command, "--out", out)
            assert (done.returncode, "partner's own" in done.stderr) == (2, True), (
                command,
                done.stderr,
            )
    for out in ("bank/partner.toml", "bank/alliance.toml", "bank/state/gate.db"):
        for command in (
            ("reveal", "ask", "customers.csv", *policy, "--column", "phone", "--reason", "ticket 4711",
             "--home", "bank"),
            ("reveal", "new-approver", "dpo"),
        ):  # fmt: skip
            done = run(place, *command, "--out", out)
            assert (done.returncode, "partner's own" in done.stderr) == (2, True), (
                command,
                done.stderr,
            )
        assert run(place, "keys", "new", f"file:{out}").returncode == 2
    assert snapshot(bank) == before


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nothing_is_open_to_others_whatever_the_umask_says(tmp_path: Path, umask: int) -> None:
    assert run(tmp_path, "init", "me", "--home", "a/b/me", umask=umask).returncode == 0
    assert (
        run(
            tmp_path / "a/b", "reveal", "new-approver", "dpo", "--out", "dpo.key", umask=umask
        ).returncode
        == 0
    )
    for path in (tmp_path / "a").rglob("*"):
        assert not path.stat().st_mode & 0o077, path
    old = os.umask(umask)
    try:
        home = Home(tmp_path / "a/b/me")
        Store(home.database, home.storage_key(), os.urandom).close()
        JobKeys(home.state / "jobkeys", home.storage_key(), os.urandom).make(JobId("0" * 32))
        with DiskSpool(home.matches / "m" / "n", bytes(32), os.urandom) as spool:
            spool.log("l").append(b"x")
            buckets = spool.buckets("b", 2)
            buckets.append(1, b"x")
            assert buckets.read(1) == b"x"
            for path in home.state.rglob("*"):
                assert not path.stat().st_mode & 0o077, path
    finally:
        os.umask(old)


@as_root
@pytest.mark.parametrize("name", ["", "keys", "state"])
@pytest.mark.parametrize("how", ["theirs", "open", "link"])
def test_start_and_doctor_refuse_a_folder_that_another_user_can_fill(
    bank: Home, how: str, name: str
) -> None:
    folder = bank.root / name if name else bank.root
    if how == "theirs":
        os.chown(folder, OTHER, OTHER)
    elif how == "open":
        folder.chmod(0o777)
    else:
        real = folder.with_name(folder.name + "-real")
        folder.rename(real)
        folder.symlink_to(real)
    with pytest.raises(ConfigError):
        bank.check()
    done = run(bank.root.parent, "doctor", "--home", str(bank.root))
    assert done.returncode == 1
    assert "FAIL  folders" in done.stdout, done.stdout + done.stderr
    done = run(bank.root.parent, "start", "--home", str(bank.root))
    assert done.returncode == 2, done.stdout
    assert "another user" in done.stderr or "other users" in done.stderr or "link" in done.stderr


def test_a_log_that_leads_elsewhere_is_not_written_into(tmp_path: Path) -> None:
    folder = own_folder(tmp_path / "state")
    (tmp_path / "victim").write_bytes(b"precious")
    (folder / "link").symlink_to(tmp_path / "victim")
    os.link(tmp_path / "victim", folder / "hard")
    os.mkfifo(folder / "pipe", 0o600)
    for name in ("link", "hard", "pipe"):
        with pytest.raises((OSError, ConfigError)):
            open_private(folder / name, append=True)
    (folder / "mine").write_bytes(b"so far")
    (folder / "mine").chmod(0o644)  # as 0.4.0 left a log
    with open_private(folder / "mine", append=True) as file:
        file.write(b", and on")
    assert (folder / "mine").read_bytes() == b"so far, and on"
    assert (folder / "mine").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "victim").read_bytes() == b"precious"


# ---------------------------------------------------------------------- outputs of joining and signing

HUBS = ["coordinator.toml", "draft.toml", "alliance.toml", "keys/identity.key", "keys/new.toml",
        "state/store.db", "state/revoked.toml", "parties/bank.toml", "invitations/shop.invitation.toml",
        "certificates/bank.pem", "invitations/../keys/ca.key"]  # fmt: skip


@pytest.mark.parametrize("name", HUBS)
def test_nothing_in_a_coordinators_folder_is_an_output(
    make_alliance: Callable[..., Alliance], name: str
) -> None:
    found = make_alliance()
    out = found.coordinator.root / name
    for work in (check_output, found.partners["bank"].check_output):
        with pytest.raises(ConfigError, match="coordinator's own"):
            work(out)


def test_join_and_heads_and_sign_take_nothing_away(
    make_alliance: Callable[..., Alliance], capsys: pytest.CaptureFixture[str]
) -> None:
    """0.5.0 wrote an application over a table, a journal and a coordinator's key, with exit code 0."""
    found = make_alliance()
    bank, hub = found.partners["bank"], found.coordinator
    table = bank.root / "customers.csv"
    table.write_bytes(Path(bank.source().location).read_bytes())
    settings = read_toml(bank.config_file)
    settings["data"]["source"] = "customers.csv"
    bank.config_file.write_text(tomli_w.dumps(settings))
    (table.parent / "link.csv").symlink_to("customers.csv")
    Store(bank.database, bank.storage_key(), os.urandom).close()
    invitation, home = str(hub.invitations / "bank.invitation.toml"), ["--home", str(bank.root)]
    theirs = found.partners["shop"]
    outs = [table, table.parent / "link.csv", bank.database, bank.config_file, hub.draft_file,
            hub.keys / "identity.key", hub.contract_file, theirs.keys / "node.key",
            theirs.config_file]  # fmt: skip
    before = [out.read_bytes() for out in outs]
    for out in outs:
        for command in (
            ("join", invitation, "--out", str(out)),
            ("heads", "repair", "shop", "--reason", "x", "--out", str(out), "--yes"),
        ):
            assert console.run(partner_cli.app, [*command, *home]) == 2
            assert "'s own" in capsys.readouterr().err
    for place in (
        bank.keys,
        bank.state,
        hub.parties,
    ):  # what is signed in place is a contract, but not there
        shutil.copy(hub.contract_file, place / "copy.toml")
        with pytest.raises(ConfigError, match="'s own"):
            setup.sign(bank, place / "copy.toml", datetime.now(UTC))
    assert [out.read_bytes() for out in outs] == before
    setup.sign(bank, hub.contract_file, datetime.now(UTC))


def test_an_application_goes_beside_what_is_the_partners(
    make_alliance: Callable[..., Alliance],
) -> None:
    found = make_alliance()
    for out in (found.partners["bank"].root / "a.toml", found.coordinator.root / "a.toml"):
        check_output(out)
        found.partners["bank"].check_output(out)


# ---------------------------------------------------------------------- two commands at once


def at_once(work: Callable[[int], object], count: int = 8) -> None:
    """From threads, all begun together; raises what one raised."""
    gate = threading.Barrier(count)

    def one(number: int) -> object:
        gate.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(one, number) for number in range(count)]:
            done.result()


def test_no_entry_of_the_list_of_revoked_is_lost(make_alliance: Callable[..., Alliance]) -> None:
    home = make_alliance().coordinator
    at_once(lambda n: callers.revoke(home, "bank", "x", datetime.now(UTC), serial=f"{n + 1:x}"))
    assert len(callers.revoked(home).entries) == 8
    at_once(lambda n: callers.allow(home, "bank", serial=f"{n + 1:x}"))
    assert callers.revoked(home).entries == ()


def test_no_masking_key_is_lost_that_was_announced(tmp_path: Path) -> None:
    source, announced = KeySource("file", str(tmp_path / "m.key")), set[str]()
    source.create(os.urandom)
    at_once(lambda _: announced.add(source.rotate(os.urandom).current.id))
    assert len(announced) == 8
    assert announced < set(source.read().keys)


def test_a_ring_of_keys_grows_no_further_than_it_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "m.key"
    write_private(path, "".join(f"{n:064x}\n" for n in range(1, 1009)).encode())
    source = KeySource("file", str(path))
    with pytest.raises(ConfigError, match="no room"):
        source.rotate(os.urandom)
    assert len(source.read().keys) == 1008


def test_no_signature_is_lost_where_several_sign_one_file(
    make_alliance: Callable[..., Alliance],
) -> None:
    found = make_alliance()
    path, names = found.coordinator.contract_file, sorted(found.partners)
    path.write_text(alliance.dump(found.contract.model_copy(update={"signatures": {}})))
    at_once(lambda n: setup.sign(found.partners[names[n]], path, datetime.now(UTC)), len(names))
    assert alliance.load(path).unsigned() == []


def test_no_signature_is_lost_in_a_merge(make_alliance: Callable[..., Alliance]) -> None:
    found = make_alliance()
    home, names = found.coordinator, sorted(found.partners)
    copies = [
        found.contract.model_copy(update={"signatures": {name: found.contract.signatures[name]}})
        for name in names
    ]
    bare = found.contract.model_copy(update={"signatures": {}})
    write_private(home.contract_file, alliance.dump(bare).encode())
    at_once(lambda n: admission.merge(home, copies[n], Path(names[n])), len(names))
    assert alliance.load(home.contract_file).unsigned() == []


def test_a_lock_that_another_holds_is_waited_for_with_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.05)
    with (
        files.locked(tmp_path / "a"),
        pytest.raises(ConfigError, match="another command"),
        files.locked(tmp_path / "a"),
    ):
        pass
    with files.locked(tmp_path / "a"):
        pass


# ---------------------------------------------------------------------- a disk that is full


@pytest.mark.parametrize("at", range(5))
def test_a_partner_whose_init_failed_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    failing(setup, monkeypatch, at)
    with pytest.raises(OSError, match="No space"):
        setup.init(tmp_path / "bank", "bank", os.urandom)
    assert not list(tmp_path.rglob("*.key"))
    monkeypatch.undo()
    assert len(setup.own_fingerprint(setup.init(tmp_path / "bank", "bank", os.urandom))) > 20
    with pytest.raises(ConfigError, match="never overwritten"):
        setup.init(tmp_path / "bank", "bank", os.urandom)


@pytest.mark.parametrize("at", [0, 3, 6, 7, 8])
def test_a_coordinator_whose_init_failed_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    def init() -> CoordinatorHome:
        config = CoordinatorConfig(
            name="hub", host="127.0.0.1", link_port=1, exchange_port=2, internal_port=3
        )
        return coordinator_setup.init(tmp_path / "c", "a", config, os.urandom, datetime.now(UTC))

    failing(coordinator_setup, monkeypatch, at)
    with pytest.raises(OSError, match="No space"):
        init()
    assert not list(tmp_path.rglob("*.key"))
    monkeypatch.undo()
    assert init().config().name == "hub"


def failing(module: ModuleType, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The disk is full from the file of this number on."""
    written = iter(range(100))

    def fails(path: Path, data: bytes, *, once: bool = False) -> None:
        if next(written) >= at:
            raise OSError(28, "No space left on device")
        write_private(path, data, once=once)

    monkeypatch.setattr(module, "write_private", fails)
