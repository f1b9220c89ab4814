"""Job specifications: what a coordinator asks for, as TOML, and the program it means.

A job's epsilon and shape are requests. Both sides build the program from the specification and the
contract, so both recompute plan and price.
"""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from privacy import accounting
from privacy.errors import ConfigError, ParameterError
from privacy.noisy_sum.feasible import check_feasible
from privacy.programs import rules
from privacy.programs.evaluate import Evaluate
from privacy.programs.program import Program, check_plan
from privacy.programs.propensity import STEPS, Propensity
from privacy.programs.query import Measure, Query
from privacy.programs.segment import Segment
from protos.alliance import NAME, Contract, Kind
from protos.matches import MatchJob
from protos.toml import Strict, build, canonical, loads_json, read_toml

SMALLEST_MU2 = 1e-12
"""Below this even a single count has more noise than can be drawn (noise.LARGEST_VARIANCE)."""

_MEASURE = re.compile(
    r"(count|sum|mean|histogram)(?:\(\s*([a-z][a-z0-9_]*)\s*(?:,\s*([0-9]{1,6})\s*)?\))?"
)


def parse_measure(text: str) -> Measure:
    """``count``, ``sum(c)``, ``mean(c)``, ``histogram(c)`` or ``histogram(c, BINS)``."""
    found = _MEASURE.fullmatch(text.strip())
    if not found:
        raise ParameterError(f"{text!r}: write count, sum(c), mean(c) or histogram(c, bins)")
    kind: Any
    kind, column, bins = found.groups()
    if (kind == "count") != (column is None) or (bins and kind != "histogram"):
        raise ParameterError(f"{text!r}: write count, sum(c), mean(c) or histogram(c, bins)")
    return Measure(kind, column, int(bins) if bins else 10)


class QueryJob(Strict):
    """``measures`` over the rows that ``where`` selects."""

    measures: tuple[Annotated[str, Field(max_length=200)], ...] = Field(min_length=1, max_length=50)
    where: str | None = None


class SegmentJob(Strict):
    """k-means over number columns."""

    columns: tuple[str, ...] = Field(min_length=1, max_length=20)
    segments: int = Field(ge=2, le=50)


class PropensityJob(Strict):
    """A linear model of ``label``; ``holdout`` of the people are kept for evaluation."""

    features: tuple[str, ...] = Field(min_length=1, max_length=200)
    label: str
    holdout: float = Field(default=0.2, ge=0.0, le=0.5)
    steps: int = Field(default=STEPS, ge=5, le=500)


class EvaluateJob(Strict):
    """Evaluation of the propensity model ``model``; the coordinator fills in the rest."""

    model: str
    features: tuple[str, ...] = Field(default=(), max_length=200)
    label: str = ""
    holdout: float = Field(default=0.2, gt=0.0, le=0.5)
    weights: tuple[float, ...] = Field(default=(), max_length=200_001)
    platt: tuple[float, ...] = Field(default=(), max_length=2)


class Job(Strict):
    """One job. Exactly the table that ``kind`` names is present."""

    name: str
    kind: Kind
    purpose: str
    epsilon: float = Field(default=0.0, ge=0.0, le=100.0)
    query: QueryJob | None = None
    segment: SegmentJob | None = None
    propensity: PropensityJob | None = None
    evaluate: EvaluateJob | None = None
    match: MatchJob | None = None

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("a-z, 0-9, - and _, at most 32")
        return value

    @model_validator(mode="after")
    def _one_table(self) -> Job:
        for kind in ("query", "segment", "propensity", "evaluate", "match"):
            if (getattr(self, kind) is not None) != (kind == self.kind):
                state = "is missing" if kind == self.kind else f"does not belong to a {self.kind}"
                raise ValueError(f"table [{kind}] {state}")
        is_exact = self.match is not None and not self.match.is_noisy
        if is_exact and self.epsilon:
            raise ValueError("epsilon: a match list has no epsilon; it is a disclosure")
        if not is_exact and self.epsilon <= 0:
            raise ValueError("epsilon: must be above 0")
        return self

    def canonical(self) -> bytes:
        """Bytes that both sides hash."""
        return canonical(self.model_dump(mode="json"))

    def participants(self, contract: Contract) -> tuple[str, ...]:
        """Who takes part: the parties of a match, else the whole cohort."""
        if self.match:
            return self.match.parties
        return tuple(party.name for party in contract.parties)

    def mu2(self, contract: Contract) -> float:
        """mu^2 the job may spend, rounded down to nine digits so that both sides agree.

        Raises ConfigError if nothing can be bought with it.
        """
        if not self.epsilon:
            return 0.0
        mu2 = accounting.mu_of(self.epsilon, contract.privacy.delta) ** 2
        if mu2 < SMALLEST_MU2:
            raise ConfigError("epsilon", "is too small for any noise that can be drawn")
        scale = 10.0 ** (8 - math.floor(math.log10(mu2)))
        return math.floor(mu2 * scale) / scale

    def check(self, contract: Contract) -> None:
        """Raises ConfigError if the contract does not allow this job; an absent rule denies.

        All that follows from specification and contract alone is judged here, by who quotes and by the
        gate before it charges anything: whether the plan's shares add up, and whether the noise of every
        release can be drawn.
        """
        purpose = contract.purposes.get(self.purpose)
        if purpose is None:
            raise ConfigError("purpose", f"{self.purpose!r} is not a purpose of the contract")
        if self.kind not in purpose.kinds:
            raise ConfigError("kind", f"purpose {self.purpose!r} does not allow {self.kind}")
        if self.match:
            self.match.check(contract, self.mu2(contract))
            return
        try:
            plan, roster = self.program(contract).plan(), contract.roster()
            check_plan(plan, self.mu2(contract))
            check_feasible(plan, roster.honest, len(roster.parties))
        except ParameterError as error:
            raise ConfigError(self.kind, str(error)) from None

    def program(self, contract: Contract) -> Program:
        """The program over noisy sums that this job means. Raises ConfigError or ParameterError."""
        columns, mu2 = contract.declared_columns(), self.mu2(contract)
        if self.query:
            where = rules.parse(self.query.where) if self.query.where else None
            for name in where.names if where else ():
                if name not in columns:
                    raise ConfigError("query.where", f"{name} is not a column of the contract")
            measures = [parse_measure(text) for text in self.query.measures]
            return Query(columns, measures, where, mu2)
        if self.segment:
            return Segment(columns, self.segment.columns, self.segment.segments, mu2)
        if self.propensity:
            spec = self.propensity
            return Propensity(
                columns, spec.features, spec.label, mu2, holdout=spec.holdout, steps=spec.steps
            )
        if self.evaluate:
            evaluation = self.evaluate
            program = Evaluate(
                columns, evaluation.features, evaluation.label, evaluation.holdout, mu2
            )
            program.restore(np.array([*evaluation.weights, *evaluation.platt]))
            return program
        raise ConfigError("kind", "a match is not a program over noisy sums")

    def columns(self) -> set[str]:
        """Contract columns that a partner's rows must hold for this job (without scores)."""
        if self.query:
            needed = {m.column for m in map(parse_measure, self.query.measures) if m.column}
            return needed | (
                set(rules.parse(self.query.where).names) if self.query.where else set()
            )
        if self.segment:
            return set(self.segment.columns)
        if self.propensity:
            return {*self.propensity.features, self.propensity.label}
        if self.evaluate:
            return {*self.evaluate.features, self.evaluate.label}
        return set()


def job_id(contract: bytes, spec: bytes, salt: bytes) -> str:
    """Name of one run of a job: it commits to contract, specification and a fresh salt."""
    parts = b"".join(len(p).to_bytes(4, "big") + p for p in (contract, spec, salt))
    return hashlib.sha256(b"tallystick/v1/job" + parts).hexdigest()[:32]


def with_model(job: Job, made_by: Job, model: dict[str, Any]) -> Job:
    """An evaluation filled in with the propensity model it names. Raises ConfigError."""
    if job.evaluate is None or made_by.propensity is None:
        raise ConfigError("evaluate.model", "is not a propensity model")
    if not made_by.propensity.holdout:
        raise ConfigError("evaluate.model", "its job kept no holdout")
    filled = job.evaluate.model_copy(
        update={
            "features": made_by.propensity.features,
            "label": made_by.propensity.label,
            "holdout": made_by.propensity.holdout,
            "weights": tuple(model["weights"]),
            "platt": tuple(model["platt"]),
        }
    )
    return job.model_copy(update={"evaluate": filled})


def model_bytes(model: dict[str, Any] | None) -> bytes:
    """A model as it travels; empty where a job makes none."""
    return canonical(model) if model else b""


def load(path: Path) -> Job:
    """Read ``job.toml``. Raises ConfigError with the key path."""
    return build(Job, read_toml(path))


def from_canonical(data: bytes) -> Job:
    """Parse the bytes of :meth:`Job.canonical`; refuses any other spelling of the same job."""
    job = build(Job, loads_json(data))
    if job.canonical() != data:
        raise ConfigError("", "job is not in canonical form")
    return job
