"""Bytes to values and back, with size bounds. The one importer of the generated messages.

Message classes are re-exported for annotation and construction; parsing goes through
:func:`parse`, signing and checking through the functions below.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import DecodeError, Message

from privacy.errors import ProtocolError, WireError
from protos import identity
from protos.v1.tallystick_pb2 import (
    Anchor,
    CallLogHead,
    Cancel,
    Envelope,
    Figure,
    Finish,
    FinishReply,
    Handshake,
    Held,
    Hello,
    JournalHead,
    Lock,
    MaskedDigest,
    MaskedReply,
    MaskedVector,
    Match,
    MatchFrame,
    MatchOpening,
    MatchReply,
    OpenedShare,
    Prepare,
    Prepared,
    PreparedReply,
    Refusal,
    Release,
    Reply,
    ReplyBody,
    ReplyHeader,
    Request,
    SealingKey,
    Share,
    Signed,
    Status,
    Total,
    Unmask,
    UnmaskReply,
    Working,
)

__all__ = [
    "Anchor",
    "CallLogHead",
    "Cancel",
    "Envelope",
    "Figure",
    "Finish",
    "FinishReply",
    "Handshake",
    "Held",
    "Hello",
    "JournalHead",
    "Lock",
    "MaskedDigest",
    "MaskedReply",
    "MaskedVector",
    "Match",
    "MatchFrame",
    "MatchOpening",
    "MatchReply",
    "OpenedShare",
    "Prepare",
    "Prepared",
    "PreparedReply",
    "Refusal",
    "Release",
    "Reply",
    "ReplyBody",
    "ReplyHeader",
    "Request",
    "SealingKey",
    "Share",
    "Signed",
    "Status",
    "Total",
    "Unmask",
    "UnmaskReply",
    "Working",
]

LARGEST_MESSAGE = 64 << 20
"""Bytes of one envelope or reply."""
LARGEST_REQUEST = 24 << 20
LARGEST_STATEMENT = 1 << 20
MOST_FIELDS = 210_000
"""Of a request and its body: with 200 partners and 1000 releases a message has so many shares at most."""
FIRST_BODY = 10
"""The number of the first field that is a body."""

M = TypeVar("M", bound=Message)


class NotSignedError(ProtocolError):
    """A reply that the partner's key did not sign: by somebody else, or under another contract's key."""


class BadBodyError(WireError):
    """A reply that the partner signed for this very message, with a body that does not parse."""


@dataclass(frozen=True)
class Opened:
    """A reply signed by the partner and bound to run, message, node and partner.

    ``same_contract`` and ``same_job``: whether its header names them as asked. Where either does not, the
    body is a refusal.
    """

    body: ReplyBody
    same_contract: bool = True
    same_job: bool = True


def parse(kind: type[M], data: bytes, limit: int = LARGEST_MESSAGE) -> M:
    """Parse bytes from outside. Raises WireError if they are too many or do not parse."""
    if len(data) > limit:
        raise WireError(f"{kind.DESCRIPTOR.name}: over {limit} bytes")
    try:
        return kind.FromString(data)
    except DecodeError:
        raise WireError(f"{kind.DESCRIPTOR.name}: does not parse") from None


def serialise(message: Message) -> bytes:
    """Deterministic bytes of a message."""
    return message.SerializeToString(deterministic=True)


def seal_request(key: Ed25519PrivateKey, request: Request) -> bytes:
    """A request as a signed envelope."""
    body = serialise(request)
    return serialise(Envelope(request=body, signature=identity.sign(key, identity.ENVELOPE, body)))


def open_request(data: bytes, coordinator: bytes) -> Request:
    """The request in an envelope. Raises WireError, or ProtocolError for a bad signature."""
    envelope = parse(Envelope, data, LARGEST_REQUEST)
    identity.verify(coordinator, identity.ENVELOPE, envelope.request, envelope.signature)
    _check_fields(envelope.request, FIRST_BODY)
    return parse(Request, envelope.request)


def _check_fields(data: bytes, first_body: int) -> None:
    """Bound the fields of a request or reply and of its body before they become objects, each of which takes
    far more memory than its two bytes. Raises WireError."""
    left = MOST_FIELDS
    whole = [data]
    for part in whole:
        at = 0
        while at < len(part):
            left -= 1
            if left < 0:
                raise WireError("message: too many fields")
            tag, at = _varint(part, at)
            if tag & 7 == 2:
                size, at = _varint(part, at)
                if part is data and tag >> 3 >= first_body:
                    whole.append(part[at : at + size])
                at += size
            elif tag & 7 == 0:
                _, at = _varint(part, at)
            elif tag & 7 in (1, 5):
                at += 8 if tag & 7 == 1 else 4
            else:  # groups would hide what comes after them
                raise WireError("message: does not parse")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
    raise WireError("message: does not parse")


def seal_reply(key: Ed25519PrivateKey, header: ReplyHeader, body: bytes) -> bytes:
    """A stored body under a freshly signed header; fills in the body's digest."""
    header.body = hashlib.sha256(body).digest()
    head = serialise(header)
    return serialise(
        Reply(header=head, body=body, signature=identity.sign(key, identity.REPLY, head))
    )


def open_reply(data: bytes, partner: bytes, expected: ReplyHeader) -> ReplyBody:
    """The body of a reply that must be bound to ``expected`` (its body digest is computed here).

    Raises WireError if it does not parse, ProtocolError if signature, contract, job, partner, run,
    message, node or body differ.
    """
    opened = open_any_reply(data, partner, expected)
    if not opened.same_contract or not opened.same_job:
        raise ProtocolError("a reply is bound to another contract or job")
    return opened.body


def open_any_reply(data: bytes, partner: bytes, expected: ReplyHeader) -> Opened:
    """Like :func:`open_reply`, but takes a refusal that names another contract, or no job.

    A gate that holds another contract, or that could not tell which job was meant, has nothing else to put
    there; its signature and the binding to run, message and node still say whose answer to what it is. What
    a partner gains by lying there is that the job fails, which it may have by any refusal.

    Raises WireError if it does not parse, NotSignedError if the partner's key did not sign it, ProtocolError
    for any other difference, BadBodyError where everything fits but the body does not parse.
    """
    reply = parse(Reply, data)
    try:
        identity.verify(partner, identity.REPLY, reply.header, reply.signature)
    except ProtocolError:
        raise NotSignedError("a reply is not signed with the partner's key") from None
    header = parse(ReplyHeader, reply.header, 4096)
    same_contract, same_job = header.contract == expected.contract, header.job == expected.job
    wanted = ReplyHeader()
    wanted.CopyFrom(expected)
    wanted.body = hashlib.sha256(reply.body).digest()
    wanted.contract = header.contract
    if not header.job:
        wanted.job = ""
    if serialise(header) != serialise(wanted):
        raise ProtocolError("a reply is bound to another message")
    try:
        _check_fields(reply.body, 1)
        body = parse(ReplyBody, reply.body)
    except WireError as error:
        raise BadBodyError(str(error)) from None
    if not (same_contract and same_job) and body.WhichOneof("body") != "refusal":
        raise ProtocolError("a reply is bound to another contract or job")
    return Opened(body, same_contract, same_job)


def state(key: Ed25519PrivateKey, party: str, message: Message) -> Signed:
    """A signed statement; its type is part of what is signed."""
    body = serialise(message)
    domain = identity.STATEMENT + message.DESCRIPTOR.name.encode()
    return Signed(party=party, body=body, signature=identity.sign(key, domain, body))


def read_statement(kind: type[M], signed: Signed, public: bytes) -> M:
    """Check and parse a statement. Raises ProtocolError or WireError."""
    domain = identity.STATEMENT + kind.DESCRIPTOR.name.encode()
    identity.verify(public, domain, signed.body, signed.signature)
    return parse(kind, signed.body, LARGEST_STATEMENT)


def digest_statements(statements: Iterable[Signed]) -> bytes:
    """SHA-256 over parties and bodies in order of party: the transcript of a round."""
    digest = hashlib.sha256(b"tallystick/v1/statements")
    for signed in sorted(statements, key=lambda s: s.party):
        for part in (signed.party.encode(), signed.body):
            digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()


def digest_shares(shares: Iterable[Share]) -> bytes:
    """SHA-256 over sealed shares in order of release and receiver."""
    digest = hashlib.sha256(b"tallystick/v1/shares")
    for share in sorted(shares, key=lambda s: (s.index, s.receiver)):
        part = serialise(share)
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()
