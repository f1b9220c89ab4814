"""How bent files and texts are made: values of a real alliance's own files, changed and written again."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.masking import reveal
from protos import carried, identity, wire
from protos.toml import canonical, read_toml
from simulations.attacks.fuzzing import texts
from simulations.attacks.fuzzing.mutate import raw
from simulations.attacks.specs import USUAL, any_job
from simulations.attacks.tables import NUMBERS, TARGET, Base

POLICY: dict[str, Any] = {
    "version": 1, "name": "customers", "key": "file:masking.key",
    "columns": {
        "id": {"kind": "category", "role": "direct", "domain": "customer", "partner_join": "hmac"},
        "phone": {"kind": "phone", "role": "direct", "display": "partial", "partner_join": "token",
                  "platform_upload": "phone"},
        "birth": {"kind": "birth_date", "role": "quasi", "release": {"do": "generalise", "to": "10-year"}},
        "amount": {"kind": "number", "role": "sensitive", "release": {"do": "generalise", "to": "band:100"}},
        "note": {"kind": "text", "role": "sensitive", "display": {"do": "redact", "find": ["phone"]}},
    },
    "release": {"k": 5, "l": 2}, "duplicates": {"keys": ["phone"], "name": "id", "similarity": 0.95},
    "quality": {"times": ["birth"]},
}  # fmt: skip
SOME = [
    "13912345678",
    "+86 139 1234 5678",
    "a@b.example",
    "11010519491231002X",
    "A" * 64,
    "0" * 32,
    "",
]


class Forms:
    """Makes inputs as ``rng`` says. ``keys``: of all partners; ``node``, ``tls``: of an applicant."""

    def __init__(self, base: Base, rng: Random) -> None:
        self._rng, self._contract = rng, base.alliance.contract
        self._texts = {
            "contract": read_toml(base.alliance.coordinator.contract_file),
            "invitation": read_toml(next(base.alliance.coordinator.invitations.iterdir())),
            "application": read_toml(base.root / TARGET / "application.toml"),
            "settings": read_toml(base.alliance.partners[TARGET].config_file),
            "coordinator": read_toml(base.alliance.coordinator.config_file),
        }
        self.keys = {name: home.identity() for name, home in base.alliance.partners.items()}
        self.node = ec.generate_private_key(ec.SECP384R1())
        self.tls = ec.generate_private_key(ec.SECP256R1())

    def of(self, kind: str) -> str:
        """A file that is made of values: contract, invitation, application, settings, coordinator."""
        return self._written(texts.bent(self._rng, self._texts[kind]), self._texts[kind])

    def job_file(self) -> str:
        """A job as people write it."""
        return self._written(self._plain_job())

    def policy(self) -> str:
        """A masking policy."""
        return self._written(texts.bent(self._rng, POLICY), POLICY)

    def _written(self, values: Any, instead: Any = None) -> str:
        """Values as TOML; now and then the text itself is bent."""
        rng = self._rng
        try:
            text = tomli_w.dumps(without_none(values))
        except (TypeError, ValueError, AttributeError, RecursionError):
            text = tomli_w.dumps(instead) if instead else texts.nested(rng)
        chance = rng.random()
        if chance < 0.15:
            return texts.text(rng, text)
        return texts.nested(rng) if chance < 0.17 else text

    def text(self, seeds: list[str]) -> str:
        """One of some texts, bent."""
        rng = self._rng
        return texts.nested(rng) if rng.random() < 0.05 else texts.text(rng, rng.choice(seeds))

    def _plain_job(self) -> Any:
        return texts.bent(self._rng, any_job(self._rng, self._contract, ["buyers"], USUAL), 3)

    def job(self) -> bytes:
        """A specification in its canonical form."""
        try:
            return canonical(self._plain_job())
        except (ValueError, TypeError):
            return self.json()

    def model(self) -> bytes:
        """A model as it travels."""
        rng = self._rng
        names = rng.sample(NUMBERS, 2)
        models: list[dict[str, Any]] = [
            {"kind": "propensity", "columns": [*names, "region"], "label": "rare",
             "weights": [0.1, -2.0, 3.0, 0.0, 1.0, 2.0], "platt": [1.0, -0.5]},
            {"kind": "segment", "columns": names, "centres": [[0.1, 0.2], [-1.0, 1.0], [0.0, 0.0]]},
        ]  # fmt: skip
        whole = rng.choice(models)
        try:
            return canonical(texts.bent(rng, whole) if rng.random() < 0.95 else whole)
        except (ValueError, TypeError):
            return self.json()

    def repair(self) -> str:
        """A repair, before it is signed."""
        made = datetime(2030, 1, 1, tzinfo=UTC)
        whole: dict[str, Any] = {
            "version": 1, "kind": "forget a journal head", "contract": self._contract.digest().hex(),
            "party": "shop", "sequence": 2**61, "digest": "0" * 64, "reason": "a head that is too high",
            "made": made, "expires": made + timedelta(days=30), "signatures": {},
        }  # fmt: skip
        return self._written(texts.bent(self._rng, whole), whole)

    def carried(self) -> bytes:
        """What Flower would carry an envelope in."""
        rng, data = self._rng, self._rng.randbytes(self._rng.choice([0, 5, 127, 300]))
        value = b"\x32" + _length(data) + data
        item = b"\x0a\x08envelope\x12" + _length(value) + value
        return raw(rng, carried.whole("ConfigRecord", "", b"\x0a" + _length(item) + item))

    def application(self) -> dict[str, Any]:
        """An application's values, before they are signed."""
        rng = self._rng
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bank")])
        plain = dict(self._texts["application"])
        plain["identity"] = identity.encode(self.keys[TARGET].public_key().public_bytes_raw())
        if rng.random() < 0.3:
            form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
            plain["node_key"] = self.node.public_key().public_bytes(*form).decode()
            request = x509.CertificateSigningRequestBuilder().subject_name(subject)
            made = request.sign(self.tls, hashes.SHA256())
            plain["request"] = made.public_bytes(serialization.Encoding.PEM).decode()
        found = texts.bent(rng, plain, 2)
        return found if isinstance(found, dict) else plain

    def approval(self) -> str:
        """A request to turn tokens back."""
        known: dict[str, Any] = {
            "version": 2, "id": "0" * 32, "table": "1" * 64, "policy": "2" * 64, "column": "phone",
            "purpose": "partner_join", "key": "k", "reason": "a court asked for it", "by": "me",
            "expires": datetime(2030, 1, 1, tzinfo=UTC), "approver": "boss", "signature": "A" * 86 + "==",
            "partner": "bank", "asked": datetime(2029, 1, 1, tzinfo=UTC), "entry": 7, "digest": "3" * 64,
            "rows": 5, "kind": "phone", "domain": "partner_join/phone", "transform": "token",
        }  # fmt: skip
        whole = {name: known.get(name, "") for name in reveal.Request.model_fields}
        return self._written(texts.bent(self._rng, whole), whole)

    def pem(self) -> str:
        """A certificate, a request or a key whose DER is bent, or its text."""
        rng = self._rng
        contract = self._texts["contract"]
        party = rng.choice(contract["parties"])
        text = rng.choice([
            party["certificate"], contract["coordinator"]["authority"], self._texts["application"]["request"],
            party["node_key"], party["identity"],
        ])  # fmt: skip
        lines = text.strip().splitlines()
        if rng.random() < 0.6 and len(lines) > 2:
            der = raw(rng, base64.b64decode("".join(lines[1:-1])))
            body = base64.encodebytes(der).decode()
            return f"{lines[0]}\n{body}{lines[-1]}\n"
        if rng.random() < 0.5 and text.startswith("ecdsa"):
            kind, blob, *rest = text.split()
            return " ".join(
                [kind, base64.b64encode(raw(rng, base64.b64decode(blob))).decode(), *rest]
            )
        return texts.text(rng, text)

    def toml(self) -> str:
        """Any TOML."""
        rng = self._rng
        seed = rng.choice(list(self._texts.values()))
        text = self._written(texts.bent(rng, seed, 8), seed)
        return texts.nested(rng) if rng.random() < 0.1 else texts.text(rng, text, 20)

    def json(self) -> bytes:
        """Any JSON, or none."""
        rng = self._rng
        plain = any_job(rng, self._contract, [], USUAL)
        text = json.dumps(plain if rng.random() < 0.5 else {"format": "csv", "delimiter": ","})
        if rng.random() < 0.15:
            return texts.nested(rng).encode()
        return raw(rng, text.encode()) if rng.random() < 0.3 else texts.text(rng, text).encode()

    def message(self) -> tuple[str, bytes]:
        """A kind of message, and bytes that may be one."""
        rng = self._rng
        kind = rng.choice(wire.__all__)
        message = getattr(wire, kind)()
        return kind, raw(rng, wire.serialise(message) + rng.randbytes(rng.choice([0, 3, 40, 400])))

    def cells(self) -> tuple[str, list[str | None]]:
        """A kind of identifier, and cells of a column."""
        rng = self._rng
        kind = rng.choice(["email", "phone", "id_card", "device_id", "hashed"])
        cells = [texts.text(rng, rng.choice(SOME), 3) if rng.random() < 0.8 else rng.choice(SOME)
                 for _ in range(rng.choice([1, 3, 20]))]  # fmt: skip
        return kind, [None if rng.random() < 0.1 else cell for cell in cells]


def _length(data: bytes) -> bytes:
    """As protobuf writes it."""
    size = len(data)
    return bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])


def without_none(value: Any) -> Any:
    """Values as TOML can hold them: a key that is None is absent."""
    if isinstance(value, Mapping):
        return {str(key): without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_none(item) for item in value if item is not None]
    return value
