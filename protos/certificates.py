"""X.509 certificates (RFC 5280) as both sides judge them: the contract pins keys, a certificate carries one.

Every partner signs the contract, and with it the TLS key of every other partner: the one in the certificate
that stands there. Which certificate later carries that key does not matter, so one can be short and be
renewed; whatever else the authority ever issued, or is made to issue, opens nothing.

    issued    the chain to the contract's authority, at this moment, for this use (``cryptography``'s own
              path validation: signature, dates, CA constraints, extended key usage, critical extensions)
    pinned    its key is the party's key in the contract
    revoked   the coordinator's list (:mod:`server.callers`)

*Not* handled: revocation lists and OCSP of X.509. There is one relying party, and it keeps the list.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from privacy.errors import ConfigError
from protos.alliance import Contract
from protos.identity import certificate_key, read_certificate

LEAF_DAYS = 90
"""How long a certificate that is issued now is valid."""
RENEW_DAYS = 30
"""It is renewed when fewer are left."""
ALARM_DAYS = 14
"""With fewer left, renewing by itself has failed for a fortnight: ``doctor`` says FAIL."""


def pinned_key(contract: Contract, party: str) -> bytes:
    """The TLS key that the contract pins for a party, as SubjectPublicKeyInfo. Raises ConfigError."""
    where = f"parties.{party}.certificate"
    return certificate_key(read_certificate(contract.party(party).certificate, where), where)


def check_issued(
    certificate: x509.Certificate, authority: x509.Certificate, now: datetime, path: str
) -> None:
    """Raises ConfigError at ``path`` unless it is a client's, of this authority, and valid now."""
    policy = PolicyBuilder().store(Store([authority])).time(now.astimezone(UTC))
    try:
        policy.max_chain_depth(0).build_client_verifier().verify(certificate, [])
        # The verifier wants a client's usage, or none said, which is all (RFC 5280, 4.2.1.12).
        certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except (
        VerificationError,
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
    ):
        reason = "is not a client's certificate of the alliance's authority"
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            reason = f"is valid from {_days(certificate)} only"
        raise ConfigError(path, reason) from None


def _days(certificate: x509.Certificate) -> str:
    return (
        f"{certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}"
    )


def days_left(certificate: x509.Certificate, now: datetime) -> int:
    """Whole days until it ends; negative once it has."""
    return (certificate.not_valid_after_utc - now).days
