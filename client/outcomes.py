"""Is this model what this gate took part in making?

The gate runs the job again from the states that it saw and the totals that come with the model
(:mod:`privacy.programs.replay`) and compares within a tolerance. The digest of states and totals, and the
model's, stand in the head that it signs then, and the model is kept once T parties' heads, its own among
them, say the same: partners that were given different models keep none. A gate that dropped out of a release
has not seen every state; it takes a model on the heads of T others.

Not handled: totals that the coordinator made up. Nobody but it sees them being opened.
"""

from __future__ import annotations

import hashlib

import numpy as np

from client.heads import Heads
from client.tasks.noisy_sum import NoisySumTask
from privacy.errors import ConfigError, ParameterError, PrivacyError, ProtocolError, Refused
from privacy.programs.replay import outcome_digest, replay, same_model
from privacy.programs.scoring import model_from
from protos import wire
from protos.addresses import JobId
from protos.alliance import Contract
from protos.jobs import Job, model_bytes
from protos.refusal import Code
from protos.toml import loads_json

LARGEST_MODEL = 1 << 20


def outcome_of(task: NoisySumTask, job: Job, finish: wire.Finish, contract: Contract) -> bytes:
    """64 bytes: what the model was made from, and the model; empty if this gate did not answer every
    release, and so cannot tell.

    Raises Refused(MALFORMED) for what is no model of this job, Refused(PLAN) for one that its totals do not
    make.
    """
    model = _parsed(job, finish.model, contract)
    if not task.answered_all():
        return b""
    if len(finish.totals) > len(task.plan):
        raise Refused(Code.MALFORMED, "more totals than releases")
    try:
        totals = {}
        for total in finish.totals:
            if not task.roster.threshold <= total.answered <= len(task.roster.parties):
                raise Refused(Code.MALFORMED, "a total of fewer vectors than open one")
            if total.index >= len(task.plan) or total.index in totals or len(total.total) % 8:
                raise Refused(Code.MALFORMED, "totals")
            values = np.frombuffer(total.total, dtype="<f8").astype(np.float64)
            totals[total.index] = (values, task.deviation(total.index, total.answered))
        states = task.states()
        ours = replay(job.program(contract), states, totals).get("model")
        if ours is None or not same_model(ours, model):
            raise Refused(Code.PLAN, "the model is not what these totals make")
        made_from = outcome_digest(states, totals, b"")
    except ProtocolError as error:
        raise Refused(Code.PLAN, error.why) from None
    except ParameterError as error:
        raise Refused(Code.PLAN, str(error)) from None
    return made_from + hashlib.sha256(finish.model).digest()


def agreed_by(
    heads: Heads, task: NoisySumTask, job_id: JobId, finish: wire.Finish, mine: bytes
) -> bytes:
    """The outcome that T parties' signed heads end this job with, this model in it; empty if too few do.

    ``mine``: what this gate found itself, which counts as one; empty if it cannot tell.
    """
    agreed: dict[bytes, set[str]] = {mine: {task.at.me}} if mine else {}
    if len(finish.heads) > 2 * len(task.roster.parties):
        raise Refused(Code.MALFORMED, "more heads than parties")
    for signed in finish.heads:
        head = heads.read(signed)
        if head.said.job == job_id and head.party != task.at.me:
            agreed.setdefault(head.said.outcome, set()).add(head.party)
    model = hashlib.sha256(finish.model).digest()
    for outcome, parties in agreed.items():
        fits = len(outcome) == 64 and outcome[32:] == model and (not mine or outcome == mine)
        if fits and len(parties) >= task.roster.threshold:
            return outcome
    return b""


def _parsed(job: Job, data: bytes, contract: Contract) -> object:
    """The model as plain values, if it is of this job's kind and columns."""
    wanted = job.propensity.features if job.propensity else (
        job.segment.columns if job.segment else None
    )  # fmt: skip
    if wanted is None:
        raise Refused(Code.MALFORMED, f"a {job.kind} makes no model")
    try:
        plain = loads_json(data, LARGEST_MODEL)
        model_from(contract.declared_columns(), plain)
        if plain["kind"] != job.kind or tuple(plain["columns"]) != tuple(wanted):
            raise Refused(Code.MALFORMED, "the model is not this job's")
        if model_bytes(plain) != data:
            raise Refused(Code.MALFORMED, "the model is not in canonical form")
    except (ConfigError, ValueError, KeyError, TypeError, PrivacyError):
        raise Refused(Code.MALFORMED, "the model does not parse") from None
    return plain
