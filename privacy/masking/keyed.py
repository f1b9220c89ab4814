"""Masks under a key: HMAC (for joins), AES-SIV tokens (reversible), FF1 (reversible, same form).

One key for each column and use, by HKDF (RFC 5869) from a 32-byte master key; every token begins with
the master key's id, ``1a2b3c4d.``, so that a rotation can be seen and undone. Equal values have equal
tokens: that is what they are for, and what frequency analysis uses against them.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping

import numpy as np
import polars as pl
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.errors import ParameterError
from privacy.identifiers.text import matrix, put
from privacy.masking import ff1

KEY_BYTES = 32


class MasterKey:
    """32 secret bytes that nothing prints. ``id``: eight hexadecimal digits, public."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ParameterError("a masking key has 32 bytes")
        self._secret = secret
        self.id = self.derive("key id", "", 4).hex()

    def __repr__(self) -> str:
        return f"MasterKey({self.id})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MasterKey) and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self.id)

    def derive(self, use: str, domain: str, size: int) -> bytes:
        """Key for one use and one domain of values, ``size`` bytes."""
        info = f"tallystick/v1/mask/{use}/{domain}".encode()
        return HKDF(algorithm=SHA256(), length=size, salt=None, info=info).derive(self._secret)

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a masking key is never serialised")


def hmacs(values: pl.Series, key: MasterKey, domain: str) -> pl.Series:
    """``id.`` and 64 hexadecimal digits of HMAC-SHA256 (RFC 2104), null for null.

    The HMAC key is the text of 64 hexadecimal digits of the derived key: one block of SHA-256.
    """
    try:
        import polars_hash as plh
    except ImportError:
        raise ParameterError("hmac needs the extra: pip install 'tallystick[mask]'") from None
    text = key.derive("hmac", domain, 32).hex()
    column = values.to_frame("v").select(plh.col("v").chash.hmac_sha256(key=text))
    return f"{key.id}." + column["v"]


def tokens(values: pl.Series, key: MasterKey, domain: str) -> pl.Series:
    """``id.`` and base64url of AES-256-SIV (RFC 5297), deterministic; null for null."""
    cipher, about = AESSIV(key.derive("token", domain, 64)), [domain.encode(), key.id.encode()]
    encode, head = base64.urlsafe_b64encode, f"{key.id}."
    found = [
        None if text is None else head + encode(cipher.encrypt(text.encode(), about)).decode()
        for text in values.to_list()
    ]
    return pl.Series(found, dtype=pl.String)


def opened(
    values: pl.Series, keys: Mapping[str, MasterKey], domain: str, before: int = 0
) -> pl.Series:
    """Inverse of :func:`tokens` for tokens of any of ``keys``, by id. ``before``: rows of the table before
    these.

    Raises ParameterError that names a row, never a token: an unknown key, or an altered token.
    """
    ciphers = {i: AESSIV(key.derive("token", domain, 64)) for i, key in keys.items()}
    found: list[str | None] = []
    for row, token in enumerate(values.to_list(), start=before):
        if token is None:
            found.append(None)
            continue
        key_id, _, text = token.partition(".")
        if key_id not in ciphers:
            raise ParameterError(
                f"row {row + 1}: no key for this token; add the key it was made with"
            )
        try:
            data = base64.urlsafe_b64decode(text)
            plain = ciphers[key_id].decrypt(data, [domain.encode(), key_id.encode()])
        except (InvalidTag, binascii.Error, ValueError):
            raise ParameterError(
                f"row {row + 1}: the token was altered, or is of another column"
            ) from None
        found.append(plain.decode())
    return pl.Series(found, dtype=pl.String)


def enciphered(values: pl.Series, key: MasterKey, domain: str, *, back: bool = False) -> pl.Series:
    """Digits replaced by digits (FF1), everything else left in place; null for null and where there
    are fewer than six digits or more than 32. ``back``: the inverse."""
    run = ff1.decrypt if back else ff1.encrypt
    secret, tweak = key.derive("ff1", domain, 32), domain.encode()[:64]
    digits = values.str.replace_all("[^0-9]", "")
    lengths = digits.str.len_bytes()
    result = pl.Series([None], dtype=pl.String).new_from_index(0, len(values))
    for length in lengths.drop_nulls().unique().to_list():
        if not ff1.SHORTEST <= length <= ff1.LONGEST:
            continue
        chosen = (lengths == length).fill_null(value=False)
        made = run(secret, tweak, matrix(digits.filter(chosen), length) - np.uint8(48))
        texts = pl.Series([row.tobytes().decode() for row in made + np.uint8(48)], dtype=pl.String)
        result = put(result, chosen.arg_true(), _placed(values.filter(chosen), texts))
    return result


def _placed(values: pl.Series, digits: pl.Series) -> pl.Series:
    """``digits`` in the places where ``values`` have digits."""
    if bool((values.str.len_bytes() == digits.str.len_bytes()).all()):
        return digits
    found = []
    for text, new in zip(values.to_list(), digits.to_list(), strict=True):
        source = iter(new)
        found.append("".join(next(source) if "0" <= c <= "9" else c for c in text))
    return pl.Series(found, dtype=pl.String)
