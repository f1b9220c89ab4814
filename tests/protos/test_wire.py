from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import ProtocolError, WireError
from protos import identity, wire

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
HEAD = wire.ReplyHeader(contract=b"c", job="j", partner="bank", run=1, message="m", node=7)


def test_ed25519_vector_of_rfc_8032_section_7_1() -> None:
    secret = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.public_key().public_bytes_raw().hex() == public


@given(st.binary(max_size=300))
def test_rubbish_is_a_wire_error_or_a_protocol_error(data: bytes) -> None:
    with pytest.raises((WireError, ProtocolError)):
        wire.open_request(data, PUBLIC)
    with pytest.raises((WireError, ProtocolError)):
        wire.open_reply(data, PUBLIC, HEAD)


def test_sizes_are_bounded() -> None:
    with pytest.raises(WireError, match="over 10 bytes"):
        wire.parse(wire.Envelope, bytes(11), 10)


def test_any_changed_byte_is_found() -> None:
    sealed = wire.seal_request(KEY, wire.Request(job="j", partner="bank"))
    assert wire.open_request(sealed, PUBLIC).partner == "bank"
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises((WireError, ProtocolError)):
            wire.open_request(bytes(changed), PUBLIC)


@pytest.mark.parametrize(
    "field", [{"run": 2}, {"message": "n"}, {"node": 8}, {"partner": "shop"}, {"job": "k"}]
)
def test_a_reply_is_bound_to_run_message_and_node(field: dict[str, object]) -> None:
    reply = wire.seal_reply(KEY, HEAD, b"")
    wire.open_reply(reply, PUBLIC, HEAD)
    other = wire.ReplyHeader()
    other.CopyFrom(HEAD)
    for name, value in field.items():
        setattr(other, name, value)
    with pytest.raises(ProtocolError):
        wire.open_reply(reply, PUBLIC, other)


def test_a_signature_of_one_kind_is_none_of_another() -> None:
    signed = wire.state(KEY, "bank", wire.JournalHead(sequence=1))
    assert wire.read_statement(wire.JournalHead, signed, PUBLIC).sequence == 1
    with pytest.raises(ProtocolError):
        wire.read_statement(wire.Lock, signed, PUBLIC)
    with pytest.raises(ProtocolError):
        identity.verify(PUBLIC, identity.REPLY, signed.body, signed.signature)
