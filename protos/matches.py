"""The ``[match]`` table of a job: what is matched, between whom, and what comes out.

size      the first party, and the coordinator, learn the noisy number of shared people
sum       and the noisy sum of the second party's ``value`` over them
list      the first party learns which of its people the other has; with ``audience`` over three or
          more parties, which of its people are in that audience
lists     both learn that of their own people
ids       both get aligned pseudonyms of the union (private ID)
overlap   three to six parties: noisy sizes of every cell of the Venn diagram; with ``audience``,
          of that audience too
cache     the first party gets the second's tokens, for later lists with ``cache``
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from privacy.errors import ConfigError, ParameterError
from privacy.matching import algebra, overlap
from privacy.matching.size import SizeNoise
from privacy.matching.total import SumNoise
from privacy.programs import rules
from protos.alliance import Contract, IdentifierKind, NumberColumn
from protos.toml import Strict, later

Result = Literal["size", "sum", "list", "lists", "ids", "overlap", "cache"]
NOISY: tuple[Result, ...] = ("size", "sum", "overlap")


class MatchJob(Strict):
    """See the module. ``rules``: each party's own rule over its columns, segments and scores;
    absent: all customers. Several identifiers are a waterfall: who matched by one is out of the next.
    """

    identifier: IdentifierKind | tuple[IdentifierKind, ...]
    parties: tuple[str, ...] = Field(min_length=2, max_length=overlap.MOST_PARTIES)
    rules: dict[str, str] = Field(default_factory=dict)
    result: Result
    value: str | None = None
    audience: str | None = None
    cache: str | None = None
    audiences: dict[str, str] | None = later()

    @model_validator(mode="after")
    def _consistent(self) -> MatchJob:
        if len(set(self.parties)) != len(self.parties):
            raise ValueError("parties must differ")
        if not set(self.rules) <= set(self.parties):
            raise ValueError("rules names someone who is not in parties")
        for text in self.rules.values():
            rules.parse(text)
        kinds = self.identifiers
        if not kinds or len(set(kinds)) != len(kinds):
            raise ValueError("identifier: one or more kinds, each once")
        if len(kinds) > 1 and (self.result not in ("list", "lists") or self.is_ring or self.cache):
            raise ValueError(
                "identifier: only a list or lists between two parties may fall through"
            )
        if self.is_ring != (self.result == "overlap" or self.audience is not None):
            raise ValueError("parties: an overlap or an audience has three to six, all else two")
        if self.audience is not None:
            if self.result not in ("overlap", "list"):
                raise ValueError("audience: belongs to an overlap or a list")
            try:
                names = algebra.parse(self.audience).names
            except ParameterError as error:
                raise ValueError(str(error)) from None
            if not names <= set(self.parties):
                raise ValueError("audience: names someone who is not in parties")
        if (self.value is not None) != (self.result == "sum"):
            raise ValueError("value: the column that a sum, and only a sum, adds up")
        if self.cache is not None and self.result != "list":
            raise ValueError("cache: only a list can use one")
        if self.cache is not None and self.parties[1] in self.rules:
            raise ValueError("rules: the second party's set is the one its cache was made of")
        return self

    @property
    def identifiers(self) -> tuple[IdentifierKind, ...]:
        """Kinds in the order they are tried."""
        return (self.identifier,) if isinstance(self.identifier, str) else self.identifier

    @property
    def is_ring(self) -> bool:
        """Whether more than two parties take part."""
        return len(self.parties) > 2

    @property
    def is_noisy(self) -> bool:
        """Whether the result is noisy, and so has a price."""
        return self.result in NOISY

    @property
    def recipients(self) -> tuple[str, ...]:
        """Who learns about single people: a disclosure without differential privacy."""
        if self.result == "list":
            return self.parties[:1]
        return self.parties if self.result in ("lists", "ids") else ()

    def check(self, contract: Contract) -> None:
        """Raises ConfigError if the contract does not allow this match; an absent rule denies."""
        matching = contract.matching
        if matching is None:
            raise ConfigError("match", "the contract has no matching rules")
        names = {party.name for party in contract.parties}
        for party in self.parties:
            if party not in names:
                raise ConfigError("match.parties", f"{party} is not a party")
        for kind in self.identifiers:
            if kind not in matching.identifiers:
                raise ConfigError("match.identifier", f"{kind} is not allowed by the contract")
        for party in self.recipients:
            if party not in matching.recipients:
                raise ConfigError(
                    "match.parties", f"the contract does not let {party} receive match lists"
                )
        if self.value is not None:
            self.largest_value(contract)

    def value_bounds(self, contract: Contract) -> tuple[float, float]:
        """Public bounds of what one person adds to a sum. Raises ConfigError."""
        column = contract.columns.get(self.value or "")
        if not isinstance(column, NumberColumn):
            raise ConfigError("match.value", "is not a number column of the contract")
        return column.low, column.high

    def largest_value(self, contract: Contract) -> float:
        """The most that one person more or less changes a sum. Raises ConfigError.

        Where two people share an identifier one may take the other's place: high - low.
        """
        low, high = self.value_bounds(contract)
        return max(abs(low), abs(high), high - low)

    def size_noise(self, mu2: float) -> SizeNoise | None:
        """Noise of each count, for what the job may spend. Raises ParameterError."""
        if self.result == "size":
            return SizeNoise.for_mu2(mu2)
        if self.result == "sum":
            return SizeNoise.for_mu2(mu2 / 2)
        if self.result == "overlap":
            return SizeNoise.for_mu2(mu2 / overlap.COUNTS_PER_PERSON)
        return None

    def sum_noise(self, contract: Contract, mu2: float) -> SumNoise | None:
        """Noise of the sum: half of what the job may spend. Raises ParameterError, ConfigError."""
        if self.result != "sum":
            return None
        return SumNoise.for_mu2(self.largest_value(contract), mu2 / 2)

    def price(self, contract: Contract, mu2: float) -> list[tuple[str, float, float]]:
        """(release, mu^2, delta) of everything that is charged at each party."""
        size, total = self.size_noise(mu2), self.sum_noise(contract, mu2)
        if size is None:
            return []
        if self.result == "overlap":
            counts = overlap.COUNTS_PER_PERSON
            return [("match overlap", counts * size.mu2, counts * size.delta)]
        charges = [("match size", size.mu2, size.delta)]
        if total is not None:
            charges.append(("match sum", total.mu2, size.delta))
        return charges
