"""Identifiers as advertising platforms want them: one profile each, because their rules conflict.

=========  ==========================================  ==============================  ==================
platform   e-mail                                      phone                           digest
=========  ==========================================  ==============================  ==================
google     no spaces, lower case; for gmail.com and    E.164 with +                    SHA-256, hex
           googlemail.com no dots, no +tag
uid2       trimmed, lower case; for gmail.com no       E.164 with +                    SHA-256, base64
           dots, no +tag
meta       trimmed, lower case                         digits, no +, no leading zeros  SHA-256, hex
tiktok     no spaces, lower case                       digits, no +                    SHA-256, hex
linkedin   trimmed, lower case                         not taken                       SHA-256, hex
=========  ==========================================  ==============================  ==================

Sources: Google's Data Manager formatter, UID2's "Normalization and Encoding", the platforms' pages on
customer lists. Names and postal codes go to Google and Meta only; Google takes region and postal code
in the clear.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from privacy.errors import ParameterError
from privacy.identifiers import device, phone
from privacy.identifiers.text import INVISIBLE, by_value, keep

Column = Callable[[pl.Series], pl.Series]

_ADDRESS = r"^[^@\s]+@[^@\s]+\.[^@\s.]+$"
_TITLE = re.compile(
    r"^(?:mr|mrs|ms|miss|dr)\.?\s+|\s+(?:mr|mrs|ms|miss|dr)\.?$|^(?:mr|mrs|ms|dr)\.$"
)
_SUFFIX = re.compile(r"(?:\s*,\s*|\s+)(?:jr|sr|2nd|3rd|ii|iii|iv|v|vi|cpa|dc|dds|vm|jd|md|phd)\.?$")


def spaceless(values: pl.Series) -> pl.Series:
    """Lower case, every blank out."""
    return _text(values).str.replace_all(r"\s", "").str.to_lowercase()


def trimmed(values: pl.Series) -> pl.Series:
    """Lower case, blanks at the ends out."""
    return _text(values).str.strip_chars().str.to_lowercase()


def _text(values: pl.Series) -> pl.Series:
    return values.cast(pl.String).str.normalize("NFKC").str.replace_all(INVISIBLE, "")


def _addresses(values: pl.Series) -> pl.Series:
    return keep(values, values.str.contains(_ADDRESS))


def _undotted(values: pl.Series, hosts: str) -> pl.Series:
    """No dots and no +tag before the @ of ``hosts``."""
    local = values.str.extract(f"^([^@]+)@(?:{hosts})$")
    held = local.is_not_null()
    if not bool(held.any()):
        return values
    local = local.str.replace(r"\+.*$", "").str.replace_all(".", "", literal=True)
    short = keep(local, local != "") + "@" + values.str.extract("@(.*)$")
    return short.zip_with(held, values)


def google_email(values: pl.Series) -> pl.Series:
    """Addresses as Google wants them, null for what is none."""
    return _undotted(_addresses(spaceless(values)), r"gmail\.com|googlemail\.com")


def uid2_email(values: pl.Series) -> pl.Series:
    """Addresses as UID2 wants them."""
    return _undotted(_addresses(trimmed(values)), r"gmail\.com")


def meta_email(values: pl.Series) -> pl.Series:
    """Addresses as Meta and LinkedIn want them."""
    return _addresses(trimmed(values))


def tiktok_email(values: pl.Series) -> pl.Series:
    """Addresses as TikTok wants them."""
    return _addresses(spaceless(values))


def google_phone(values: pl.Series) -> pl.Series:
    """``+`` and the digits, as Google's formatter does it: it trusts that the country code is there."""
    digits = _text(values).str.replace_all("[^0-9]", "")
    return keep("+" + digits, digits != "")


def without_plus(values: pl.Series) -> pl.Series:
    """E.164 without the +; numbers that cannot exist are null."""
    return phone.normalise(values).str.strip_prefix("+")


def given_name(values: pl.Series) -> pl.Series:
    """Google's given name: lower case, titles out."""
    return by_value(trimmed(values), _given)


def family_name(values: pl.Series) -> pl.Series:
    """Google's family name: lower case, suffixes such as ", Jr." out."""
    return by_value(trimmed(values), _family)


def _given(text: str) -> str | None:
    while text != (shorter := _TITLE.sub("", text).strip()):
        text = shorter
    return text or None


def _family(text: str) -> str | None:
    text = f" {text}"
    while text != (shorter := _SUFFIX.sub("", text)):
        text = shorter
    return text.strip() or None


def region_code(values: pl.Series) -> pl.Series:
    """ISO 3166-1 alpha-2, upper case."""
    text = _text(values).str.strip_chars().str.to_uppercase()
    return keep(text, text.str.contains("^[A-Z]{2}$"))


def postal_code(values: pl.Series) -> pl.Series:
    """Trimmed; it goes in the clear, so it is null where no postal code looks so."""
    text = _text(values).str.strip_chars()
    return keep(text, text.str.contains(r"^[\p{L}\p{N}][\p{L}\p{N} -]{0,15}$"))


def plain_name(values: pl.Series) -> pl.Series:
    """Meta's names: lower case, no punctuation, no blanks at the ends."""
    text = trimmed(values).str.replace_all(r"[^\p{L}\p{N} ]", "").str.strip_chars()
    return keep(text, text != "")


def meta_postal(values: pl.Series) -> pl.Series:
    """Meta's postal codes: lower case, no blanks, no dash; five digits for the United States."""
    text = spaceless(values).str.replace(r"^([0-9]{5})-?[0-9]{4}$", "$1")
    text = text.str.replace_all("-", "", literal=True)
    return keep(text, text != "")


def meta_country(values: pl.Series) -> pl.Series:
    """ISO 3166-1 alpha-2, lower case."""
    return region_code(values).str.to_lowercase()


@dataclass(frozen=True)
class Profile:
    """``fields``: what the platform takes, by our name: its heading and its normaliser. ``clear``:
    fields that are not hashed. ``encoding``: of SHA-256, ``hex`` or ``base64``."""

    name: str
    fields: Mapping[str, tuple[str, Column]]
    clear: frozenset[str] = frozenset()
    encoding: str = "hex"


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            "google",
            {
                "email": ("Email", google_email), "phone": ("Phone", google_phone),
                "given_name": ("First Name", given_name),
                "family_name": ("Last Name", family_name),
                "country": ("Country", region_code), "postal_code": ("Zip", postal_code),
            },
            frozenset(("country", "postal_code")),
        ),
        Profile(
            "meta",
            {
                "email": ("email", meta_email), "phone": ("phone", without_plus),
                "given_name": ("fn", plain_name), "family_name": ("ln", plain_name),
                "country": ("country", meta_country), "postal_code": ("zip", meta_postal),
                "device_id": ("madid", device.normalise),
            },
            frozenset(("device_id",)),
        ),
        Profile(
            "uid2",
            {"email": ("email_hash", uid2_email), "phone": ("phone_hash", phone.normalise)},
            encoding="base64",
        ),
        Profile(
            "tiktok", {"email": ("EMAIL_SHA256", tiktok_email), "phone": ("PHONE_SHA256", without_plus)}
        ),
        Profile("linkedin", {"email": ("email", meta_email)}),
    )
}  # fmt: skip


def profile(name: str) -> Profile:
    """The profile of a platform. Raises ParameterError."""
    if name not in PROFILES:
        raise ParameterError(f"{name} is not a platform; known are {', '.join(PROFILES)}")
    return PROFILES[name]


def digests(values: pl.Series, encoding: str) -> pl.Series:
    """SHA-256 of each text in ``hex`` or ``base64`` of the raw digest; null for null."""

    def one(text: str) -> str:
        digest = hashlib.sha256(text.encode()).digest()
        return digest.hex() if encoding == "hex" else base64.b64encode(digest).decode()

    found = [None if text is None else one(text) for text in values.to_list()]
    return pl.Series(found, dtype=pl.String)


def prepared(platform: str, name: str, values: pl.Series, region: str) -> pl.Series:
    """A column as the platform takes it; phone numbers without a country code are of ``region``.

    Raises ParameterError for a field that the platform does not take.
    """
    wanted = profile(platform)
    if name not in wanted.fields:
        raise ParameterError(f"{platform} does not take {name}")
    if name == "phone":
        values = phone.normalise(values, region)
    canonical = wanted.fields[name][1](values)
    return canonical if name in wanted.clear else digests(canonical, wanted.encoding)
