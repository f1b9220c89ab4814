"""What Presidio needs for the same masking. Run by the Python of an environment that holds it:

    python mask_peers.py structured TABLE.csv
    python mask_peers.py text NOTES.json FOUND.json
    python mask_peers.py values VALUES.json

Prints one JSON object: rows for each CPU second and the package's version. ``text`` uses pattern
recognisers for e-mail, Chinese and American phones and a Chinese ID card, without a language model, and
writes what it found; ``text-all`` adds payment cards and IBANs. ``values`` writes 2,000 values of each kind
as Faker makes them, for readers who would not trust notes of ours. Imports nothing of ours.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

CHINESE_ID = (
    r"(?<!\d)[1-9]\d{5}(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?!\d)"
)


def main() -> None:
    """See the module."""
    logging.disable(logging.CRITICAL)
    name, files = sys.argv[1], [Path(f) for f in sys.argv[2:]]
    run = {"structured": structured, "values": values}.get(name)
    print(json.dumps(run(files[0]) if run else text(name, *files)))


def structured(table: Path) -> dict[str, Any]:
    """presidio-structured, mask operator, the kinds declared."""
    import pandas as pd
    from presidio_anonymizer.entities import OperatorConfig
    from presidio_structured import PandasDataProcessor, StructuredAnalysis, StructuredEngine

    frame = pd.read_csv(table, dtype=str, keep_default_na=False)
    mask = {"type": "mask", "masking_char": "*", "from_end": False}
    operators = {
        "PERSON": OperatorConfig("mask", {**mask, "chars_to_mask": 20}),
        "PHONE_NUMBER": OperatorConfig("mask", {**mask, "chars_to_mask": 7}),
        "EMAIL_ADDRESS": OperatorConfig("mask", {**mask, "chars_to_mask": 6}),
        "CN_ID": OperatorConfig("mask", {**mask, "chars_to_mask": 14}),
        "CREDIT_CARD": OperatorConfig("mask", {**mask, "chars_to_mask": 12}),
    }
    mapping = dict(zip(frame.columns, operators, strict=True))
    engine = StructuredEngine(data_processor=PandasDataProcessor())
    analysis = StructuredAnalysis(entity_mapping=mapping)
    before = time.process_time()
    masked = engine.anonymize(frame, analysis, operators=operators)
    used = time.process_time() - before
    if len(masked) != len(frame):
        raise SystemExit("presidio-structured lost rows")
    return {"rate": len(frame) / used, "version": version("presidio_structured")}


def text(name: str, notes: Path, found: Path) -> dict[str, Any]:
    """presidio-analyzer and -anonymizer; kinds as ours are called."""
    from presidio_analyzer import AnalyzerEngine, Pattern, PatternRecognizer, RecognizerRegistry
    from presidio_analyzer.predefined_recognizers import (
        CreditCardRecognizer,
        EmailRecognizer,
        IbanRecognizer,
        PhoneRecognizer,
    )
    from presidio_anonymizer import AnonymizerEngine

    card = PatternRecognizer("CN_ID", patterns=[Pattern("id", CHINESE_ID, 0.8)])
    recognisers = [EmailRecognizer(), PhoneRecognizer(supported_regions=("CN", "US")), card]
    if name == "text-all":
        recognisers += [CreditCardRecognizer(), IbanRecognizer()]
    engine = AnalyzerEngine(
        registry=RecognizerRegistry(recognizers=recognisers, supported_languages=["en"]),
        nlp_engine=_no_language_model(), supported_languages=["en"],
    )  # fmt: skip
    anonymizer, texts = AnonymizerEngine(), json.loads(notes.read_text())
    for warm in texts[:20]:
        engine.analyze(warm, language="en")
    before = time.process_time()
    results = [engine.analyze(t, language="en") for t in texts]
    for note, result in zip(texts, results, strict=True):
        anonymizer.anonymize(note, result)
    used = time.process_time() - before
    kinds = {
        "EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "CN_ID": "id_card",
        "CREDIT_CARD": "bank_card", "IBAN_CODE": "iban",
    }  # fmt: skip
    hits = [
        [row, kinds[r.entity_type], texts[row][r.start : r.end]]
        for row, result in enumerate(results)
        for r in result
    ]
    found.write_text(json.dumps(hits))
    return {"rate": len(texts) / used, "version": version("presidio_analyzer")}


def values(target: Path) -> dict[str, Any]:
    """Kind, locale and value; nothing if Faker is not there."""
    try:
        import faker
    except ImportError:
        target.write_text("[]")
        return {}
    faker.Faker.seed(5)
    made = []
    for locale in ("zh_CN", "en_US"):
        source = faker.Faker(locale)
        draw = {
            "phone": source.phone_number, "email": source.email,
            "bank_card": source.credit_card_number, "name": source.name, "address": source.address,
        }  # fmt: skip
        draw |= {"id_card": source.ssn} if locale == "zh_CN" else {"iban": source.iban}
        made += [(kind, locale, one()) for kind, one in draw.items() for _ in range(2_000)]
    target.write_text(json.dumps(made))
    return {"version": version("faker")}


def _no_language_model() -> Any:
    """The analyzer wants an engine: this one does nothing."""
    from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine

    class Nothing(NlpEngine):  # type: ignore[misc]
        engine_name, is_available = "none", True

        def load(self) -> None:
            return None

        def is_loaded(self) -> bool:
            return True

        def process_text(self, text: str, language: str) -> Any:
            return NlpArtifacts([], [], [], [], self, language)

        def process_batch(self, texts: Any, language: str, **_: Any) -> Any:
            return ((t, self.process_text(t, language)) for t in texts)

        def is_stopword(self, word: str, language: str) -> bool:
            return False

        def is_punct(self, word: str, language: str) -> bool:
            return False

        def get_supported_entities(self) -> list[str]:
            return []

        def get_supported_languages(self) -> list[str]:
            return ["en"]

    return Nothing()


if __name__ == "__main__":
    main()
