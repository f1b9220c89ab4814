"""Bends messages field by field, and signs again what the attacker can sign.

A change that only breaks a signature is refused at the first check and shows nothing of what is behind it.
So a statement is opened, bent inside, and signed again with the key of the party that it names, if that
party colludes; of others only the outside can be bent. What is bent: bounds of numbers, lengths and
contents of bytes, names, how often a field is there, which of a choice, other messages' parts put in here.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from privacy.errors import WireError
from protos import wire

Signer = Callable[[str, Message], wire.Signed | None]
"""A statement by a party, or None if its key is not the attacker's."""

KINDS: dict[tuple[str, str], type[Message]] = {
    ("Prepare", "hellos"): wire.SealingKey,
    ("Release", "prepared"): wire.Prepared,
    ("Unmask", "masked"): wire.MaskedDigest,
    ("Unmask", "locks"): wire.Lock,
    ("Hello", "heads"): wire.JournalHead,
    ("Finish", "heads"): wire.JournalHead,
    ("SealingKey", "heads"): wire.JournalHead,
    ("Prepared", "head"): wire.JournalHead,
    ("Handshake", "heads"): wire.JournalHead,
    ("Hello", "calls"): wire.CallLogHead,
    ("SealingKey", "calls"): wire.CallLogHead,
    ("JournalHead", "calls"): wire.CallLogHead,
    ("ReplyBody", "hello"): wire.SealingKey,
    ("PreparedReply", "statement"): wire.Prepared,
    ("MaskedVector", "digest"): wire.MaskedDigest,
    ("UnmaskReply", "lock"): wire.Lock,
    ("FinishReply", "head"): wire.JournalHead,
}
"""What the statement in a field says."""
NAMES = (
    "", "bank", "shop", "telecom", "utility", "nobody", "coordinator", "BANK", "bank\0", "../bank", "b" * 33,
    "x" * 5000, "\u202eknab", "bank\x1b[2J", "b\u0430nk", "'; DROP TABLE jobs; --", "0" * 32, "f" * 32,
    "sum", "size", "total",
)  # fmt: skip
WHOLE = (0, 1, 2, 3, 63, 64, 127, 128, 255, 1000, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
LONG = (*WHOLE, 2**32, 2**40, 2**53, 2**62, 2**62 + 1, 2**63 - 1, 2**63, 2**64 - 1)
REAL = (
    0.0, -0.0, 1.0, -1.0, 1e-300, 5e-324, 1e300, -1e300, 1.7976931348623157e308, float("nan"), float("inf"),
    float("-inf"), 2.0**53, 8.0, 24.0,
)  # fmt: skip
LENGTHS = (0, 1, 7, 8, 15, 16, 31, 32, 33, 63, 64, 65, 255, 4096, 70_000)
POINTS = (
    bytes(32), b"\x01" + bytes(31), b"\xff" * 32,
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
)  # fmt: skip
"""Of small order on curve25519, or at its bounds."""
POOL = 24
"""Messages of a kind that are kept to be put in elsewhere."""
LARGEST_COPY = 1 << 20
"""Bytes that copies of one part may have together."""


class Mutator:
    """Bends messages as ``rng`` says; ``sign`` makes statements valid again."""

    def __init__(self, rng: Random, sign: Signer) -> None:
        self.rng, self.sign = rng, sign
        self._pool: dict[str, list[bytes]] = {}

    def remember(self, message: Message) -> None:
        """Keep an honest message's parts, to be used in others."""
        kept = self._pool.setdefault(message.DESCRIPTOR.name, [])
        kept.append(message.SerializeToString())
        del kept[:-POOL]
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                for part in value if field.is_repeated else [value]:
                    self.remember(part)

    def bend(self, message: Message, most: int = 3) -> None:
        """Up to ``most`` changes, in place."""
        for _ in range(self.rng.choice([1, 1, 1, 2, most])):
            self._one(message)

    # ------------------------------------------------------------------ messages

    def _one(self, message: Message) -> None:
        rng, fields = self.rng, message.DESCRIPTOR.fields
        present = [field for field, _ in message.ListFields()]
        if not fields or rng.random() < 0.01:
            message.MergeFromString(b"\xfa\x7f\x04rest")  # a field that this version does not know
            return
        field = rng.choice(present if present and rng.random() < 0.8 else fields)
        if field.is_repeated:
            self._repeated(message, field)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            self._part(message, field, getattr(message, field.name))
        else:
            setattr(message, field.name, self._scalar(field, getattr(message, field.name)))

    def _part(self, owner: Message, field: FieldDescriptor, part: Message) -> None:
        rng, kind = self.rng, part.DESCRIPTOR.name
        chance = rng.random()
        if chance < 0.08:
            part.Clear()
            part.SetInParent()
        elif chance < 0.18 and self._pool.get(kind):
            part.Clear()
            part.MergeFromString(rng.choice(self._pool[kind]))
        elif isinstance(part, wire.Signed):
            self._statement(part, KINDS.get((owner.DESCRIPTOR.name, field.name)))
        else:
            self._one(part)

    def _statement(self, signed: wire.Signed, kind: type[Message] | None) -> None:
        """Bend what is said, and sign it again; now and then leave the old signature."""
        if kind is None or self.rng.random() < 0.12:
            self._one(signed)
            return
        try:
            said = wire.parse(kind, signed.body)
        except WireError:
            self._one(signed)
            return
        if self.rng.random() < 0.03:
            said.Clear()
        self.bend(said, 2)
        again = self.sign(signed.party, said)
        if again is None or self.rng.random() < 0.05:
            signed.body = wire.serialise(said)
        else:
            signed.CopyFrom(again)

    # ------------------------------------------------------------------ fields

    def _repeated(self, owner: Message, field: FieldDescriptor) -> None:
        rng, held = self.rng, getattr(owner, field.name)
        is_message = field.type == FieldDescriptor.TYPE_MESSAGE
        chance = rng.random()
        if held and chance < 0.55:
            at = rng.randrange(len(held))
            if is_message:
                self._part(owner, field, held[at])
            else:
                held[at] = self._scalar(field, held[at])
        elif held and chance < 0.65:
            del held[rng.randrange(len(held))]
        elif held and chance < 0.70:
            del held[:]
        elif held and chance < 0.78:
            whole = list(held)
            rng.shuffle(whole)
            self._fill(held, whole, is_message)
        elif held and chance < 0.92:
            self._copies(held, rng.choice(list(held)), is_message)
        elif is_message:
            added = held.add()
            known = self._pool.get(added.DESCRIPTOR.name)
            if known and rng.random() < 0.7:
                added.MergeFromString(rng.choice(known))
        else:
            held.append(self._scalar(field, _default(field)))

    def _fill(self, held: Any, values: list[Any], is_message: bool) -> None:
        kept = [value.SerializeToString() for value in values] if is_message else values
        del held[:]
        for value in kept:
            if is_message:
                held.add().MergeFromString(value)
            else:
                held.append(value)

    def _copies(self, held: Any, one: Any, is_message: bool) -> None:
        size = one.ByteSize() if is_message else len(one) if isinstance(one, (bytes, str)) else 4
        many = self.rng.choice([1, 1, 1, 1, 2, 20, 300, 3000])
        for _ in range(min(many, LARGEST_COPY // (size + 2) + 1)):
            if is_message:
                held.add().CopyFrom(one)
            else:
                held.append(one)

    def _scalar(self, field: FieldDescriptor, value: Any) -> Any:
        rng = self.rng
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self.data(value)
        if field.type == FieldDescriptor.TYPE_STRING:
            return rng.choice(NAMES) if rng.random() < 0.8 else value[: rng.randint(0, len(value))]
        if field.type == FieldDescriptor.TYPE_BOOL:
            return not value
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return rng.choice([*REAL, -value, value * 2, value + 1e-9])
        bounds, most = (
            (WHOLE, 2**32) if field.type == FieldDescriptor.TYPE_UINT32 else (LONG, 2**64)
        )
        if rng.random() < 0.4:
            return (value + rng.choice([-86_400 * 3, -2, -1, 1, 2, 1000])) % most
        return rng.choice(bounds)

    def data(self, value: bytes) -> bytes:
        """Other bytes than ``value``: a bit, its length, a point, something random."""
        rng, chance = self.rng, self.rng.random()
        if value and chance < 0.35:
            bent = bytearray(value)
            for _ in range(rng.choice([1, 1, 1, 4])):
                bent[rng.randrange(len(bent))] ^= 1 << rng.randrange(8)
            return bytes(bent)
        if value and chance < 0.5:
            return value[: rng.randrange(len(value))]
        if chance < 0.6:
            return value + rng.randbytes(rng.choice([1, 8, 32]))
        if chance < 0.7:
            return rng.choice(POINTS)
        if chance < 0.8:
            return bytes(rng.choice(LENGTHS))
        if chance < 0.81:
            return bytes(rng.choice([1 << 19, 3 << 19]))
        if value and chance < 0.86:
            at = rng.randrange(len(value))
            return value[:at] + value[at + rng.choice([1, 8]) :]
        if value and chance < 0.9:
            return value * 2
        return rng.randbytes(rng.choice(LENGTHS[:13]))


def _default(field: FieldDescriptor) -> Any:
    return {FieldDescriptor.TYPE_BYTES: b"", FieldDescriptor.TYPE_STRING: ""}.get(field.type, 0)


def raw(rng: Random, data: bytes) -> bytes:
    """Bytes that are bent without regard to what they mean."""
    bent = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at, chance = rng.randrange(len(bent) + 1), rng.random()
        if bent and chance < 0.4:
            bent[at % len(bent)] ^= 1 << rng.randrange(8)
        elif bent and chance < 0.55:
            bent[at % len(bent)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
        elif chance < 0.7:
            del bent[at : at + rng.choice([1, 1, 2, 8, 200])]
        elif chance < 0.85:
            bent[at:at] = rng.randbytes(rng.choice([1, 1, 2, 8]))
        elif bent:
            start = rng.randrange(len(bent))
            bent[at:at] = bent[start : start + rng.choice([2, 8, 40])]
    return bytes(bent)
