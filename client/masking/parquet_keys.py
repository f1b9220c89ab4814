"""Encrypted Parquet (Parquet modular encryption, AES-256-GCM; footer and all columns).

Every file has data keys of its own, which the library draws; they are wrapped (RFC 3394) under a key
derived from the masking key, whose id stands in the file.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from client.masking.keys import KeyRing
from privacy.errors import ConfigError


def encryption(keys: KeyRing) -> Any:
    """Properties for a writer: the current key."""
    from pyarrow.parquet import encryption as pe

    settings = pe.EncryptionConfiguration(
        footer_key=keys.current.id, uniform_encryption=True, encryption_algorithm="AES_GCM_V1",
        data_key_length_bits=256, double_wrapping=False,
    )  # fmt: skip
    return _factory(keys).file_encryption_properties(pe.KmsConnectionConfig(), settings)


def decryption(keys: KeyRing) -> Any:
    """Properties for a reader: whichever key the file names."""
    from pyarrow.parquet import encryption as pe

    return _factory(keys).file_decryption_properties(pe.KmsConnectionConfig())


def _factory(keys: KeyRing) -> Any:
    from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
    from pyarrow.parquet import encryption as pe

    def derived(key_id: str) -> bytes:
        if key_id not in keys.keys:
            raise ConfigError("--keys", f"key {key_id} is not there; the file needs it")
        return keys.keys[key_id].derive("parquet", "", 32)

    class Wrapping(pe.KmsClient):  # type: ignore[misc]
        def __init__(self, settings: Any) -> None:
            pe.KmsClient.__init__(self)

        def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
            return base64.b64encode(aes_key_wrap(derived(master_key_identifier), key_bytes))

        def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
            try:
                return aes_key_unwrap(derived(master_key_identifier), base64.b64decode(wrapped_key))
            except (InvalidUnwrap, binascii.Error):
                raise ValueError("the key of the file cannot be unwrapped") from None

    return pe.CryptoFactory(Wrapping)
