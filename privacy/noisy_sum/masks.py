"""Pairwise and self masks (Bonawitz et al. 2017, section 4), bound to roster, release and state.

    y_i = x_i + noise_i + PRF(b_i) + sum over j of +-PRF(HKDF(DH(m_i, m_j); transcript, r, H(state)))

modulo 2^64, plus towards the later party and minus towards the earlier. Summed over the whole
roster the pairwise terms cancel. A coordinator that shows two partners different rosters, releases
or states gets masks that do not cancel, hence noise.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.errors import ProtocolError
from privacy.noisy_sum.encoding import Ring
from privacy.randomness import keystream


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """32 bytes by HKDF-SHA256 (RFC 5869)."""
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(secret)


def public_key(private: bytes) -> bytes:
    """X25519 public key of a 32-byte private key (RFC 7748, 6.1)."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, public: bytes) -> bytes:
    """X25519 shared secret. Raises ProtocolError for a low-order or malformed public key."""
    try:
        peer = X25519PublicKey.from_public_bytes(public)
        return X25519PrivateKey.from_private_bytes(private).exchange(peer)
    except ValueError as error:
        raise ProtocolError("a public key is malformed or of low order") from error


def expand(key: bytes, length: int) -> Ring:
    """PRF of a key that is used once: ``length`` words of AES-256-CTR."""
    return np.frombuffer(keystream(key, 8 * length), dtype="<u8").astype(np.uint64)


def pairwise(
    private: bytes, public: bytes, *, transcript: bytes, release: int, state: bytes, length: int
) -> Ring:
    """The mask that both ends of a pair derive for one release.

    ``transcript`` and ``state`` are SHA-256 digests of the signed roster and of the program state.
    """
    info = b"tallystick/v1/pairwise" + release.to_bytes(4, "big") + state
    return expand(derive(agree(private, public), transcript, info), length)


def signed_pairwise(own_is_earlier: bool, mask: Ring) -> Ring:
    """+mask at the earlier party, -mask at the later, so that the two cancel."""
    return mask if own_is_earlier else np.uint64(0) - mask


def seal_share(private: bytes, public: bytes, *, context: bytes, plain: bytes) -> bytes:
    """Seal a share for a peer: ChaCha20-Poly1305 (RFC 8439) under a key used for one context.

    ``context`` names job, release, sender and receiver; it is bound as associated data, and the
    key is derived from it, so the zero nonce is never used twice.
    """
    key = derive(agree(private, public), b"", b"tallystick/v1/share" + context)
    return ChaCha20Poly1305(key).encrypt(bytes(12), plain, context)


def open_share(private: bytes, public: bytes, *, context: bytes, sealed: bytes) -> bytes:
    """Inverse of :func:`seal_share`. Raises ProtocolError if anything was altered."""
    key = derive(agree(private, public), b"", b"tallystick/v1/share" + context)
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, context)
    except Exception as error:  # cryptography's InvalidTag carries nothing worth keeping
        raise ProtocolError("a sealed share does not open") from error
