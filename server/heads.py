"""Heads of the partners' journals, as the coordinator keeps them: the highest that each signed.

They travel with every ``hello``, so that a partner whose journal was put back hears of it at once. What a
partner states is read within its bounds before it is kept (:mod:`protos.statements`), and a head in another's
name, one that is behind the one that is held, or none at all costs nobody his result: the job is done, its
figures carry a note that names who stated it, and later jobs go on with the earlier head. One that was signed
earlier is merely old: jobs run beside each other.

A head that was signed more than a day ahead of this machine's clock is not kept either: gates take none.

Only the number of entries has to grow. What is charged in all may honestly fall: a head counts what open jobs
may still charge, and a job that is cancelled gives that back.

Not handled: a head that is valid and too high. It is kept, since nobody can tell; see :mod:`protos.repairs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from protos import statements, wire
from protos.alliance import Contract
from protos.repairs import Repair
from protos.statements import BadStatement, JournalHead
from server.store import Store

DAY = 86_400.0


def held(store: Store, contract: Contract) -> dict[str, tuple[JournalHead, wire.Signed]]:
    """The head of each partner. One that does not read is left out: an earlier version kept whatever came,
    and a key may have been replaced since."""
    found, forgotten = {}, store.forgotten()
    for signed in store.heads():
        try:
            said = statements.read_head(contract, signed.party, signed)
        except BadStatement:
            continue
        if (signed.party, said.sequence, said.digest) not in forgotten:
            found[signed.party] = (said, signed)
    return found


def keep(store: Store, contract: Contract, signed: Mapping[str, wire.Signed]) -> list[str]:
    """Keep what each partner stated when a job ended; notes on what was not kept, with the names."""
    notes = []
    with store.transaction():  # jobs run beside each other
        before, forgotten = held(store, contract), store.forgotten()
        for name, stated in signed.items():
            try:
                said = statements.read_head(contract, name, stated)
            except BadStatement as error:
                notes.append(note(name, str(error)))
                continue
            if said.time > store.now() + DAY:
                notes.append(note(name, "its clock is more than a day ahead of this machine's"))
            elif (name, said.sequence, said.digest) in forgotten:
                notes.append(note(name, "all others agreed to forget it"))
            elif name not in before or _is_newer(said, before[name][0]):
                store.keep_head(stated)
            elif statements.is_behind(said, before[name][0]):
                notes.append(note(name, "it does not continue the one that is held"))
    return notes


def note(name: str, why: str) -> str:
    """What the figures of a job say of a head that was not kept."""
    return f"the journal head of {name} was not kept: {why}"


def _is_newer(said: JournalHead, before: JournalHead) -> bool:
    if said.sequence == before.sequence:
        return said.digest == before.digest and said.time > before.time
    return said.sequence > before.sequence


def forget(store: Store, contract: Contract, repair: Repair, now: datetime) -> bool:
    """Forget the head that a repair names, for ever; whether it was held. Raises ConfigError unless all other
    partners signed it under this contract and it has not expired."""
    repair.check(contract, now)
    party, sequence, digest = repair.head
    with store.transaction():  # a job that ends meanwhile may bring another
        found = held(store, contract).get(party)
        gone = None
        if found is not None and (found[0].sequence, found[0].digest) == (sequence, digest):
            gone = found[1]
        store.forget_head(party, sequence, digest, repair.kept(), gone=gone)
    return gone is not None


def ending(
    contract: Contract, job: str, answers: Mapping[str, wire.ReplyBody]
) -> tuple[dict[str, tuple[wire.Signed, JournalHead]], list[str]]:
    """The heads with which partners end a job, and notes on those that are no good."""
    heads: dict[str, tuple[wire.Signed, JournalHead]] = {}
    notes = []
    for name, answer in answers.items():
        if not answer.finish.HasField("head"):
            notes.append(note(name, "it gave none"))
            continue
        try:
            said = statements.read_head(contract, name, answer.finish.head)
        except BadStatement as error:
            notes.append(note(name, str(error)))
            continue
        if said.job != job:
            notes.append(note(name, "it ends another job"))
            continue
        heads[name] = (answer.finish.head, said)
    return heads, notes
