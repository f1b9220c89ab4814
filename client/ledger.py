"""What a partner's customers have paid: mu^2 of every release, against the contract's limit.

The window slides: what was charged within the last ``period_days`` counts. Charges are never
removed, so lifetime totals stay visible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from client.store import Store
from privacy import accounting
from privacy.errors import LedgerExhausted, ParameterError
from protos.alliance import Contract

DAY = 86_400.0


@dataclass(frozen=True)
class Charge:
    """One release's price: ``mu2`` and what it adds to delta."""

    release: str
    mu2: float
    delta: float = accounting.DISCRETE_DELTA


@dataclass(frozen=True)
class Standing:
    """Epsilons at the contract's delta, for a customer here and for a person anywhere."""

    epsilon: float
    epsilon_limit: float
    person: float
    person_limit: float
    lifetime: float
    releases: int


class Ledger:
    """Charges in a :class:`Store`, limits from a contract. ``clock`` gives seconds."""

    def __init__(self, store: Store, contract: Contract, clock: Callable[[], float]) -> None:
        self._store, self._contract, self._clock = store, contract, clock

    def charge(self, job: str, charges: Sequence[Charge]) -> None:
        """Charge all or nothing, inside the caller's transaction if there is one.

        Raises LedgerExhausted with spent, asked and limit, and then charges nothing.
        """
        asked = sum(charge.mu2 for charge in charges)
        extra = sum(charge.delta for charge in charges)
        with self._store.transaction():
            self.require(asked, extra)
            now = self._clock()
            for charge in charges:
                self._store.execute(
                    "INSERT INTO charges (time, job, release, mu2, delta) VALUES (?, ?, ?, ?, ?)",
                    now,
                    job,
                    charge.release,
                    charge.mu2,
                    charge.delta,
                )

    def require(self, mu2: float, delta: float = 0.0) -> None:
        """Raises LedgerExhausted unless ``mu2`` more would fit now."""
        spent_mu2, spent_delta = self._window()
        privacy = self._contract.privacy
        alone, person = self._epsilons(spent_mu2 + mu2, spent_delta + delta)
        if alone > privacy.epsilon or person > privacy.epsilon_per_person:
            spent = self._epsilons(spent_mu2, spent_delta)[0]
            asked = self._epsilons(mu2, delta)[0]
            limit = accounting.epsilon_of(self._contract.mu2_limit() ** 0.5, privacy.delta)
            raise LedgerExhausted(spent, asked, limit)

    def standing(self) -> Standing:
        """Where the ledger stands now."""
        privacy = self._contract.privacy
        alone, person = self._epsilons(*self._window())
        total = self._store.row("SELECT COALESCE(SUM(mu2), 0), COUNT(*) FROM charges")
        lifetime, count = total if total else (0.0, 0)
        return Standing(
            alone,
            privacy.epsilon,
            person,
            privacy.epsilon_per_person,
            self._epsilons(lifetime, 0.0)[0],
            count,
        )

    def now(self) -> float:
        """The ledger's clock, in seconds since the epoch."""
        return self._clock()

    def spent_by(self, job: str) -> float:
        """mu^2 charged for one job."""
        found = self._store.row("SELECT COALESCE(SUM(mu2), 0) FROM charges WHERE job = ?", job)
        return float(found[0]) if found else 0.0

    def _window(self) -> tuple[float, float]:
        since = self._clock() - self._contract.privacy.period_days * DAY
        found = self._store.row(
            "SELECT COALESCE(SUM(mu2), 0), COALESCE(SUM(delta), 0) FROM charges WHERE time > ?",
            since,
        )
        return (float(found[0]), float(found[1])) if found else (0.0, 0.0)

    def _epsilons(self, mu2: float, extra: float) -> tuple[float, float]:
        """Epsilon of a customer here, and of a person at the declared number of partners."""
        privacy = self._contract.privacy
        many = privacy.partners_per_person
        if mu2 <= 0:
            return 0.0, 0.0
        try:
            alone = accounting.epsilon_of(mu2**0.5, privacy.delta - extra)
            person = accounting.epsilon_of(many * mu2**0.5, privacy.delta - many * extra)
        except ParameterError:  # beyond any limit: mu over 100, or delta used up
            return float("inf"), float("inf")
        return alone, person
