"""Everything that a contract binds a partner to, in sentences, before it signs.

The contract comes from somebody else. Each text of it is escaped (:func:`protos.console.shown`), and nothing
of it is left out: a key that these sentences do not know yet is shown under its name. What a party is
identified by (keys, certificates) comes last, next to the question whether it was compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from cryptography.hazmat.primitives import hashes

from protos import identity
from protos.alliance import AnyColumn, CategoryColumn, Contract, NumberColumn, Party
from protos.console import LONGEST_MESSAGE, shown
from protos.toml import Strict, canonical

VALUES = 12
"""Values of a vocabulary that are shown; of a longer one, the number of all and a digest besides."""
SEMI_HONEST = (
    "assumes: semi_honest. The fast lane, and noisy results over rules that a job brings, hold only while "
    "every party runs this code: a noisy size or sum protects against the relay and against a partner "
    "that runs this code, not against one that deviates."
)
Show = Callable[[object], str]


def lines(contract: Contract, show: Show = shown) -> list[str]:
    """The terms, line by line. Raises ConfigError for a key or certificate that cannot be read."""
    return [
        *_head(contract, show),
        *_columns(contract, show),
        *_purposes(contract, show),
        *_matching(contract, show),
        *_privacy(contract, show),
        *_coordinator(contract, show),
        *_parties(contract, show),
        f"everyone's keys, limits and rules are in the contract's digest: {_digest(contract)}",
    ]


def _digest(contract: Contract) -> str:
    return identity.groups(contract.digest())


def _head(contract: Contract, show: Show) -> Iterator[str]:
    yield f"contract: {show(contract.name)}"
    yield f"  version {contract.version}, until {contract.expires:%Y-%m-%d %H:%M:%S} UTC"
    yield f"  digest {_digest(contract)}"
    known = {"name", "version", "expires", "columns", "purposes", "matching", "privacy", "coordinator",
             "parties", "signatures"}  # fmt: skip
    yield from _others(contract, known, show)


def _columns(contract: Contract, show: Show) -> Iterator[str]:
    yield f"columns ({len(contract.columns)}): jobs may count, add up and learn over"
    for name, column in contract.columns.items():
        yield f"  {show(name)}: {_column(column, show)}"
        yield from _others(column, {"type", "low", "high", "scale", "values"}, show)


def _column(column: AnyColumn, show: Show) -> str:
    if isinstance(column, NumberColumn):
        scale = " on a logarithmic scale" if column.scale == "log" else ""
        return f"a number from {column.low!r} to {column.high!r}{scale}; beyond is clipped"
    if isinstance(column, CategoryColumn):
        few = ", ".join(_quoted(value, show) for value in column.values[:VALUES])
        if len(column.values) <= VALUES:
            return f"one of {len(column.values)} values: {few}"
        digest = hashlib.sha256(canonical(list(column.values))).hexdigest()
        return (
            f"one of {len(column.values)} values: {few} and {len(column.values) - VALUES} more; "
            f"SHA-256 of all as JSON {digest}"
        )
    return "yes or no"


def _purposes(contract: Contract, show: Show) -> Iterator[str]:
    yield f"purposes ({len(contract.purposes)}): a job names one, and is of a kind that it allows"
    for name, purpose in contract.purposes.items():
        yield f"  {_quoted(name, show)}: {', '.join(purpose.kinds)}"
        yield from _others(purpose, {"kinds"}, show)


def _matching(contract: Contract, show: Show) -> Iterator[str]:
    matching = contract.matching
    if matching is None:
        yield "matching: none; nobody may compare customers"
        return
    yield "matching:"
    yield f"  people may be matched by {', '.join(matching.identifiers)}"
    yield (
        f"  a set holds at most {matching.largest_set} identifiers, and its size is padded to a multiple "
        f"of {matching.bucket} (bucket)"
    )
    if matching.recipients:
        yield (
            f"  EXACT lists of single people, without noise, may go to: {_names(matching.recipients, show)}"
        )
    else:
        yield "  recipients: nobody may receive exact lists"
    if matching.platforms:
        yield f"  a recipient may upload them to: {_names(matching.platforms, show)}"
    else:
        yield "  platforms: lists may be uploaded nowhere"
    yield (
        "  a noisy size, sum or overlap protects against the relay and against a partner that runs this code,"
        " not against one that deviates"
    )
    yield f"  engine {matching.engine}: {_ENGINES[matching.engine]}"
    if matching.assumes is None:
        yield (
            "  assumes: nothing. What holds only while every party runs this code (the fast lane, noisy "
            "results over rules that a job brings) is not allowed."
        )
    elif matching.assumes == "semi_honest":
        yield f"  {SEMI_HONEST}"
    yield from _others(matching, _MATCHING, show)


_MATCHING = frozenset(
    ("identifiers", "bucket", "largest_set", "recipients", "platforms", "engine", "assumes")
)
_ENGINES: dict[str, str] = {
    "auto": "the fastest blinding that both sides have",
    "ristretto255": "libsodium's group, on every machine",
    "fast": "the fast lane for lists between two parties, which holds only while both run this code",
}


def _names(names: tuple[str, ...], show: Show) -> str:
    return ", ".join(show(name) for name in names)


def _privacy(contract: Contract, show: Show) -> Iterator[str]:
    privacy = contract.privacy
    many = privacy.partners_per_person
    yield f"privacy, at each partner and in {privacy.period_days} days:"
    yield f"  a customer here pays at most epsilon {privacy.epsilon!r}, at delta {privacy.delta!r}"
    yield (
        f"  a person who is a customer at {many} partners (partners_per_person) pays at most epsilon "
        f"{privacy.epsilon_per_person!r} at all of them together; nothing is promised at more partners"
    )
    yield (
        f"  smallest_cohort {privacy.smallest_cohort}: a coordinator that plays fair shows no smaller cell,"
        " and no smaller audience can be frozen; a partner answers questions about fewer people with noise"
    )
    yield (
        f"  noise and masks hold against the coordinator with {privacy.colluders} partner(s) who pool "
        f"what they see (c); {privacy.dropouts} partner(s) may drop out of a job (d)"
    )
    yield f"  a person counts with at most {privacy.rows_per_person} row(s) (rows_per_person)"
    yield from _others(privacy, _PRIVACY, show)
    yield (
        f"  that is (epsilon, delta)-differential privacy of noisy results in each period of "
        f"{privacy.period_days} days, in the unit of adding or removing one person, with all their rows, "
        "at one partner; exact lists, pseudonyms and audiences have none"
    )


_PRIVACY = frozenset(
    ("epsilon", "epsilon_per_person", "delta", "period_days", "smallest_cohort", "colluders", "dropouts",
     "partners_per_person", "rows_per_person")
)  # fmt: skip


def _coordinator(contract: Contract, show: Show) -> Iterator[str]:
    found = contract.coordinator
    authority = identity.read_certificate(found.authority, "coordinator.authority")
    yield f"coordinator: {show(found.name)}"
    yield f"  link {show(found.link)}, exchange {show(found.exchange)}"
    yield f"  certificate authority, SHA-256: {identity.groups(authority.fingerprint(hashes.SHA256()))}"
    yield f"  fingerprint: {identity.fingerprint(contract.coordinator_identity())}"
    yield from _others(found, {"name", "identity", "link", "exchange", "authority"}, show)


def _parties(contract: Contract, show: Show) -> Iterator[str]:
    yield f"parties ({len(contract.parties)}):"
    for party in contract.parties:
        yield from _party(contract, party, show)


def _party(contract: Contract, party: Party, show: Show) -> Iterator[str]:
    where = f"parties.{party.name}"
    certificate = identity.read_certificate(party.certificate, f"{where}.certificate")
    node_key = identity.read_node_key(party.node_key, f"{where}.node_key")
    signed = "not signed yet"
    if party.name in contract.signatures:
        signed = (
            "signed" if contract.has_signed(party.name) else "HAS A SIGNATURE THAT DOES NOT FIT"
        )
    yield f"  {show(party.name)}: says that its data stays in {_quoted(party.residency, show)}; {signed}"
    yield f"    certificate, SHA-256: {identity.groups(certificate.fingerprint(hashes.SHA256()))}"
    key = identity.certificate_key(certificate, f"{where}.certificate")
    yield f"    TLS key, which later certificates carry too, SHA-256: {identity.sha256_groups(key)}"
    yield f"    node key, SHA-256: {identity.sha256_groups(node_key)}"
    yield f"    fingerprint: {identity.fingerprint(contract.identity_of(party.name))}"
    yield from _others(party, {"name", "identity", "node_key", "certificate", "residency"}, show)


def _quoted(text: str, show: Show) -> str:
    """A foreign text within a sentence of ours: it cannot end its quotes and go on as ours."""
    return f"'{show(text).replace(chr(39), chr(92) + 'x27')}'"


def _others(model: Strict, known: frozenset[str] | set[str], show: Show) -> Iterator[str]:
    """Keys that came into the contract after these sentences; absent ones bind to nothing."""
    for key, value in model.model_dump(mode="json").items():
        if key not in known:
            yield f"  {show(key)}: {shown(canonical(value).decode(), LONGEST_MESSAGE)}"
