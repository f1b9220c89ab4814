"""Real processes, real TLS, on loopback. Slow: CI runs them."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from client.exchange import open_stream
from client.journal import verify
from client.offline import owner
from client.store import Store
from privacy.errors import ProtocolError
from server.calls import BrokenLog, Calls
from server.cli import submit
from simulations.alliances import Alliance, create
from simulations.audiences import EVERYONE, freeze_all
from simulations.live import Live, free_ports, tree
from tests.conftest import PROPENSITY, QUERY, data_settings, job, terms, write_csv

pytestmark = pytest.mark.slow
LONG = {
    **PROPENSITY,
    "propensity": {**PROPENSITY["propensity"], "steps": 30},
}


@pytest.fixture
def live(make_alliance: Callable[..., Alliance]) -> Iterator[Live]:
    link, exchange, internal = free_ports(3)
    alliance = make_alliance(
        ports=(link, exchange, internal), epsilon=20.0, epsilon_per_person=60.0
    )
    with Live(alliance) as running:
        running.ready()
        yield running


@pytest.fixture
def big(tmp_path: Path) -> Iterator[Live]:
    """Two partners with 40,000 customers each, on the engine that takes its time."""
    wanted, data = terms(2), {}
    wanted["matching"] |= {"largest_set": 100_000, "engine": "ristretto255"}
    for index, name in enumerate(("bank", "shop")):
        path = tmp_path / f"{name}.csv"
        write_csv(path, range(20_000 * index, 20_000 * index + 40_000))
        data[name] = data_settings(path)
    ports = free_ports(3)
    alliance = create(
        tmp_path, ["bank", "shop"], wanted, data, ports=(ports[0], ports[1], ports[2])
    )
    for home in alliance.partners.values():
        freeze_all(home)
    with Live(alliance) as running:
        running.ready()
        yield running


def _processes(pattern: str, home: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if pattern in command and str(home) in command:
                found.append(int(entry.name))
    return found


def _standing(live: Live, name: str) -> tuple[float, int]:
    home = live.alliance.partners[name]
    with owner(home) as found:
        verify(found.store, found.identity.public_key().public_bytes_raw())
        standing = found.ledger.standing()
        return standing.epsilon, standing.releases


def test_jobs_over_the_network(live: Live) -> None:
    row = live.run(job(**QUERY), patience=60)
    count = row.result["count"]
    assert abs(count["value"] - 900) < 7 * count["deviation"]
    live.run(job(**PROPENSITY), patience=60)
    match = {"identifier": "email", "parties": ["bank", "shop"], "result": "size"}
    size = live.run(job(name="joint", kind="match", epsilon=4.0, match=match), patience=60).result
    assert abs(size["size"] - 100) < 7 * size["deviation"]
    epsilon, releases = _standing(live, "bank")
    assert releases == 4 + 10 + 2  # a size is charged for its padding too
    assert epsilon < 20
    calls = live.alliance.coordinator.calls
    assert Calls(calls).verify().lines > 10
    edited = calls.read_bytes().replace(b"completed", b"forgotten", 1)
    (calls.parent / "edited").write_bytes(edited)
    with pytest.raises(BrokenLog):
        Calls(calls.parent / "edited").verify()
    for log in [*live.alliance.coordinator.state.glob("*.log"),
                *(p for h in live.alliance.partners.values() for p in h.state.glob("*.log"))]:  # fmt: skip
        text = log.read_text(errors="replace")
        assert "user1@example.com" not in text
        assert "C00001" not in text


def test_what_is_open_to_the_outside(live: Live) -> None:
    config = live.alliance.coordinator.config()
    context = ssl.create_default_context(cadata=live.alliance.contract.coordinator.authority)
    public = f"https://127.0.0.1:{config.link_port}"
    internal = f"https://127.0.0.1:{config.internal_port}"
    with httpx.Client(verify=context) as client:
        for path in ("/v1/control/start-run", "/v1/control/list-nodes", "/v1/runtime/acquire-task",
                     "/docs", "/openapi.json", "/v1/../v1/control/list-runs"):  # fmt: skip
            assert client.post(public + path).status_code == 404, path
        assert client.post(internal + "/v1/control/list-nodes").status_code == 401
        headers = {"authorization": "Bearer wrong"}
        assert client.post(internal + "/v1/control/list-nodes", headers=headers).status_code == 401
        assert client.post(internal + "/docs").status_code == 404
        # a node the contract does not know, or no node at all
        assert client.post(public + "/v1/fleet/pull-messages").status_code in (
            400,
            401,
            403,
            415,
            422,
        )
    authority = live.alliance.contract.coordinator.authority.encode()
    stranger = grpc.secure_channel(
        f"127.0.0.1:{config.exchange_port}", grpc.ssl_channel_credentials(authority)
    )
    with pytest.raises(grpc.RpcError) as caught:
        list(stranger.stream_stream("/tallystick.v1.Exchange/Relay")(iter(()), timeout=5))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE  # no certificate, no handshake
    stranger.close()
    stream = open_stream(
        live.alliance.partners["bank"], "f" * 32, "shop"
    )  # a match that is not open
    with pytest.raises(ProtocolError):
        stream.receive()
    stream.close()


@pytest.mark.parametrize(
    ("victim", "whose"),
    [
        ("client.service", "shop"),
        ("client.node", "shop"),
        ("server.link serve", ""),
        ("server.link work", ""),
    ],
)
def test_sigkill_of_one_process_in_a_job(live: Live, victim: str, whose: str) -> None:
    alliance = live.alliance
    home = alliance.partners[whose].root if whose else alliance.coordinator.root
    job_id = submit(alliance.coordinator, job(**LONG)).id
    deadline = time.monotonic() + 60
    while live.store.job(job_id).done < 6 and time.monotonic() < deadline:
        time.sleep(0.05)
    victims = _processes(victim, home)
    assert victims
    for process in victims:
        os.kill(process, signal.SIGKILL)
    row = live.wait(job_id, patience=150)
    assert row.state == "done", row.reason
    assert _standing(live, "shop")[1] == row.planned  # nothing was charged twice
    assert _standing(live, "bank")[1] == row.planned


@pytest.mark.parametrize("whose", ["coordinator", "shop"])
def test_sigkill_of_a_supervisor(live: Live, whose: str) -> None:
    child = live.coordinator if whose == "coordinator" else live.partners[whose]
    job_id = submit(live.alliance.coordinator, job(**LONG)).id
    deadline = time.monotonic() + 60
    while live.store.job(job_id).done < 6 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert child.process is not None
    under = tree(child.process.pid)
    os.kill(child.process.pid, signal.SIGKILL)
    child.process.wait()
    deadline = time.monotonic() + 20
    while (
        any(Path(f"/proc/{process}").exists() for process in under) and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    assert not any(Path(f"/proc/{process}").exists() for process in under)
    child.start()
    row = live.wait(job_id, patience=150)
    assert row.state == "done", row.reason
    assert _standing(live, "bank")[1] == row.planned
    assert _standing(live, "shop")[1] == row.planned


@pytest.mark.parametrize("whose", ["bank", "shop", "coordinator"])
def test_sigkill_in_a_match(big: Live, whose: str) -> None:
    """Gate of either side, or the coordinator with the relay, killed while the match runs."""
    wanted = job(
        name="joint", kind="match",
        match={"identifier": "email", "parties": ["bank", "shop"], "result": "list",
               "audiences": {"bank": EVERYONE, "shop": EVERYONE}},
    )  # fmt: skip
    job_id = submit(big.alliance.coordinator, wanted).id
    deadline = time.monotonic() + 60
    while not big.store.job(job_id).done and time.monotonic() < deadline:
        time.sleep(0.05)
    progress = big.store.job(job_id)
    assert 0 < progress.done < progress.planned, progress.reason
    if whose == "coordinator":
        child = big.coordinator
        assert child.process is not None
        os.kill(child.process.pid, signal.SIGKILL)
        child.process.wait()
        child.start()
    else:
        for process in _processes("client.service", big.alliance.partners[whose].root):
            os.kill(process, signal.SIGKILL)
    row = big.wait(job_id, patience=200)
    assert row.state == "done", row.reason
    bank = big.alliance.partners["bank"]
    (path,) = bank.audiences.glob("joint-*.csv")
    assert sorted(path.read_text().split()[1:]) == [f"C{n:05d}" for n in range(20_000, 40_000)]
    for name in ("bank", "shop"):
        home = big.alliance.partners[name]
        store = Store(home.database, home.storage_key(), os.urandom)
        assert len(store.rows("SELECT * FROM disclosures")) == 1
        kinds = [kind for (kind,) in store.rows("SELECT kind FROM journal")]
        assert kinds.count("match opened") == 1
        store.close()
        assert list(home.matches.iterdir()) == []


def test_a_cancelled_job_stays_cancelled(live: Live) -> None:
    job_id = submit(live.alliance.coordinator, job(**LONG)).id
    while live.store.job(job_id).done < 2:
        time.sleep(0.05)
    command = [sys.executable, "-m", "server.cli", "cancel", job_id, "--home",
               str(live.alliance.coordinator.root)]  # fmt: skip
    assert subprocess.run(command, check=False).returncode == 0
    deadline = time.monotonic() + 60
    for home in live.alliance.partners.values():  # told, so keys and snapshot are erased
        store = Store(home.database, home.storage_key(), os.urandom)
        while store.rows("SELECT state FROM jobs") != [("cancelled",)]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert store.rows("SELECT * FROM secrets") == []
        store.close()
    time.sleep(2.0)
    assert live.store.job(job_id).state == "cancelled"
    for home in live.alliance.partners.values():
        assert list(home.snapshots.iterdir()) == []
    row = live.run(job(**QUERY), patience=60)
    assert row.state == "done"


def test_a_hostile_bundle_is_never_unpacked(live: Live, tmp_path: Path) -> None:
    """The coordinator ships code that would leave a mark on import; partners run their own."""
    from flwr.cli.build import build_fab_from_files
    from flwr.common.serde import fab_to_proto
    from flwr.proto.control_pb2 import StartRunRequest
    from flwr.supercore.fab import Fab

    from server import working

    mark = tmp_path / "owned"
    hostile = f"open({str(mark)!r}, 'w').write('owned')\n".encode()
    name = "tallystick_app.py"
    files = {**working.APP_FILES, name: hostile + working.APP_FILES[name]}
    bundle = build_fab_from_files(files)[0]
    import hashlib

    fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
    with working.control(live.alliance.coordinator) as client:
        client.StartRun(StartRunRequest(fab=fab_to_proto(fab)))
    # the hostile run's ServerApp is never served; ours goes on beside it
    time.sleep(3.0)
    assert not mark.exists()
    for home in live.alliance.partners.values():
        assert not list(home.root.rglob("tallystick_app.py"))


def test_stock_supernodes_run_our_app_and_no_other(make_alliance: Callable[..., Alliance]) -> None:
    ports = free_ports(3)
    alliance = make_alliance(ports=(ports[0], ports[1], ports[2]))
    with Live(alliance, stock=True) as running:
        row = running.run(job(**QUERY), patience=150)
        count = row.result["count"]
        assert abs(count["value"] - 900) < 7 * count["deviation"]
        assert not list(alliance.partners["bank"].root.rglob("tallystick_app.py"))


def test_stopping_leaves_nothing(make_alliance: Callable[..., Alliance]) -> None:
    ports = free_ports(3)
    alliance = make_alliance(ports=(ports[0], ports[1], ports[2]))
    with Live(alliance) as running:
        running.ready()
        children = [running.coordinator, *running.partners.values()]
        processes = [p for c in children if c.process for p in tree(c.process.pid)]
        assert len(processes) >= 11
    assert not any(Path(f"/proc/{process}").exists() for process in processes)
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(number: signal.Signals) -> None:
    place = Path(tempfile.mkdtemp(prefix="d-"))  # short: Unix sockets have 100 characters
    environment = {**os.environ, "TMPDIR": str(place)}
    demo = subprocess.Popen(
        [sys.executable, "-m", "simulations.cli", "demo"], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while len(tree(demo.pid)) < 8 and time.monotonic() < deadline:
        time.sleep(0.2)
    processes = tree(demo.pid)
    assert len(processes) >= 8
    demo.send_signal(number)
    assert demo.wait(40) != 0
    deadline = time.monotonic() + 10  # the last of them are reaped by their parents
    while any(Path(f"/proc/{p}").exists() for p in processes[1:]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(Path(f"/proc/{process}").exists() for process in processes[1:])
    assert not list(place.iterdir())
    place.rmdir()


def test_the_demo_tells_what_it_found() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "simulations.cli", "demo", "--json"],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    outcome = json.loads(done.stdout)
    kinds = [line["job"].split()[0] for line in outcome["jobs"]]
    assert kinds == ["query", "segment", "propensity", "evaluate", "match"]
    assert outcome["seconds"] < 240
    assert outcome["memory_mb"] < 4000
    for line in outcome["jobs"]:
        assert line["epsilon"] > 0
        assert line["epsilon_person"] > line["epsilon"]
    assert all(ledger["journal_entries"] > 50 for ledger in outcome["ledgers"].values())
