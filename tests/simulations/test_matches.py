"""The second door between gates in one process: every result, breaks and resumption, abuse."""

from __future__ import annotations

import csv
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.exchange import QUIET
from client.gate import Gate
from client.stream import Stream, StreamLost
from client.tasks import match as match_task
from privacy.errors import ConfigError, RoundFailed
from privacy.matching import fast
from protos import jobs
from server.tasks.match import MatchDrive
from simulations.alliances import Alliance, create
from simulations.audiences import EVERYONE, define, freeze_all
from simulations.room import Pipes, Room
from tests.conftest import data_settings, job, terms, write_csv

MATCH: dict[str, Any] = {"identifier": "email", "parties": ["bank", "shop"]}
RECIPIENTS = ["bank", "shop", "telecom"]
OLDER = "older"
SEMI_HONEST = {"assumes": "semi_honest"}


@pytest.fixture
def alliance_of(tmp_path: Path) -> Callable[..., Alliance]:
    """``alliance_of(numbers, **matching)``: customers by number for each of up to five partners, all of
    them and the older ones frozen."""

    def make(numbers: list[range], freeze: bool = True, **matching: Any) -> Alliance:
        names = ["bank", "shop", "telecom", "utility", "insurer"][: len(numbers)]
        wanted = terms(len(numbers), epsilon=60.0, epsilon_per_person=90.0)
        wanted["matching"] |= {"largest_set": 100_000, "recipients": RECIPIENTS[: len(names)]}
        wanted["matching"] |= matching
        data = {}
        for name, customers in zip(names, numbers, strict=True):
            path = tmp_path / f"{name}.csv"
            write_csv(path, customers)
            data[name] = data_settings(path)
        alliance = create(tmp_path, names, wanted, data)
        for home in alliance.partners.values():
            define(home, OLDER, rule="age >= 50", uses=6)
            define(home, uses=6)
            if freeze:
                freeze_all(home)
        return alliance

    return make


@pytest.fixture(autouse=True)
def short_goodbyes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match_task, "FAREWELL", 2.0)
    monkeypatch.setattr(match_task, "NOTICE", 2.0)
    monkeypatch.setattr(match_task, "LONGEST_PAUSE", 1.0)


def matching(name: str, result: str, **more: Any) -> jobs.Job:
    epsilon = 4.0 if result in ("size", "sum", "overlap") else 0.0
    match = {**MATCH, "result": result, **more}
    if not epsilon and "audiences" not in more and "rules" not in more:
        entering = match["parties"][:1] if "cache" in more else match["parties"]
        entering = match["parties"][1:] if result == "cache" else entering
        match["audiences"] = dict.fromkeys(entering, EVERYONE)
    return job(name=name, kind="match", epsilon=epsilon, match=match)


def people(room: Room, partner: str, name: str) -> list[str]:
    """The list that a partner got, sorted: the file has the order of the people's digests."""
    (path,) = room.alliance.partners[partner].audiences.glob(f"{name}-????????.csv")
    with path.open(newline="") as file:
        return sorted(row["person"] for row in csv.DictReader(file))


def customers(numbers: range | list[int]) -> list[str]:
    return [f"C{n:05d}" for n in numbers]


TWO = [range(300), range(200, 500), range(400, 700)]


# ------------------------------------------------------------------ results


def test_both_learn_their_own_shared_people(alliance_of: Callable[..., Alliance]) -> None:
    with Room(alliance_of(TWO)) as room:
        outcome = room.run(matching("joint", "lists"))
        assert outcome.result["lists"] == ["bank", "shop"]
        for partner in ("bank", "shop"):
            assert people(room, partner, "joint") == customers(range(200, 300))
            kinds = room.gates[partner].store.rows("SELECT kind, recipient FROM disclosures")
            assert sorted(kinds) == [("match lists", "bank"), ("match lists", "shop")]
        assert not list(room.alliance.partners["bank"].matches.iterdir())


def test_a_sum_over_the_shared_people(alliance_of: Callable[..., Alliance]) -> None:
    with Room(alliance_of(TWO)) as room:
        figures = room.run(matching("sum", "sum", value="spend")).result["figures"]
        exact = sum(n * 13 % 1000 for n in range(200, 300))
        assert abs(figures["sum"]["value"] - exact) < 6 * figures["sum"]["deviation"]
        assert abs(figures["size"]["value"] - 100) < 6 * figures["size"]["deviation"]
        for partner in ("bank", "shop"):
            assert room.gates[partner].ledger.standing().epsilon == pytest.approx(4.0, rel=1e-3)


def test_a_rule_limits_whose_value_counts(alliance_of: Callable[..., Alliance]) -> None:
    with Room(alliance_of(TWO, **SEMI_HONEST)) as room:
        wanted = matching("sum", "sum", value="spend", rules={"shop": "age >= 50"})
        figures = room.run(wanted).result["figures"]
        exact = sum(n * 13 % 1000 for n in range(200, 300) if 18 + n * 7 % 72 >= 50)
        assert abs(figures["sum"]["value"] - exact) < 6 * figures["sum"]["deviation"]


def test_an_audience_limits_whose_value_counts(alliance_of: Callable[..., Alliance]) -> None:
    with Room(alliance_of(TWO)) as room:
        wanted = matching("sum", "sum", value="spend", audiences={"bank": EVERYONE, "shop": OLDER})
        figures = room.run(wanted).result["figures"]
        exact = sum(n * 13 % 1000 for n in range(200, 300) if 18 + n * 7 % 72 >= 50)
        assert abs(figures["sum"]["value"] - exact) < 6 * figures["sum"]["deviation"]
        used = room.gates["shop"].store.rows("SELECT DISTINCT used FROM epochs")
        assert used == [(0,)]  # a noisy result is charged, not counted


def test_pseudonyms_agree_and_cover_the_union(alliance_of: Callable[..., Alliance]) -> None:
    with Room(alliance_of(TWO)) as room:
        room.run(matching("ids", "ids"))
        found: dict[str, dict[str, str]] = {}
        unions = []
        for partner in ("bank", "shop"):
            home = room.alliance.partners[partner]
            (mine,) = home.audiences.glob("ids-????????.csv")
            (union,) = home.audiences.glob("ids-*-union.csv")
            with mine.open(newline="") as file:
                found[partner] = {r["person"]: r["pseudonym"] for r in csv.DictReader(file)}
            unions.append(union.read_text())
        assert sorted(found["bank"]) == customers(range(300))
        shared = {p for p in found["bank"] if found["shop"].get(p) == found["bank"][p]}
        assert shared == set(customers(range(200, 300)))
        assert len(set(found["bank"].values()) | set(found["shop"].values())) == 500
        assert unions[0] == unions[1]
        union = set(unions[0].split()[1:])
        assert set(found["bank"].values()) | set(found["shop"].values()) <= union
        assert len(union) == 2 * 320 - 100  # both sets padded to the bucket of 64


def test_who_matched_by_one_identifier_is_out_of_the_next(
    alliance_of: Callable[..., Alliance], tmp_path: Path
) -> None:
    alliance = alliance_of(TWO, freeze=False)
    lines = (tmp_path / "shop.csv").read_text().splitlines()
    for i, line in enumerate(lines[1:], start=1):
        cells = line.split(",")
        number = int(cells[0][1:])
        if number % 2:
            cells[5] = ""  # no e-mail: found by phone only
        if number == 200:
            cells[6] = "13912340299"  # customer 299's phone, at someone matched by e-mail
        lines[i] = ",".join(cells)
    (tmp_path / "shop.csv").write_text("\n".join(lines) + "\n")
    for home in alliance.partners.values():
        freeze_all(home)
    with Room(alliance) as room:
        room.run(matching("either", "lists", identifier=["email", "phone"]))
        assert people(room, "bank", "either") == customers(range(200, 300))
        assert people(room, "shop", "either") == customers(range(200, 300))
        room.run(matching("mail", "list"))
        assert people(room, "bank", "mail") == customers(range(200, 300, 2))


def test_an_overlap_of_three(alliance_of: Callable[..., Alliance]) -> None:
    sets = [range(300), range(200, 500), range(250, 650)]
    with Room(alliance_of(sets)) as room:
        wanted = matching(
            "venn", "overlap", parties=["bank", "shop", "telecom"],
            audience="(bank | shop) - telecom",
        )  # fmt: skip
        figures = room.run(wanted).result["figures"]
        exact = {
            "bank & shop": 50, "bank & telecom": 0, "shop & telecom": 200,
            "bank & shop & telecom": 50, "size bank": 300, "size shop": 300, "size telecom": 400,
            "audience": 250,
        }  # fmt: skip
        assert set(figures) == set(exact)
        for name, value in exact.items():
            assert abs(figures[name]["value"] - value) < 6 * figures[name]["deviation"] + 1, name
        for partner in ("bank", "shop", "telecom"):
            assert room.gates[partner].ledger.standing().epsilon == pytest.approx(4.0, rel=1e-3)


def test_a_list_by_an_expression(alliance_of: Callable[..., Alliance]) -> None:
    sets = [range(300), range(200, 500), range(250, 650), range(100, 260)]
    with Room(alliance_of(sets)) as room:
        wanted = matching(
            "target", "list", parties=["bank", "shop", "telecom", "utility"],
            audience="bank & shop - telecom | utility",
        )  # fmt: skip
        room.run(wanted)
        assert people(room, "bank", "target") == customers(range(100, 260))
        for partner in ("shop", "telecom", "utility"):
            assert not list(room.alliance.partners[partner].audiences.iterdir())
            rows = room.gates[partner].store.rows("SELECT kind, recipient FROM disclosures")
            assert rows == [("match list", "bank")]


def test_a_cache_serves_lists_until_it_has_answered_what_it_may(
    alliance_of: Callable[..., Alliance],
) -> None:
    alliance = alliance_of(TWO, largest_set=700)
    with Room(alliance) as room:
        room.run(matching("evening", "cache"))
        first = room.run(matching("one", "list", cache="evening"))
        assert people(room, "bank", "one") == customers(range(200, 300))
        assert first.result["list"] == ["bank"]
        room.run(matching("two", "list", cache="evening", audiences={"bank": OLDER}))
        older = [n for n in range(200, 300) if 18 + n * 7 % 72 >= 50]
        assert people(room, "bank", "two") == customers(older)
        with pytest.raises(RoundFailed, match="refused"):
            room.run(matching("three", "list", cache="evening"))  # 320 + 192 + 320 > 700
        used = room.gates["shop"].store.row("SELECT used FROM epochs WHERE audience = 'everyone'")
        assert used == (4,)  # the cache and each list that was asked for
        with pytest.raises(RoundFailed, match="unavailable"):
            room.run(matching("four", "list", cache="morning"))


@pytest.mark.skipif(not fast.available(), reason="the extra `fast` is not installed")
def test_the_fast_lane(alliance_of: Callable[..., Alliance]) -> None:
    with Room(alliance_of(TWO, engine="fast", **SEMI_HONEST)) as room:
        outcome = room.run(matching("joint", "list"))
        assert outcome.result == {"list": ["bank"], "engine": "fast"}
        assert people(room, "bank", "joint") == customers(range(200, 300))
        assert room.run(matching("size", "size")).result["engine"] != "fast"


def test_engines_agree(alliance_of: Callable[..., Alliance]) -> None:
    with Room(alliance_of(TWO, engine="ristretto255")) as room:
        assert room.run(matching("joint", "list")).result["engine"] == "ristretto255"
        assert people(room, "bank", "joint") == customers(range(200, 300))


# ------------------------------------------------------------------ breaks


class Flaky:
    """A connection that is cut after so many frames; ``budget`` is shared by all connections."""

    def __init__(self, inner: Stream, budget: list[int]) -> None:
        self.inner, self.budget = inner, budget

    def send(self, frame: bytes) -> None:
        self.inner.send(frame)

    def receive(self) -> bytes:
        if self.budget:
            self.budget[0] -= 1
            if self.budget[0] <= 0:
                self.budget.pop(0)
                self.inner.abort()
                raise StreamLost
        return self.inner.receive()

    def close(self) -> None:
        self.inner.close()

    def abort(self) -> None:
        self.inner.abort()

    def lost(self) -> bool:
        return self.inner.lost()


def start(room: Room, wanted: jobs.Job, salt: bytes) -> tuple[str, MatchDrive]:
    job_id = jobs.job_id(room.alliance.contract.digest(), wanted.canonical(), salt)
    return job_id, MatchDrive(room.rounds(job_id), wanted, salt)


BIG = [range(20_000), range(10_000, 40_000), range(5_000, 25_000)]


@pytest.mark.parametrize(
    ("result", "more"),
    [
        ("list", {}),
        ("lists", {"identifier": ["email", "phone"]}),
        ("size", {}),
        ("sum", {"value": "spend"}),
        ("overlap", {"parties": ["bank", "shop", "telecom"]}),
    ],
)
def test_a_match_goes_on_after_its_connection_broke(
    alliance_of: Callable[..., Alliance], result: str, more: dict[str, Any]
) -> None:
    alliance, pipes = alliance_of(BIG), Pipes()
    breaks = random.Random(3)
    with Room(alliance, patience=120.0) as room:
        for name, gate in room.gates.items():
            budget = [breaks.randrange(3, 12) for _ in range(2)]
            if result == "overlap":  # three that all connect again take their time: one break
                budget = [11] if name == "shop" else []
            gate._open_stream = lambda job, peer, name=name, budget=budget: Flaky(
                pipes.open(name, job, peer), budget
            )
        wanted, salt = matching("joint", result, **more), bytes(16)
        job_id, drive = start(room, wanted, salt)
        found = drive.run()
        kinds = [r[0] for r in room.gates["bank"].store.rows("SELECT kind FROM journal")]
        assert kinds.count("match") >= 2  # more than one connection, all of them journalled
        assert kinds.count("match opened") == len(wanted.match.parties) - 1  # type: ignore[union-attr]
        if result in ("list", "lists"):
            assert people(room, "bank", "joint") == customers(range(10_000, 20_000))
        elif result == "size":
            assert abs(found["size"] - 10_000) < 6 * found["deviation"]
        elif result == "sum":
            exact = sum(n * 13 % 1000 for n in range(10_000, 20_000))
            assert (
                abs(found["figures"]["sum"]["value"] - exact)
                < 6 * (found["figures"]["sum"]["deviation"])
            )
        else:
            assert abs(found["figures"]["bank & shop & telecom"]["value"] - 10_000) < 60
        spent = room.gates["bank"].ledger.standing().epsilon
        assert spent == (pytest.approx(4.0, rel=1e-3) if wanted.epsilon else 0.0)
        assert job_id not in [p.name for p in room.alliance.partners["bank"].matches.iterdir()]


def test_a_match_goes_on_in_a_gate_that_was_started_again(
    alliance_of: Callable[..., Alliance], monkeypatch: pytest.MonkeyPatch
) -> None:
    alliance = alliance_of(BIG)
    monkeypatch.setattr(match_task, "PATIENCE", 0.0)
    pipes, wanted, salt = Pipes(), matching("joint", "list"), bytes(16)
    with Room(alliance, patience=5.0) as room:
        for name, gate in room.gates.items():
            budget = [4] if name == "shop" else []
            gate._open_stream = lambda job, peer, name=name, budget=budget: Flaky(
                pipes.open(name, job, peer), budget
            )
        with pytest.raises(RoundFailed, match="unavailable"):
            start(room, wanted, salt)[1].run()
        charged = room.gates["bank"].store.rows("SELECT * FROM disclosures")
    monkeypatch.setattr(match_task, "PATIENCE", QUIET)
    with Room(alliance) as room:  # new gates over the same folders
        logs = list(alliance.partners["bank"].matches.iterdir())
        assert len(logs) == 1  # what was dealt with lies there, encrypted
        assert b"example.com" not in b"".join(
            p.read_bytes() for p in logs[0].glob("*") if p.is_file()
        )
        start(room, wanted, salt)[1].run()
        assert people(room, "bank", "joint") == customers(range(10_000, 20_000))
        assert room.gates["bank"].store.rows("SELECT * FROM disclosures") == charged


def test_a_peer_that_changes_what_it_sent_ends_the_match(
    alliance_of: Callable[..., Alliance],
) -> None:
    """After a break one side goes on from another seed: other bytes under pinned numbers."""
    alliance, pipes = alliance_of(BIG), Pipes()

    class Forgetful(Flaky):
        """Loses its connection and its seed."""

        def receive(self) -> bytes:
            before = len(self.budget)
            try:
                return super().receive()
            finally:
                if len(self.budget) < before:
                    gate.store.put_secret(job_id, "match seed", bytes(32))

    with Room(alliance, patience=20.0) as room:
        wanted, salt = matching("joint", "size"), bytes(16)
        job_id, drive = start(room, wanted, salt)
        gate = room.gates["shop"]
        budget = [4]
        gate._open_stream = lambda job, peer: Forgetful(pipes.open("shop", job, peer), budget)
        room.gates["bank"]._open_stream = lambda job, peer: pipes.open("bank", job, peer)
        with pytest.raises(RoundFailed, match="refused"):
            drive.run()
        spent = room.gates["bank"].ledger.standing().epsilon
        with pytest.raises(RoundFailed, match="refused"):
            start(room, wanted, salt)[1].run()
        assert room.gates["bank"].ledger.standing().epsilon == spent


def test_garbage_ends_the_match_with_one_code_and_leaves_nothing(
    alliance_of: Callable[..., Alliance],
) -> None:
    alliance, pipes = alliance_of(TWO), Pipes()

    class Garbled(Flaky):
        got = 0

        def receive(self) -> bytes:
            frame, self.got = super().receive(), self.got + 1
            return frame[:-1] + bytes([frame[-1] ^ 1]) if self.got == 3 else frame

    with Room(alliance, patience=20.0) as room:
        room.gates["shop"]._open_stream = lambda job, peer: Garbled(
            pipes.open("shop", job, peer), []
        )
        room.gates["bank"]._open_stream = lambda job, peer: pipes.open("bank", job, peer)
        with pytest.raises(RoundFailed, match="refused: protocol"):
            room.run(matching("joint", "list"))
        for partner in ("bank", "shop"):
            _settled(room.gates[partner])
            assert not list(alliance.partners[partner].matches.glob("*/*"))
            assert not list(alliance.partners[partner].audiences.iterdir())


def _settled(gate: Gate) -> None:
    """Wait for a gate's workers."""
    done = threading.Event()
    for _ in range(400):
        if all(future.done() for future in gate._running.values()):
            return
        done.wait(0.05)
    raise TimeoutError


# ------------------------------------------------------------------ abuse


def test_a_set_over_the_cap_is_cut_down_to_it(alliance_of: Callable[..., Alliance]) -> None:
    """A refusal would tell how many there are; the owner of a list is told when it freezes."""
    sets = [range(250), range(250), range(9, 300)]
    with Room(alliance_of(sets, freeze=False, largest_set=256)) as room:
        found = room.run(matching("two", "size")).result
        assert abs(found["size"] - 250) < 6 * found["deviation"]
        wanted = matching("cut", "size", parties=["bank", "telecom"])
        found = room.run(wanted).result  # 241 shared, of 291 telecom enters 256
        assert abs(found["size"] - 241 * 256 / 291) < 7 * found["deviation"] + 20


def test_a_cache_that_was_replaced_is_erased(alliance_of: Callable[..., Alliance]) -> None:
    alliance = alliance_of(TWO)
    with Room(alliance) as room:
        for _ in range(2):
            room.run(matching("evening", "cache"))
        assert len(list(alliance.partners["bank"].caches.iterdir())) == 1
        room.run(matching("one", "list", cache="evening"))
        assert people(room, "bank", "one") == customers(range(200, 300))


def test_a_cache_is_of_one_identifier(alliance_of: Callable[..., Alliance]) -> None:
    with Room(alliance_of(TWO), patience=2.0) as room:
        room.run(matching("evening", "cache"))
        with pytest.raises(RoundFailed, match="unavailable"):
            room.run(matching("one", "list", identifier="phone", cache="evening"))


def test_a_sum_is_charged_for_one_person_in_anothers_place(
    alliance_of: Callable[..., Alliance],
) -> None:
    """Two people may share an identifier: who leaves makes room for the other's value."""
    contract = alliance_of(TWO).contract
    for low, high, most in ((0.0, 5.0, 5.0), (-3.0, 5.0, 8.0), (-9.0, -2.0, 9.0)):
        column = contract.columns["spend"].model_copy(update={"low": low, "high": high})
        changed = contract.model_copy(update={"columns": {**contract.columns, "spend": column}})
        wanted = matching("sum", "sum", value="spend").match
        assert wanted is not None
        assert wanted.largest_value(changed) == most


def test_what_a_contract_or_a_job_cannot_say(alliance_of: Callable[..., Alliance]) -> None:
    contract = alliance_of(TWO, recipients=["bank"]).contract
    for wanted, reason in (
        (matching("a", "lists"), "does not let shop receive"),
        (matching("a", "ids"), "does not let shop receive"),
        (matching("a", "sum", value="region"), "not a number column"),
        (matching("a", "size", identifier="device_id"), "not allowed by the contract"),
    ):
        with pytest.raises(ConfigError, match=reason):
            wanted.check(contract)
    for more in (
        {"result": "sum"},
        {"result": "size", "identifier": ["email", "phone"]},
        {"result": "overlap"},
        {"result": "list", "parties": ["bank", "shop", "telecom"]},
        {"result": "list", "parties": ["bank", "shop", "telecom"], "audience": "bank & ghost"},
        {"result": "size", "cache": "x"},
        {"result": "list", "cache": "x", "rules": {"shop": "age >= 50"}},
    ):
        epsilon = 1.0 if more["result"] in ("size", "sum", "overlap") else 0.0
        with pytest.raises(ConfigError):
            job(name="a", kind="match", epsilon=epsilon, match={**MATCH, **more})
