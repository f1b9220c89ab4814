"""Stable codes of refusals. A code is all that a coordinator ever learns of a failure.

A refusal follows from public facts alone and costs nothing. ``FAILED`` is what is left after a charge:
it costs its release, and no row's value can cause it.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Why a gate refused."""

    MALFORMED = "malformed"
    BAD_SIGNATURE = "bad_signature"
    WRONG_CONTRACT = "wrong_contract"
    NOT_ADDRESSED = "not_addressed"
    EXPIRED = "expired"
    REPLAYED = "replayed"
    UNKNOWN_JOB = "unknown_job"
    JOB_CLOSED = "job_closed"
    POLICY = "policy"
    PLAN = "plan"
    LEDGER = "ledger_exhausted"
    ROSTER = "roster"
    STATE = "state_changed"
    PROTOCOL = "protocol"
    ROLLED_BACK = "ledger_rolled_back"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"
    BUSY = "busy"
    CLOCK = "clock"
    STORAGE = "storage"
    INTERNAL = "internal"


ADVICE: dict[Code, str] = {
    Code.MALFORMED: "the message did not parse; check that both sides run the same version",
    Code.BAD_SIGNATURE: "the coordinator's key is not the contract's; check the installed contract",
    Code.WRONG_CONTRACT: "the two sides hold different contracts; run `check` on both",
    Code.NOT_ADDRESSED: "the message was meant for another partner",
    Code.EXPIRED: "the contract, the job or the message has expired; check both clocks",
    Code.REPLAYED: "the message was seen before",
    Code.UNKNOWN_JOB: "the partner does not know this job; start it again",
    Code.JOB_CLOSED: "the job was finished or cancelled at the partner",
    Code.POLICY: "the partner's rules do not allow this job; ask the partner",
    Code.PLAN: "the job's plan cannot be honoured under the contract",
    Code.LEDGER: "the partner's epsilon for this period is used up; ask for less, or wait",
    Code.ROSTER: "the partners were shown different cohorts",
    Code.STATE: "this release was already answered for another state",
    Code.PROTOCOL: "a cryptographic check failed",
    Code.ROLLED_BACK: "a partner's ledger is older than what it signed before",
    Code.UNAVAILABLE: "the partner cannot serve this job now; ask the partner",
    Code.FAILED: "the partner was charged but could not answer (disk, memory, or its table went away);"
    " once it is mended, `resume` costs nothing more",
    Code.BUSY: "the partner's own limits on open jobs, work or disk are reached; try later",
    Code.CLOCK: "the partner's clock differs from the other partners' by more than a day; its operator"
    " must look",
    Code.STORAGE: "the partner cannot write its ledger",
    Code.INTERNAL: "the partner's gate failed; its own log says why",
}
