"""Known answers of others: platforms' formatters and documents, Hutool's ID cards and company numbers.

They lie outside the clone; where they do not, the figures are left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

from privacy.identifiers import normalised, platforms
from simulations.bench.report import Row, at_least

NAMES = (
    "google_data_manager_formatter.jsonl",
    "uid2_docs_examples.jsonl",
    "platform_doc_hashes.jsonl",
    "hutool_idcard_uscc.jsonl",
)
GOOGLE = {
    "formatEmailAddress": platforms.google_email,
    "formatGivenName": platforms.given_name,
    "formatFamilyName": platforms.family_name,
    "formatRegionCode": platforms.region_code,
    "formatPostalCode": platforms.postal_code,
    "formatPhoneNumber": platforms.google_phone,
}


def wrong(folder: Path, name: str) -> tuple[int, list[int]]:
    """How many cases of a file were tried, and which of them (by line) came out otherwise."""
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    cases = [(n, json.loads(line)) for n, line in enumerate(lines, start=1)]
    tried = [(n, case) for n, case in cases if "_source" not in case]
    judge = {
        NAMES[0]: _google, NAMES[1]: _uid2, NAMES[2]: _documented, NAMES[3]: _hutool,
    }[name]  # fmt: skip
    return len(tried), [n for n, case in tried if not judge(case)]


def rows(data: Path | None) -> list[Row]:
    """A figure for each file that is there."""
    found = []
    for folder in (data, data and data.parent / "vectors", Path("../shared/vectors")):
        if folder is not None and (folder / NAMES[0]).is_file():
            for name in NAMES:
                tried, bad = wrong(folder, name)
                share = 100.0 * (tried - len(bad)) / tried
                found.append(
                    at_least(name.removesuffix(".jsonl"), f"of {tried} vectors", share, "%", 100)
                )
            break
    return found


def _one(values: pl.Series) -> Any:
    return values[0]


def _google(case: dict[str, Any]) -> bool:
    column = pl.Series([case["in"]], dtype=pl.String)
    if case["fn"] in GOOGLE:
        return bool(_one(GOOGLE[case["fn"]](column)) == case.get("out"))
    if case.get("error"):  # a digest of nothing
        blank = platforms.postal_code(column)
        return _one(platforms.digests(blank, "hex")) is None
    same = _one(platforms.digests(column, "hex")) == case["hex"]
    return same and ("b64" not in case or _one(platforms.digests(column, "base64")) == case["b64"])


def _uid2(case: dict[str, Any]) -> bool:
    column = pl.Series([case["in"]])
    field = "phone" if case["in"].startswith("+") else "email"
    canonical = platforms.PROFILES["uid2"].fields[field][1](column)
    return bool(
        _one(canonical) == case["normalized"]
        and _one(platforms.digests(canonical, "hex")) == case["sha256_hex"]
        and _one(platforms.digests(canonical, "base64")) == case["sha256_b64"]
    )


def _documented(case: dict[str, Any]) -> bool:
    return bool(
        _one(platforms.digests(pl.Series([case["normalized"]]), "hex")) == case["sha256_hex"]
    )


def _hutool(case: dict[str, Any]) -> bool:
    """``strict_case``: where it is "false", only the canonical spelling counts as valid."""
    kind = "uscc" if "CreditCode" in case["fn"] else "id_card"
    found = _one(normalised(kind, pl.Series([case["in"]])))
    if case.get("strict_case") == "false":
        return bool((found == case["in"]) == case["valid"])
    return bool((found is not None) == case["valid"])
