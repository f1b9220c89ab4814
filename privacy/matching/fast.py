"""The fast lane: two-party intersection from a batched oblivious pseudo-random function.

Kolesnikov, Kumaresan, Rosulek, Trieu 2016 ("Efficient Batched Oblivious PRF with Applications to
Private Set Intersection", Figures 3 and 4), with 3-way cuckoo hashing without a stash (Pinkas, Schneider,
Zohner 2018, 1.27 bins an item). **Semi-honest only**, and without the second engine's protection
against a peer that deviates; the contract chooses it by ``engine = "fast"``.

    0. both     448 base transfers in ristretto255 (oblivious.py), S choosing with secret bits s
    1. R        puts each x into one of three bins; bin b holds code C(x), or random bits if empty
    2. R -> S   for column j: G(k0_j) + G(k1_j) + C_j         t_b = row b of the columns G(k0_j)
    3. S        q_b = t_b + C(x_b) s, bitwise; so F_b(y) = H(z, b, q_b + C(y) s) is t_b's for y = x_b
    4. S -> R   F_b(y) for each y and its bins b = h_z(y), z = 1, 2, 3, in S's secret order
    5. R        compares its H(z, b, t_b) with list z

C is AES under public keys, 448 bits wide (their table for up to 2^24 items); H is BLAKE2s-128, cut to
40 + log2 |X| + log2 |Y| bits: a false match among all items has probability 2^-40. Memory grows with the
sets (about 200 bytes an item at S); there is no resume, a broken match is a new job.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from privacy.errors import ProtocolError
from privacy.matching import oblivious
from privacy.matching.channel import Channel
from privacy.matching.engine import LABEL_BYTES, Array
from privacy.randomness import Randomness, keystream

WIDTH = 448
COLUMN_WORDS = WIDTH // 64
BLOCK = 1 << 16
"""Bins extended at once."""
FRAME_COLUMNS = 32
SALT, MASKED, LISTS = 24, 25, 26
"""Kinds of frames."""
LIST_BYTES = 1 << 18
HASHES = 3
Words = NDArray[np.uint64]


def available() -> bool:
    """Whether numba is installed: the extra ``fast``."""
    try:
        import numba
    except ImportError:
        return False
    return bool(numba.__version__)


@dataclass(frozen=True)
class Set:
    """Distinct labels, (n, 32), in a secret order, padded. ``rows``: those behind each label, one
    label after the other, ``starts`` (n + 1,) where each begins; -1 behind padding."""

    labels: Array
    rows: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        labels: Array,
        rows: NDArray[np.int64],
        key: bytes,
        padded: Callable[[int], int],
        randomness: Randomness,
    ) -> Set:
        """``labels`` in the order of AES under ``key`` (16 bytes), with random ones up to
        ``padded(distinct)``, which raises ParameterError where there are too many."""
        rank = _digests(labels, key + key)[:, 0]
        ranks = np.sort(rank)
        distinct = int(len(ranks) > 0) + int((ranks[1:] != ranks[:-1]).sum())
        missing = padded(distinct) - distinct
        if missing:
            extra = np.frombuffer(randomness(LABEL_BYTES * missing), np.uint8).reshape(missing, -1)
            labels = np.concatenate([labels, extra])
            rows = np.concatenate([rows, np.full(missing, -1, np.int64)])
            rank = np.concatenate([rank, _digests(extra, key + key)[:, 0]])
        order = np.argsort(rank, kind="stable")
        ranked = rank[order]
        first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
        starts = np.append(first, len(order)).astype(np.int64)
        return cls(labels.take(order[first], axis=0), rows.take(order), starts)

    def rows_of(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """All rows behind the chosen labels, padding left out."""
        found = self.rows[np.repeat(chosen, np.diff(self.starts))]
        return found[found >= 0]


def bins_for(items: int) -> int:
    """Bins for a public number of items, a multiple of 64."""
    return -(-(math.ceil(1.27 * items) + 128) // 64) * 64


def token_bytes(mine: int, theirs: int) -> int:
    """Bytes of a value that is compared, 8 to 16: 40 bits of safety above the number of pairs."""
    bits = 40 + math.log2(max(2, mine)) + math.log2(max(2, theirs))
    return min(16, max(8, math.ceil(bits / 8)))


def receive(
    channel: Channel,
    own: Set,
    theirs: int,
    randomness: Randomness,
    progress: Callable[[int], None] = lambda _: None,
) -> NDArray[np.bool_]:
    """R's part: which labels the other side has too, (n,). Raises ProtocolError."""
    from privacy.matching import fast_kernels as kernels

    items, bins = len(own.labels), bins_for(len(own.labels))
    salt = _agree(channel, randomness, first=True)
    digests = _digests(own.labels, salt)
    places = kernels.positions(digests, bins)
    table, which, failed = kernels.cuckoo(places, bins)
    if failed:  # under 2^-40
        raise ProtocolError("the table did not fill")
    pairs = oblivious.base_send(channel, WIDTH, randomness)
    zero, one = ([_stream(pair[i]) for pair in pairs] for i in (0, 1))
    width = token_bytes(items, theirs)
    values = np.zeros((items, 2), np.uint64)
    lists = np.zeros(items, np.uint8)
    frame = 0
    for first in range(0, bins, BLOCK):
        count = min(BLOCK, bins - first)
        size = -(-count // 64) * 64
        filled = table[first : first + count]
        codes = np.frombuffer(keystream(randomness(32), 8 * COLUMN_WORDS * size), np.uint64)
        codes = codes.reshape(size, COLUMN_WORDS).copy()
        held = np.flatnonzero(filled >= 0)
        item = filled[held]
        codes[held] = _codes(digests[item], salt)
        t = _columns(zero, size)
        masked = kernels.rows_to_columns(codes)
        masked ^= t
        masked ^= _columns(one, size)
        for start in range(0, WIDTH, FRAME_COLUMNS):
            channel.send(MASKED, frame, masked[start : start + FRAME_COLUMNS].tobytes())
            frame += 1
        rows = kernels.columns_to_rows(t)
        where = (held + first).astype(np.int64)
        values[item] = kernels.hash_rows(rows, held, where, which[where], width)
        lists[item] = which[where]
        progress(count)
    matched = np.zeros(items, np.bool_)
    mine = [np.flatnonzero(lists == z) for z in range(HASHES)]
    index = 0
    for z in range(HASHES):
        table_of = kernels.Lookup(values[mine[z]])
        found = np.zeros(len(mine[z]), np.uint8)
        for start in range(0, theirs, LIST_BYTES // 16):
            count = min(LIST_BYTES // 16, theirs - start)
            kind, at, data = channel.receive()
            if kind != LISTS or at != index or len(data) != count * width:
                raise ProtocolError("a list has a wrong form")
            index += 1
            table_of.mark(kernels.widen(data, count, width), found)
        matched[mine[z][found > 0]] = True
    return matched


def send(
    channel: Channel,
    own: Set,
    theirs: int,
    randomness: Randomness,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """S's part. Raises ProtocolError."""
    from privacy.matching import fast_kernels as kernels

    bins = bins_for(theirs)
    salt = _agree(channel, randomness, first=False)
    choices = np.frombuffer(randomness(WIDTH), np.uint8) & np.uint8(1)
    keys = oblivious.base_receive(channel, choices, randomness)
    streams = [_stream(key) for key in keys]
    matrix = np.empty((-(-bins // 64) * 64, COLUMN_WORDS), np.uint64)
    frame = 0
    for first in range(0, bins, BLOCK):
        size = -(-min(BLOCK, bins - first) // 64) * 64
        columns = _columns(streams, size)
        for start in range(0, WIDTH, FRAME_COLUMNS):
            kind, at, data = channel.receive()
            if kind != MASKED or at != frame or len(data) != FRAME_COLUMNS * size // 8:
                raise ProtocolError("masked columns have a wrong form")
            frame += 1
            part = np.frombuffer(data, np.uint64).reshape(FRAME_COLUMNS, -1)
            kernels.add_chosen(
                columns[start : start + FRAME_COLUMNS], part, choices[start : start + FRAME_COLUMNS]
            )
        matrix[first : first + size] = kernels.columns_to_rows(columns)
        progress(size)
    secret = np.packbits(choices, bitorder="little").view(np.uint64)
    digests = _digests(own.labels, salt)
    codes = _codes(digests, salt)
    codes &= secret
    places = kernels.positions(digests, bins)
    width = token_bytes(theirs, len(own.labels))
    index = 0
    for z in range(HASHES):
        for start in range(0, len(own.labels), LIST_BYTES // 16):
            stop = min(start + LIST_BYTES // 16, len(own.labels))
            values = kernels.hash_items(
                matrix, np.ascontiguousarray(places[start:stop, z]), codes[start:stop], z, width
            )
            channel.send(LISTS, index, values.view(np.uint8)[:, :width].tobytes())
            index += 1


def _agree(channel: Channel, randomness: Randomness, *, first: bool) -> bytes:
    """A public salt that neither side chose alone: 32 bytes."""
    mine = randomness(32)
    if first:
        channel.send(SALT, 0, mine)
    kind, index, theirs = channel.receive()
    if kind != SALT or index or len(theirs) != 32:
        raise ProtocolError("the salt has a wrong form")
    if not first:
        channel.send(SALT, 0, mine)
    both = mine + theirs if first else theirs + mine
    return hashlib.sha256(b"tallystick/v1/fast" + both).digest()


def _digests(labels: Array, key: bytes) -> Words:
    """(n, 2): AES-CBC-MAC of each 32-byte label under two keys, for labels of one length."""
    data = np.ascontiguousarray(labels).view(np.uint64).reshape(-1, 4)
    inner = _aes(key[:16], np.ascontiguousarray(data[:, :2]))
    inner ^= data[:, 2:]
    return _aes(key[16:], inner)


def _codes(digests: Words, salt: bytes) -> Words:
    """C: 448 pseudo-random bits of each item."""
    codes = np.empty((len(digests), 8), np.uint64)
    for i in range(4):
        key = hashlib.sha256(salt + bytes([i])).digest()[:16]
        codes[:, 2 * i : 2 * i + 2] = _aes(key, digests)
    return np.ascontiguousarray(codes[:, :COLUMN_WORDS])


def _aes(key: bytes, blocks: Words) -> Words:
    if not len(blocks):
        return np.empty((0, 2), np.uint64)
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - single blocks
    out = np.empty(blocks.nbytes + 16, np.uint8)
    cipher.update_into(np.ascontiguousarray(blocks).data.cast("B"), out.data)
    return out[: blocks.nbytes].view(np.uint64).reshape(-1, 2)


def _stream(key: bytes) -> CipherContext:
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()


_ZEROS = np.zeros(BLOCK // 8, np.uint8)


def _columns(streams: list[CipherContext], bits: int) -> Words:
    """The next ``bits`` bits of each stream, as a row of words each."""
    size = bits // 8
    out = np.empty((len(streams), size + 16), np.uint8)
    for row, stream in zip(out, streams, strict=True):
        stream.update_into(_ZEROS[:size].data, row.data)
    return np.ascontiguousarray(out[:, :size]).view(np.uint64)


def warm() -> None:
    """Compile every loop, on next to nothing, so that the first match does not wait for it."""
    from privacy.matching import fast_kernels as kernels

    digests = np.arange(64, dtype=np.uint64).reshape(32, 2) * np.uint64(0x9E3779B97F4A7C15)
    places = kernels.positions(digests, 128)
    kernels.cuckoo(places, 128)
    rows = np.zeros((64, COLUMN_WORDS), np.uint64)
    columns = kernels.rows_to_columns(rows)
    kernels.columns_to_rows(columns)
    kernels.add_chosen(columns, columns.copy(), np.zeros(WIDTH, np.uint8))
    held = np.arange(4)
    kernels.hash_rows(rows, held, held, np.zeros(4, np.uint8), 10)
    values = kernels.hash_items(rows, np.zeros(4, np.int32), rows[:4], 0, 10)
    kernels.Lookup(values).mark(values, np.zeros(4, np.uint8))
