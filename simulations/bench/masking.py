"""``bench mask``: rows for each CPU second, recall and precision, beside Presidio where it is installed.

The customers and the notes are made up (:mod:`simulations.customers`, :mod:`simulations.corpus`). Peers
that are dependencies of ours (``hmac``, ``phonenumbers``) run in this process; Presidio runs in the
environment that ``--peer-python`` names, over the same rows, as many as take it a few seconds.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from privacy.errors import RoundFailed
from privacy.identifiers import normalised, numbering
from privacy.masking import text
from privacy.masking.keyed import MasterKey, hmacs
from privacy.masking.transform import Column, Transform, masked
from privacy.randomness import stream
from simulations import corpus, customers
from simulations.bench import vectors
from simulations.bench.report import Row, at_least, at_most

FIVE = {
    "name": "name",
    "phone": "phone",
    "email": "email",
    "id_card": "id_card",
    "bank_card": "bank_card",
}
LEAN = ("email", "id_card", "phone")
GOALS = {
    "email": (0.99, 0.98), "iban": (0.99, 0.98), "bank_card": (0.99, 0.98),
    "id_card": (0.99, 0.98), "phone": (0.85, 0.85),
}  # fmt: skip


def mask(data: Path | None, quick: bool, peer_python: Path | None = None) -> list[Row]:
    """The table of ``bench mask``."""
    rows = 50_000 if quick else 1_000_000
    table = customers.table(rows, 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [
            *_structured(table, folder, peer_python),
            *_text(table, folder, peer_python),
            *_hashes(table),
            *_phones(rows // 5),
            *_whole(folder, 200_000 if quick else 10_000_000, quick),
            *vectors.rows(data),
            *_found(4_000 if quick else 40_000, folder, peer_python),
            *_strange(folder, peer_python),
        ]


def _rate(rows: int, run: Callable[[], object], times: int = 3) -> float:
    """Rows for each CPU second of all threads: the best of ``times``."""
    best = float("inf")
    for _ in range(times):
        before = time.process_time()
        run()
        best = min(best, time.process_time() - before)
    return rows / best


def _structured(table: pl.DataFrame, folder: Path, peer: Path | None) -> list[Row]:
    columns = [Column(name, kind, Transform("partial"), name) for name, kind in FIVE.items()]
    block = table.select(list(FIVE))
    blocks = list(block.iter_slices(1 << 17))
    rate = _rate(
        len(block), lambda: [masked(columns, b, None, stream(bytes(32)), {}) for b in blocks]
    )
    rows = [Row("5 structured columns", "rows/CPU-s", rate)]
    if peer:
        block.head(20_000).fill_null("").write_csv(folder / "five.csv")
        found = _peer(peer, "structured", folder / "five.csv")
        shown = f"presidio-structured {found['version']}: {found['rate']:,.0f}"
        ratio = rate / found["rate"]
        rows.append(at_least("5 structured columns", "times the peer", ratio, "x", 40, shown))
    return rows


def _text(table: pl.DataFrame, folder: Path, peer: Path | None) -> list[Row]:
    notes = table["note"]
    rate = _rate(len(notes), lambda: text.redacted(notes, LEAN, long_numbers=False))
    every = _rate(len(notes), lambda: text.redacted(notes))
    rows = [
        Row("free text: phones, e-mail, ID card", "rows/CPU-s", rate),
        Row("free text: all kinds, long numbers", "rows/CPU-s", every),
    ]
    if peer:
        (folder / "notes.json").write_text(json.dumps(notes.head(4_000).to_list()))
        found = _peer(peer, "text", folder / "notes.json", folder / "hits.json")
        shown = f"presidio {found['version']}: {found['rate']:,.0f}"
        ratio = rate / found["rate"]
        rows.insert(1, at_least(rows[0].case, "times the peer", ratio, "x", 100, shown))
    return rows


def _hashes(table: pl.DataFrame) -> list[Row]:
    values = normalised("email", table["email"]).drop_nulls()
    key, texts = MasterKey(bytes(32)), values.to_list()
    secret = key.derive("hmac", "email", 32).hex().encode()
    rate = _rate(len(values), lambda: hmacs(values, key, "email"))
    loop = _rate(
        len(values),
        lambda: [hmac.new(secret, t.encode(), hashlib.sha256).hexdigest() for t in texts],
    )
    case, shown = "HMAC-SHA256 of e-mail addresses", f"hmac.new in a loop: {loop:,.0f}"
    return [
        at_least(case, "values/CPU-s", rate, "", 2.5e6, shown),
        at_least(case, "times the peer", rate / loop, "x", 5, shown),
    ]


def _phones(count: int) -> list[Row]:
    values = international(count)
    numbering.plans()
    rate = _rate(count, lambda: normalised("phone", values))
    few = values.head(5_000).to_list()
    peer = _rate(len(few), lambda: [numbering.one(v, "CN") for v in few], 1)
    shown = f"phonenumbers: {peer:,.0f}"
    return [at_least("phone to E.164, mixed international", "values/CPU-s", rate, "", 3e5, shown)]


def international(count: int, seed: int = 3) -> pl.Series:
    """Numbers of all countries in international form with blanks and dashes, a third each of all
    countries alike, of Chinese mobiles as written at home, and of ten countries that are common; one in
    twenty has a wrong digit too many."""
    import phonenumbers

    rng = np.random.default_rng(seed)
    regions = sorted(phonenumbers.SUPPORTED_REGIONS)
    common = ["US", "GB", "DE", "FR", "IN", "JP", "BR", "IT", "ES", "KR"]
    made = []
    for _ in range(count):
        draw = rng.random()
        if draw < 1 / 3:
            made.append(f"1{rng.integers(3, 10)}{rng.integers(10**9):09d}")
            continue
        pool = regions if draw < 2 / 3 else common
        example = phonenumbers.example_number_for_type(
            pool[int(rng.integers(len(pool)))], phonenumbers.PhoneNumberType.MOBILE
        )
        if example is None:
            made.append("n/a")
            continue
        national = phonenumbers.national_significant_number(example)
        national = (
            national[:-3] + f"{rng.integers(1000):03d}" + ("7" if draw % 0.05 < 0.0025 else "")
        )
        made.append(f"+{example.country_code} {national[:3]}-{national[3:]}")
    return pl.Series(made, dtype=pl.String)


POLICY = """\
version = 1
name = "bench"
key = "file:masking.key"

[columns]
id = { kind = "category", role = "direct", display = "hmac" }
name = { kind = "name", role = "direct", display = "partial" }
phone = { kind = "phone", role = "direct", display = "partial" }
email = { kind = "email", role = "direct", display = "hmac" }
id_card = { kind = "id_card", role = "direct", display = "partial" }
bank_card = { kind = "bank_card", role = "direct", display = "partial" }
birth_date = { kind = "birth_date", role = "quasi", display = { do = "generalise", to = "5-year" } }
city = { kind = "category", role = "quasi", display = "keep" }
amount = { kind = "number", role = "sensitive", display = "keep" }
note = { kind = "text", role = "sensitive", display = "redact" }
"""


def _whole(folder: Path, rows: int, quick: bool) -> list[Row]:
    """A process of its own, so that its memory is its own."""
    import pyarrow.parquet as pq

    (folder / "policy.toml").write_text(POLICY)
    source, writer = folder / "customers.parquet", None
    for block in customers.blocks(rows, 2):
        arrow = block.to_arrow(compat_level=pl.CompatLevel.oldest())
        if writer is None:
            writer = pq.ParquetWriter(source, arrow.schema, compression="zstd")
        writer.write_table(arrow)
    if writer is not None:
        writer.close()
    code = (
        "import json, pathlib, re, resource, sys\n"
        "from client.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "    status = pathlib.Path('/proc/self/status').read_text()\n"  # maxrss would be our own
        "    peak = int(re.search(r'VmHWM:\\s+(\\d+)', status).group(1))\n"
        "    print(json.dumps([used.ru_utime + used.ru_stime, peak]), file=sys.stderr)\n"
    )
    key = f"file:{folder / 'masking.key'}"
    for arguments in (
        ["keys", "new", key],
        ["mask", str(source), "--policy", str(folder / "policy.toml"), "--purpose", "display",
         "--out", str(folder / "masked.parquet")],
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RoundFailed(f"mask failed: {done.stderr[-500:]}")
    cpu, memory = json.loads(done.stderr.strip().splitlines()[-1])
    case = f"{rows:,} rows, full policy, Parquet to Parquet"
    if quick:
        return [
            Row(case, "CPU, the whole command", cpu, "s"),
            Row(case, "memory", memory / 1e6, "GB"),
        ]
    return [
        at_most(case, "CPU, the whole command", cpu, "s", 60),
        at_most(case, "memory", memory / 1e6, "GB", 2),
    ]


def _found(rows: int, folder: Path, peer: Path | None) -> list[Row]:
    notes = corpus.make(rows, 5)
    hits = {
        (int(row), kind, corpus.same(kind, value))
        for kind, frame in text.findings(notes.texts).items()
        for row, value in frame.iter_rows()
    }
    theirs: set[tuple[int, str, str]] = set()
    if peer:
        (folder / "corpus.json").write_text(json.dumps(notes.texts.to_list()))
        _peer(peer, "text-all", folder / "corpus.json", folder / "found.json")
        theirs = {
            (row, kind, corpus.same(kind, value))
            for row, kind, value in json.loads((folder / "found.json").read_text())
        }
    result = []
    for kind in corpus.KINDS:
        recall, precision = corpus.scores(notes.labels, hits, kind)
        shown = [""] * 2
        if peer:
            shown = [f"presidio {x:.3f}" for x in corpus.scores(notes.labels, theirs, kind)]
        least, exact = GOALS[kind]
        case = f"free text: {kind}"
        result += [
            at_least(case, "recall", recall, "", least, shown[0]),
            at_least(case, "precision", precision, "", exact, shown[1]),
        ]
    return result


def _strange(folder: Path, peer: Path | None) -> list[Row]:
    """Values that Faker makes, in one sentence each: how many leave no trace in the redacted text."""
    if peer is None:
        return []
    found = _peer(peer, "values", folder / "values.json")
    frames: dict[tuple[str, str], list[str]] = {}
    for kind, locale, value in json.loads((folder / "values.json").read_text()):
        frames.setdefault((kind, locale), []).append(value)
    result = []
    for (kind, locale), values in frames.items():
        case = f"Faker {found['version']}, {locale}: {kind}"
        for metric, sentence in SENTENCES[locale].get(kind, SENTENCES[locale][""]).items():
            result.append(Row(case, metric, _hidden(sentence, values)))
    return result


SENTENCES = {
    "zh_CN": {
        "": {"hidden": "联系方式{}，谢谢"},
        "name": {
            "hidden, announced": "联系人：{}，谢谢", "hidden, by a title": "请转告{}先生",
            "hidden, unannounced": "{}说明天再来",
        },
    },
    "en_US": {
        "": {"hidden": "Contact: {}, thanks."},
        "name": {
            "hidden, announced": "Contact: {}, thanks.", "hidden, unannounced": "Spoke with {} today.",
        },
    },
}  # fmt: skip


def _hidden(sentence: str, values: list[str]) -> float:
    """The share of values of which no word is left; a word has three characters, a Chinese one two."""
    made = text.redacted(pl.Series([sentence.format(value) for value in values])).text.to_list()
    plain = sentence.replace("{}", " ")
    left = [
        any(word in note and word not in plain for word in re.findall(r"\w{3,}|[一-鿿]{2,}", value))
        for value, note in zip(values, made, strict=True)
    ]
    return 1 - sum(left) / len(values)


def _peer(python: Path, *arguments: str | Path) -> dict[str, Any]:
    """What the peers' script printed."""
    script = Path(__file__).with_name("mask_peers.py")
    done = subprocess.run(
        [str(python), str(script), *map(str, arguments)], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"}, timeout=500,
    )  # fmt: skip
    if done.returncode:
        raise RoundFailed(f"the peer failed: {done.stderr[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
