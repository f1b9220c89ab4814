"""Replies of a partner that deviates: any field of any message to its limits, signed by its own key."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

from client.gate import Delivery, Gate
from privacy.errors import WireError
from protos import wire
from server.rounds import Delivered
from simulations.alliances import Alliance

EVIL = "shop"
INSIDE = {
    "hello": (wire.SealingKey, wire.JournalHead),
    "prepared": (wire.Prepared,),
    "masked": (wire.MaskedDigest,),
    "unmask": (wire.Lock,),
    "finish": (wire.JournalHead,),
}
"""What a signed statement in each reply may hold."""
TEXTS = [
    "",
    "ghost",
    "bank",
    "shop\x1b[2J",
    "\u202e\x9b31m",
    "a" * 100_000,
    "{",
    "../../x",
    "0" * 32,
]


class BentTransport:
    """Calls gates in this process; what :data:`EVIL` says is bent, once in a job and half of the times after.
    ``rng`` None: nothing is bent. ``instead``: of what a match of its gate would be."""

    def __init__(self, alliance: Alliance, gates: Mapping[str, Gate], rng: Random | None) -> None:
        self._alliance, self._gates, self._rng, self._count = alliance, gates, rng, 0
        self._pool = ThreadPoolExecutor(len(gates))

    def exchange(self, envelopes: Mapping[str, bytes], timeout: float) -> dict[str, Delivered]:
        """The transport of :class:`server.rounds.Rounds`."""
        replies: dict[str, Any] = {}
        for name, envelope in envelopes.items():
            self._count += 1
            delivery = Delivery(1, f"m{self._count}", 1 + list(self._gates).index(name))
            replies[name] = (
                delivery,
                self._pool.submit(self._gates[name].handle, envelope, delivery),
            )
        found = {}
        for name, (delivery, future) in replies.items():
            data = future.result()
            if name == EVIL and self._rng is not None and self._rng.random() < 0.5:
                data = self._bend(data, self._rng)
            found[name] = Delivered(data, delivery.run, delivery.message, delivery.node)
        return found

    def _bend(self, data: bytes, rng: Random) -> bytes:
        if rng.random() < 0.05:
            return rng.choice([b"", b"\xff" * 50, data[:-1], data + data])
        reply = wire.parse(wire.Reply, data)
        body, header = (
            wire.parse(wire.ReplyBody, reply.body),
            wire.parse(wire.ReplyHeader, reply.header),
        )
        key = self._alliance.partners[EVIL].identity()
        if rng.random() < 0.1:
            body = wire.ReplyBody()
        elif rng.random() < 0.1:
            body = wire.ReplyBody(
                working=wire.Working(done=(1 << 64) - 1, total=rng.choice([0, 1]))
            )
        elif body.HasField("match") and rng.random() < 0.8:
            _figures(body.match, rng)
        else:
            for _ in range(rng.randint(1, 3)):
                self._shake(body, body.WhichOneof("body") or "", rng, key)
        return wire.seal_reply(key, header, wire.serialise(body))

    def _shake(self, message: Any, kind: str, rng: Random, key: Any) -> None:
        """Change one field, at any depth; a statement is opened, shaken, and signed again, or spoiled."""
        if isinstance(message, wire.Signed) and rng.random() < 0.7:
            for inside in INSIDE.get(kind, ()):
                try:
                    statement = wire.parse(inside, message.body)
                except WireError:
                    continue
                self._shake(statement, kind, rng, key)
                message.CopyFrom(wire.state(key, message.party, statement))
                return
        fields = list(message.DESCRIPTOR.fields)
        if isinstance(message, wire.ReplyBody):
            fields = [field for field in fields if field.name == kind]
        if not fields:
            return
        field = rng.choice(fields)
        if field.message_type is not None:
            value = getattr(message, field.name)
            inner = list(value) if _repeated(field) else [value]
            if inner and rng.random() < 0.85:
                self._shake(rng.choice(inner), kind, rng, key)
            elif _repeated(field) and inner and rng.random() < 0.5:
                value.extend(inner * rng.choice([1, 50]))
            else:
                message.ClearField(field.name)
            return
        found = _extreme(field, rng)
        if _repeated(field):
            del getattr(message, field.name)[rng.choice([0, 1]) :]
            getattr(message, field.name).extend([found] * rng.choice([0, 1, 3]))
        else:
            setattr(message, field.name, found)


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == 3


def _extreme(field: Any, rng: Random) -> Any:
    kinds = field
    if field.type in (kinds.TYPE_DOUBLE, kinds.TYPE_FLOAT):
        return rng.choice([float("nan"), float("inf"), -1.0, 1e308, 0.0, 5e-324])
    if field.type == kinds.TYPE_STRING:
        return rng.choice(TEXTS)
    if field.type == kinds.TYPE_BYTES:
        return rng.choice([b"", b"\xff\xff", bytes(31), bytes(32), rng.randbytes(100_000)])
    if field.type == kinds.TYPE_BOOL:
        return rng.random() < 0.5
    most = 32 if field.type in (kinds.TYPE_UINT32, kinds.TYPE_INT32) else 64
    signed = field.type in (kinds.TYPE_INT32, kinds.TYPE_INT64, kinds.TYPE_SINT64)
    top = (1 << (most - signed)) - 1
    return rng.choice([0, 1, top, top // 2, top // 2 + 1, 7])


def _figures(reply: Any, rng: Random) -> None:
    reply.is_receiver = rng.random() < 0.7
    reply.engine = rng.choice(
        ["curve25519", "\x9b31m\u202eok\x7f\x1b]0;x\x07", "e" * (1 << 22), ""]
    )
    del reply.figures[rng.choice([0, 1]) :]
    for _ in range(rng.choice([0, 1, 2, 40])):
        reply.figures.add(
            name=rng.choice(["size", "sum", "size\u202e\x9b2J", "x", ""]),
            value=rng.choice([1.0, float("nan"), float("inf"), -1e308]),
            deviation=rng.choice([1.0, float("nan"), -1.0, 0.0, float("inf")]),
        )
