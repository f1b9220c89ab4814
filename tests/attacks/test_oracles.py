"""Row 2: a state that makes a contribution not finite for some people answers nobody's question, and a
peer's key that is not one is found before anything is charged or read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.programs.query import Query
from protos import wire
from protos.refusal import Code
from simulations.alliances import Alliance
from simulations.room import Room
from tests.attacks.hostile import Hostile, Opened
from tests.conftest import PROPENSITY, QUERY, SEGMENT, job, write_csv

SMALLEST = 5e-324
ODD = [
    SMALLEST, -0.0, 0.0, -1.0, 1e-300, 1e300, 1.7e308, -1.7e308, np.nan, np.inf, -np.inf, 2.0**53, 1e12,
]  # fmt: skip


def tables(make_alliance: Callable[..., Alliance]) -> list[Alliance]:
    """Two alliances that are equal but for one of the bank's customers."""
    made = []
    for number in range(2):
        alliance = make_alliance(folder=str(number))
        source = Path(alliance.partners["bank"].source().location)
        lines = source.read_text().splitlines()
        if number:
            lines[17] = "C99999,43,77,east,1,x@example.com,13912340000"
        source.write_text("\n".join(lines) + "\n")
        made.append(alliance)
    return made


@pytest.fixture
def two(make_alliance: Callable[..., Alliance]) -> list[Alliance]:
    return tables(make_alliance)


def low_order(alliance: Alliance, opened: Opened, party: str = "shop") -> None:
    """A colluding partner signs mask keys of low order."""
    for number, signed in enumerate(opened.prepared):
        if signed.party == party:
            message = wire.parse(wire.Prepared, signed.body)
            del message.mask_keys[:]
            message.mask_keys.extend(
                [bytes(32)] * len(opened.job.program(alliance.contract).plan())
            )
            opened.prepared[number] = wire.state(
                alliance.partners[party].identity(), party, message
            )


@pytest.mark.parametrize("wanted", [SEGMENT, PROPENSITY], ids=["segment", "propensity"])
def test_no_state_tells_two_tables_apart(two: list[Alliance], wanted: dict[str, Any]) -> None:
    found: list[list[Any]] = []
    for alliance in two:
        answers: list[Any] = []
        opened: Opened | None = None
        with Room(alliance) as room:
            hostile = Hostile(alliance, room.gates)
            plain = job(**{**wanted, "epsilon": 0.02})
            normal = plain.program(alliance.contract).state()
            for place in range(len(normal)):
                for value in ODD:
                    state = normal.copy()
                    state[place] = value
                    opened = opened or hostile.open(plain)
                    reply = hostile.release("bank", opened, [1], state.astype("<f8").tobytes())
                    fresh = reply.HasField("masked")
                    answers.append((fresh, reply.refusal.code, reply.ByteSize()))
                    if fresh:
                        for name in room.gates:
                            hostile.send(name, opened.id, cancel=wire.Cancel())
                        opened = None
                if hostile.spent("bank") > 6.0:
                    break
            answers.append(hostile.charged("bank"))
        found.append(answers)
    assert found[0] == found[1]
    assert any(fresh for fresh, *_ in found[0][:-1])


def test_a_low_order_mask_key_is_refused_before_the_charge(room: Room, hostile: Hostile) -> None:
    opened = hostile.open(job(**SEGMENT))
    low_order(room.alliance, opened)
    state = opened.job.program(room.alliance.contract).state()
    head = room.gates["bank"].journal.head()
    reply = hostile.release("bank", opened, [0], state.astype("<f8").tobytes())
    assert reply.refusal.code == Code.ROSTER
    assert hostile.charged("bank") == 0
    assert room.gates["bank"].journal.head() == head
    assert list(room.alliance.partners["bank"].snapshots.iterdir()) == []


@pytest.mark.parametrize("rows", ["", "few", "gone", "rubbish"])
def test_what_depends_on_rows_is_told_to_nobody_by_a_refusal(
    make_alliance: Callable[..., Alliance], rows: str
) -> None:
    """Few people, one class, an unreadable share: the noisy answer. Only a table that is gone is FAILED."""
    alliance = make_alliance()
    source = Path(alliance.partners["bank"].source().location)
    head = source.read_text().splitlines()[0]
    if rows == "few":
        write_csv(source, range(3))
    elif rows == "rubbish":
        source.write_text(head + "\n" + "x,y\n" * 100 + '"' * 7 + "\n")
    elif rows == "":
        source.write_text(head + "\n")
    else:
        source.unlink()
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        opened = hostile.open(job(**PROPENSITY))  # hello says nothing of it
        state = opened.job.program(alliance.contract).state().astype("<f8").tobytes()
        reply = hostile.release("bank", opened, [0], state)
        if rows == "gone":
            assert reply.refusal.code == Code.FAILED
        else:
            assert reply.HasField("masked")
        assert hostile.charged("bank") == 1


@pytest.mark.parametrize(
    "where",
    ['region == "nowhere"', 'age == "x"', 'not (region != "nowhere")', 'returned == "yes"'],
)
def test_a_question_that_nobody_can_answer_is_refused_before_it_is_charged(
    hostile: Hostile, where: str
) -> None:
    """It failed over rows, and was answered over none: an empty table was told from another."""
    opened = hostile.new(job(name="ask", kind="query", epsilon=0.5,
                             query={"measures": ["count"], "where": where}))  # fmt: skip
    assert hostile.hello("bank", opened).refusal.code == Code.PLAN
    assert hostile.charged("bank") == 0


def test_a_program_that_cannot_run_is_refused_before_it_is_charged(
    room: Room, hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other of that kind: the sum is rehearsed over rows that the contract makes up."""

    def broken(self: Query, index: int, rows: Any) -> Any:
        if len(rows["age"]):
            raise ValueError("secret-customer-row")

    opened = hostile.open(job(**QUERY))
    with monkeypatch.context() as patched:
        patched.setattr(Query, "contribution", broken)
        assert hostile.release("bank", opened, [0]).refusal.code == Code.PLAN
    assert hostile.charged("bank") == 0
    assert "secret" not in str(room.gates["bank"].store.rows("SELECT reason FROM refusals"))
    assert hostile.release("bank", opened, [0]).HasField("masked")
