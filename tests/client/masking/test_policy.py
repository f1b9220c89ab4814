from __future__ import annotations

from pathlib import Path

import pytest

from client.masking import policy as policies
from privacy.errors import ConfigError
from privacy.identifiers.platforms import PROFILES
from tests.client.masking.conftest import POLICY


def _load(folder: Path, text: str) -> policies.Policy:
    path = folder / "policy.toml"
    path.write_text(text)
    return policies.load(path)


def test_purposes_keep_what_they_name_in_order(tmp_path: Path) -> None:
    rules = _load(tmp_path, POLICY)
    shown = [(c.name, c.transform.do, c.domain) for c in rules.for_purpose("partner_join")]
    assert shown == [
        ("id", "hmac", "partner_join/customer"), ("phone", "token", "partner_join/phone"),
        ("email", "hmac", "partner_join/email"), ("id_card", "ff1", "partner_join/id_card"),
    ]  # fmt: skip
    assert rules.needs_key("partner_join")
    assert not rules.needs_key("display")
    assert rules.names("quasi", "release") == ["birth_date", "city"]
    assert rules.digest() == _load(tmp_path, POLICY).digest()
    assert rules.digest() != _load(tmp_path, POLICY.replace("k = 5", "k = 6")).digest()


def column(**settings: str) -> str:
    given = {"kind": '"phone"', "role": '"direct"', **settings}
    lines = "\n".join(f"{key} = {value}" for key, value in given.items())
    return f'version = 1\nname = "t"\n[columns.c]\n{lines}\n'


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        (column(kind='"shoe"'), "columns.c", "not a kind"),
        (column(role='"secret"'), "columns.c.role", "direct"),
        (column(display='"keep"'), "columns.c", "keep contradicts role direct"),
        (column(display='"blur"'), "columns.c", "not one of"),
        (column(display='{ do = "partial", too = 1 }'), "columns.c.display.too", "unknown key"),
        (column(release='"partial"'), "columns.c", "suppressed, or becomes hmac or token"),
        (column(role='"safe"'), "columns.c", "is not safe"),
        (column(kind='"text"', role='"sensitive"', release='"redact"'), "columns.c", "cannot be released"),
        (column(kind='"text"', role='"sensitive"', display='"keep"'), "columns.c", "may hold anything"),
        (column(kind='"text"', role='"sensitive"', display='"hmac"'), "columns.c", "free text"),
        (column(platform_upload='"shoe"'), "columns.c", "platform_upload"),
        (column(platform_upload='"email"'), "columns.c", "a phone is no email"),
        (column(role='"quasi"', display='"keep"'), "columns.c", "keep contradicts kind phone"),
        (column(role='"quasi"', release='"partial"'), "columns.c", "a phone is generalised, suppressed"),
        (column(kind='"name"', display='"redact"'), "columns.c", "redact is for text"),
        (column(mask='"partial"'), "columns.c.mask", "unknown key"),
        ('version = 1\nname = "t"\ncolumns = {}\n', "columns", "at least 1"),
        (column() + '[duplicates]\nkeys = ["phone"]\n', "", "columns.phone is used by duplicates"),
        (column() + "[release]\nk = 1\n", "release.k", "greater than or equal to 2"),
        (column().replace("[", 'key = "masking.key"\n[', 1), "", "file:PATH"),
        (column().replace("[", 'region = "XX"\n[', 1), "region", "ISO 3166"),
        ("version = 2\n", "version", "Input should be 1"),
        ("[columns.c]\nkind = 'phone'\n[columns.c]\n", "policy.toml", "is not TOML"),
    ],
)  # fmt: skip
def test_what_a_policy_cannot_say(tmp_path: Path, text: str, path: str, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        _load(tmp_path, text)
    assert path in error.value.path
    assert reason in str(error.value)


def test_a_column_that_the_table_lacks_is_named(tmp_path: Path) -> None:
    rules = _load(tmp_path, column())
    with pytest.raises(ConfigError, match=r"columns.c: t.csv has no such column; it has a, b"):
        rules.check_columns(["a", "b"], "t.csv")


def test_every_field_of_every_platform_has_a_kind() -> None:
    fields = {name for profile in PROFILES.values() for name in profile.fields}
    assert fields == set(policies.UPLOADABLE)


def test_a_purpose_that_keeps_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no column has a transform for release"):
        _load(tmp_path, column(display='"partial"')).for_purpose("release")
