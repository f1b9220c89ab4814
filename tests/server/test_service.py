"""Which jobs are worked on at once, and that one job has one driver."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from privacy.errors import RoundFailed
from protos.supervise import Child, python
from server.alone import DRIVING, alone
from server.home import Home
from server.service import MATCHES, Service, chosen
from server.store import Store
from simulations.alliances import Alliance
from tests.conftest import PROPENSITY, QUERY, job


def store_of(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.db", time.time)


def add(store: Store, job_id: str, /, **settings: Any) -> None:
    store.add(job_id, job(**settings), bytes(16))


def match(**more: Any) -> dict[str, Any]:
    asked = {"identifier": "email", "parties": ["bank", "shop"], "result": "size", **more}
    return {"name": "joint", "kind": "match", "epsilon": 1.0, "match": asked}


def names(store: Store, *worked_on: str) -> list[str]:
    return [row.id for row in chosen(store.open_jobs(), worked_on)]


def test_a_slow_match_holds_up_nobody(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    for number in range(MATCHES + 2):
        add(store, f"m{number}", **match())
    add(store, "q1", **QUERY)
    add(store, "q2", **PROPENSITY)
    assert names(store) == ["q1", "m0", "m1", "m2", "m3"]
    store.end("q1", "done", {})
    store.end("m1", "done", {})
    assert names(store, "m0", "m2", "m3") == ["q2", "m0", "m2", "m3", "m4"]
    store.close()


def test_a_match_over_a_model_waits_for_the_sums_before_it_and_stays_once_begun(
    tmp_path: Path,
) -> None:
    store = store_of(tmp_path)
    add(store, "q1", **PROPENSITY)
    add(store, "m1", **match(rules={"bank": "model:propensity >= 0.3"}))
    add(store, "m2", **match(rules={"bank": "age >= 30"}))
    assert names(store) == ["q1", "m2"]
    store.end("q1", "done", {})
    add(store, "q2", **QUERY)
    assert names(store, "m2") == ["q2", "m2", "m1"]
    store.end("q2", "failed", {})
    store.end("m2", "done", {})
    add(store, "q3", **QUERY)
    store.reopen("q2")  # an old sum again
    assert names(store, "m1") == ["q2", "m1"]
    store.close()


class Fake:
    """A child that runs until it is told otherwise."""

    made: ClassVar[list[Fake]] = []

    def __init__(self, name: str, command: list[str], *_: object) -> None:
        self.name, self.job, self.alive, self.starts, self.stopped = (
            name,
            command[-1],
            True,
            0,
            False,
        )
        Fake.made.append(self)

    def running(self) -> bool:
        return self.alive

    def tend(self) -> None:
        self.starts += 1

    def ask(self) -> None:
        self.alive = False

    def stop(self) -> None:
        self.alive, self.stopped = False, True


@pytest.fixture
def service(make_alliance: Callable[..., Alliance], monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setattr("server.service.Child", Fake)
    Fake.made = []
    return Service(make_alliance().coordinator)


def test_each_job_has_one_process_and_ends_with_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        add(service.store, f"m{number}", **match())
    add(service.store, "q", **QUERY)
    for _ in range(3):
        service.step()
    jobs = [fake.job for fake in Fake.made if fake.name == "job"]
    assert jobs == ["q", "m0", "m1", "m2", "m3"]
    service.store.end("m2", "done", {})
    service.step()
    assert "m4" not in service.workers  # m2's process is taking leave
    monkeypatch.setattr("server.service.GOODBYE", 0.0)
    service.step()
    service.step()
    assert set(service.workers) == {"q", "m0", "m1", "m3", "m4"}
    dying: Any = service.workers["m0"]
    dying.alive, dying.starts = False, 25
    service.step()
    assert {row.id: row.state for row in service.store.all_jobs()}["m0"] == "failed"
    service.close()
    assert all(fake.stopped for fake in Fake.made if fake.name == "job")


def test_a_store_that_fails_is_asked_again(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add(service.store, "q", **QUERY)

    def broken() -> Any:
        raise RoundFailed("the coordinator's store failed: disk I/O error; is the disk full?")

    with monkeypatch.context() as patch:
        patch.setattr(service.store, "open_jobs", broken)
        service.step()
        service.step()
    assert len(caplog.records) == 1
    service.step()
    assert set(service.workers) == {"q"}
    service.close()


def test_one_job_has_one_driver(make_alliance: Callable[..., Alliance]) -> None:
    """A second process waits for the first, and goes on once that one is killed."""
    home: Home = make_alliance().coordinator
    code = (
        "import sys, time; from pathlib import Path; from server.home import Home\n"
        "from server.alone import DRIVING, alone\n"
        "with alone(Home(Path(sys.argv[1])), DRIVING, 7, 1.0):\n"
        "    print('mine', flush=True); time.sleep(60)"
    )
    command: list[Any] = [*python("x")[:2], "-c", code, str(home.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(TimeoutError, match="another process"), alone(home, DRIVING, 7, 0.0):
            pass
        with alone(home, DRIVING, 8, 0.0):  # another job
            pass
        other.kill()
        other.wait()
    with alone(home, DRIVING, 7, 5.0):
        pass


def test_a_child_of_the_service_is_one_of_ours(make_alliance: Callable[..., Alliance]) -> None:
    service = Service(make_alliance().coordinator)
    for child in (service.link, service.exchange, service._worker("x")):
        assert isinstance(child, Child)
        assert list(child.command[:3]) == python("x")[:3]
    service.close()
