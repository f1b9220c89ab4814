from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from privacy.errors import ParameterError, ProtocolError
from privacy.noisy_sum import encoding, masks, rounds, shamir
from privacy.randomness import stream

finite = st.floats(-1e300, 1e300, allow_nan=False)


@given(arrays.arrays(np.float64, (7, 5), elements=finite), st.floats(1e-3, 1e6))
def test_integer_norm_keeps_the_promise(block: encoding.Floats, clip: float) -> None:
    grid = encoding.quantise(block, clip)
    assert (np.sum(grid.astype(object) ** 2, axis=1) <= encoding.SENSITIVITY**2).all()


@given(arrays.arrays(np.float64, (6, 3), elements=st.floats(-10, 10)))
def test_rounding_is_towards_zero_and_small(block: encoding.Floats) -> None:
    grid = encoding.quantise(block, 40.0)
    exact = block * encoding.SENSITIVITY / 40.0
    assert (np.abs(grid) <= np.abs(exact) + 1e-6).all()
    assert (np.abs(exact - grid) < 2.0).all()


@given(st.integers(0, 99))
def test_totals_do_not_depend_on_the_split(seed: int) -> None:
    rng = np.random.default_rng(seed)
    block = rng.normal(size=(200, 4)) * 3
    whole = encoding.add(encoding.quantise(block, 2.0))
    at = rng.integers(0, 5, 200)
    parts = sum(encoding.add(encoding.quantise(block[at == i], 2.0)) for i in range(5))
    assert (whole == parts).all()


def test_bad_values_are_refused() -> None:
    for clip in (0.0, -1.0, float("inf")):
        with pytest.raises(ParameterError):
            encoding.quantise(np.ones((1, 1)), clip)
    with pytest.raises(ParameterError):
        encoding.check_range(1 << 46, 1.0)
    with pytest.raises(ParameterError):
        encoding.ring_from(bytes(7), 1)


def test_ring_round_trip() -> None:
    values = np.array([0, 1, -1, 2**62, -(2**62)])
    ring = encoding.ring_from(encoding.ring_bytes(encoding.to_ring(values)), 5)
    assert (ring.view(np.int64) == values).all()


@given(st.binary(min_size=32, max_size=32), st.integers(1, 6), st.integers(0, 4))
def test_shamir(secret: bytes, threshold: int, more: int) -> None:
    shares = shamir.split(secret, threshold, threshold + more, stream(bytes(32)))
    chosen = dict(list(enumerate(shares))[more:])
    assert shamir.combine(chosen) == secret


def test_shamir_needs_its_threshold() -> None:
    shares = shamir.split(b"s" * 32, 3, 5, stream(bytes(32)))
    wrong = 0
    for pair in ((0, 1), (2, 4), (1, 3)):
        try:
            wrong += shamir.combine({i: shares[i] for i in pair}) != b"s" * 32
        except ProtocolError:
            wrong += 1
    assert wrong == 3
    with pytest.raises(ProtocolError):
        shamir.combine({})
    with pytest.raises(ParameterError):
        shamir.split(b"short", 1, 1, stream(bytes(32)))


def test_x25519_vectors_of_rfc_7748_section_6_1() -> None:
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    alice = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    public = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert masks.public_key(bob).hex() == public
    assert masks.agree(bob, alice).hex() == shared


def test_hkdf_vector_of_rfc_5869_appendix_a_1() -> None:
    okm = masks.derive(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)))
    assert okm.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


@pytest.mark.parametrize("low_order", [bytes(32), b"\x01" + bytes(31)])
def test_low_order_keys_are_refused(low_order: bytes) -> None:
    with pytest.raises(ProtocolError):
        masks.agree(hashlib.sha256(b"key").digest(), low_order)


def _setup(parties: int, dropouts: int, seed: bytes = bytes(32)):  # type: ignore[no-untyped-def]
    random = stream(seed)
    roster = rounds.Roster(tuple("abcdefg"[:parties]), 1, dropouts)
    keys = {p: rounds.new_keys(1, random)[0] for p in roster.parties}
    public = {p: masks.public_key(k.mask) for p, k in keys.items()}
    totals = {p: np.arange(6) * (i + 1) - 7 for i, p in enumerate(roster.parties)}
    return random, roster, keys, public, totals


TRANSCRIPT, STATE = hashlib.sha256(b"roster").digest(), hashlib.sha256(b"state").digest()


def _vectors(roster, keys, public, totals, **changed):  # type: ignore[no-untyped-def]
    settings = {"transcript": TRANSCRIPT, "release": 0, "state": STATE}
    return {
        p: rounds.masked(
            totals[p], np.zeros(6, dtype=np.int64), roster=roster, me=p, keys=keys[p],
            mask_keys=public, **(settings | changed.get(p, {})),
        )
        for p in roster.parties
    }  # fmt: skip


def _open(roster, public, vectors, opened=None):  # type: ignore[no-untyped-def]
    return rounds.unmask(
        vectors, roster=roster, mask_keys=public, transcript=TRANSCRIPT, release=0, state=STATE,
        opened=opened,
    )  # fmt: skip


@pytest.mark.parametrize("parties", [2, 3, 7])
def test_masks_cancel_over_the_whole_roster_only(parties: int) -> None:
    _, roster, keys, public, totals = _setup(parties, 0)
    vectors = _vectors(roster, keys, public, totals)
    assert (_open(roster, public, vectors).view(np.int64) == sum(totals.values())).all()
    vectors.pop("a")
    with pytest.raises(ProtocolError):
        _open(roster, public, vectors)


@pytest.mark.parametrize(
    "change", [{"transcript": bytes(32)}, {"release": 1}, {"state": bytes(32)}]
)
def test_another_roster_release_or_state_leaves_noise(change: dict[str, object]) -> None:
    _, roster, keys, public, totals = _setup(3, 0)
    vectors = _vectors(roster, keys, public, totals, b=change)
    opened = _open(roster, public, vectors).view(np.int64)
    assert not (opened == sum(totals.values())).any()


def _shares(random, roster, keys):  # type: ignore[no-untyped-def]
    sealing = {p: random(32) for p in roster.parties}
    public = {p: masks.public_key(k) for p, k in sealing.items()}
    sealed = {
        p: rounds.share_keys(
            keys[p], roster=roster, me=p, job="j", release=0, sealing_key=sealing[p],
            sealing_keys=public, randomness=random,
        )
        for p in roster.parties
    }  # fmt: skip

    def opened(dealer: str, holder: str) -> bytes:
        context = rounds.share_context("j", 0, dealer, holder)
        return masks.open_share(
            sealing[holder], public[dealer], context=context, sealed=sealed[dealer][holder]
        )

    return opened


@pytest.mark.parametrize("gone", ["", "a", "c", "d"])
def test_one_of_four_may_drop_out(gone: str) -> None:
    random, roster, keys, public, totals = _setup(4, 1)
    vectors = _vectors(roster, keys, public, totals)
    share_of = _shares(random, roster, keys)
    vectors.pop(gone, None)
    holders = [p for p in roster.parties if p != gone][:3]
    seeds = {p: {roster.parties.index(h): share_of(p, h)[66:] for h in holders} for p in vectors}
    mask_shares = (
        {gone: {roster.parties.index(h): share_of(gone, h)[:66] for h in holders}} if gone else {}
    )
    total = _open(roster, public, vectors, rounds.Opened(seeds, mask_shares))
    expected = sum(v for p, v in totals.items() if p != gone)
    assert (total.view(np.int64) == expected).all()
    seeds[holders[0]].popitem()
    with pytest.raises(ProtocolError):
        _open(roster, public, vectors, rounds.Opened(seeds, mask_shares))


def test_a_share_is_bound_to_its_place() -> None:
    random = stream(bytes(32))
    a, b = random(32), random(32)
    sealed = masks.seal_share(a, masks.public_key(b), context=b"one", plain=b"secret")
    assert masks.open_share(b, masks.public_key(a), context=b"one", sealed=sealed) == b"secret"
    for context, data in ((b"two", sealed), (b"one", sealed[:-1] + bytes([sealed[-1] ^ 1]))):
        with pytest.raises(ProtocolError):
            masks.open_share(b, masks.public_key(a), context=context, sealed=data)


@pytest.mark.parametrize(
    ("parties", "c", "d"), [(1, 1, 0), (3, 1, 1), (2, 2, 0), (4, 0, 0), (5, 1, 2)]
)
def test_tolerance_is_checked(parties: int, c: int, d: int) -> None:
    with pytest.raises(ParameterError):
        rounds.Roster(tuple("abcdefg"[:parties]), c, d)


@settings(max_examples=20)
@given(st.integers(2, 7))
def test_a_masked_vector_alone_looks_uniform(parties: int) -> None:
    """One vector of zeros under masks: bytes pass a frequency test (false alarm under 1e-6)."""
    _, roster, keys, public, _ = _setup(parties, 0, seed=bytes([parties]) * 32)
    vector = rounds.masked(
        np.zeros(4096, dtype=np.int64), np.zeros(4096, dtype=np.int64), roster=roster, me="a",
        keys=keys["a"], mask_keys=public, transcript=TRANSCRIPT, release=0, state=STATE,
    )  # fmt: skip
    counts = np.bincount(np.frombuffer(vector.tobytes(), np.uint8), minlength=256)
    chi = ((counts - 128.0) ** 2 / 128.0).sum()
    assert chi < 255 + 6.5 * np.sqrt(2 * 255)
