"""Every protocol against Python's own sets, at sizes that break things; what a relay could see."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import ParameterError, ProtocolError
from privacy.matching import algebra, channel, deck, fast, intersection, sizes, storage, tokens
from privacy.matching import engine as engines
from privacy.matching.overlap import Ring, cells, dummy_groups
from privacy.matching.size import SizeNoise
from privacy.matching.terms import Terms, chosen_dummies, close_deck, dummy_labels
from privacy.matching.total import SumNoise
from privacy.matching.total import receive as receive_sum
from privacy.matching.total import send as send_sum
from privacy.randomness import stream
from tests.privacy.matching.pairs import Pipe, Player, labels, matched, pipe, together

ENGINE = engines.available()[0]
BUCKET = 64
NOISE = SizeNoise.for_mu2(0.25)


def both_sides(
    xs: list[int], ys: list[int], noise: SizeNoise | None = None, engine: str = ENGINE
) -> Any:
    """(receiver, its deck, its side), the same of the sender, and their pipes."""
    terms = Terms(os.urandom(16), BUCKET, 1 << 20, noise)
    r, s = Player(terms, xs, engine), Player(terms, ys, engine)
    dummies = dummy_labels(terms.session, terms.dummies)
    chosen = chosen_dummies(terms, s.secrets.source("dummies"))
    (dr, nr), (ds, ns) = r.deck(dummies), s.deck(chosen)
    left, right = pipe()
    return (r, dr, r.side(dr, left, ns)), (s, ds, s.side(ds, right, nr)), (left, right), len(chosen)


def list_of(xs: list[int], ys: list[int], engine: str = ENGINE) -> set[int]:
    (_, dr, left), (_, _, right), _, _ = both_sides(xs, ys, engine=engine)
    positions, _ = together(lambda: intersection.receive(left), lambda: intersection.send(right))
    return matched(dr, positions, xs)


def some(count: int, of: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(of), count)


SIZES = [0, 1, 2, 3, 31, 63, 64, 65, 127, 997, 1023, 1024, 1025]


# ------------------------------------------------------------------ exactness


@pytest.mark.parametrize("left", SIZES)
@pytest.mark.parametrize("right", [0, 1, 64, 1009])
def test_a_list_is_the_intersection(left: int, right: int) -> None:
    xs, ys = some(left, 1500, left), some(right, 1500, right + 7)
    assert list_of(xs, ys) == set(xs) & set(ys)


@pytest.mark.parametrize("engine", engines.available())
def test_all_of_them_none_of_them_and_repeated_ones(engine: str) -> None:
    xs = list(range(300))
    assert list_of(xs, xs, engine) == set(xs)
    assert list_of(xs, list(range(300, 600)), engine) == set()
    assert list_of(xs + xs[:100], xs[50:60] * 3, engine) == set(range(50, 60))


@pytest.mark.parametrize("chunk", [1, 7, 64, 65])
def test_hostile_chunk_boundaries(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks, frames and buckets so small that every edge is crossed."""
    monkeypatch.setattr(deck, "CHUNK", chunk)
    monkeypatch.setattr(channel, "CHUNK", chunk)
    monkeypatch.setattr(tokens, "FRAME_TOKENS", 5)
    monkeypatch.setattr(storage.bucket_bits, "__defaults__", (17,))
    xs, ys = some(193, 400, 1), some(130, 400, 2)
    assert list_of(xs, ys) == set(xs) & set(ys)
    (_, dr, left), (_, ds, right), _, _ = both_sides(xs, ys)
    (mine, _, _), (theirs, _, _) = together(
        lambda: intersection.exchange(left), lambda: intersection.exchange(right)
    )
    assert matched(dr, mine, xs) == set(xs) & set(ys) == matched(ds, theirs, ys)


def test_engines_give_the_same_lists_at_thirty_thousand() -> None:
    xs, ys = some(30_000, 60_000, 3), some(2_000, 60_000, 4)
    for engine in engines.available():
        take = xs if engine == "curve25519" else xs[:2_000]
        assert list_of(take, ys, engine) == set(take) & set(ys)


@pytest.mark.parametrize("left", [0, 1, 65, 997])
@pytest.mark.parametrize("right", [0, 2, 64, 509])
def test_sizes_and_sums_are_exact_under_their_noise(left: int, right: int) -> None:
    xs, ys = some(left, 1200, left), some(right, 1200, right + 1)
    values = np.array([float(y % 50) for y in ys])
    noise = SumNoise.for_mu2(50.0, 4e4)  # a deviation of a quarter: the sum shows through
    (_, _, a), (_, _, b), _, z = both_sides(xs, ys, NOISE)
    (places, total), _ = together(lambda: receive_sum(a, noise), lambda: send_sum(b, noise, values))
    shared = set(xs) & set(ys)
    assert len(places) - z == len(shared)
    exact = sum(y % 50 for y in shared)
    # grid: each value is cut by less than 50 / 2^18; noise: 8 deviations, false alarm 1e-15
    assert abs(total - exact) < 8 * 2**0.5 * noise.deviation + len(shared) * 50 / 2**18 + 1e-9


def test_negative_values_add_up(randomness: Any) -> None:
    xs, ys = list(range(100)), list(range(50, 150))
    values = np.array([-3.0 if y % 2 else 1.0 for y in ys])
    noise = SumNoise.for_mu2(3.0, 4e4)
    (_, _, a), (_, _, b), _, _ = both_sides(xs, ys, NOISE)
    (_, total), _ = together(lambda: receive_sum(a, noise), lambda: send_sum(b, noise, values))
    assert abs(total - (25 * -3.0 + 25 * 1.0)) < 0.5


def test_the_dummies_noise_is_hidden_from_the_count() -> None:
    """The receiver counts size + z; z is new in every match and within its bounds."""
    xs = list(range(100))
    seen = set()
    for _ in range(6):
        (_, _, a), (_, _, b), _, z = both_sides(xs, xs, NOISE)
        places, _ = together(lambda a=a: sizes.receive(a), lambda b=b: sizes.send(b))
        assert len(places) == 100 + z
        assert 0 <= z <= NOISE.dummies
        seen.add(z)
    assert len(seen) > 1  # all six alike: under 1e-4


def test_pseudonyms_are_the_same_on_both_sides() -> None:
    xs, ys = list(range(500)), list(range(300, 900))
    (_, _, a), (_, _, b), _, _ = both_sides(xs, ys)
    (_, mine, theirs), (_, mine_too, theirs_too) = together(
        lambda: intersection.exchange(a), lambda: intersection.exchange(b)
    )
    for one, other in ((mine, theirs_too), (theirs, mine_too)):
        assert [one.read(i) for i in range(len(one))] == [other.read(i) for i in range(len(other))]


@pytest.mark.parametrize("parties", [3, 4, 6])
def test_cells_of_an_overlap(parties: int) -> None:
    sets = [some(400 + 50 * i, 900, i) for i in range(parties)]
    found = ring(sets, lambda r: r.counts())
    for cell in cells(parties):
        inside = set.intersection(*[set(sets[i]) for i in cell])
        outside: set[int] = set()
        outside = outside.union(*[set(sets[i]) for i in range(parties) if i not in cell])
        assert found[cell] == len(inside - outside)


def test_an_overlaps_noise_is_within_its_bounds_and_not_zero() -> None:
    sets = [list(range(0, 300)), list(range(100, 400)), list(range(200, 500))]
    found = ring(sets, lambda r: r.counts(), NOISE)
    exact = {(0, 1): 100, (0, 2): 0, (1, 2): 100, (0, 1, 2): 100}
    added = {cell: found[cell] - exact[cell] for cell in exact}
    assert all(0 <= z <= NOISE.dummies for z in added.values())
    assert len(set(added.values())) > 1


def ring(sets: list[list[int]], at_matcher: Any, noise: SizeNoise | None = None) -> Any:
    parties = len(sets)
    terms = Terms(os.urandom(16), BUCKET, 1 << 20, noise, dummy_groups(parties))
    ends: dict[tuple[int, int], Pipe] = {}
    for i in range(parties):
        for j in range(i + 1, parties):
            ends[i, j], ends[j, i] = pipe()
    players = [Player(terms, items, ENGINE) for items in sets]
    decks = [player.deck(close=False) for player in players]
    entered = [size for _, size in decks]

    def play(me: int) -> Any:
        others = {j: ends[me, j] for j in range(parties) if j != me}
        player, (own, size) = players[me], decks[me]
        party = Ring(terms, me, player.engine, player.secrets, own, player.spool, others, entered)
        party.add_dummies()
        close_deck(own, size, player.secrets)
        party.run()
        return at_matcher(party) if me == 0 else None

    return together(*[lambda me=me: play(me) for me in range(parties)])[0]


fast_only = pytest.mark.skipif(not fast.available(), reason="the extra `fast` is not installed")


@fast_only
@pytest.mark.parametrize(
    ("left", "right"),
    [(0, 0), (0, 5), (5, 0), (1, 1), (2, 3), (45, 50), (490, 500), (1479, 1500), (1024, 1025)],
)
def test_the_fast_lane_is_exact_where_another_engine_was_not(left: int, right: int) -> None:
    """45 of 50, 490 of 500 and 1479 of 1500 are sizes at which spu 0.9.5's RR22 lost members."""
    xs, ys = list(range(left)), list(range(right))
    random.Random(left).shuffle(xs)
    assert fast_list(xs + xs[: left // 3], ys + ys[: right // 2]) == set(xs) & set(ys)


@fast_only
def test_the_fast_lane_at_thirty_thousand() -> None:
    xs, ys = some(30_000, 60_000, 5), some(29_989, 60_000, 6)
    assert fast_list(xs, ys) == set(xs) & set(ys)


def fast_list(xs: list[int], ys: list[int]) -> set[int]:
    left, right = pipe()

    def padded(n: int) -> int:
        return max(1, -(-n // BUCKET)) * BUCKET

    def entered(items: list[int]) -> fast.Set:
        found = labels(items)
        return fast.Set.of(found, np.arange(len(items)), os.urandom(16), padded, os.urandom)

    a, b = entered(xs), entered(ys)
    chosen, _ = together(
        lambda: fast.receive(left, a, len(b.labels), os.urandom),
        lambda: fast.send(right, b, len(a.labels), os.urandom),
    )
    rows = a.rows_of(chosen).tolist()
    assert len(rows) == len(set(rows))
    return {xs[row] for row in rows}


@fast_only
def test_the_lanes_hash_is_blake2s() -> None:
    import hashlib

    from privacy.matching import fast_kernels

    block, out = np.empty((16, 16), np.uint32), np.empty((16, 2), np.uint64)
    messages = [os.urandom(64) for _ in range(16)]
    for lane, message in enumerate(messages):
        block[:, lane] = np.frombuffer(message, np.uint32)
    fast_kernels.blake2s(block, np.empty((16, 16), np.uint32), out)
    for lane, message in enumerate(messages):
        assert out[lane].tobytes() == hashlib.blake2s(message, digest_size=16).digest()


# ------------------------------------------------------------------ what the relay sees


def transcript(xs: list[int], ys: list[int], result: str) -> list[tuple[int, int, int]]:
    """Kind, number and length of every frame, of both directions."""
    noise = NOISE if result == "size" else None
    (_, _, a), (_, _, b), ends, _ = both_sides(xs, ys, noise)
    work = {
        "list": (intersection.receive, intersection.send),
        "both": (intersection.exchange, intersection.exchange),
        "size": (sizes.receive, sizes.send),
    }[result]
    together(lambda: work[0](a), lambda: work[1](b))
    return sorted((kind, index, len(data)) for end in ends for kind, index, data in end.sent)


@pytest.mark.parametrize("result", ["list", "both", "size"])
def test_frames_do_not_depend_on_the_items(result: str) -> None:
    """Sets of one padded size look alike to the relay: other items, other overlap, another size."""
    same = list(range(200))
    first = transcript(same, same, result)
    second = transcript(same, list(range(500, 700)), result)
    third = transcript(list(range(1000, 1193)), list(range(1100, 1299)), result)
    assert first == second == third


def test_no_frame_holds_a_label_or_what_follows_from_it_alone() -> None:
    xs = list(range(64))
    (player, _, a), (_, _, b), ends, _ = both_sides(xs, xs)
    together(lambda: intersection.receive(a), lambda: intersection.send(b))
    sent = b"".join(data for end in ends for _, _, data in end.sent)
    plain = player.engine.encode(player.terms.session, labels(xs))
    for label, point in zip(labels(xs), plain, strict=True):
        assert label.tobytes()[:8] not in sent
        assert point.tobytes()[:8] not in sent


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("result", ["list", "both", "size"])
@pytest.mark.parametrize("how", ["cut", "long", "kind", "number", "low order", "garbage"])
def test_a_bad_frame_ends_in_one_opaque_error(how: str, result: str) -> None:
    xs = list(range(200))
    noise = NOISE if result == "size" else None
    (_, _, a), (_, _, b), ends, _ = both_sides(xs, xs, noise)

    def tamper(kind: int, index: int, data: bytes) -> tuple[int, int, bytes]:
        if how == "cut":
            return kind, index, data[:-1]
        if how == "long":
            return kind, index, data + bytes(32)
        if how == "kind":
            return kind + 40, index, data
        if how == "number":
            return kind, index + 1, data
        if how == "low order":
            return kind, index, bytes(32) + data[32:]
        return kind, index, os.urandom(len(data))

    ends[1].tamper = tamper
    work = {
        "list": (intersection.receive, intersection.send),
        "both": (intersection.exchange, intersection.exchange),
        "size": (sizes.receive, sizes.send),
    }[result]
    with pytest.raises(ProtocolError) as caught:
        together(lambda: work[0](a), lambda: work[1](b))
    assert str(caught.value) == "protocol check failed"


def test_more_than_agreed_is_refused_before_anything_is_sent() -> None:
    terms = Terms(bytes(16), 64, 256)
    with pytest.raises(ParameterError, match="larger than the contract allows"):
        Player(terms, list(range(257)), ENGINE).deck()
    terms.check_padded(256)
    for count in (0, 63, 65, 320, 1 << 40):
        with pytest.raises(ProtocolError):
            terms.check_padded(count)


# ------------------------------------------------------------------ parts


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2000), st.sampled_from([96, 60, 45]), st.randoms(use_true_random=False))
def test_sorted_tokens_come_back(count: int, bits: int, source: random.Random) -> None:
    data = np.frombuffer(source.randbytes(12 * count), np.uint8).reshape(count, 12)
    found = np.unique(tokens.cut(data, bits), axis=0)
    spool = storage.MemorySpool()
    shelf = tokens.Shelf(spool, "shelf", max(1, len(found)))
    shelf.add(found, 0)
    frames = tokens.frame_bits(len(found))
    total = 0
    for frame, run in shelf.runs(frames):
        coded = tokens.encode(run, frame, frames, len(found), bits)
        back = tokens.decode(coded, frame, frames, len(found), bits)
        assert (back.as_bytes() == run.as_bytes()).all()
        total += len(back.high)
        for broken in (coded[:-1], coded + b"\0", bytes([coded[0] ^ 1]) + coded[1:]):
            with pytest.raises(ProtocolError):
                tokens.decode(broken, frame, frames, len(found), bits)
    assert total == len(found)


def test_tokens_that_agree_in_64_bits_are_told_apart() -> None:
    base = np.zeros((4, 12), np.uint8)
    base[:, 11] = [1, 2, 3, 4]
    spool = storage.MemorySpool()
    shelves = []
    for name, rows in (("a", base[[0, 2, 3]]), ("b", base[[1, 2]])):
        shelf = tokens.Shelf(spool, name, 4)
        shelf.add(rows, 0)
        shelves.append(shelf.read(0))
    assert shelves[0].matches(shelves[1]).tolist() == [1]
    twice = tokens.Shelf(spool, "c", 4)
    twice.add(base[[0, 0]], 0)
    with pytest.raises(ProtocolError):
        twice.read(0).require_distinct()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3000), st.integers(0, 400), st.integers(1, 9))
def test_a_deck_holds_every_row_behind_each_label(count: int, repeated: int, start: int) -> None:
    spool = storage.MemorySpool()
    whole = deck.Deck(spool, "deck", os.urandom(16), count * 200)  # many buckets
    found = labels(range(count))
    again = found[: min(repeated, count)]
    every = np.concatenate([found, again])
    whole.add(every, np.arange(len(every), dtype=np.int64))
    assert whole.count() == count
    whole.pad(count + 10, os.urandom)
    whole.close()
    assert whole.distinct == count + 10
    rows = np.concatenate(list(whole.rows_at(np.arange(count + 10))) or [np.empty(0)])
    assert sorted(rows.tolist()) == list(range(len(every)))
    seen = list(whole.chunks())
    assert [index for index, _, _ in seen] == list(range(-(-(count + 10) // deck.CHUNK)))
    later = list(whole.chunks(start))
    assert [i for i, _, _ in later] == [i for i, _, _ in seen if i >= start]


def test_audience_expressions() -> None:
    names = {"a": 0b1010, "b-1": 0b1100, "c": 0b0110}
    members = {n: np.array([v >> i & 1 for i in range(4)], bool) for n, v in names.items()}
    for text, value in (
        ("a", 0b1010), ("a & b-1", 0b1000), ("a | b-1 & c", 0b1110), ("a - c", 0b1000),
        ("(a | c) - b-1", 0b0010), ("a & b-1 - c", 0b1000), ("a - (b-1 - c)", 0b0010),
    ):  # fmt: skip
        audience = algebra.parse(text)
        found = sum(int(hit) << i for i, hit in enumerate(audience.select(members)))
        assert found == value, text
    for text in ("", "a &", "& a", "(a", "a)", "a b", "a -b", "a ! b", "A", "(" * 80 + "a"):
        with pytest.raises(ParameterError, match="audience"):
            algebra.parse(text)


# ------------------------------------------------------------------ noise


def test_noisy_sizes_are_unbiased_with_the_stated_deviation() -> None:
    """40 matches from fixed seeds; the mean is off by six deviations with probability under 1e-8."""
    noise, seen = SizeNoise.for_mu2(0.5), []
    for seed in range(40):
        terms = Terms(seed.to_bytes(16, "big"), BUCKET, 1000, noise)
        r = Player(terms, list(range(20)), ENGINE, seed=seed)
        s = Player(terms, list(range(10, 30)), ENGINE, seed=1000 + seed)
        dr, nr = r.deck(dummy_labels(terms.session, terms.dummies))
        ds, ns = s.deck(chosen_dummies(terms, s.secrets.source("dummies")))
        left, right = pipe()
        a, b = r.side(dr, left, ns), s.side(ds, right, nr)
        places, _ = together(lambda a=a: sizes.receive(a), lambda b=b: sizes.send(b))
        seen.append(len(places) - noise.bound + noise.draw(r.secrets.source("size noise")))
    deviation = noise.deviation * 2.0**0.5
    assert abs(np.mean(seen) - 10) < 6 * deviation / 40**0.5
    assert 0.5 < np.std(seen) / deviation < 1.6  # 40 draws: outside under 1e-5
    assert len(set(seen)) > 3


def test_shifted_noise_stays_in_range_and_is_charged() -> None:
    noise, source = SizeNoise.for_mu2(0.1), stream(bytes(32))
    drawn = [noise.draw_shifted(source) for _ in range(500)]
    assert min(drawn) >= 0
    assert max(drawn) <= noise.dummies
    assert noise.mu2 <= 0.1
    assert 0 < noise.delta < 3e-12


def test_values_are_cut_towards_zero_and_never_above_the_sensitivity() -> None:
    noise = SumNoise.for_mu2(100.0, 0.25)
    units = noise.units(np.array([0.0, 100.0, 1e9, -1e9, 50.0, 1e-9, -1e-9]))
    assert units.tolist() == [0, 1 << 18, 1 << 18, -(1 << 18), 1 << 17, 0, 0]
    assert noise.mu2 <= 0.25
    assert noise.deviation == pytest.approx(200.0, rel=1e-6)  # sigma = sensitivity / mu
