"""Models that this partner was given: in a name space of their own, never replaced, versioned by job.

``model:NAME`` is the newest of that name, ``model:NAME@JOB`` the one of a job (its first eight digits). A
model of 0.3.0 was taken on the coordinator's word: it can be scored with by its owner, but no rule reads
it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from client.store import Store
from privacy.errors import ConfigError
from privacy.programs.scoring import Model, model_from
from protos.addresses import JobId
from protos.alliance import Contract

PREFIX = "model:"


@dataclass(frozen=True)
class Held:
    """One model. ``job``: empty for one of 0.3.0."""

    name: str
    job: str
    time: float
    verified: bool
    model: Model


class Models:
    """The models in a store, read as the contract declares its columns."""

    def __init__(self, store: Store, contract: Contract) -> None:
        self._store, self._columns = store, contract.declared_columns()

    def keep(self, name: str, job: JobId, data: bytes, now: float) -> None:
        """Keep a model that this gate took part in making, inside the caller's transaction."""
        self._store.execute(
            "INSERT OR IGNORE INTO models VALUES (?, ?, ?, ?, 1, ?)",
            name, job, now, hashlib.sha256(data).digest(),
            self._store.seal(f"model {name} {job}", data),
        )  # fmt: skip

    def find(self, text: str, *, unverified: bool = False) -> Held:
        """``model:NAME`` or ``model:NAME@JOB``, the prefix may be left out. Raises ConfigError with what
        there is; ``unverified``: those of 0.3.0 too."""
        name, _, job = text.removeprefix(PREFIX).partition("@")
        rows = self._store.rows(
            "SELECT name, job, time, verified, sealed FROM models WHERE name = ?"
            " AND substr(job, 1, ?) = ? AND verified >= ? ORDER BY time DESC, job",
            name, len(job), job, int(not unverified),
        )  # fmt: skip
        if not rows:
            raise ConfigError(
                f"{PREFIX}{name}", f"no such model; there are {self.names() or 'none'}"
            )
        if job and len({row[1] for row in rows}) > 1:
            raise ConfigError(
                f"{PREFIX}{name}", f"two jobs begin with {job}: the name is ambiguous"
            )
        return self._held(rows[0])

    def names(self) -> str:
        """All models, for a sentence."""
        rows = self._store.rows("SELECT name, job, verified FROM models ORDER BY time")
        return ", ".join(
            f"{PREFIX}{name}" + (f"@{job[:8]}" if verified else " (of 0.3.0, not for rules)")
            for name, job, verified in rows
        )

    def _held(self, row: tuple[object, ...]) -> Held:
        name, job, time, verified, sealed = row
        label = f"model {name} {job}" if verified else f"model {name}"
        data = self._store.unseal(label, bytes(sealed))  # type: ignore[call-overload]
        model = model_from(self._columns, json.loads(data))
        return Held(str(name), str(job), float(time), bool(verified), model)  # type: ignore[arg-type]
