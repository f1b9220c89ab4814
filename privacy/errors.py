"""Every error Tallystick raises on purpose.

    TallystickError
    +-- ConfigError          a file a person wrote is wrong; names the key path
    +-- WireError            bytes that do not parse or exceed a bound
    +-- PrivacyError
    |   +-- ParameterError   a privacy parameter that cannot be honoured
    |   +-- LedgerExhausted  spent, asked and limit
    |   +-- ReleaseRefused   a table singles people out; names the columns
    +-- ProtocolError        a cryptographic check failed; deliberately says no more
    +-- Refused              a gate said no; carries a stable code
    +-- RoundFailed          a job cannot go on; says which partner and what to do
    +-- DataError            a partner's own data cannot be read

No message carries an identifier or a value of a row.
"""

from __future__ import annotations


class TallystickError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(TallystickError):
    """A configuration, contract or job file is wrong.

    ``path`` is the dotted key path the person has to mend, ``""`` for the whole file.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}" if path else reason)


class WireError(TallystickError):
    """Bytes from outside do not parse, or exceed a bound."""


class PrivacyError(TallystickError):
    """Base of errors about privacy parameters and their ledger."""


class ParameterError(PrivacyError):
    """A privacy or protocol parameter cannot be honoured."""


class LedgerExhausted(PrivacyError):
    """A charge would pass the limit. All three figures are epsilons at the contract's delta."""

    def __init__(self, spent: float, asked: float, limit: float) -> None:
        self.spent = spent
        self.asked = asked
        self.limit = limit
        super().__init__(
            f"ledger exhausted: epsilon {spent:.4f} spent, {asked:.4f} asked, "
            f"limit {limit:.4f}; wait for the next period or ask for less"
        )


class ReleaseRefused(PrivacyError):
    """A table is under its release threshold; the message names the columns that cause it."""


class ProtocolError(TallystickError):
    """A cryptographic check failed. One opaque message, so that it is no oracle.

    ``why`` is for the log of whoever found it; it never travels and is not part of the message.
    """

    def __init__(self, why: str = "") -> None:
        self.why = why
        super().__init__("protocol check failed")


class Refused(TallystickError):
    """A gate refused. Only ``code`` ever travels; ``detail`` stays with the partner's log."""

    def __init__(self, code: str, detail: str = "") -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{code}: {detail}" if detail else code)


class RoundFailed(TallystickError):
    """A job cannot continue now; the message says which partner and what to do."""


class DataError(TallystickError):
    """A partner's own table cannot be read; the message names file and column, never a value."""
