"""What a partner's customers have paid: mu^2 of every release, against the contract's limit.

The charges are entries of the journal; this adds them up. The window slides: what was charged within the
last ``period_days`` counts, and charges are never removed, so lifetime totals stay visible. What is *now*
is not this machine's clock but a time that the signed messages of c + 1 other partners confirm
(:mod:`client.heads`): a clock that is set ahead renews nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from client.journal import Charge, Journal
from client.store import Store
from privacy import accounting
from privacy.errors import LedgerExhausted, ParameterError
from protos.alliance import Contract

DAY = 86_400.0


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
    """Sums over a journal, limits from a contract. ``confirmed`` gives seconds since the epoch, 0 for a
    time that nobody has confirmed yet."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        contract: Contract,
        confirmed: Callable[[], float],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._journal = store, journal
        self._contract, self._confirmed, self._clock = contract, confirmed, clock

    def charge(self, job: str, charges: Sequence[Charge]) -> None:
        """Charge all or nothing, inside the caller's transaction if there is one.

        A release that was charged before is not charged again: what is computed again after a crash uses
        the charge that there is. Raises LedgerExhausted with spent, asked and limit, and charges nothing.
        """
        with self._store.transaction():
            known = {c.charge.release for c in self._journal.charged() if c.job == job}
            fresh = [charge for charge in charges if charge.release not in known]
            if fresh:
                self.require(sum(c.mu2 for c in fresh), sum(c.delta for c in fresh))
                self._journal.charge(job, fresh, self.now())

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
        charged = self._journal.charged()
        lifetime = self._epsilons(sum(c.charge.mu2 for c in charged), 0.0)[0]
        return Standing(
            alone, privacy.epsilon, person, privacy.epsilon_per_person, lifetime, len(charged)
        )

    def total(self) -> tuple[float, float]:
        """mu^2 and delta charged in all, ever."""
        charged = self._journal.charged()
        return sum(c.charge.mu2 for c in charged), sum(c.charge.delta for c in charged)

    def now(self) -> float:
        """From when a charge counts, in seconds since the epoch: this clock's time, which was compared with
        the peers' before anything is charged, and never before what they confirm."""
        return max(self._clock(), self._confirmed())

    def since(self) -> float:
        """Where the running period began: what happened before no longer counts."""
        return self._confirmed() - self._contract.privacy.period_days * DAY

    def spent_by(self, job: str) -> float:
        """mu^2 charged for one job."""
        return sum(c.charge.mu2 for c in self._journal.charged() if c.job == job)

    def _window(self) -> tuple[float, float]:
        since = self.since()
        counted = [c.charge for c in self._journal.charged() if c.time > since]
        return sum(c.mu2 for c in counted), sum(c.delta for c in counted)

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
