"""May this job run here? The contract first, then the partner's own, stricter rules.

An absent rule denies. Until approvals exist, whatever would need one is refused. What is looked at here is
the job, the contract and ``partner.toml``: no row, and nothing that a row changed.
"""

from __future__ import annotations

from client.home import PartnerConfig
from privacy.errors import ConfigError, Refused
from protos.alliance import Contract
from protos.jobs import Job
from protos.matches import MatchJob
from protos.refusal import Code


def check(job: Job, contract: Contract, config: PartnerConfig) -> None:
    """Raises Refused(POLICY or PLAN), with the rule that denied as detail for the local log."""
    try:
        job.check(contract)
    except ConfigError as error:
        code = Code.PLAN if error.path == job.kind else Code.POLICY
        raise Refused(code, f"contract: {error}") from None
    rules = config.rules
    if config.name not in job.participants(contract):
        raise Refused(Code.POLICY, "this partner takes no part in the job")
    if job.kind not in rules.kinds:
        raise Refused(Code.POLICY, f"partner.toml: rules.kinds does not name {job.kind}")
    if job.purpose not in rules.purposes:
        raise Refused(Code.POLICY, "partner.toml: rules.purposes does not name the job's purpose")
    if job.epsilon > rules.largest_epsilon:
        raise Refused(Code.POLICY, "partner.toml: rules.largest_epsilon is below the job's epsilon")
    if job.match:
        _check_match(job.match, contract, config)


def _check_match(match: MatchJob, contract: Contract, config: PartnerConfig) -> None:
    rules = config.rules
    for receiver in match.recipients:
        if receiver != config.name and receiver not in rules.send_lists_to:
            raise Refused(Code.POLICY, f"partner.toml: rules.send_lists_to lacks {receiver}")
    assumed = match.semi_honest(contract)
    if assumed is not None and rules.assumes != "semi_honest":
        raise Refused(Code.POLICY, f"partner.toml: rules.assumes: {assumed}")
