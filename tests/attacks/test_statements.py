"""Row 22: what a partner states is checked before it is kept or passed on. Who sent what is no good is named,
nobody else is, and the next job of honest partners is done."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.errors import ProtocolError, WireError
from privacy.noisy_sum import masks
from privacy.randomness import stream
from protos import statements, wire
from protos.statements import Asked, BadStatement, largest_reply, read_head
from server import heads
from server.store import JobRow
from simulations.alliances import Alliance, create
from simulations.room import Room
from tests.attacks.between import Change, Coordinator, restated, shown
from tests.attacks.hostile import count
from tests.conftest import NAMES, PROPENSITY, data_settings, job, terms, write_csv

EVIL = "shop"
LOW_ORDER = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")


def world(root: Path, partners: int, dropouts: int) -> Alliance:
    names = NAMES[:partners]
    for index, name in enumerate(names):
        write_csv(root / f"{name}.csv", range(20 * index, 20 * index + 60))
    wanted = terms(partners, dropouts=dropouts, epsilon=100.0, epsilon_per_person=100.0)
    return create(root, names, wanted, {n: data_settings(root / f"{n}.csv") for n in names})


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    with Room(world(tmp_path_factory.mktemp("three"), 3, 0), patience=5.0) as room:
        coordinator = Coordinator(room)
        yield coordinator
        coordinator.close()


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """Four partners, one of whom may drop out: with shares, locks and unmasking."""
    with Room(world(tmp_path_factory.mktemp("four"), 4, 1), patience=5.0) as room:
        coordinator = Coordinator(room)
        yield coordinator
        coordinator.close()


def names_only_evil(text: str) -> None:
    assert EVIL in text
    assert not [name for name in NAMES if name != EVIL and name in text], text


def ends_and_goes_on(coordinator: Coordinator, change: Change) -> JobRow:
    row = coordinator.run(count(epsilon=0.1), **{EVIL: change})
    assert row.state == "failed", row.result
    names_only_evil(row.reason)
    assert row.reason.isprintable()
    assert len(row.reason) < 500
    again = coordinator.run(count(epsilon=0.1))
    assert again.state == "done", again.reason
    return row


# ---------------------------------------------------------------------- heads


def head(coordinator: Coordinator, **changes: Any) -> wire.Signed:
    fields = {
        "contract": coordinator.alliance.contract.digest(), "sequence": 7, "digest": bytes(32),
        "time": int(time.time()),
    } | changes  # fmt: skip
    key = coordinator.alliance.partners[EVIL].identity()
    return wire.state(key, EVIL, wire.JournalHead(**fields))


BAD_HEADS: dict[str, Callable[[Coordinator], wire.Signed | None]] = {
    "in a ghost's name": lambda c: wire.Signed(party="ghost", body=b"x", signature=b"y"),
    "in another's name": lambda c: c.room.gates["bank"].heads.own(),
    "another's, as its own": lambda c: wire.Signed(
        party=EVIL, body=c.room.gates["bank"].heads.own().body,
        signature=c.room.gates["bank"].heads.own().signature,
    ),
    "of 63 MB": lambda c: wire.Signed(party="evil2", body=b"x" * (63 << 20), signature=b"y"),
    "entry 2^64 - 1": lambda c: head(c, sequence=2**64 - 1),
    "entry 2^63 - 1": lambda c: head(c, sequence=2**63 - 1),
    "entry 2^62 + 1": lambda c: head(c, sequence=2**62 + 1),
    "spent nothing known": lambda c: head(c, mu2=float("nan")),
    "spent everything": lambda c: head(c, mu2=float("inf")),
    "spent less than nothing": lambda c: head(c, delta=-1.0),
    "far from now": lambda c: head(c, time=2**60),
    "a digest of one byte": lambda c: head(c, digest=b"x"),
    "an outcome of its own": lambda c: head(c, outcome=b"x" * 63),
    "a job with escapes": lambda c: head(c, job="\x1b[2J"),
    "an anchor ahead": lambda c: head(c, anchors=[wire.Anchor(sequence=8, digest=bytes(32))]),
    "of a job before": lambda c: head(c, job="1" * 32),
    "another type": lambda c: wire.state(
        c.alliance.partners[EVIL].identity(), EVIL, wire.Lock(job="x")
    ),
    "none": lambda c: None,
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_HEADS)
def test_a_bad_head_costs_nobody_the_result(
    three: Coordinator, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    three.run(count(epsilon=0.1))
    before = {
        name: said for name, (said, _) in heads.held(three.store, three.alliance.contract).items()
    }

    def finish(_: wire.Request, body: wire.ReplyBody) -> wire.ReplyBody | None:
        if not body.HasField("finish"):
            return None
        return wire.ReplyBody(finish=wire.FinishReply(head=BAD_HEADS[what](three)))

    row = three.run(count(epsilon=0.1), **{EVIL: finish})
    assert row.state == "done", row.reason
    (note,) = row.stats["notes"]
    names_only_evil(note)
    assert EVIL in shown(row, capsys)
    after = {
        name: said for name, (said, _) in heads.held(three.store, three.alliance.contract).items()
    }
    assert after[EVIL] == before[EVIL]
    assert three.run(count(epsilon=0.1)).state == "done"
    assert three.alliance.coordinator.database.stat().st_size < 1 << 20
    for gate in three.room.gates.values():
        assert all(row[0] < 10_000 for row in gate.store.rows("SELECT sequence FROM heads"))


@pytest.mark.parametrize(
    "reply",
    [
        wire.ReplyBody(), wire.ReplyBody(refusal=wire.Refusal(code="policy")),
        wire.ReplyBody(refusal=wire.Refusal(code="\x1b[2J")), wire.ReplyBody(hello=wire.Signed()),
    ],
)  # fmt: skip
def test_a_goodbye_that_is_none_costs_nobody_the_result(
    three: Coordinator, reply: wire.ReplyBody
) -> None:
    row = three.run(
        count(epsilon=0.1),
        **{EVIL: lambda request, _: reply if request.HasField("finish") else None},
    )
    assert row.state == "done", row.reason
    (note,) = row.stats["notes"]
    names_only_evil(note)
    assert note.isprintable()
    assert three.run(count(epsilon=0.1)).state == "done"


def test_an_older_head_of_its_own_does_not_replace_a_later_one(three: Coordinator) -> None:
    three.run(count(epsilon=0.1))
    old: list[wire.Signed] = []

    def keep(_: wire.Request, body: wire.ReplyBody) -> None:
        if body.HasField("finish"):
            old.append(body.finish.head)

    three.run(count(epsilon=0.1), **{EVIL: keep})
    three.run(count(epsilon=0.1))
    contract = three.alliance.contract
    held = heads.held(three.store, contract)[EVIL][0]
    assert heads.keep(three.store, contract, {EVIL: old[-1]}) == []  # merely old
    assert heads.held(three.store, contract)[EVIL][0] == held
    for lower in (
        head(three, sequence=held.sequence - 1, time=held.time + 9),
        head(three, sequence=held.sequence, time=held.time + 9),
    ):
        (note,) = heads.keep(three.store, contract, {EVIL: lower})
        names_only_evil(note)
        assert "does not continue" in note
        assert heads.held(three.store, contract)[EVIL][0] == held


def test_heads_that_an_earlier_version_kept_stop_nobody(three: Coordinator) -> None:
    three.run(count(epsilon=0.1))
    poison = {
        "ghost": wire.serialise(wire.Signed(party="ghost", body=b"x", signature=b"y")),
        EVIL: wire.serialise(head(three, sequence=2**63 - 1)),
        "telecom": b"\xff\xff",
    }
    with sqlite3.connect(three.alliance.coordinator.database) as direct:
        for party, data in poison.items():
            direct.execute("INSERT OR REPLACE INTO heads VALUES (?, ?)", (party, data))
    assert three.run(count(epsilon=0.1)).state == "done"
    assert set(heads.held(three.store, three.alliance.contract)) == {"bank", EVIL, "telecom"}


def test_a_job_without_a_model_and_one_with_end_alike(three: Coordinator) -> None:
    """A head that is no good leaves the model with the coordinator; the partners could not agree on it."""
    wanted = {**PROPENSITY, "epsilon": 2.0, "propensity": {**PROPENSITY["propensity"], "steps": 5}}

    def finish(_: wire.Request, body: wire.ReplyBody) -> wire.ReplyBody | None:
        return wire.ReplyBody(finish=wire.FinishReply()) if body.HasField("finish") else None

    row = three.run(job(**wanted), **{EVIL: finish})
    assert row.state == "done", row.reason
    assert len(row.stats["notes"]) == 2
    assert EVIL in row.stats["notes"][0]
    assert "did not keep the model" in row.stats["notes"][1]

    row = three.run(
        job(**wanted), **{EVIL: lambda r, _: wire.ReplyBody() if r.HasField("finish") else None}
    )
    assert row.state == "done", row.reason
    assert len(row.stats["notes"]) == 2
    assert EVIL in row.stats["notes"][0]

    def other(_: wire.Request, body: wire.ReplyBody) -> wire.ReplyBody | None:
        if not body.HasField("finish") or not body.finish.HasField("head"):
            return None
        made = restated(
            three.alliance, EVIL, wire.JournalHead, body.finish.head,
            lambda said: setattr(said, "outcome", bytes(64)),
        )  # fmt: skip
        return wire.ReplyBody(finish=wire.FinishReply(head=made))

    row = three.run(job(**wanted), **{EVIL: other})
    assert row.state == "failed"
    names_only_evil(row.reason)


# ---------------------------------------------------------------------- hello and prepare


def stated(kind: str, message: type[wire.M], change: Callable[[Any], Any]) -> Callable[..., Change]:
    """The statement in an answer of one kind, changed."""

    def of(coordinator: Coordinator) -> Change:
        def changed(_: wire.Request, body: wire.ReplyBody) -> wire.ReplyBody | None:
            if not body.HasField(kind):  # type: ignore[arg-type]
                return None
            holder = body.hello if kind == "hello" else body.prepared.statement
            holder.CopyFrom(restated(coordinator.alliance, EVIL, message, holder, change))
            return body

        return changed

    return of


def hello(change: Callable[[wire.SealingKey], Any]) -> Callable[..., Change]:
    return stated("hello", wire.SealingKey, change)


def prepared(change: Callable[[wire.Prepared], Any]) -> Callable[..., Change]:
    return stated("prepared", wire.Prepared, change)


def only(kind: str, change: Callable[[wire.ReplyBody], Any]) -> Callable[..., Change]:
    def of(_: Coordinator) -> Change:
        def changed(_: wire.Request, body: wire.ReplyBody) -> wire.ReplyBody | None:
            if not body.HasField(kind):  # type: ignore[arg-type]
                return None
            return change(body) or body

        return changed

    return of


def _strip_own(said: wire.SealingKey) -> None:
    kept = [each for each in said.heads if each.party != EVIL]
    del said.heads[:]
    said.heads.extend(kept)


def _twice_own(said: wire.SealingKey) -> None:
    said.heads.extend([each for each in said.heads if each.party == EVIL])


STATED: dict[str, Callable[..., Change]] = {
    "a sealing key of low order": hello(lambda m: setattr(m, "key", LOW_ORDER)),
    "a sealing key of 31 bytes": hello(lambda m: setattr(m, "key", m.key[:31])),
    "another plan": hello(lambda m: setattr(m, "plan", bytes(32))),
    "another job": hello(lambda m: setattr(m, "job", "1" * 32)),
    "another contract": hello(lambda m: setattr(m, "contract", bytes(32))),
    "no head of its own": hello(_strip_own),
    "its own head twice": hello(_twice_own),
    "more heads than parties": hello(lambda m: m.heads.extend([m.heads[0]] * 7)),
    "a fat head of another": hello(
        lambda m: m.heads.append(wire.Signed(party="bank", body=b"x" * 9000, signature=b""))
    ),
    "hello in another's name": only("hello", lambda b: setattr(b.hello, "party", "bank")),
    "hello of 60 MB": only("hello", lambda b: setattr(b.hello, "body", b"x" * (60 << 20))),
    "hello unsigned": only("hello", lambda b: setattr(b.hello, "signature", bytes(64))),
    "a mask key of low order": prepared(lambda m: m.mask_keys.__setitem__(0, LOW_ORDER)),
    "no mask keys": prepared(lambda m: m.ClearField("mask_keys")),
    "a mask key too many": prepared(lambda m: m.mask_keys.append(m.mask_keys[0])),
    "a mask key of no bytes": prepared(lambda m: m.mask_keys.__setitem__(0, b"")),
    "prepared for others": prepared(lambda m: setattr(m, "roster", bytes(32))),
    "prepared for another plan": prepared(lambda m: setattr(m, "plan", b"z")),
    "prepared without a head": prepared(lambda m: m.ClearField("head")),
    "digests of shares too many": prepared(lambda m: m.shares.append(bytes(32))),
    "a prepared head of nobody": prepared(lambda m: setattr(m.head, "party", "ghost")),
    "a body that does not parse": only(
        "prepared", lambda b: setattr(b.prepared.statement, "body", b"\xff\xff")
    ),
    "refused": only("hello", lambda b: wire.ReplyBody(refusal=wire.Refusal(code="policy"))),
    "refused with escapes": only(
        "hello", lambda b: wire.ReplyBody(refusal=wire.Refusal(code="\x1b[2Jbank" * 99))
    ),
    "another kind": only("hello", lambda b: wire.ReplyBody(masked=wire.MaskedReply())),
    "nothing": only("masked", lambda b: wire.ReplyBody()),
}  # fmt: skip


@pytest.mark.parametrize("what", STATED)
def test_a_bad_statement_fails_the_job_with_the_name_of_who_made_it(
    three: Coordinator, what: str
) -> None:
    ends_and_goes_on(three, STATED[what](three))


def test_a_prepared_head_that_no_gate_would_take_is_not_passed_on(three: Coordinator) -> None:
    """The gates it reaches would refuse in their own names."""

    def change(said: wire.Prepared) -> None:
        said.head.CopyFrom(head(three, sequence=2**63))

    ends_and_goes_on(three, prepared(change)(three))


# ---------------------------------------------------------------------- masked vectors


def masked(change: Callable[[Coordinator, wire.MaskedReply], Any]) -> Callable[..., Change]:
    def of(coordinator: Coordinator) -> Change:
        def changed(_: wire.Request, body: wire.ReplyBody) -> wire.ReplyBody | None:
            if not body.HasField("masked"):
                return None
            change(coordinator, body.masked)
            return body

        return changed

    return of


def _again(coordinator: Coordinator, vector: wire.MaskedVector, **fields: Any) -> None:
    def change(said: wire.MaskedDigest) -> None:
        said.vector = hashlib.sha256(vector.vector).digest()
        for name, value in fields.items():
            setattr(said, name, value)

    vector.digest.CopyFrom(
        restated(coordinator.alliance, EVIL, wire.MaskedDigest, vector.digest, change)
    )


def _longer(coordinator: Coordinator, reply: wire.MaskedReply) -> None:
    reply.vectors[0].vector += bytes(8)
    _again(coordinator, reply.vectors[0])


def _shorter(coordinator: Coordinator, reply: wire.MaskedReply) -> None:
    reply.vectors[0].vector = b"\x01"
    _again(coordinator, reply.vectors[0])


MASKED: dict[str, Callable[..., Change]] = {
    "a vector too long": masked(_longer),
    "a vector of one byte": masked(_shorter),
    "a vector of 60 MB": masked(lambda c, r: setattr(r.vectors[0], "vector", b"x" * (60 << 20))),
    "a vector twice": masked(lambda c, r: r.vectors.append(r.vectors[0])),
    "a million empty vectors": masked(lambda c, r: r.vectors.extend([wire.MaskedVector()] * 10**6)),
    "no vector": masked(lambda c, r: r.ClearField("vectors")),
    "of another release": masked(lambda c, r: setattr(r.vectors[0], "index", 5)),
    "a digest of another index": masked(lambda c, r: _again(c, r.vectors[0], index=3)),
    "a digest for another state": masked(lambda c, r: _again(c, r.vectors[0], state=bytes(32))),
    "a digest for another cohort": masked(
        lambda c, r: _again(c, r.vectors[0], transcript=bytes(32))
    ),
    "a digest in another's name": masked(lambda c, r: setattr(r.vectors[0].digest, "party", "bank")),
}  # fmt: skip


@pytest.mark.parametrize("what", MASKED)
def test_a_bad_vector_fails_the_job_with_the_name_of_who_sent_it(
    three: Coordinator, what: str
) -> None:
    ends_and_goes_on(three, MASKED[what](three))


# ---------------------------------------------------------------------- shares, where one may drop out


def _swap(body: wire.ReplyBody) -> None:
    sealed = bytearray(body.prepared.shares[0].sealed)
    sealed[3] ^= 1
    body.prepared.shares[0].sealed = bytes(sealed)


SHARES: dict[str, Callable[..., Change]] = {
    "a share of 63 MB": only(
        "prepared",
        lambda b: b.prepared.shares.add(index=0, receiver="bank", sealed=b"x" * (63 << 20)) and None,
    ),
    "a share of 2 MB": only("prepared", lambda b: setattr(b.prepared.shares[0], "sealed", bytes(2000))),
    "no shares": only("prepared", lambda b: b.prepared.ClearField("shares")),
    "a share twice": only("prepared", lambda b: b.prepared.shares.append(b.prepared.shares[0])),
    "a share for nobody": only("prepared", lambda b: setattr(b.prepared.shares[0], "receiver", "ghost")),
    "a share in another's name": only("prepared", lambda b: setattr(b.prepared.shares[0], "sender", "bank")),
    "a share of no release": only("prepared", lambda b: setattr(b.prepared.shares[0], "index", 9)),
    "a share that was not signed": only("prepared", _swap),
    "digests of shares missing": prepared(lambda m: m.ClearField("shares")),
    "a digest of shares of 31 bytes": prepared(lambda m: m.shares.__setitem__(0, bytes(31))),
    "an opened share of one byte": only(
        "unmask", lambda b: [setattr(o, "share", b"z") for o in b.unmask.opened] and None
    ),
    "an opened share of nobody": only(
        "unmask", lambda b: [setattr(o, "party", "nobody") for o in b.unmask.opened] and None
    ),
    "an opened share twice": only("unmask", lambda b: b.unmask.opened.append(b.unmask.opened[0])),
    "shares of the other key": only(
        "unmask", lambda b: [setattr(o, "of_mask", True) for o in b.unmask.opened] and None
    ),
    "a million opened shares": only(
        "unmask", lambda b: b.unmask.opened.extend([wire.OpenedShare()] * 10**6)
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SHARES)
def test_bad_shares_fail_the_job_with_the_name_of_who_gave_them(
    four: Coordinator, what: str
) -> None:
    ends_and_goes_on(four, SHARES[what](four))


def test_false_shares_fail_the_job_and_nobody_is_named(four: Coordinator) -> None:
    """A share of the right length that is false may be its holder's or its dealer's."""

    def change(_: wire.Request, body: wire.ReplyBody) -> wire.ReplyBody | None:
        if not body.HasField("unmask"):
            return None
        for opened in body.unmask.opened:
            opened.share = b"\x01" * len(opened.share)
        return body

    row = four.run(count(epsilon=0.1), **{EVIL: change})
    assert row.state == "failed"
    assert not [name for name in NAMES if name in row.reason]
    assert four.run(count(epsilon=0.1)).state == "done"


def test_a_lock_for_others_than_answered_is_not_passed_on(four: Coordinator) -> None:
    """With one partner gone, the gates would refuse a lock that says something else, in their own names."""

    def change(_: wire.Request, body: wire.ReplyBody) -> wire.ReplyBody | None:
        if not body.HasField("unmask") or not body.unmask.HasField("lock"):
            return None
        body.unmask.lock.CopyFrom(
            restated(
                four.alliance, EVIL, wire.Lock, body.unmask.lock,
                lambda said: said.present.append("utility"),
            )
        )  # fmt: skip
        return body

    contract = four.alliance.contract
    of = statements.MaskedDigest(0, bytes(32), bytes(32), b"")
    asked = Asked(contract, "0" * 32, bytes(32), 1)
    lock = wire.Lock(
        contract=contract.digest(), job="0" * 32, index=0, transcript=bytes(32), state=bytes(32),
        present=["bank", "shop", "telecom"],
    )  # fmt: skip
    key = four.alliance.partners[EVIL].identity()
    statements.check_lock(asked, EVIL, wire.state(key, EVIL, lock), of, list(lock.present))
    body = wire.ReplyBody(unmask=wire.UnmaskReply(lock=wire.state(key, EVIL, lock)))
    changed = change(wire.Request(), body)
    assert changed is not None
    with pytest.raises(BadStatement, match="for others than answered"):
        statements.check_lock(asked, EVIL, changed.unmask.lock, of, list(lock.present))


# ---------------------------------------------------------------------- journals and clocks of others


def test_who_states_an_earlier_journal_is_named_and_not_who_refuses(three: Coordinator) -> None:
    """Every honest gate refuses then; the first of them is not the one at fault."""
    three.run(count(epsilon=0.1))
    gate = three.room.gates[EVIL]

    def change(said: wire.SealingKey) -> None:
        own = wire.JournalHead(
            contract=three.alliance.contract.digest(), sequence=1, digest=gate.journal.at(1) or b"",
            time=int(time.time()) + 60,
        )  # fmt: skip
        _strip_own(said)
        said.heads.append(wire.state(gate.identity, EVIL, own))

    row = ends_and_goes_on(three, hello(change)(three))
    assert "states entry 1 of its journal" in row.reason


@pytest.mark.parametrize("days", [-400, 400])
def test_whose_clock_is_off_is_named_and_not_who_refuses(three: Coordinator, days: int) -> None:
    def change(said: wire.SealingKey) -> None:
        gate = three.room.gates[EVIL]
        own = wire.parse(wire.JournalHead, gate.heads.own().body)
        own.time += days * 86_400
        _strip_own(said)
        said.heads.append(wire.state(gate.identity, EVIL, own))

    row = three.run(count(epsilon=0.1), **{EVIL: hello(change)(three)})
    # A head signed far ahead is kept by nobody, so that nothing may be charged with it: its party is named.
    assert row.state == "failed"
    names_only_evil(row.reason)
    assert three.run(count(epsilon=0.1)).state == "done"


# ---------------------------------------------------------------------- bounds themselves


def test_an_honest_reply_is_within_its_bound(four: Coordinator) -> None:
    seen: dict[str, int] = {}

    def watch(_: wire.Request, body: wire.ReplyBody) -> None:
        kind = body.WhichOneof("body") or ""
        seen[kind] = max(seen.get(kind, 0), body.ByteSize())

    wanted = job(**{**PROPENSITY, "epsilon": 2.0})
    assert four.run(wanted, bank=watch).state == "done"
    assert set(seen) >= {"hello", "prepared", "masked", "unmask", "finish"}
    bound = {k: largest_reply(k, 4, releases=10, words=100) for k in seen}
    assert all(seen[kind] < bound[kind] for kind in seen), (seen, bound)
    assert largest_reply("hello", 3) < 1 << 18


def test_keys_of_low_order_are_those_that_give_no_secret() -> None:
    """Checked against X25519 itself: all seven encodings, and the same with the top bit set."""
    p, source = 2**255 - 19, stream(bytes(32))
    low = [0, 1, p - 1, p, p + 1, int.from_bytes(LOW_ORDER, "little"),
           int.from_bytes(bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
                          "little")]  # fmt: skip
    for u in low + [u + 2**255 for u in low]:
        key = u.to_bytes(32, "little")
        with pytest.raises(ProtocolError):
            masks.agree(source(32), key)
        with pytest.raises(BadStatement, match="gives no secret"):
            statements._exchange_key(key, "a key")
    for u in range(2, 40):
        key = u.to_bytes(32, "little")
        masks.agree(source(32), key)
        statements._exchange_key(key, "a key")
    for _ in range(20):
        statements._exchange_key(masks.public_key(source(32)), "a key")


def test_a_head_is_what_its_signer_said(three: Coordinator) -> None:
    contract, gate = three.alliance.contract, three.room.gates[EVIL]
    said = read_head(contract, EVIL, gate.heads.own())
    assert (said.sequence, said.digest) == gate.journal.head()
    assert all(anchor.sequence < said.sequence for anchor in said.anchors)
    with pytest.raises(BadStatement, match="in another's name"):
        read_head(contract, "bank", gate.heads.own())


def test_a_reply_of_a_million_empty_fields_is_refused_before_it_is_parsed() -> None:
    many = wire.MaskedReply(vectors=[wire.MaskedVector()] * 300_000)
    body = wire.serialise(wire.ReplyBody(masked=many))
    with pytest.raises(WireError, match="too many fields"):
        wire._check_fields(body, 1)
    few = wire.MaskedReply(vectors=[wire.MaskedVector(vector=np.zeros(9).tobytes())] * 100)
    wire._check_fields(wire.serialise(wire.ReplyBody(masked=few)), 1)
