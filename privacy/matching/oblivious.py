"""Oblivious transfer: a few with public keys, then as many as wanted with symmetric ones.

Base transfers: Chou and Orlandi 2015, "The Simplest Protocol for Oblivious Transfer", section 3, in
ristretto255:

    S -> R   A = y G
    R -> S   B_i = x_i G + c_i A                     c_i: R's choice bits
    keys     R: H(i, A, B_i, x_i A)     S: k0 = H(i, A, B_i, y B_i), k1 = H(i, A, B_i, y (B_i - A))

Extension: Ishai, Kilian, Nissim, Petrank 2003; correlated as in Asharov, Lindell, Schneider, Zohner
2013, 5.4. Both are used against semi-honest parties.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from privacy.errors import ProtocolError
from privacy.matching.bits import Words, columns_to_rows
from privacy.matching.channel import Channel
from privacy.randomness import Randomness

KEY_BYTES = 16
WIDTH = 128
"""Base transfers behind an extension: the security parameter."""
START, CHOICES, CORRECTIONS, DIFFERENCES = 10, 11, 12, 13
"""Kinds of frames."""
BLOCK = 1 << 14
"""Transfers extended at once."""
_POINT = 32


def base_send(channel: Channel, count: int, randomness: Randomness) -> list[tuple[bytes, bytes]]:
    """S's part: two keys of 16 bytes for each transfer. Raises ProtocolError for a bad point."""
    rbcl = _libsodium()
    secret = _scalar(randomness)
    public = bytes(rbcl.crypto_scalarmult_ristretto255_base(secret))
    channel.send(START, 0, public)
    kind, index, data = channel.receive()
    if kind != CHOICES or index or len(data) != _POINT * count:
        raise ProtocolError("the choices of the base transfers have a wrong form")
    keys = []
    try:
        offset = bytes(rbcl.crypto_scalarmult_ristretto255(secret, public))
        for i in range(count):
            choice = data[_POINT * i : _POINT * (i + 1)]
            shared = bytes(rbcl.crypto_scalarmult_ristretto255(secret, choice))
            other = bytes(rbcl.crypto_core_ristretto255_sub(shared, offset))
            keys.append((_key(i, public, choice, shared), _key(i, public, choice, other)))
    except (RuntimeError, ValueError, TypeError):
        raise ProtocolError("a choice is not a point") from None
    return keys


def base_receive(channel: Channel, bits: NDArray[np.uint8], randomness: Randomness) -> list[bytes]:
    """R's part: the key of each transfer that its bit chooses."""
    rbcl = _libsodium()
    kind, index, public = channel.receive()
    if kind != START or index or len(public) != _POINT:
        raise ProtocolError("the start of the base transfers has a wrong form")
    keys, sent = [], bytearray()
    try:
        for i, bit in enumerate(bits.tolist()):
            secret = _scalar(randomness)
            point = bytes(rbcl.crypto_scalarmult_ristretto255_base(secret))
            moved = bytes(rbcl.crypto_core_ristretto255_add(point, public))
            choice = moved if bit else point
            shared = bytes(rbcl.crypto_scalarmult_ristretto255(secret, public))
            sent += choice
            keys.append(_key(i, public, choice, shared))
    except (RuntimeError, ValueError, TypeError):
        raise ProtocolError("the start of the base transfers is not a point") from None
    channel.send(CHOICES, 0, bytes(sent))
    return keys


class CorrelatedReceiver:
    """R of the extension: chooses with bits, gets m_j v_j + x_j; the sum of those is its share."""

    def __init__(self, channel: Channel, randomness: Randomness) -> None:
        self._channel = channel
        pairs = base_send(channel, WIDTH, randomness)
        self._zero = [_stream(pair[0]) for pair in pairs]
        self._one = [_stream(pair[1]) for pair in pairs]

    def share(self, choices: NDArray[np.bool_]) -> int:
        """This side's share, modulo 2^64, of the sum of chosen values."""
        total = 0
        for block, first in enumerate(range(0, len(choices), BLOCK)):
            part = choices[first : first + BLOCK]
            padded = np.zeros(-(-len(part) // 64) * 64, np.uint8)
            padded[: len(part)] = part
            wanted = np.packbits(padded, bitorder="little").view(np.uint64)
            zero = _columns(self._zero, len(padded))
            self._channel.send(
                CORRECTIONS, block, (zero ^ _columns(self._one, len(padded)) ^ wanted).tobytes()
            )
            kind, index, data = self._channel.receive()
            if kind != DIFFERENCES or index != block or len(data) != 8 * len(part):
                raise ProtocolError("a block of differences has a wrong form")
            masks = _hash(columns_to_rows(zero), first)[: len(part)]
            masks += np.where(part, np.frombuffer(data, "<u8"), 0).astype(np.uint64)
            total += int(masks.sum(dtype=np.uint64))
        return total % (1 << 64)


class CorrelatedSender:
    """S of the extension: gives values; the sum of x_j is what its share takes away."""

    def __init__(self, channel: Channel, randomness: Randomness) -> None:
        self._channel = channel
        self._bits = np.frombuffer(randomness(WIDTH), np.uint8) & np.uint8(1)
        keys = base_receive(channel, self._bits, randomness)
        self._streams = [_stream(key) for key in keys]

    def share(self, values: NDArray[np.int64]) -> int:
        """This side's share, modulo 2^64; the receiver's minus this one is the chosen values' sum."""
        total = 0
        secret = np.packbits(self._bits, bitorder="little").view(np.uint64)
        for block, first in enumerate(range(0, len(values), BLOCK)):
            part = values[first : first + BLOCK].view(np.uint64)
            size = -(-len(part) // 64) * 64
            kind, index, data = self._channel.receive()
            if kind != CORRECTIONS or index != block or len(data) != WIDTH * size // 8:
                raise ProtocolError("a block of corrections has a wrong form")
            sent = np.frombuffer(data, np.uint64).reshape(WIDTH, -1)
            columns = _columns(self._streams, size)
            columns ^= np.where(self._bits[:, None] == 1, sent, np.uint64(0))
            rows = columns_to_rows(columns)
            masks = _hash(rows, first)[: len(part)]
            other = _hash(rows ^ secret, first)[: len(part)]
            self._channel.send(DIFFERENCES, block, (masks + part - other).tobytes())
            total += int(masks.sum(dtype=np.uint64))
        return total % (1 << 64)


def _columns(streams: list[CipherContext], bits: int) -> Words:
    """The next ``bits`` bits of each stream as a column."""
    zeros = bytes(bits // 8)
    data = b"".join(stream.update(zeros) for stream in streams)
    return np.frombuffer(data, np.uint64).reshape(len(streams), -1).copy()


def _stream(key: bytes) -> CipherContext:
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()


_FIXED = Cipher(algorithms.AES(b"tallystick/v1/ot"), modes.ECB())  # noqa: S305 - a fixed permutation


def _hash(rows: Words, first: int) -> Words:
    """64 bits of pi(pi(x) + j) + pi(x) for row j: a tweakable circular correlation-robust hash from
    fixed-key AES (Guo, Katz, Wang, Yu 2020, section 7.4)."""
    once = np.frombuffer(_FIXED.encryptor().update(rows.tobytes()), np.uint64).reshape(-1, 2)
    tweaked = once.copy()
    tweaked[:, 0] ^= np.arange(first, first + len(rows), dtype=np.uint64)
    twice = np.frombuffer(_FIXED.encryptor().update(tweaked.tobytes()), np.uint64).reshape(-1, 2)
    return (twice ^ once)[:, 0].copy()


def _libsodium() -> Any:
    """Loaded when first needed: it unpacks a file, which every process that only reads job files
    would otherwise do too."""
    import rbcl

    return rbcl


def _scalar(randomness: Randomness) -> bytes:
    return bytes(_libsodium().crypto_core_ristretto255_scalar_reduce(randomness(64)))


def _key(index: int, public: bytes, choice: bytes, shared: bytes) -> bytes:
    text = b"tallystick/v1/base-ot" + index.to_bytes(4, "big") + public + choice + shared
    return hashlib.sha256(text).digest()[:KEY_BYTES]
