"""Files and texts from others, bent, and what reads them: each is taken, or refused with a sentence.

Most are bent as plain values and written again, so that the parser of the format lets them pass and the
model behind it has to judge; some as text, some as bytes, some to be deep, long or many. Contracts and
applications are signed again afterwards, with every key, as a file that was made to deceive would be.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from client.home import Home as PartnerHome
from client.masking import policy, reveal
from client.masking.keys import KeySource
from client.source import ReadAs
from privacy.errors import TallystickError
from privacy.identifiers import labels
from privacy.matching import algebra
from privacy.programs import rules
from privacy.programs.scoring import model_from
from protos import alliance, carried, console, identity, jobs, joining, repairs, toml, wire
from server.home import Home as CoordinatorHome
from simulations.attacks.fuzzing import texts
from simulations.attacks.fuzzing.forms import Forms, without_none
from simulations.attacks.fuzzing.target import Came
from simulations.attacks.specs import RULES
from simulations.attacks.tables import COLUMNS, LABELS, TARGET, Base

REPAIRED = datetime(2030, 1, 1, 1, tzinfo=UTC)
"""An hour after the repair of :mod:`simulations.attacks.fuzzing.forms` was made."""
MANY = 40
"""Rows that rules and models are tried on."""


@dataclass(frozen=True)
class Case:
    """``make`` gives an input; ``take`` reads it, says whether it was taken, and may raise a TallystickError.
    ``weight``: how often; ``signed``: whether what is read was signed anew."""

    make: Callable[[], Any]
    take: Callable[[Any], bool]
    weight: float = 1.0
    signed: bool = False


class Different(Exception):
    """What was taken is not what it must be."""


class FileTarget:
    """Every kind of file in turn."""

    def __init__(self, base: Base, folder: Path, rng: Random) -> None:
        self.last, self._rng, self._folder = b"", rng, folder
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "input.toml"
        self._contract = base.alliance.contract
        self._forms = Forms(base, rng)
        self._keys = self._forms.keys
        self._columns = self._contract.declared_columns()
        values = np.random.default_rng(rng.randrange(1 << 30))
        self._rows = {name: values.uniform(0, 60, MANY) for name in COLUMNS}
        self._rows |= {
            name: values.integers(0, 2, MANY).astype(float) for name in (*LABELS, "region")
        }
        self._cases = self._all()
        self._weights = [case.weight for case in self._cases.values()]

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def left(self) -> str:
        found = sorted(path.name for path in self._folder.iterdir())
        return "" if len(found) <= 4 else f"files that nobody wrote: {found}"

    def one(self) -> Came:
        name = self._rng.choices(list(self._cases), self._weights)[0]
        case = self._cases[name]
        given = case.make()
        self.last = given if isinstance(given, bytes) else repr(given).encode(errors="replace")
        try:
            taken = case.take(given)
        except TallystickError as error:
            if not console.shown(str(error), 10_000):
                return Came(name, case.signed, wrong="an error without a word")
            return Came(f"{name} refused", case.signed)
        return Came(name, case.signed, taken)

    def _all(self) -> dict[str, Case]:
        new = self._forms
        audiences = ["bank & shop", "bank & (shop | telecom) - utility"]
        rules_ = [*RULES, "model:buyers >= 0.5 or age < 3"]
        return {
            "contract": Case(lambda: new.of("contract"), self._a_contract, 2.0, signed=True),
            "job": Case(new.job, self._a_job, 3.0),
            "job file": Case(new.job_file, self._a_job_file),
            "model": Case(new.model, self._a_model, 2.0),
            "invitation": Case(lambda: new.of("invitation"), self._an_invitation),
            "application": Case(new.application, self._an_application, signed=True),
            "repair": Case(new.repair, self._a_repair, 0.7, signed=True),
            "carried": Case(new.carried, self._an_object, 0.7),
            "settings": Case(lambda: new.of("settings"), self._settings),
            "coordinator": Case(lambda: new.of("coordinator"), self._coordinator, 0.3),
            "approval": Case(new.approval, self._an_approval),
            "policy": Case(new.policy, self._a_policy),
            "pem": Case(new.pem, self._keys_and_certificates, 1.5),
            "rule": Case(lambda: new.text(rules_), self._a_rule, 2.0),
            "audience": Case(lambda: new.text(audiences), self._an_audience),
            "measure": Case(lambda: new.text(["count", "histogram(age,5)"]), self._a_measure, 0.5),
            "toml": Case(new.toml, lambda text: toml.loads_toml(text) is not None, 2.0),
            "json": Case(new.json, self._a_json, 2.0),
            "message": Case(new.message, self._a_message, 2.0),
            "key file": Case(lambda: new.text(["ab" * 32 + "\n" + "0" * 64]), self._key_file, 0.3),
            "pin": Case(new.json, self._a_pin, 0.3),
            "identifiers": Case(new.cells, self._identifiers, 0.5),
            "terminal": Case(lambda: new.text([*texts.WORDS]), self._terminal),
        }

    # ------------------------------------------------------------------ what reads them

    def _path(self, text: str) -> Path:
        self._file.write_bytes(text.encode(errors="surrogatepass"))
        return self._file

    def _a_contract(self, text: str) -> bool:
        """As whoever signs it, and whoever installs it."""
        found = alliance.load(self._path(text))
        for name in found.signatures.keys() - self._keys.keys():
            identity.decode_key(found.signatures[name], "signatures")
        found.check_terms(datetime.now(UTC))
        for party in found.parties:
            if party.name in self._keys:
                found = found.signed_by(party.name, self._keys[party.name])
        found.check_signatures()
        found.roster(), found.declared_columns(), found.mu2_limit(), found.fingerprints()
        found.per_person(0.01)
        again = alliance.load(self._path(alliance.dump(found)))
        if again.digest() != found.digest():
            raise Different("a contract that is written is another one")
        return True

    def _a_job(self, data: bytes) -> bool:
        return self._judged(jobs.from_canonical(data))

    def _a_job_file(self, text: str) -> bool:
        return self._judged(jobs.load(self._path(text)))

    def _judged(self, job: jobs.Job) -> bool:
        """As whoever quotes it, and the gate."""
        if jobs.from_canonical(job.canonical()) != job:
            raise Different("a job that is written is another one")
        job.participants(self._contract)
        job.check(self._contract)
        job.columns()
        if job.match is None:
            job.program(self._contract).plan()
        else:
            job.match.price(self._contract, job.mu2(self._contract))
        return True

    def _a_model(self, data: bytes) -> bool:
        scores = model_from(self._columns, toml.loads_json(data)).score(self._rows)
        if not np.isfinite(scores).all():
            raise Different("a score that is not finite")
        return True

    def _an_invitation(self, text: str) -> bool:
        joining.load_invitation(self._path(text))
        return True

    def _an_application(self, plain: dict[str, Any]) -> bool:
        """Signed with all its keys, then read as a file."""
        made = toml.build(joining.Application, without_none(plain))
        signed = made.signed(self._keys[TARGET], self._forms.node, self._forms.tls)
        joining.load_application(self._path(alliance.to_toml(signed)))
        return True

    def _a_repair(self, text: str) -> bool:
        """Signed by all, then read as a file and as what is kept of it."""
        found = repairs.load(self._path(text), REPAIRED)
        for name in found.signers(self._contract):
            found = found.signed_by(name, self._keys[name], self._contract)
        again = repairs.load(self._path(repairs.to_text(found)), REPAIRED)
        again.told(), again.missing(self._contract)
        again.check(self._contract, again.made)
        if repairs.from_kept(again.kept()) != again:
            raise Different("a repair that is kept is another one")
        return True

    def _an_object(self, data: bytes) -> bool:
        carried.open_record(data, carried.name_of(data))
        return True

    def _settings(self, text: str) -> bool:
        self._path(text).rename(self._folder / "partner.toml")
        PartnerHome(self._folder).config()
        return True

    def _coordinator(self, text: str) -> bool:
        self._path(text).rename(self._folder / "coordinator.toml")
        CoordinatorHome(self._folder).config()
        return True

    def _an_approval(self, text: str) -> bool:
        reveal.load(self._path(text)).statement()
        return True

    def _a_policy(self, text: str) -> bool:
        found = policy.load(self._path(text))
        found.digest()
        for purpose in policy.PURPOSES:
            for each in found.for_purpose(purpose):
                each.transform.check(each.kind)
        return True

    def _keys_and_certificates(self, text: str) -> bool:
        taken = False
        for read in (identity.read_certificate, identity.read_node_key, identity.decode_key):
            try:
                read(text, "place")
                taken = True
            except TallystickError:
                continue
        return taken

    def _a_rule(self, text: str) -> bool:
        found = rules.parse(text)
        rows = self._rows | dict.fromkeys(found.models, np.full(MANY, 0.5))
        chosen = found.select(rows, self._columns, MANY)
        if chosen.shape != (MANY,) or chosen.dtype != np.bool_:
            raise Different("a rule that selects something else than rows")
        return True

    def _an_audience(self, text: str) -> bool:
        found = algebra.parse(text)
        found.select(dict.fromkeys(found.names, np.ones(3, np.bool_)))
        return True

    def _a_measure(self, text: str) -> bool:
        jobs.parse_measure(text)
        return True

    def _a_json(self, data: bytes) -> bool:
        found = toml.loads_json(data)
        if toml.loads_json(toml.canonical(found)) != found:
            raise Different("what is written is not read as the same")
        return True

    def _a_message(self, given: tuple[str, bytes]) -> bool:
        kind, data = given
        wire.parse(getattr(wire, kind), data)
        for read in (
            lambda: wire.open_request(data, self._contract.coordinator_identity()),
            lambda: wire.open_any_reply(data, self._contract.identity_of(TARGET), wire.ReplyHeader()),
        ):  # fmt: skip
            try:
                read()
            except TallystickError:
                continue
            raise Different("a message without a signature")
        return True

    def _key_file(self, text: str) -> bool:
        path = self._path(text)
        path.chmod(0o600)
        KeySource.parse(f"file:{path}").read()
        return True

    def _a_pin(self, data: bytes) -> bool:
        self._file.write_bytes(data)
        ReadAs.load(self._file)
        return True

    def _identifiers(self, given: tuple[str, list[str | None]]) -> bool:
        found, at = labels(given[0], given[1])
        if len(found) != len(at) or (len(at) and at.max() >= len(given[1])):
            raise Different("labels of rows that there are not")
        return bool(len(at))

    def _terminal(self, text: str) -> bool:
        found = console.shown(text)
        if not found.isprintable():
            raise Different("raw control characters")
        return True
