"""What a coordinator makes of each reply: an answer, a refusal and its reason, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.errors import RoundFailed
from privacy.randomness import Randomness
from protos import wire
from protos.refusal import Code
from server.rounds import Delivered, PartnerFailed, Rounds
from simulations.alliances import Alliance

JOB = "0" * 32
HELLO = wire.Request(hello=wire.Hello())
ANSWER = wire.ReplyBody(hello=wire.Signed(party="shop"))


class Line:
    """Gates that answer with ``body`` under a header that ``change`` may spoil; a clock that runs."""

    def __init__(self, found: Alliance, body: wire.ReplyBody, **change: Any) -> None:
        self.found, self.body, self.change, self.time = found, body, change, 1_800_000_000.0
        self.keys = {name: home.identity() for name, home in found.partners.items()}

    def exchange(self, envelopes: Mapping[str, bytes], timeout: float) -> dict[str, Delivered]:
        self.time += 1.0
        answers = {}
        for name in envelopes:
            body = self.body if name == "shop" else ANSWER
            header = {"contract": self.found.contract.digest(), "job": JOB, "partner": name, "run": 1,
                      "message": "m", "node": 7} | (self.change if name == "shop" else {})  # fmt: skip
            reply = wire.seal_reply(
                self.keys[name], wire.ReplyHeader(**header), wire.serialise(body)
            )
            answers[name] = Delivered(reply, 1, "m", 7)
        return answers

    def clock(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


Make = Callable[..., Alliance]


def rounds(line: Line, randomness: Randomness) -> Rounds:
    return Rounds(
        line, line.found.contract, line.found.coordinator.identity(), JOB,
        randomness=randomness, clock=line.clock, sleep=line.sleep, patience=10.0,
    )  # fmt: skip


def refusal(code: str) -> wire.ReplyBody:
    return wire.ReplyBody(refusal=wire.Refusal(code=code))


def ask(line: Line, randomness: Randomness, **more: Any) -> str:
    """What the failure says."""
    asked = rounds(line, randomness)
    with pytest.raises(RoundFailed) as caught:
        asked.ask(dict.fromkeys(("bank", "shop"), HELLO), **more)
    return str(caught.value)


def test_answers_are_answers(make_alliance: Make, randomness: Randomness) -> None:
    line = Line(make_alliance(), ANSWER)
    asked = rounds(line, randomness)
    assert set(asked.ask(dict.fromkeys(("bank", "shop"), HELLO))) == {"bank", "shop"}
    assert asked.traffic.forged == 0


def test_a_refusal_for_another_contract_says_so_at_once(
    make_alliance: Make, randomness: Randomness
) -> None:
    line = Line(make_alliance(), refusal(Code.WRONG_CONTRACT), contract=bytes(32), job="")
    said = ask(line, randomness)
    assert "shop holds another contract: run `check` on both" in said
    assert line.time - 1_800_000_000.0 < 3  # not after the patience


@pytest.mark.parametrize("code", [Code.CLOCK, Code.EXPIRED])
@pytest.mark.parametrize("job", [JOB, ""])
def test_a_refusal_for_a_clock_says_what_to_compare(
    make_alliance: Make, randomness: Randomness, code: Code, job: str
) -> None:
    said = ask(Line(make_alliance(), refusal(code), job=job), randomness)
    assert f"shop refused: {code}" in said
    assert "Compare both clocks with UTC" in said
    assert "2027-01-15" in said  # this coordinator's


def test_a_refusal_for_another_reason_says_nothing_of_clocks(
    make_alliance: Make, randomness: Randomness
) -> None:
    said = ask(Line(make_alliance(), refusal(Code.POLICY)), randomness)
    assert "shop refused: policy" in said
    assert "clock" not in said


def test_an_unknown_code_is_not_repeated(make_alliance: Make, randomness: Randomness) -> None:
    said = ask(Line(make_alliance(), refusal("\x1b[8m")), randomness)
    assert said == "shop refused: a code this version does not know"


@pytest.mark.parametrize(
    "change",
    [
        {"run": 2}, {"message": "n"}, {"node": 8}, {"partner": "bank"}, {"job": "1" * 32},
        {"run": 2, "contract": bytes(32)},
    ],
)  # fmt: skip
@pytest.mark.parametrize("code", [Code.WRONG_CONTRACT, Code.POLICY])
def test_a_refusal_with_another_binding_is_forged(
    make_alliance: Make, randomness: Randomness, change: dict[str, Any], code: Code
) -> None:
    said = ask(Line(make_alliance(), refusal(code), **change), randomness)
    assert "no answer from shop" in said
    assert "is its node running?" in said
    assert "not signed" not in said


@pytest.mark.parametrize("change", [{"contract": bytes(32)}, {"job": ""}])
def test_only_a_refusal_may_name_another_contract_or_no_job(
    make_alliance: Make, randomness: Randomness, change: dict[str, Any]
) -> None:
    for body in (ANSWER, wire.ReplyBody(working=wire.Working()), wire.ReplyBody()):
        said = ask(Line(make_alliance_once(make_alliance), body, **change), randomness)
        assert "no answer from shop" in said


_MADE: dict[int, Alliance] = {}


def make_alliance_once(make: Make) -> Alliance:
    if id(make) not in _MADE:
        _MADE[id(make)] = make()
    return _MADE[id(make)]


def test_replies_that_the_key_did_not_sign_are_counted_and_told(
    make_alliance: Make, randomness: Randomness
) -> None:
    line = Line(make_alliance(), refusal(Code.WRONG_CONTRACT))
    line.keys["shop"] = Ed25519PrivateKey.generate()
    asked = rounds(line, randomness)
    with pytest.raises(RoundFailed) as caught:
        asked.ask(dict.fromkeys(("bank", "shop"), HELLO))
    assert "replies of shop were not signed with the key that the contract names" in str(
        caught.value
    )
    assert "does it hold the same contract?" in str(caught.value)
    assert "is its node running?" not in str(caught.value)
    assert asked.traffic.unsigned["shop"] == asked.traffic.forged > 1


@pytest.mark.parametrize(
    "body",
    [wire.ReplyBody(), wire.ReplyBody(finish=wire.FinishReply()), wire.ReplyBody(match=wire.MatchReply())],
)  # fmt: skip
def test_an_answer_of_another_kind_fails_with_the_partners_name(
    make_alliance: Make, randomness: Randomness, body: wire.ReplyBody
) -> None:
    said = ask(Line(make_alliance(), body), randomness)
    assert said.startswith("shop answered with ")
    assert "where hello was asked for" in said


@pytest.mark.parametrize("body", [ANSWER, wire.ReplyBody(refusal=wire.Refusal(code="policy"))])
def test_more_than_an_honest_answer_has_is_refused_before_it_is_parsed(
    make_alliance: Make,
    randomness: Randomness,
    monkeypatch: pytest.MonkeyPatch,
    body: wire.ReplyBody,
) -> None:
    fat = wire.ReplyBody()
    fat.CopyFrom(body)
    (fat.refusal if body.HasField("refusal") else fat.hello).MergeFromString(
        wire.serialise(wire.Refusal(code="x" * (1 << 20)))
    )
    line = Line(make_alliance(), fat)

    def never(*_: object) -> None:
        raise AssertionError("parsed")

    asked = rounds(line, randomness)
    monkeypatch.setattr(
        asked, "_open", lambda name, d: never() if name == "shop" else Rounds._open(asked, name, d)
    )
    with pytest.raises(PartnerFailed, match=r"shop answered with \d+ bytes where at most"):
        asked.ask(dict.fromkeys(("bank", "shop"), HELLO))


def test_who_was_not_asked_is_not_heard(make_alliance: Make, randomness: Randomness) -> None:
    class More(Line):
        def exchange(self, envelopes: Mapping[str, bytes], timeout: float) -> dict[str, Delivered]:
            found = super().exchange({**envelopes, "shop": b"", "ghost2": b""}, timeout)
            return {**found, "ghost": found["shop"]}

    line = More(make_alliance(), ANSWER)
    line.keys["ghost2"] = line.keys["bank"]
    asked = rounds(line, randomness)
    assert set(asked.ask({"bank": HELLO})) == {"bank"}
    assert asked.traffic.forged == 3


def test_who_works_on_it_does_not_keep_anothers_silence_going(
    make_alliance: Make, randomness: Randomness
) -> None:
    """The bank says that it works, for as long as it is asked; the shop says nothing."""

    class Quiet(Line):
        def exchange(self, envelopes: Mapping[str, bytes], timeout: float) -> dict[str, Delivered]:
            found = super().exchange({"shop": envelopes["bank"]}, timeout)
            answer = found["shop"]
            header = wire.ReplyHeader(
                contract=self.found.contract.digest(),
                job=JOB,
                partner="bank",
                run=1,
                message="m",
                node=7,
            )
            reply = wire.seal_reply(
                self.keys["bank"], header, wire.serialise(wire.ReplyBody(working=wire.Working()))
            )
            return {"bank": Delivered(reply, answer.run, answer.message, answer.node)}

    line = Quiet(make_alliance(), ANSWER)
    with pytest.raises(RoundFailed, match="no answer from shop for 10 s") as caught:
        rounds(line, randomness).ask(dict.fromkeys(("bank", "shop"), HELLO), patience=10_000.0)
    assert "bank" not in str(caught.value)
    assert line.time < 1_800_000_000.0 + 60


def test_a_kind_can_be_asked_for(make_alliance: Make, randomness: Randomness) -> None:
    said = ask(Line(make_alliance(), ANSWER), randomness, expect="match")
    assert "answered with hello where match was asked for" in said
