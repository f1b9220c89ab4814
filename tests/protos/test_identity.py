from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import ConfigError
from protos import identity


@given(st.binary(max_size=100))
def test_base64_has_one_spelling(data: bytes) -> None:
    text = identity.encode(data)
    assert identity.decode(text) == data
    for other in (text + "\n", text + "=", text.rstrip("="), f" {text}"):
        if other != text:
            with pytest.raises(ValueError, match=r"."):
                identity.decode(other)


def test_a_second_spelling_is_no_second_party() -> None:
    """32 bytes leave two spare bits in the last letter: four texts would be the same key."""
    text = identity.encode(bytes(31) + b"\x01")
    assert text[-2:] == "E="
    for letter in "FGH":
        with pytest.raises(ConfigError, match="is not base64"):
            identity.decode_key(text[:-2] + letter + "=", "key")


def test_base64_is_bounded() -> None:
    with pytest.raises(ConfigError, match="is not base64"):
        identity.decode_key("A" * (1 << 20), "key")


def _openssh(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return key.public_key().public_bytes(*form).decode()


def test_node_keys_are_on_p384_and_a_comment_is_none_of_them() -> None:
    text = _openssh(ec.generate_private_key(ec.SECP384R1()))
    assert identity.read_node_key(text, "k") == identity.read_node_key(text + " \x1b[8m", "k")
    for other in (
        _openssh(ec.generate_private_key(ec.SECP256R1())),
        _openssh(ed25519.Ed25519PrivateKey.generate()),
        "",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp384 " + identity.encode(os.urandom(120)),
        text + "x" * 2000,
    ):
        with pytest.raises(ConfigError, match=r"^k: "):
            identity.read_node_key(other, "k")


@pytest.mark.parametrize(
    "text", ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^c: is not a certificate"):
        identity.read_certificate(text, "c")
