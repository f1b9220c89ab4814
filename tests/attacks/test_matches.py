"""Rows 3, 4, 9 and 18: a match tells nobody anything of a row before its charge, selects nobody by a foreign
predicate for an exact result, and looks alike from outside whatever the table."""

from __future__ import annotations

import csv
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from client import freezing, policy, table
from client.channel import MatchChannel, Pins, StageChannel
from client.context import Context, Parts
from client.home import Home
from client.spill import DiskSpool
from client.store import Store
from client.stream import SealedStream, Stream
from client.tasks import match as match_task
from client.tasks.match import MatchTask
from privacy.errors import ConfigError, DataError, ProtocolError, Refused, TallystickError
from privacy.matching.storage import MemorySpool
from protos import addresses, jobs, wire
from protos.refusal import Code
from protos.toml import canonical, read_toml
from simulations.alliances import Alliance, create
from simulations.audiences import EVERYONE, define, freeze_all
from simulations.room import Pipes, Room
from tests.attacks.hostile import Hostile, Opened
from tests.conftest import HEAD, customer_row, data_settings, job, terms

Make = Callable[..., Alliance]
BOTH = {"audiences": {"bank": EVERYONE, "shop": EVERYONE}}
RULES = (
    "age >= 18",
    "spend > 999 and age < 19",
    'region == "east" and age == 43',
    'region == "east" and age == 43 and spend <= 77',
    "spend >= 500",
)
LAST = "C99999,43,77,east,1,x@example.com,13912340000"
"""The person that an attacker asks about."""


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """``make(folder, more, **matching)``: a bank with customers 0 to 299, the last of them replaced by
    ``more``, and a shop with 200 to 499."""

    def build(
        folder: str = "a", more: str = "", freeze: bool = True, uses: int = 6, **matching: Any
    ) -> Alliance:
        root = tmp_path / folder
        root.mkdir()
        wanted = terms(2, epsilon=60.0, epsilon_per_person=90.0)
        wanted["matching"] |= {
            "bucket": 4096,
            "largest_set": 100_000,
            "recipients": ["bank", "shop"],
        }
        wanted["matching"] |= matching
        data = {}
        for name, numbers in (("bank", range(299)), ("shop", range(200, 500))):
            lines = [HEAD, *map(customer_row, numbers)]
            if name == "bank":
                lines.append(more or customer_row(299))
            (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
            data[name] = data_settings(root / f"{name}.csv")
        alliance = create(root, ["bank", "shop"], wanted, data)
        for home in alliance.partners.values():
            define(home, uses=uses)
            if freeze:
                freeze_all(home)
        return alliance

    return build


@pytest.fixture(autouse=True)
def short_goodbyes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match_task, "FAREWELL", 1.0)
    monkeypatch.setattr(match_task, "NOTICE", 1.0)
    monkeypatch.setattr(match_task, "LONGEST_PAUSE", 0.5)


def matching(result: str, **more: Any) -> jobs.Job:
    """Between bank and shop, by e-mail."""
    epsilon = 1.0 if result in ("size", "sum", "overlap") else 0.0
    plain = {"identifier": "email", "parties": ["bank", "shop"], "result": result, **more}
    return job(name="match", kind="match", epsilon=epsilon, match=plain)


class Tap:
    """A stream whose frames are counted."""

    def __init__(self, inner: Stream, sizes: list[int]) -> None:
        self.inner, self.sizes = inner, sizes

    def send(self, frame: bytes) -> None:
        self.sizes.append(len(frame))
        self.inner.send(frame)

    def receive(self) -> bytes:
        return self.inner.receive()

    def close(self) -> None:
        self.inner.close()

    def abort(self) -> None:
        self.inner.abort()

    def lost(self) -> bool:
        return self.inner.lost()


def tapped(room: Room, parts: Parts | None = None) -> dict[str, list[int]]:
    """The sizes of all frames that each party sends; ``parts``: of the bank's gate."""
    pipes, sizes = Pipes(), {name: list[int]() for name in room.gates}
    for name, gate in room.gates.items():
        gate._open_stream = lambda job, peer, name=name: Tap(
            pipes.open(name, job, peer), sizes[name]
        )
        if parts is not None and name == "bank":
            gate.parts = parts
            gate.context = replace(gate.context, parts=parts)
    return sizes


def at_once(
    hostile: Hostile, opened: Opened, names: tuple[str, ...] = ("bank", "shop")
) -> list[str]:
    """What the gates answer to ``match``, all asked at the same time."""
    with ThreadPoolExecutor(len(names)) as pool:
        asked = [pool.submit(hostile.code, name, opened.id, match=wire.Match()) for name in names]
        return [each.result() for each in asked]


def charges(room: Room, of: str = "bank") -> list[str]:
    return [charged.charge.release for charged in room.gates[of].journal.charged()]


def observed(alliance: Alliance, wanted: jobs.Job, parts: Parts | None = None) -> list[Any]:
    """All that the coordinator and the peer can see of a match, but for noise."""
    with Room(alliance) as room:
        sizes, hostile = tapped(room, parts), Hostile(alliance, room.gates)
        opened, seen = hostile.new(wanted), list[Any]()
        for name in ("bank", "shop"):
            reply = hostile.hello(name, opened)
            seen.append((reply.WhichOneof("body"), reply.refusal.code, reply.ByteSize()))
        seen.append(charges(room))
        if all(kind == "hello" for kind, *_ in seen[:2]):
            seen.append(at_once(hostile, opened))
        seen.append({name: sorted(each) for name, each in sizes.items()})
        seen.append(charges(room))
        return seen


# ------------------------------------------------------------------ row 3: decide before you look


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_tells_two_tables_apart(make: Make, rule: str) -> None:
    wanted = matching("size", rules={"bank": rule})
    seen = [
        observed(make(folder, more, assumes="semi_honest"), wanted)
        for folder, more in (("without", ""), ("with", LAST))
    ]
    assert seen[0] == seen[1]
    assert seen[0][0][0] == "hello"
    assert seen[0][2] == []  # nothing is charged before
    assert seen[0][-1] == ["match padding", "match size"]


def test_a_gate_that_looked_first_would_be_found(make: Make) -> None:
    """Planted: the rule of 0.3.0, that a set must differ from earlier ones by 50 people."""

    def looks(job: jobs.Job, contract: Any, config: Any) -> None:
        policy.check(job, contract, config)
        rows = Path(config.data.source).read_text()
        if LAST in rows:
            raise Refused(Code.UNAVAILABLE, "differs by too few people from an earlier match")

    def slow(*arguments: Any, **more: Any) -> Iterator[table.Batch]:
        for batch in table.batches(*arguments, **more):
            if (batch.key == "C99999").any():
                raise DataError("a row that this gate does not like")
            yield batch

    wanted = matching("size")
    for number, parts in enumerate((Parts(check=looks), Parts(batches=slow))):
        seen = [
            observed(make(f"{number}{folder}", more), wanted, parts)
            for folder, more in (("without", ""), ("with", LAST))
        ]
        assert seen[0] != seen[1]


@pytest.mark.parametrize("result", ["size", "sum"])
def test_rows_are_read_after_the_charge(make: Make, result: str) -> None:
    found: list[list[str]] = []

    def watched(*arguments: Any, **more: Any) -> Iterator[table.Batch]:
        found.append(charges(room))
        yield from table.batches(*arguments, **more)

    wanted = matching(result, **({"value": "spend"} if result == "sum" else {}))
    with Room(make()) as room:
        tapped(room, Parts(batches=watched))
        room.run(wanted)
    (charged,) = found
    assert charged[:2] == ["match padding", "match size"]


@pytest.mark.parametrize(
    "error", [DataError("gone"), ConfigError("data", "gone"), OSError(5, "gone"), MemoryError(),
              ValueError("a row's value"), Refused(Code.STORAGE, "full")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_fails_after_the_charge_has_one_code(make: Make, error: Exception) -> None:
    def broken(*_: Any, **__: Any) -> Iterator[table.Batch]:
        raise error
        yield

    alliance = make()
    with Room(alliance) as room:
        tapped(room, Parts(batches=broken))
        hostile = Hostile(alliance, room.gates)
        opened = hostile.new(matching("size"))
        assert [hostile.hello(n, opened).WhichOneof("body") for n in room.gates] == ["hello"] * 2
        assert at_once(hostile, opened) == [
            Code.FAILED,
            Code.PROTOCOL,
        ]  # the peer hears that it is over
        spent = charges(room)
        assert spent == ["match padding", "match size"]
        assert hostile.code("bank", opened.id, match=wire.Match()) == Code.FAILED
        assert charges(room) == spent
        assert not list(alliance.partners["bank"].matches.glob("*/*"))


def test_a_peer_that_never_comes_costs_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match_task, "PATIENCE", 0.5)
    alliance = make()
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        opened = hostile.new(matching("list", **BOTH))
        hostile.hello("bank", opened)
        assert hostile.code("bank", opened.id, match=wire.Match()) == Code.UNAVAILABLE
        store = room.gates["bank"].store
        assert store.rows("SELECT * FROM disclosures") == []
        assert store.rows("SELECT used FROM epochs") == [(0,)]
        assert charges(room) == []


# ------------------------------------------------------------------ heads in the handshake


@pytest.mark.parametrize("stated", ["none", "not its own", "ours from after", "too many"])
def test_heads_are_compared_before_a_charge(make: Make, stated: str) -> None:
    alliance = make()
    with Room(alliance) as room:
        hostile, pipes = Hostile(alliance, room.gates), Pipes()
        bank, shop = room.gates["bank"], room.gates["shop"]
        bank._open_stream = partial(pipes.open, "bank")
        opened = hostile.new(matching("list", **BOTH))
        hostile.hello("bank", opened)
        own = shop.heads.own()
        later = wire.JournalHead(
            contract=alliance.contract.digest(), sequence=99, digest=bytes(32), time=int(time.time()),
            mu2=0.5, delta=0.0,
        )  # fmt: skip
        heads = {
            "none": [],
            "not its own": [bank.heads.own()],
            "ours from after": [own, wire.state(bank.identity, "bank", later)],
            "too many": [own, bank.heads.own(), own],
        }[stated]

        def peer() -> None:
            stream = pipes.open("shop", opened.id, "bank")
            with pytest.raises(ProtocolError):
                SealedStream(
                    stream, contract=alliance.contract, job=opened.id, me="shop", peer="bank",
                    identity=shop.identity, randomness=os.urandom, heads=heads,
                ).receive()  # fmt: skip

        thread = threading.Thread(target=peer)
        thread.start()
        code = hostile.code("bank", opened.id, match=wire.Match())
        thread.join()
        rolled_back = stated == "ours from after"
        assert code == (Code.ROLLED_BACK if rolled_back else Code.PROTOCOL)
        assert charges(room) == (["restored"] if rolled_back else [])
        assert bank.store.rows("SELECT * FROM disclosures") == []
        assert bank.store.rows("SELECT used FROM epochs") == [(0,)]


@pytest.mark.parametrize(
    "opening",
    [
        wire.MatchOpening(items=64, commitment=bytes(31)),
        wire.MatchOpening(items=64, engines=["x"] * 9),
        wire.MatchOpening(items=64, engines=["x" * 33]),
        wire.MatchOpening(items=64, held=[wire.Held(kind=k) for k in range(1, 20)]),
        wire.MatchOpening(items=64, held=[wire.Held(kind=3), wire.Held(kind=3)]),
        wire.MatchOpening(items=64, held=[wire.Held(kind=4000)]),
        wire.MatchOpening(items=64, held=[wire.Held(kind=2, frames=1 << 60)]),
    ],
)
def test_an_opening_is_bounded(opening: wire.MatchOpening) -> None:
    spool = MemorySpool()

    class Said:
        bytes_sent = 0

        def send(self, _: bytes) -> None:
            return

        def receive(self) -> bytes:
            return wire.serialise(wire.MatchFrame(data=wire.serialise(opening)))

    whole = MatchChannel(Said(), Pins(spool, "shop"))  # type: ignore[arg-type]
    with pytest.raises(ProtocolError):
        StageChannel.open(whole, 0, 64, ("curve25519",), {})
    assert len(spool._logs) <= 1  # no file for each kind that somebody names


# ------------------------------------------------------------------ row 4: nobody else's predicate


def test_a_list_with_a_foreign_rule_is_denied(make: Make) -> None:
    alliance = make(assumes="semi_honest")
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        for wanted in (
            matching("list", rules={"bank": "age >= 50"}),
            matching("list"),
            matching("list", audiences={"shop": EVERYONE}),
            matching("lists", rules={"shop": "age >= 50"}, audiences={"bank": EVERYONE}),
            matching("ids", rules={"bank": 'region == "east"'}),
            matching("cache", rules={"shop": "age >= 50"}),
        ):
            assert hostile.hello("bank", hostile.new(wanted)).refusal.code == Code.POLICY
        other = {"audiences": {"bank": "other", "shop": EVERYONE}}
        refused = hostile.hello("bank", hostile.new(matching("list", **other))).refusal.code
        assert refused == Code.UNAVAILABLE
        assert charges(room) == []


@pytest.mark.parametrize("name", ["../../bank", "..", "a/b", "everyone\x00", "EVERYONE", ""])
def test_the_name_of_an_audience_is_a_name(make: Make, name: str) -> None:
    alliance = make()
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        good = hostile.new(matching("list", audiences={"bank": "x" * 20, "shop": EVERYONE}))
        spec = good.job.canonical().replace(b'"' + b"x" * 20 + b'"', canonical(name))
        job_id = jobs.job_id(hostile.digest, spec, good.salt)
        hello = wire.Hello(spec=spec, salt=good.salt)
        assert hostile.code("bank", job_id, hello=hello) == Code.MALFORMED


def lists(room: Room, partner: str, job_id: str) -> list[str]:
    (path,) = room.alliance.partners[partner].audiences.glob(f"match-{job_id[:8]}.csv")
    with path.open(newline="") as file:
        return sorted(row["person"] for row in csv.DictReader(file))


def test_the_same_audience_gives_the_same_list_while_the_table_changes(make: Make) -> None:
    alliance = make(uses=3)
    with Room(alliance, patience=5.0) as room:
        found = []
        for number in range(3):
            outcome = room.run(matching("list", **BOTH))
            found.append(lists(room, "bank", outcome.job_id))
            source = Path(alliance.partners["shop"].source().location)
            lines = source.read_text().splitlines()  # one customer more or less at the shop
            del lines[5 + number]
            source.write_text("\n".join(lines) + "\n")
        assert found[0] == found[1] == found[2]
        assert len(found[0]) == 100
        with pytest.raises(TallystickError, match="unavailable"):
            room.run(matching("list", **BOTH))  # three uses, and no more
        rows = room.gates["shop"].store.rows("SELECT audience, epoch FROM disclosures")
        assert rows == [(EVERYONE, 1)] * 3


def test_nobody_is_in_more_lists_than_the_owner_allows(make: Make) -> None:
    """Freezing again does not get around it: 12 in a period, whatever the epochs."""
    alliance = make()
    for _ in range(2):
        with Room(alliance, patience=5.0) as room:
            for _ in range(6):
                room.run(matching("list", **BOTH))
            with pytest.raises(TallystickError, match="unavailable"):
                room.run(matching("list", **BOTH))
        for home in alliance.partners.values():
            with freezing.owner(home) as at:
                last = _frozen_again(at)
    assert "300 were left out" in last


def _frozen_again(at: Context) -> str:
    """Why it was not, if it was not."""
    try:
        freezing.freeze(at, EVERYONE, lambda _: True)
    except ConfigError as error:
        return str(error)
    return ""


# ------------------------------------------------------------------ row 9: what needs semi-honest partners


def settings(home: Home, **rules: Any) -> None:
    plain = read_toml(home.config_file)
    plain["rules"] = {k: v for k, v in (plain["rules"] | rules).items() if v is not None}
    home.config_file.write_text(tomli_w.dumps(plain), encoding="utf-8")


@pytest.mark.parametrize("contract", [False, True])
@pytest.mark.parametrize("partner", [False, True])
@pytest.mark.parametrize("kind", ["rule", "peer's rule", "sum", "fast"])
def test_both_must_say_semi_honest(make: Make, kind: str, contract: bool, partner: bool) -> None:
    more: dict[str, Any] = {"assumes": "semi_honest"} if contract else {}
    if kind == "fast":
        more["engine"] = "fast"
    alliance = make(**more)
    settings(alliance.partners["bank"], assumes="semi_honest" if partner else None)
    wanted = {
        "rule": matching("size", rules={"bank": "age >= 50"}),
        "peer's rule": matching("size", rules={"shop": "spend == 77"}),
        "sum": matching("sum", value="spend", rules={"bank": "age >= 50"}),
        "fast": matching("list", **BOTH),
    }[kind]
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        reply = hostile.hello("bank", hostile.new(wanted))
        if contract and partner:
            assert reply.refusal.code in ("", Code.UNAVAILABLE)  # without the extra `fast`
        else:
            assert reply.refusal.code == Code.POLICY
        without = hostile.hello("bank", hostile.new(matching("size")))
        assert without.HasField("hello")
        named = hostile.hello("bank", hostile.new(matching("size", **BOTH)))
        assert named.HasField("hello")


# ------------------------------------------------------------------ row 18: sizes


def openings(sizes: list[bytes]) -> list[int]:
    return [wire.MatchOpening.FromString(data).items for data in sizes]


@pytest.fixture
def opened_sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """(who, stage, padded size) of every opening."""
    seen: list[tuple[str, int, int]] = []
    plain = StageChannel.open.__func__  # type: ignore[attr-defined]

    def watched(cls: Any, whole: Any, stage: int, items: int, *more: Any) -> Any:
        seen.append((whole.pins.peer, stage, items))
        return plain(cls, whole, stage, items, *more)

    monkeypatch.setattr(StageChannel, "open", classmethod(watched))
    return seen


def test_all_stages_of_a_waterfall_have_one_size(
    make: Make, opened_sizes: list[tuple[str, int, int]]
) -> None:
    alliance = make(freeze=False, bucket=64)
    path = Path(alliance.partners["bank"].source().location)
    lines = path.read_text().splitlines()
    for i in range(1, 200):  # 199 without an e-mail: many more by phone
        cells = lines[i].split(",")
        lines[i] = ",".join([*cells[:5], "", cells[6]])
    path.write_text("\n".join(lines) + "\n")
    for home in alliance.partners.values():
        freeze_all(home)
    with Room(alliance) as room:
        room.run(matching("lists", identifier=["email", "phone"], **BOTH))
    of_bank = {(stage, items) for peer, stage, items in opened_sizes if peer == "shop"}
    of_shop = {(stage, items) for peer, stage, items in opened_sizes if peer == "bank"}
    assert of_bank == {(0, 320), (1, 320)}  # 300 by phone, 101 by e-mail
    assert of_shop == {(0, 320), (1, 320)}  # and whoever was found by e-mail leaves no trace


def test_a_stage_of_another_size_ends_the_match(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from client.tasks.stages import Match

    monkeypatch.setattr(Match, "largest", lambda self, agreed: 0)  # as 0.3.0 padded
    alliance = make(bucket=64)
    with Room(alliance, patience=5.0) as room, pytest.raises(TallystickError, match="protocol"):
        room.run(matching("lists", identifier=["email", "phone"], **BOTH))


def test_the_padding_of_a_noisy_result_is_drawn_and_charged(
    make: Make, opened_sizes: list[tuple[str, int, int]]
) -> None:
    with Room(make(bucket=64)) as room:
        for _ in range(6):
            room.run(matching("size"))
        assert charges(room).count("match padding") == 6
    assert len({items for peer, _, items in opened_sizes if peer == "shop"}) > 1


# ------------------------------------------------------------------ killed between any two steps


class Killed(BaseException):
    """Stands for SIGKILL."""


class Mortal(sqlite3.Connection):
    """Dies before commit number ``left``, and stays dead."""

    left = 1 << 30

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:  # type: ignore[override]
        if Mortal.left <= 0:
            raise Killed
        if sql.startswith("COMMIT"):
            Mortal.left -= 1
            if Mortal.left <= 0:
                raise Killed
        return super().execute(sql, *values)


@contextmanager
def task(
    home: Home, pipes: Pipes, wanted: jobs.Job, opener: Any = Store, parts: Parts | None = None
) -> Iterator[MatchTask]:
    with freezing.owner(home, opener=opener) as at:
        salted = jobs.job_id(at.digest, wanted.canonical(), bytes(16))
        if parts is not None:
            at = replace(at, parts=parts)
        yield MatchTask(
            at, addresses.job_id(salted), wanted, partial(pipes.open, at.me),
            pause=lambda seconds: time.sleep(min(seconds, 0.05)),
        )  # fmt: skip


def run(*arguments: Any) -> wire.MatchReply:
    with task(*arguments) as made:
        return made.run()


def killed_once(
    alliance: Alliance,
    wanted: jobs.Job,
    opener: Any = Store,
    parts: Parts | None = None,
    who: str = "bank",
) -> bool:
    """A match one of whose gates dies and is started again. Whether it died."""
    pipes, died = Pipes(), False
    homes = dict(alliance.partners)
    dying = homes.pop(who)
    (other,) = homes.values()
    with ThreadPoolExecutor(1) as pool:
        theirs: Future[wire.MatchReply] = pool.submit(run, other, pipes, wanted)
        try:
            run(dying, pipes, wanted, opener, parts)
        except Killed:
            died = True
        Mortal.left = 1 << 30
        run(dying, pipes, wanted)
        theirs.result()
    return died


def check_once(alliance: Alliance, wanted: jobs.Job) -> None:
    """Whatever happened: one charge, one disclosure, one use, and the right list."""
    for name in ("bank", "shop"):
        with freezing.owner(alliance.partners[name]) as at:
            releases = [charged.charge.release for charged in at.journal.charged()]
            exact = not wanted.epsilon
            assert releases == ([] if exact else ["match padding", "match size"])
            (rows,) = at.store.rows("SELECT COUNT(*) FROM disclosures")
            assert rows == (1 if exact else 0,)
            assert at.store.rows("SELECT used FROM epochs") == [(1 if exact else 0,)]
    if not wanted.epsilon:
        (path,) = alliance.partners["bank"].audiences.glob("match-????????.csv")
        assert len(path.read_text().split()) == 101


@pytest.mark.parametrize(("result", "who"), [("list", "bank"), ("size", "bank"), ("list", "shop")])
def test_a_gate_that_dies_before_any_commit_goes_on(
    make: Make, tmp_path: Path, result: str, who: str
) -> None:
    alliance = make(bucket=64)
    wanted = matching(result, **(BOTH if result == "list" else {}))
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "a", kept)
    deaths = 0
    for after in range(1, 60):
        for name in ("bank", "shop"):
            shutil.rmtree(alliance.partners[name].root)
            shutil.copytree(kept / name, alliance.partners[name].root)
        Mortal.left = after
        if not killed_once(alliance, wanted, partial(Store, connection=Mortal), who=who):
            break
        deaths += 1
        check_once(alliance, wanted)
    else:
        pytest.fail("it never came to an end")
    assert deaths > 10  # opening the books, seed, heads, charge, commitment, answer


def test_a_gate_that_dies_while_it_reads_reads_again(make: Make) -> None:
    def dies(*arguments: Any, **more: Any) -> Iterator[table.Batch]:
        yield from table.batches(*arguments, **more)
        raise Killed

    alliance, wanted = make(bucket=64), matching("size")
    assert killed_once(alliance, wanted, parts=Parts(batches=dies))
    check_once(alliance, wanted)


def test_what_a_dead_gate_leaves_is_sealed(make: Make) -> None:
    def dies(*arguments: Any, **more: Any) -> Iterator[table.Batch]:
        yield from table.batches(*arguments, **more)
        raise Killed

    alliance, wanted, pipes = make(), matching("size"), Pipes()
    bank = alliance.partners["bank"]
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(run, alliance.partners["shop"], pipes, wanted)
        with pytest.raises(Killed):
            run(bank, pipes, wanted, Store, Parts(batches=dies))
        left = b"".join(p.read_bytes() for p in bank.matches.rglob("*") if p.is_file())
        run(bank, pipes, wanted)
        theirs.result()
    assert len(left) > 10_000
    assert b"C00" not in left
    assert b"example.com" not in left
    assert not list(bank.matches.rglob("*/*"))


def test_a_spool_of_another_key_opens_nothing(tmp_path: Path) -> None:
    with DiskSpool(tmp_path / "s", bytes(32), os.urandom) as spool:
        spool.log("people").append(b"C00001")
    with (
        DiskSpool(tmp_path / "s", bytes(range(32)), os.urandom) as other,
        pytest.raises(Refused, match="altered"),
    ):
        other.log("people").read(0)
