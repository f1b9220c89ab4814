"""From nothing to a partner in a signed alliance: keys, joining, signing, installing."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from client.home import Home
from privacy.errors import ConfigError
from privacy.randomness import Randomness
from protos import alliance, joining
from protos.certificates import pinned_key
from protos.files import check_folder, locked, new_folder, write_private
from protos.identity import encode, fingerprint, key_bytes, load_node_key
from protos.toml import build

TEMPLATE = """\
# What this partner brings and allows. Nothing here leaves this machine.
name = "{name}"

# Your table: .csv, .parquet, a .duckdb file with `table`, or postgresql://USER@HOST/DB with `table`.
# [data]
# source = "customers.csv"
# person = "customer_id"              # key of a customer
# key = "trimmed"                     # when two keys are one person: "exact", "trimmed", "caseless"
# delimiter = ";"                     # of a CSV whose heading leaves it open
# line_breaks = false                 # true: quoted cells hold line breaks, and quotes are RFC 4180's
# region = "CN"                       # of telephone numbers without a country code
# [data.columns]                      # contract's name = your name
# [data.identifiers]                  # email, phone, id_card, device_id

# What may run here, within the contract. What is not named is refused.
[rules]
kinds = []                            # query, segment, propensity, evaluate, match
purposes = []
largest_epsilon = 0.0                 # for one job
send_lists_to = []                    # partners that may receive match lists from you
upload_to = []                        # platforms that match lists may be prepared for
# assumes = "semi_honest"             # what holds only while every party runs this code: see `sign`

# [limits]                            # what others may make this gate do: docs/alliance.md

# [audiences.loyal]                   # for lists, pseudonyms and caches: `audience freeze loyal`
# rule = "frequency >= 4"             # over your columns and model:NAME; without: every customer
# valid_days = 92
# uses = 4

# [masking.approvers]                 # who may approve that tokens are turned back: `reveal new-approver`
"""


def init(root: Path, name: str, randomness: Randomness) -> Home:
    """Create a partner's folder with fresh keys. Never overwrites keys."""
    if not alliance.NAME.fullmatch(name):
        raise ConfigError("name", alliance.NAMED)
    home = Home(root)
    if home.keys.exists() or home.keys.is_symlink():
        raise ConfigError(str(home.keys), "keys exist already; they are never overwritten")
    if root.exists() or root.is_symlink():
        check_folder(root)  # before anything is put into it
    home.prepare()
    node = ec.generate_private_key(ec.SECP384R1())
    tls = ec.generate_private_key(ec.SECP256R1())
    with new_folder(home.keys) as keys:  # last, so that what failed can be begun again
        for file, data in (
            ("identity.key", randomness(32)),
            ("storage.key", randomness(32)),
            ("node.key", _pem(node, serialization.PrivateFormat.OpenSSH)),
            ("tls.key", _pem(tls, serialization.PrivateFormat.PKCS8)),
        ):
            write_private(keys / file, data, once=True)
        if not home.config_file.exists():
            write_private(home.config_file, TEMPLATE.format(name=name).encode())
    return home


def _pem(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def own_fingerprint(home: Home) -> str:
    """Fingerprint of this partner's identity key."""
    return fingerprint(home.identity().public_key().public_bytes_raw())


def join(home: Home, invitation_file: Path, residency: str, target: Path) -> joining.Invitation:
    """Answer an invitation: write the application, with proofs of this partner's keys. Raises ConfigError."""
    invitation = joining.load_invitation(invitation_file)
    apply(home, invitation, residency, target, inputs=(invitation_file,))
    return invitation


def apply(
    home: Home,
    invitation: joining.Invitation,
    residency: str,
    target: Path,
    *,
    inputs: tuple[Path, ...] = (),
) -> None:
    """Write the application that answers an invitation, and over none of ``inputs``. Raises ConfigError."""
    home.check_output(target)
    name = home.config().name
    if invitation.party != name:
        raise ConfigError("party", f"the invitation is for {invitation.party}, this is {name}")
    if invitation.coordinator.name == name:
        raise ConfigError("coordinator.name", "is this partner's own name")
    node, tls = _node_key(home), tls_key(home)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    said = {
        "version": 1,
        "alliance": invitation.alliance,
        "party": name,
        "identity": encode(home.identity().public_key().public_bytes_raw()),
        "node_key": node.public_key()
        .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        .decode(),
        "request": request.sign(tls, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode(),
        "residency": residency,
    }
    application = build(joining.Application, said).signed(home.identity(), node, tls)
    joining.write(target, application, inputs=inputs)


def _node_key(home: Home) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_ssh_private_key(home.key_file("node.key"), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise ConfigError("keys/node.key", "is not a private key on P-384 in OpenSSH's form")
    return key


def tls_key(home: Home) -> ec.EllipticCurvePrivateKey:
    """The key that the contract pins for TLS. Raises ConfigError."""
    try:
        key = serialization.load_pem_private_key(home.key_file("tls.key"), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("keys/tls.key", "is not an elliptic-curve private key in PEM")
    return key


def check_before_signing(home: Home, contract: alliance.Contract, now: datetime) -> None:
    """Terms hold, every key and certificate can be read and is one party's alone, and this partner's are its
    own. Raises ConfigError with the key path.
    """
    contract.check_terms(now)
    party = contract.party(home.config().name)
    public = home.identity().public_key().public_bytes_raw()
    if contract.identity_of(party.name) != public:
        raise ConfigError(f"parties.{party.name}.identity", "is not this partner's key")
    where = f"parties.{party.name}.node_key"
    if load_node_key(party.node_key, where) != _node_key(home).public_key():
        raise ConfigError(where, "is not this partner's key")
    if pinned_key(contract, party.name) != key_bytes(tls_key(home).public_key()):
        raise ConfigError(f"parties.{party.name}.certificate", "is not for this partner's key")


def sign(
    home: Home, path: Path, now: datetime, *, agreed: bytes | None = None
) -> alliance.Contract:
    """Add this partner's signature to the contract file, in place.

    ``agreed``: digest of the terms that were shown; the file may have been replaced while somebody read.
    Raises ConfigError.
    """
    home.check_output(path, changes=True)
    with locked(path):
        return _sign(home, path, now, agreed)


def _sign(home: Home, path: Path, now: datetime, agreed: bytes | None) -> alliance.Contract:
    contract = alliance.load(path)
    if agreed is not None and contract.digest() != agreed:
        raise ConfigError(str(path), "was changed while it was shown; nothing was signed")
    check_before_signing(home, contract, now)
    if contract.coordinator.name in {party.name for party in contract.parties}:
        raise ConfigError(
            "coordinator.name", "is the name of a party too; which is meant is not clear"
        )
    key: Ed25519PrivateKey = home.identity()
    signed = contract.signed_by(home.config().name, key)
    write_private(path, alliance.dump(signed).encode())
    return signed


def checked(home: Home, path: Path, now: datetime) -> alliance.Contract:
    """A contract that everyone signed and that names this partner's keys. Raises ConfigError."""
    contract = alliance.load_signed(path, now)
    check_before_signing(home, contract, now)
    return contract


def install(
    home: Home, path: Path, now: datetime | None = None, *, agreed: bytes | None = None
) -> alliance.Contract:
    """Check a contract that everyone signed, and install it in this partner's folder, in place of another if
    there is one: who types `check` is asked first. ``agreed``: digest of the one that was shown."""
    contract = checked(home, path, now or datetime.now(UTC))
    if agreed is not None and contract.digest() != agreed:
        raise ConfigError(str(path), "was changed while it was shown; nothing was installed")
    if path.resolve() != home.contract_file.resolve():
        write_private(home.contract_file, alliance.dump(contract).encode())
    return contract
