"""Shamir's secret sharing of 32-byte secrets (Shamir 1979) over the field of 2^521 - 1 elements.

Any ``threshold`` shares give the secret; fewer say nothing about it.
"""

from __future__ import annotations

from collections.abc import Mapping

from privacy.errors import ParameterError, ProtocolError
from privacy.randomness import Randomness

PRIME = (1 << 521) - 1
SHARE_BYTES = 66
SECRET_BYTES = 32


def split(secret: bytes, threshold: int, shares: int, randomness: Randomness) -> list[bytes]:
    """``shares`` shares of 66 bytes; the i-th (from 0) is the polynomial at i + 1.

    Raises ParameterError unless 1 <= threshold <= shares and the secret has 32 bytes.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= shares:
        raise ParameterError("secret sharing: wrong threshold or secret size")
    coefficients = [int.from_bytes(secret, "big")]
    # 80 bytes reduced modulo a 521-bit prime are within 2^-119 of uniform.
    coefficients += [int.from_bytes(randomness(80), "big") % PRIME for _ in range(threshold - 1)]
    result = []
    for x in range(1, shares + 1):
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * x + coefficient) % PRIME
        result.append(value.to_bytes(SHARE_BYTES, "big"))
    return result


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret from at least ``threshold`` shares, keyed by index from 0.

    With too few or altered shares the result is a wrong secret or ProtocolError; the caller
    checks it against a commitment.
    """
    if not shares:
        raise ProtocolError("no shares")
    points = {index + 1: int.from_bytes(data, "big") for index, data in shares.items()}
    if any(len(data) != SHARE_BYTES for data in shares.values()) or min(points) < 1:
        raise ProtocolError("a share is malformed")
    secret = 0
    for x, y in points.items():
        top, bottom = 1, 1
        for other in points:
            if other != x:
                top = top * other % PRIME
                bottom = bottom * (other - x) % PRIME
        secret = (secret + y * top * pow(bottom, -1, PRIME)) % PRIME
    if secret >> (8 * SECRET_BYTES):
        raise ProtocolError("the shares do not combine")
    return secret.to_bytes(SECRET_BYTES, "big")
