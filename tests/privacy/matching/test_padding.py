"""Sets of noisy matches: padding is drawn and charged, a set over the cap is cut and never refused, and what
one person changes stays what is paid for. And what a sender that deviates can do to a sum."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privacy.errors import ParameterError, ProtocolError
from privacy.matching import engine as engines
from privacy.matching import overlap, sizes, storage
from privacy.matching.overlap import cells, dummy_groups
from privacy.matching.size import PaddingNoise, SizeNoise
from privacy.matching.terms import (
    Secrets,
    Terms,
    chosen_dummies,
    close_deck,
    dummy_labels,
    open_deck,
)
from privacy.matching.total import SumNoise
from privacy.matching.total import receive as receive_sum
from privacy.matching.total import send as send_sum
from privacy.noisy_sum.encoding import SENSITIVITY
from privacy.randomness import stream
from tests.privacy.matching.pairs import Player, labels, matched, pipe, together
from tests.privacy.matching.test_protocols import ring

ENGINE = engines.available()[0]
NOISE, PADDING = SizeNoise.for_mu2(0.25), PaddingNoise.for_mu2(0.5)
FALSE_ALARM = 1e-6


def _terms(session: bytes = bytes(16), cap: int = 100, bucket: int = 64) -> Terms:
    return Terms(session, bucket, cap, NOISE, padding=PADDING)


def _kept(terms: Terms, items: list[int], seed: int = 0) -> set[int]:
    """Items that the deck of a set holds; every row of each."""
    secrets = Secrets(seed.to_bytes(32, "big"), terms.session)
    rows = np.arange(len(items), dtype=np.int64)
    records = [(labels(items), rows)] if items else []
    found, size = open_deck(terms, records, secrets, storage.MemorySpool(), len(items))
    terms.check_padded(size)
    close_deck(found, size, secrets)
    assert found.distinct == size
    places = np.arange(found.distinct)
    held = [row for part in found.rows_at(places) for row in part.tolist()]
    chosen = {items[row] for row in held}
    assert len(held) == sum(item in chosen for item in items)
    return chosen


# ------------------------------------------------------------------ padding


def test_padding_follows_its_draw_and_is_the_same_after_a_restart() -> None:
    terms = Terms(bytes(16), 1, 1000, NOISE, padding=PADDING)
    for seed in range(20):
        secrets = Secrets(seed.to_bytes(32, "big"), terms.session)
        drawn = PADDING.draw(secrets.source("padding draw"))
        for items in (0, 1, 77, 1000):
            size = terms.padded(items, secrets.source("padding draw"))
            assert size == max(1, items + drawn) + terms.dummies
            terms.check_padded(size)
    with pytest.raises(ParameterError, match="randomness"):
        terms.padded(5)


def test_padded_sizes_have_the_stated_law() -> None:
    """2000 draws against the rounded Gaussian; false alarm under 1e-6."""
    terms = Terms(bytes(16), 1, 1000, NOISE, padding=PADDING)
    source = stream(b"\x02" * 32)
    drawn = np.array([terms.padded(50, source) - terms.dummies - 50 for _ in range(2000)])
    z = drawn - PADDING.bound
    edges = np.arange(-4, 5) - 0.5
    law = np.diff(np.concatenate([[0], stats.norm.cdf(edges / PADDING.deviation), [1]]))
    seen = np.histogram(z, np.concatenate([[-np.inf], edges, [np.inf]]))[0]
    assert stats.chisquare(seen, law * len(z)).pvalue > FALSE_ALARM


@pytest.mark.parametrize("bucket", [1, 64, 1000])
def test_what_a_peer_accepts_is_what_an_honest_side_can_send(bucket: int) -> None:
    terms = _terms(cap=300, bucket=bucket)
    most = -(-(300 + 2 * PADDING.bound) // bucket) * bucket
    terms.check_padded(most + terms.dummies)
    terms.check_padded(bucket + terms.dummies)
    for body in (most + bucket, 0, bucket - 1, -bucket, 1 << 40):
        with pytest.raises(ProtocolError) as caught:
            terms.check_padded(body + terms.dummies)
        assert caught.value.why


def test_exact_results_are_padded_and_refused_as_before() -> None:
    terms = Terms(bytes(16), 64, 100)
    assert [terms.padded(n) for n in (0, 1, 64, 65, 100)] == [64, 64, 64, 128, 128]
    with pytest.raises(ParameterError, match="larger than the contract allows"):
        terms.padded(101)
    with pytest.raises(ParameterError, match="larger than the contract allows"):
        _kept(terms, list(range(101)))


# ------------------------------------------------------------------ the cap


@pytest.mark.parametrize("count", [99, 100, 101, 250, 3000])
def test_a_set_over_the_cap_is_cut_and_never_refused(count: int) -> None:
    items = list(range(count)) + list(range(0, count, 3))  # some labels twice
    kept = _kept(_terms(), items)
    assert len(kept) == min(count, 100)
    assert _kept(_terms(), items) == kept  # after a restart
    if count > 100:
        assert _kept(_terms(), items, seed=1) != kept  # secret


@pytest.mark.parametrize("spill", [17, 1 << 18])
def test_one_person_moves_the_cut_by_one_label_on_either_side(
    spill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.bucket_bits, "__defaults__", (spill,))
    for seed in range(60):
        source = random.Random(seed)
        items = source.sample(range(10_000), source.choice([99, 100, 101, 180]))
        less, more = items[1:], items
        one, other = _kept(_terms(), less, seed), _kept(_terms(), more, seed)
        assert len(one - other) <= 1
        assert len(other - one) <= 1
        assert one == other or items[0] in other - one


def test_what_was_kept_is_nowhere_special_in_the_secret_order() -> None:
    """The cut has a key of its own: kept labels among padding are at places like any others. Mean place
    of 200 kept, 30 decks; false alarm under 1e-6."""
    padding = PaddingNoise.for_mu2(0.004)  # some 110 of padding before rounding
    standard = []
    for seed in range(30):
        terms = Terms(bytes(16), 512, 200, None, padding=padding)
        secrets = Secrets(seed.to_bytes(32, "big"), bytes(16))
        records = [(labels(range(400)), np.arange(400, dtype=np.int64))]
        kept, size = open_deck(terms, records, secrets, storage.MemorySpool(), 400)
        close_deck(kept, size, secrets)
        places = np.concatenate([place for place, _ in kept.members()])
        assert len(places) == 200
        assert size == kept.distinct >= 512
        spread = (size**2 / 12 / 200 * (1 - 200 / size)) ** 0.5
        standard.append((places.mean() - (size - 1) / 2) / spread)
    assert abs(np.mean(standard)) * 30**0.5 < 5


@pytest.mark.parametrize(("left", "right"), [(150, 40), (40, 150), (150, 150), (60, 70)])
def test_sizes_and_sums_with_capped_sets_are_those_of_what_was_kept(left: int, right: int) -> None:
    terms = _terms(os.urandom(16))
    xs, ys = list(range(left)), list(range(20, 20 + right))
    r, s = Player(terms, xs, ENGINE, seed=1), Player(terms, ys, ENGINE, seed=2)
    dummies = dummy_labels(terms.session, terms.dummies)
    chosen = chosen_dummies(terms, s.secrets.source("dummies"))
    (dr, nr), (ds, ns) = r.deck(dummies), s.deck(chosen)
    assert dr.distinct == nr
    assert ds.distinct == ns
    terms.check_padded(nr)
    terms.check_padded(ns)
    a, b = pipe()
    noise = SumNoise.for_mu2(1.0, 4e4)
    values = np.ones(len(ys))
    (places, total), _ = together(
        lambda: receive_sum(r.side(dr, a, ns), noise),
        lambda: send_sum(s.side(ds, b, nr), noise, values),
    )
    mine = matched(dr, np.arange(dr.distinct), xs)
    theirs = matched(ds, np.arange(ds.distinct), ys)
    assert len(mine) == min(left, 100)
    assert len(theirs) == min(right, 100)
    assert len(places) - len(chosen) == len(mine & theirs)
    assert abs(total - len(mine & theirs)) < 8 * 2**0.5 * noise.deviation + 0.01


def _figures(sets: list[set[int]], told: list[int]) -> np.ndarray[Any, Any]:
    """Every exact figure of an overlap: cells of two or more, then sizes as they are told."""
    parties, found = len(sets), []
    for cell in cells(parties):
        inside = set.intersection(*[sets[i] for i in cell])
        outside = set().union(*[sets[i] for i in range(parties) if i not in cell])
        found.append(len(inside - outside))
    return np.array([*found, *told])


@pytest.mark.parametrize(("parties", "square"), [(3, 3), (4, 4), (6, 4)])
def test_one_person_moves_an_overlap_by_what_it_is_priced_for(parties: int, square: int) -> None:
    """Neighbours at, over and under the cap. Among three there are too few cells for all four moves."""
    worst = 0
    terms = _terms(cap=20)
    for seed in range(120):
        source = random.Random(seed)
        lists = [
            source.sample(range(40), source.choice([12, 19, 20, 21, 30])) for _ in range(parties)
        ]
        others = [list(items) for items in lists]
        changed = source.randrange(parties)
        others[changed].pop()
        moved = [
            _figures(
                [_kept(terms, items, seed + 7 * i) for i, items in enumerate(each)],
                [min(len(items), terms.largest_set) for items in each],
            )
            for each in (lists, others)
        ]
        worst = max(worst, int(((moved[0] - moved[1]) ** 2).sum()))
    assert worst == square <= overlap.COUNTS_PER_PERSON


def test_a_ring_tells_sizes_up_to_the_cap_only() -> None:
    terms = Terms(bytes(16), 64, 100, NOISE, dummy_groups(3), padding=PADDING)
    sent: list[int] = []

    class Channel:
        def send(self, kind: int, index: int, data: bytes) -> None:
            sent.append(int.from_bytes(data, "little", signed=True))

    spool, secrets = storage.MemorySpool(), Secrets(bytes(32), bytes(16))
    own: Any = None
    party = overlap.Ring(
        terms, 1, engines.engine(ENGINE), secrets, own, spool, {0: Channel()}, [64] * 3  # type: ignore[dict-item]
    )  # fmt: skip
    for items in (100, 101, 5000):
        party.tell_size(NOISE, items)
        assert overlap.Ring.hear_sizes(  # the matcher's own
            overlap.Ring(terms, 0, party.engine, secrets, own, spool, {}, [64]), NOISE, items
        ) == [sent[0]]
    assert len(set(sent)) == 1


def test_rings_of_capped_sets_still_count() -> None:
    found = ring(
        [list(range(80)), list(range(40, 120)), list(range(60, 140))], lambda r: r.counts()
    )
    assert found[(0, 1, 2)] == 20


# ------------------------------------------------------------------ a sender that deviates


def _sum_with(units: int, target: list[int]) -> tuple[float, int, SumNoise]:
    """A sum whose sender gives each of ``target`` 'units' on the grid, past every clip."""
    terms = Terms(os.urandom(16), 64, 1000, NOISE)
    xs, ys = list(range(50)), list(range(25, 75))
    r, s = Player(terms, xs, ENGINE), Player(terms, ys, ENGINE)
    dr, nr = r.deck(dummy_labels(terms.session, terms.dummies))
    ds, ns = s.deck(chosen_dummies(terms, s.secrets.source("dummies")))
    a, b = pipe()
    noise = SumNoise.for_mu2(1.0, 1.0)

    class Evil(SumNoise):
        def units(self, values: Any) -> Any:
            return np.array([units if y in target else 0 for y in ys], dtype=np.int64)

    (places, total), _ = together(
        lambda: receive_sum(r.side(dr, a, ns), noise),
        lambda: send_sum(s.side(ds, b, nr), Evil(noise.largest, noise.variance), np.zeros(50)),
    )
    return total, len(places), noise


@pytest.mark.parametrize("units", [1 << 40, 1 << 61, -(1 << 62), 1 << 20])
def test_no_value_of_a_sender_is_told_beyond_what_honest_ones_could_be(units: int) -> None:
    total, places, noise = _sum_with(units, [30])
    most = places * noise.largest + 12 * noise.deviation
    assert abs(total) <= most + 10 * noise.deviation  # R's own noise; false alarm under 1e-22


def test_plausible_totals_pass_and_others_are_cut() -> None:
    noise = SumNoise.for_mu2(7.0, 0.25)
    most = 5 * SENSITIVITY + int(np.ceil(12 * noise.variance**0.5))
    for total in (0, 1, -most, most, most - 1):
        assert noise.plausible(total, 5) == total
    assert noise.plausible(1 << 62, 5) == most
    assert noise.plausible(-(1 << 63), 5) == -most
    assert noise.plausible(most + SENSITIVITY, 6) == most + SENSITIVITY


@given(
    st.integers(-(1 << 62), 1 << 62),
    st.integers(-SENSITIVITY, SENSITIVITY),
    st.integers(0, 1 << 20),
    st.sampled_from([-1, 0, 1]),
)
def test_cutting_a_sum_costs_no_sensitivity(x: int, moved: int, places: int, more: int) -> None:
    noise = SumNoise.for_mu2(1.0, 0.25)
    one, other = noise.plausible(x, places), noise.plausible(x + moved, max(0, places + more))
    assert abs(one - other) <= SENSITIVITY


def test_values_that_are_not_numbers_are_nothing() -> None:
    noise = SumNoise.for_mu2(100.0, 0.25)
    assert noise.units(np.array([np.nan, np.inf, -np.inf])).tolist() == [0, 1 << 18, -(1 << 18)]
    for largest in (0.0, -1.0, 1e-101, 3e100, float("nan"), float("inf")):
        with pytest.raises(ParameterError, match="largest"):
            SumNoise.for_mu2(largest, 0.25)
    with pytest.raises(ParameterError, match="noise of a sum"):
        SumNoise.for_mu2(1.0, 1e-7)


def test_sizes_under_drawn_padding_look_alike_to_a_relay() -> None:
    """Frames follow from the padded sizes: sets of 0 and 100 with the same draw rounded alike."""

    def transcript(xs: list[int]) -> list[tuple[int, int, int]]:
        terms = Terms(bytes(16), 1024, 500, NOISE, padding=PADDING)
        r, s = Player(terms, xs, ENGINE, seed=3), Player(terms, [1, 2, 3], ENGINE, seed=4)
        dr, nr = r.deck(dummy_labels(terms.session, terms.dummies))
        ds, ns = s.deck(chosen_dummies(terms, s.secrets.source("dummies")))
        a, b = pipe()
        together(lambda: sizes.receive(r.side(dr, a, ns)), lambda: sizes.send(s.side(ds, b, nr)))
        return sorted((k, i, len(d)) for end in (a, b) for k, i, d in end.sent)

    assert transcript([]) == transcript(list(range(100))) == transcript(list(range(700)))
