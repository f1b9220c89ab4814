"""What the two doors may use of their gate, and the parts that a test may replace by faulty ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import policy, table
from client.heads import Heads
from client.home import Home, PartnerConfig
from client.journal import Journal
from client.ledger import Ledger
from client.models import Models
from client.store import Store
from client.summing import exact_sum
from privacy.noisy_sum.encoding import Integers
from privacy.programs.program import Program, Release
from privacy.randomness import Randomness
from protos.alliance import Contract
from protos.jobs import Job


@dataclass(frozen=True)
class Parts:
    """What looks at rows or decides before they are looked at. Production takes the defaults; a test passes
    in a faulty one to show that it would be found."""

    check: Callable[[Job, Contract, PartnerConfig], None] = policy.check
    read: Callable[..., tuple[table.Snapshot, table.Report]] = table.read
    batches: Callable[..., Iterator[table.Batch]] = table.batches
    exact_sum: Callable[[Program, int, Release, table.Snapshot], Integers] = exact_sum


@dataclass(frozen=True)
class Context:
    """A gate's own things, for its doors."""

    me: str
    home: Home
    config: PartnerConfig
    contract: Contract
    digest: bytes
    identity: Ed25519PrivateKey
    store: Store
    journal: Journal
    ledger: Ledger
    heads: Heads
    models: Models
    randomness: Randomness
    parts: Parts = field(default_factory=Parts)
