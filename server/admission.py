"""Taking a partner in: what is in its application, who would be replaced, whose signatures fit.

The threat: anybody who can send a file. An application proves that its sender holds the keys in it
(:mod:`protos.joining`) and nothing about who that is; so a person compares its fingerprint, and is asked
before keys that were admitted are replaced. A copy of the contract brings signatures; each is verified before
it is taken, and none that fits is ever lost to one that does not.

*Not* handled: a coordinator that invents partners. That is what the partners compare fingerprints for.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from privacy.errors import ConfigError
from protos import alliance, identity, joining
from protos.alliance import Contract, Party
from protos.console import shown
from protos.files import check_folder, locked, write_private
from protos.joining import Application
from protos.toml import build, read_toml
from server import pki
from server.home import Home


def lines(application: Application, before: Party | None) -> Iterator[str]:
    """What an application binds its sender to, escaped; and whom it would replace."""
    yield f"party: {application.party}"
    yield f"  says that its data stays in '{_quoted(application.residency)}'"
    yield f"  node key, SHA-256: {_hash(application.public_node_key())}"
    yield f"  TLS key, SHA-256: {_hash(application.public_tls_key())}"
    if before is not None:
        admitted = identity.decode_key(before.identity, f"parties.{before.name}.identity")
        yield f"  ADMITTED BEFORE with the fingerprint: {identity.fingerprint(admitted)}"
    yield f"  fingerprint: {fingerprint(application)}"
    yield "  it was proved that its sender holds these three keys, not who that is"


def _quoted(text: str) -> str:
    return shown(text).replace("'", "\\x27")


def _hash(key: ec.EllipticCurvePublicKey) -> str:
    return identity.sha256_groups(identity.key_bytes(key))


def fingerprint(application: Application) -> str:
    """Of the identity key, to be read out."""
    return identity.fingerprint(identity.decode_key(application.identity, "identity"))


def admitted(home: Home) -> dict[str, Party]:
    """The parties that are in so far, by name. Raises ConfigError."""
    check_folder(home.parties)
    found = {}
    for path in sorted(home.parties.glob("*.toml")):
        party = build(Party, read_toml(path, own=True), str(path))
        if party.name != path.stem:
            raise ConfigError(str(path), f"is about {party.name}: a file is named as its party")
        found[party.name] = party
    return found


def invited(home: Home) -> list[str]:
    """Names that were invited."""
    check_folder(home.invitations)
    names = (path.name.split(".")[0] for path in home.invitations.glob("*.invitation.toml"))
    return sorted(name for name in names if alliance.NAME.fullmatch(name))


def replaced(home: Home, application: Application) -> Party | None:
    """Who was admitted under this name with other keys; None if nobody was, or it is the same again."""
    before = admitted(home).get(application.party)
    return None if before is None or _is_same(before, application) else before


def _is_same(before: Party, application: Application) -> bool:
    """Is it the application that was admitted already?"""
    said = (before.identity, before.node_key, before.residency, _tls(before))
    key = identity.key_bytes(application.public_tls_key())
    return said == (application.identity, application.node_key, application.residency, key)


def _tls(party: Party) -> bytes:
    where = f"parties.{party.name}.certificate"
    return identity.certificate_key(identity.read_certificate(party.certificate, where), where)


def already(before: Party, application: Application) -> str:
    """Why an application is not taken without ``--replace``."""
    key = identity.decode_key(before.identity, f"parties.{before.name}.identity")
    return (
        f"{before.name} was admitted already, with other keys or another residency: fingerprint "
        f"{identity.fingerprint(key)}, now {fingerprint(application)}. If {before.name} says by telephone "
        "that the new one is its own: `admit --replace`"
    )


def check(home: Home, application: Application) -> None:
    """Raises ConfigError unless it was invited, for this alliance, with keys that are nobody else's."""
    if application.party not in invited(home):
        raise ConfigError("party", f"{application.party} was not invited")
    path = home.invitations / f"{application.party}.invitation.toml"
    if application.alliance != joining.load_invitation(path, own=True).alliance:
        raise ConfigError("alliance", "the application is for another alliance")
    if home.contract_file.exists() and alliance.load(home.contract_file, own=True).signatures:
        raise ConfigError(str(home.contract_file), "is signed already; a new party needs a new one")
    _check_keys(home, application)


def _check_keys(home: Home, application: Application) -> None:
    config = home.config()
    mine = home.identity().public_key().public_bytes_raw()
    if application.party == config.name:
        raise ConfigError("party", "is the coordinator's own name")
    if identity.decode_key(application.identity, "identity") == mine:
        raise ConfigError("identity", "is the coordinator's own key")
    tls = identity.key_bytes(application.public_tls_key())
    for name in ("ca.pem", "server.pem"):
        ours = identity.read_certificate(home.key(name).decode(), name)
        if tls == identity.certificate_key(ours, name):
            raise ConfigError("request", "is for a key of the coordinator")
    node = identity.key_bytes(application.public_node_key())
    for other in admitted(home).values():
        if other.name == application.party:
            continue
        where = f"parties.{other.name}.node_key"
        theirs = identity.key_bytes(identity.load_node_key(other.node_key, where))
        for key, same in (
            ("identity", application.identity == other.identity),
            ("node_key", node == theirs),
            ("request", tls == _tls(other)),
        ):
            if same:
                raise ConfigError(key, f"is the key of {other.name} too; each party makes its own")


def take(home: Home, application: Application, now: datetime, *, replace: bool = False) -> str:
    """Admit it; ``replace``: also over another that was admitted under its name. Says who is missing, or
    nothing. Raises ConfigError."""
    check(home, application)
    before = replaced(home, application)
    if before is not None and not replace:
        raise ConfigError("party", already(before, application))
    target = home.parties / f"{application.party}.toml"
    if before is not None or not target.exists():
        write_private(target, alliance.to_toml(_party(home, application, now)).encode())
    parties = admitted(home)
    return ", ".join(name for name in invited(home) if name not in parties)


def _party(home: Home, application: Application, now: datetime) -> Party:
    key = identity.key_bytes(application.public_tls_key())
    return Party(
        name=application.party,
        identity=application.identity,
        node_key=application.node_key,
        certificate=pki.client_certificate(
            home.key("ca.key"), home.key("ca.pem"), application.party, key, now
        ),
        residency=application.residency,
    )


def merge(home: Home, theirs: Contract, source: Path) -> str:
    """Take the signatures in a copy of our contract that fit it. Says which, which not, and who is missing.

    Raises ConfigError for a copy of another contract.
    """
    with locked(home.contract_file):
        return _merge(home, theirs, source)


def _merge(home: Home, theirs: Contract, source: Path) -> str:
    ours = alliance.load(home.contract_file, own=True)
    if ours.digest() != theirs.digest():
        raise ConfigError(str(source), "is another contract than ours")
    both = dict(ours.signatures)
    bad = [name for name in theirs.signatures if not theirs.has_signed(name)]
    for name, signature in theirs.signatures.items():
        if name not in bad and not ours.has_signed(name):
            both[name] = signature
    merged = ours.model_copy(update={"signatures": both})
    if both != ours.signatures:
        write_private(home.contract_file, alliance.dump(merged).encode())
    missing = merged.unsigned()
    said = f"signatures missing: {', '.join(missing)}" if missing else "all have signed"
    if bad:
        said = f"not taken, for they do not fit the contract: {', '.join(bad)}; {said}"
    return said
