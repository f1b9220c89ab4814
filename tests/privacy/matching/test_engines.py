"""The blinding core: published vectors, an independent implementation, bad points."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from privacy.errors import ProtocolError
from privacy.matching import engine as engines
from privacy.matching.curve25519 import ORDER, P, domain
from privacy.randomness import stream
from tests.privacy.matching.pairs import labels

J = 486662
HERE = engines.available()
vectorised = pytest.mark.skipif("curve25519" not in HERE, reason="no AVX-512-IFMA, or no llvmlite")
every = pytest.mark.parametrize("name", HERE)


def rows(*points: bytes) -> Any:
    return np.frombuffer(b"".join(points), np.uint8).reshape(-1, 32)


def elligator(u: int) -> int:
    """RFC 9380, 6.7.1, on integers."""
    x = -J * pow(1 + 2 * u * u, -1, P) % P
    square = pow(x**3 + J * x * x + x, (P - 1) // 2, P) in (0, 1)
    return x if square else (-x - J) % P


def expand(message: bytes, tag: bytes, size: int) -> bytes:
    """RFC 9380, 5.3.1, for at most 64 bytes; ``tag`` with its length."""
    first = hashlib.sha512(bytes(128) + message + size.to_bytes(2, "big") + b"\0" + tag).digest()
    return hashlib.sha512(first + b"\1" + tag).digest()[:size]


def x25519(scalar: bytes, x: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(scalar).exchange(
        X25519PublicKey.from_public_bytes(x)
    )


def test_the_reference_gives_the_vector_of_rfc_9380() -> None:
    """J.4.2, msg = "": u, Q.x, and P.x after the cofactor, by a ladder of cryptography's."""
    name = b"QUUX-V01-CS02-with-curve25519_XMD:SHA-512_ELL2_NU_"
    u = int.from_bytes(expand(b"", name + bytes([len(name)]), 48), "big") % P
    assert f"{u:x}" == "608d892b641f0328523802a6603427c26e55e6f27e71a91a478148d45b5093cd"
    q = elligator(u)
    assert f"{q:x}" == "51125222da5e763d97f3c10fcc92ea6860b9ccbbd2eb1285728f566721c1e65b"
    # 8 Q by x alone: three doublings
    x, z = q, 1
    for _ in range(3):
        x, z = (x * x - z * z) ** 2 % P, 4 * x * z * (x * x + J * x * z + z * z) % P
    point = x * pow(z, -1, P) % P
    assert f"{point:x}" == "1bb913f0c9daefa0b3375378ffa534bda5526c97391952a7789eb976edfe4d08"


@vectorised
def test_encoding_is_the_references(randomness: Any) -> None:
    core, session = engines.engine("curve25519"), randomness(16)
    found = labels(range(3000))
    points = core.encode(session, found)
    for label, point in zip(found[::7], points[::7], strict=True):
        u = int.from_bytes(expand(label.tobytes(), domain(session), 48), "big") % P
        assert elligator(u).to_bytes(32, "little") == point.tobytes()


@vectorised
def test_the_ladder_is_cryptographys_bit_for_bit(randomness: Any) -> None:
    """X25519 clamps, so keys are chosen that clamping leaves alone."""
    core = engines.engine("curve25519")
    points = core.encode(randomness(16), labels(range(2500)))
    for _ in range(3):
        key = bytearray(randomness(32))
        key[0] &= 248
        key[31] = key[31] & 127 | 64
        ours = core.multiply(bytes(key), points)
        for point, product in zip(points, ours, strict=True):
            assert x25519(bytes(key), point.tobytes()) == product.tobytes()


@vectorised
def test_the_ladder_gives_the_vector_of_rfc_7748() -> None:
    """5.2, the first one; its scalar clamped as decodeScalar25519 does."""
    key = bytearray.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    key[0] &= 248
    key[31] = key[31] & 127 | 64
    u = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    product = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    core = engines.engine("curve25519")
    assert core.multiply(bytes(key), rows(u)).tobytes().hex() == product


@vectorised
def test_thousand_ladders_of_rfc_7748() -> None:
    """5.2: k, u := X25519(k, u), k, started at 9; after 1,000 turns."""
    core = engines.engine("curve25519")
    k = u = bytes([9]) + bytes(31)
    for _ in range(1000):
        key = bytearray(k)
        key[0] &= 248
        key[31] = key[31] & 127 | 64
        reduced = int.from_bytes(u, "little") % P
        try:
            product = core.multiply(bytes(key), rows(reduced.to_bytes(32, "little"))).tobytes()
        except ProtocolError:  # our engine refuses the twist, which the vector visits
            product = x25519(bytes(key), u)
        k, u = product, k
    assert k.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_ristretto_is_rfc_9496s() -> None:
    """A.1, small multiples of the generator; A.3, one of the hashes to the group."""
    core = engines.engine("ristretto255")
    generator = "e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76"
    five = "e882b131016b52c1d3337080187cf768423efccbb517bb495ab812c4160ff44e"
    scalar = (5).to_bytes(32, "little")
    assert core.multiply(scalar, rows(bytes.fromhex(generator))).tobytes().hex() == five
    import rbcl

    text = b"Ristretto is traditionally a short shot of espresso coffee"
    hashed = bytes(rbcl.crypto_core_ristretto255_from_hash(hashlib.sha512(text).digest()))
    assert hashed.hex() == "3066f82a1a747d45120d1740f14358531a8f04bbffe6a819f86dfe50f44a0a46"


@every
def test_blinding_commutes_and_can_be_taken_away(name: str, randomness: Any) -> None:
    core = engines.engine(name)
    points = core.encode(randomness(16), labels(range(600)))
    a, b = core.new_key(randomness), core.new_key(randomness)
    both = core.multiply(b, core.multiply(a, points))
    assert (both == core.multiply(a, core.multiply(b, points))).all()
    assert (core.multiply(core.inverse(a), both) == core.multiply(b, points)).all()
    assert len({row.tobytes() for row in core.tokens(both)}) == 600
    point = both[5].tobytes()
    assert (
        core.tokens(both)[5].tobytes() == (hashlib.sha512(point + engines.TOKEN_TAG).digest()[:12])
    )


@every
def test_sessions_and_labels_separate(name: str) -> None:
    core = engines.engine(name)
    first, again, other = (core.encode(s * 16, labels(range(20))) for s in (b"a", b"a", b"b"))
    assert (first == again).all()
    assert not (first == other).all(axis=1).any()


@every
@pytest.mark.parametrize("count", [0, 1, 7, 8, 1023, 1024, 1025])
def test_any_number_of_points(name: str, count: int, randomness: Any) -> None:
    core = engines.engine(name)
    points = core.encode(bytes(16), labels(range(count)))
    key = core.new_key(randomness)
    product = core.multiply(key, points)
    assert product.shape == (count, 32)
    assert core.tokens(product).shape == (count, 12)
    if count > 8:  # the same wherever an item stands in a batch
        assert (core.multiply(key, points[3:8]) == product[3:8]).all()


LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]
"""Points of low order, on the curve and the twist, canonical or not (Bernstein's list, RFC 7748, 6.1)."""


@vectorised
@pytest.mark.parametrize("point", LOW_ORDER)
@pytest.mark.parametrize("place", [0, 777, 1999])
def test_one_low_order_point_spoils_the_match(point: str, place: int, randomness: Any) -> None:
    core = engines.engine("curve25519")
    points = core.encode(bytes(16), labels(range(2000))).copy()
    points[place] = np.frombuffer(bytes.fromhex(point), np.uint8)
    with pytest.raises(ProtocolError):
        core.multiply(core.new_key(randomness), points)


@vectorised
def test_points_of_the_twist_are_refused_and_those_of_the_curve_are_not() -> None:
    core, source = engines.engine("curve25519"), stream(bytes(range(32)))
    key, seen = core.new_key(source), {True: 0, False: 0}
    for _ in range(60):
        x = int.from_bytes(source(32), "little") % P
        on_curve = pow(x**3 + J * x * x + x, (P - 1) // 2, P) == 1
        seen[on_curve] += 1
        point = rows(x.to_bytes(32, "little"))
        if on_curve:
            assert core.multiply(key, point).shape == (1, 32)
        else:
            with pytest.raises(ProtocolError):
                core.multiply(key, point)
    assert min(seen.values()) > 10


@vectorised
def test_numbers_above_p_and_the_top_bit_are_refused(randomness: Any) -> None:
    core = engines.engine("curve25519")
    key = core.new_key(randomness)
    for value in (P, P + 9, 2**255 - 1, (1 << 255) | 9):
        with pytest.raises(ProtocolError):
            core.multiply(key, rows(value.to_bytes(32, "little")))


@pytest.mark.parametrize("bad", [bytes(32), b"\xff" * 32, b"\x01" + bytes(31)])
def test_ristretto_refuses_identity_and_what_is_not_canonical(bad: bytes, randomness: Any) -> None:
    core = engines.engine("ristretto255")
    points = core.encode(bytes(16), labels(range(3))).copy()
    points[1] = np.frombuffer(bad, np.uint8)
    with pytest.raises(ProtocolError):
        core.multiply(core.new_key(randomness), points)


@vectorised
def test_keys_clear_the_cofactor_and_are_spread_over_the_order() -> None:
    core = engines.engine("curve25519")
    keys = [int.from_bytes(core.new_key(os.urandom), "little") for _ in range(200)]
    assert all(key % 8 == 0 and 0 < key < 2**255 for key in keys)
    # uniform over the order: half below its half. 200 draws, 6 deviations: false alarm 2e-9
    assert abs(sum(key // 8 < ORDER // 2 for key in keys) - 100) < 6 * 50**0.5
    # clamping would have set bit 254 of all of them
    assert any(key < 2**254 for key in keys)


@vectorised
def test_no_kernel_branches_on_anything_but_a_count() -> None:
    """The ladder's machine code has one conditional jump, its counter's; no kernel divides or looks
    anything up by a computed index of secret data (gathers)."""
    from privacy.matching import kernels

    text = kernels.listing()
    start = text.index("\nmultiple:")
    ladder = text[start : text.index(".size\tmultiple", start)]
    operations = [
        line.split()[0] for line in ladder.splitlines() if line.strip() and line[0] == "\t"
    ]
    jumps = [op for op in operations if op.startswith("j") and op != "jmp"]
    assert len(jumps) == 1
    assert operations.count("vpmadd52luq") > 100
    for forbidden in ("vpgather", "div", "call"):
        assert not any(op.startswith(forbidden) for op in operations)


def test_both_sides_take_the_first_engine_they_share() -> None:
    assert engines.agreed(("curve25519", "ristretto255"), ("ristretto255",)) == "ristretto255"
    assert engines.agreed(("ristretto255", "curve25519"), ("curve25519",)) == "curve25519"
    with pytest.raises(ProtocolError):
        engines.agreed(("curve25519",), ("ristretto255",))
    with pytest.raises(ProtocolError):
        engines.engine("fourq")
