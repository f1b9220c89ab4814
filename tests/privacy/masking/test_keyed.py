from __future__ import annotations

import copy
import hashlib
import hmac
import pickle

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import ParameterError
from privacy.masking import ff1
from privacy.masking.keyed import MasterKey, enciphered, hmacs, opened, tokens
from privacy.masking.transform import Column, Transform, apply
from privacy.randomness import stream

KEY = MasterKey(bytes(range(32)))
OTHER = MasterKey(bytes(32))
AES = "2B7E151628AED2A6ABF7158809CF4F3CEF4359D8D580AA4F7F036D6F04FC6A94"
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def _digits(text: str) -> ff1.Digits:
    return np.array([[ALPHABET.index(c) for c in text]], np.uint8)


@pytest.mark.parametrize(
    ("size", "radix", "tweak", "plain", "cipher"),
    [
        (16, 10, "", "0123456789", "2433477484"),
        (16, 10, "39383736353433323130", "0123456789", "6124200773"),
        (16, 36, "3737373770717273373737", "0123456789abcdefghi", "a9tv40mll9kdu509eum"),
        (24, 10, "", "0123456789", "2830668132"),
        (24, 10, "39383736353433323130", "0123456789", "2496655549"),
        (24, 36, "3737373770717273373737", "0123456789abcdefghi", "xbj3kv35jrawxv32ysr"),
        (32, 10, "", "0123456789", "6657667009"),
        (32, 10, "39383736353433323130", "0123456789", "1001623463"),
        (32, 36, "3737373770717273373737", "0123456789abcdefghi", "xs8a0azh2avyalyzuwd"),
    ],
)
def test_ff1_samples_of_nist(size: int, radix: int, tweak: str, plain: str, cipher: str) -> None:
    """SP 800-38G, FF1samples.pdf, 1 to 9."""
    key, aside = bytes.fromhex(AES)[:size], bytes.fromhex(tweak)
    assert (ff1.encrypt(key, aside, _digits(plain), radix) == _digits(cipher)).all()
    assert (ff1.decrypt(key, aside, _digits(cipher), radix) == _digits(plain)).all()


@given(st.integers(6, 32), st.binary(max_size=40), st.integers(0, 10**9))
def test_ff1_is_a_permutation(length: int, tweak: bytes, seed: int) -> None:
    digits = np.random.default_rng(seed).integers(0, 10, (16, length), dtype=np.uint8)
    once = ff1.encrypt(bytes(32), tweak, digits)
    assert once.shape == digits.shape
    assert once.max() <= 9
    assert (ff1.decrypt(bytes(32), tweak, once) == digits).all()


@pytest.mark.parametrize("length", [1, 5, 33])
def test_ff1_domains_that_are_too_small_or_too_large(length: int) -> None:
    with pytest.raises(ParameterError, match="FF1"):
        ff1.encrypt(bytes(32), b"", np.zeros((1, length), np.uint8))


def test_hmacs_are_hmacs() -> None:
    values = pl.Series(["+8613812341234", None, "张三"])
    secret = KEY.derive("hmac", "phone", 32).hex().encode()
    expected = [
        None
        if v is None
        else f"{KEY.id}.{hmac.new(secret, v.encode(), hashlib.sha256).hexdigest()}"
        for v in values
    ]
    assert hmacs(values, KEY, "phone").to_list() == expected
    assert hmacs(values, KEY, "other")[0] != expected[0]
    assert hmacs(values, OTHER, "phone")[0] != expected[0]


@given(st.lists(st.text(min_size=1, max_size=30) | st.none(), min_size=1, max_size=10))
def test_tokens_open_again(texts: list[str | None]) -> None:
    values = pl.Series(texts, dtype=pl.String)
    made = tokens(values, KEY, "phone")
    assert opened(made, {KEY.id: KEY, OTHER.id: OTHER}, "phone").to_list() == texts
    assert all(t is None or t.startswith(f"{KEY.id}.") for t in made)
    assert tokens(values, KEY, "phone").to_list() == made.to_list()


def test_tokens_that_do_not_open() -> None:
    made = tokens(pl.Series([None, "13812341234"]), KEY, "phone")
    altered = made.str.slice(0, 20) + "AAAA" + made.str.slice(24)
    for values, keys, domain, reason in (
        (made, {OTHER.id: OTHER}, "phone", "row 2: no key"),
        (altered, {KEY.id: KEY}, "phone", "row 2: the token was altered"),
        (made, {KEY.id: KEY}, "email", "altered, or is of another column"),
        (pl.Series(["x", "y"]), {KEY.id: KEY}, "phone", "row 1: no key"),
    ):
        with pytest.raises(ParameterError, match=reason) as error:
            opened(values, keys, domain)
        assert "138" not in str(error.value)


def test_digits_enciphered_keep_their_form() -> None:
    values = pl.Series(
        ["+8613812341234", "11010519491231002X", "12345", None, "GB82WEST12345698765432"]
    )
    made = enciphered(values, KEY, "any")
    assert made[2] is None
    assert made[3] is None
    for before, after in zip(values, made, strict=True):
        if after is not None:
            assert len(after) == len(before)
            assert [c.isdigit() for c in after] == [c.isdigit() for c in before]
            assert after != before
    back = enciphered(made, KEY, "any", back=True)
    assert back.to_list() == [*values[:2], None, None, values[4]]


def test_names_join_however_they_are_written() -> None:
    values = pl.Series(["John Smith", "Dr. john  SMITH, Jr.", "张三", "张 三先生", "12"])
    made, counts = apply(
        Column("n", "name", Transform("hmac"), "n"), values, KEY, stream(bytes(32))
    )
    assert made[0] == made[1] != made[2]
    assert made[2] == made[3]
    assert (made[4], counts.invalid) == (None, 1)
    token, _ = apply(Column("n", "name", Transform("token"), "n"), values, KEY, stream(bytes(32)))
    assert opened(token, {KEY.id: KEY}, "n")[0] == "John Smith"


def test_keys_do_not_show_themselves() -> None:
    secret = bytes(range(32))
    key = MasterKey(secret)
    for text in (repr(key), str(key), f"{key}", repr([key]), repr({"k": key})):
        assert secret.hex() not in text
        assert repr(secret) not in text
    for serialise in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="never serialised"):
            serialise(key)
    assert key == MasterKey(secret)
    assert key != OTHER
    with pytest.raises(ParameterError, match="32 bytes"):
        MasterKey(b"short")


def test_each_use_and_domain_has_its_own_key() -> None:
    derived = {
        KEY.derive(use, domain, 32) for use in ("hmac", "token", "ff1") for domain in ("a", "b")
    }
    assert len(derived) == 6


def test_the_key_of_one_domain_is_not_that_of_a_use() -> None:
    assert KEY.derive("a/b", "c", 32) != KEY.derive("a", "bc", 32)


@pytest.mark.parametrize("do", ["hmac", "token", "ff1"])
def test_what_is_invalid_has_no_token(do: str) -> None:
    column = Column("c", "phone", Transform(do), "c")
    values = pl.Series(["13812341234", "nothing", None, "", "138 1234 1234"])
    made, counts = apply(column, values, KEY, stream(bytes(32)))
    assert made.is_null().to_list() == [False, True, True, True, False]
    assert made[0] == made[4]
    assert (counts.values, counts.nulls, counts.invalid) == (4, 1, 2)
    with pytest.raises(ParameterError, match="needs a key"):
        apply(column, values, None, stream(bytes(32)))
