"""Whose fault a gate's refusal is, where it refuses for what somebody else has stated.

A gate that sees a peer's journal behind what the peer signed, or clocks that differ by a day, refuses in its
own name, and all honest gates may. The coordinator has relayed what everybody stated, heads that gates hold
of each other among it, and can tell: whose own head is behind one that anybody holds; whose clock differs
from its own and from most.

Not handled: both of two clocks; what gates say to each other in a match, which nobody else reads. A gate that
refuses there is told of together with those whose messages it judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from protos import statements, wire
from protos.alliance import Contract
from protos.refusal import Code
from protos.statements import BadStatement, JournalHead
from server.rounds import PartnerFailed

DAY = 86_400.0
"""Seconds that a partner's clock may differ by (:mod:`client.heads`)."""


def whose(
    refused: PartnerFailed,
    own: Mapping[str, JournalHead],
    heads: Iterable[wire.Signed],
    contract: Contract,
    now: float,
) -> PartnerFailed:
    """The same failure with the name of who caused it, if that can be told.

    ``own``: the head that each party stated of its journal; ``heads``: all that were brought along.
    """
    if refused.code == Code.ROLLED_BACK:
        behind = _behind(own, heads, contract)
        if behind and refused.partner not in [name for name, _, _ in behind]:
            name, entry, signed = behind[0]
            return PartnerFailed(
                name,
                f"{name} states entry {entry} of its journal and signed entry {signed} before: was it"
                " restored from a backup? Run the job again, and its gate goes on from there; if its"
                " journal never had that entry, `heads` shows it and a repair forgets it",
                refused.code,
            )
    if refused.code == Code.CLOCK:
        off = [name for name, said in own.items() if abs(said.time - now) > DAY]
        if off and refused.partner not in off and 2 * len(off) <= len(own):
            text = f"the clock of {', '.join(off)} is more than a day off: compare it with UTC"
            return PartnerFailed(off[0], text, refused.code)
    return refused


def _behind(
    own: Mapping[str, JournalHead], heads: Iterable[wire.Signed], contract: Contract
) -> list[tuple[str, int, int]]:
    """Who states an earlier head of its journal than one that anybody holds, and both entries."""
    highest: dict[str, JournalHead] = {}
    for signed in heads:
        try:
            said = statements.read_head(contract, signed.party, signed)
        except BadStatement:  # of an earlier key: gates take it for nothing too
            continue
        if signed.party not in highest or said.sequence > highest[signed.party].sequence:
            highest[signed.party] = said
    return [
        (name, said.sequence, highest[name].sequence)
        for name, said in own.items()
        if name in highest and statements.is_behind(said, highest[name])
    ]
