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

Who is entered: for a noisy result all customers of a party, those that a rule of the job selects, or an
audience. For an exact result (list, lists, ids, cache) an audience of each party that enters a set: its
owner defined and froze it (:mod:`client.frozen`), and a job can only name it. An exact answer over
somebody else's predicate would be that predicate's value for every person in it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from privacy.errors import ConfigError, ParameterError
from privacy.matching import algebra, overlap
from privacy.matching.size import PaddingNoise, SizeNoise
from privacy.matching.total import SumNoise
from privacy.programs import rules
from protos.alliance import NAME, Contract, IdentifierKind, NumberColumn
from protos.toml import Strict, later

Result = Literal["size", "sum", "list", "lists", "ids", "overlap", "cache"]
NOISY: tuple[Result, ...] = ("size", "sum", "overlap")
PADDING_SHARE = 0.1
"""Of a noisy match's mu^2: what each party's padded size takes."""


class MatchJob(Strict):
    """See the module. ``rules``: each party's own rule over its columns and models, for noisy results;
    ``audiences``: names of frozen audiences, by party. Several identifiers are a waterfall: who matched by
    one is out of the next.

    Rules with an exact result still parse, as jobs of 0.3.0 have them, and are denied by :meth:`check`.
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
        self._names()
        return self

    def _names(self) -> None:
        """Raises ValueError for an audience that no party could have, or that nobody enters."""
        if self.cache is not None and not NAME.fullmatch(self.cache):
            raise ValueError("cache: a-z, 0-9, - and _, at most 32")
        for party, name in self.named.items():
            if not NAME.fullmatch(name):
                raise ValueError("audiences: a-z, 0-9, - and _, at most 32")
            if party not in self.entering:
                raise ValueError("audiences: names someone who enters no set")
            if party in self.rules:
                raise ValueError(f"audiences: {party} has a rule as well")

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
    def named(self) -> dict[str, str]:
        """The audience of each party that has one."""
        return self.audiences or {}

    @property
    def entering(self) -> tuple[str, ...]:
        """Who enters a set now: not the receiver of a cache, nor a sender whose cache is used."""
        if self.result == "cache":
            return self.parties[1:]
        return self.parties[:1] if self.cache is not None else self.parties

    def uses_fast_lane(self, contract: Contract) -> bool:
        """Whether the contract chose the fast lane and this match is one that it can do."""
        plain = self.result == "list" and not self.is_ring and self.cache is None
        return contract.matching is not None and contract.matching.engine == "fast" and plain

    def semi_honest(self, contract: Contract) -> ConfigError | None:
        """What of this match holds only while every party runs this code, if anything does: it is denied
        unless contract and partner both say ``assumes = "semi_honest"``."""
        if self.uses_fast_lane(contract):
            return ConfigError(
                "match.result", "the fast lane needs assumes = \"semi_honest\": a party that deviates"
                " may learn more than the list"
            )  # fmt: skip
        if self.is_noisy and self.rules:
            return ConfigError(
                "match.rules", "a noisy result over a job's rule needs assumes = \"semi_honest\": a"
                " receiver that deviates sees it without the sender's noise"
            )  # fmt: skip
        return None

    @property
    def recipients(self) -> tuple[str, ...]:
        """Who learns about single people: a disclosure without differential privacy."""
        if self.result == "list":
            return self.parties[:1]
        return self.parties if self.result in ("lists", "ids") else ()

    def check(self, contract: Contract, mu2: float = 0.0) -> None:
        """Raises ConfigError if the contract does not allow this match; an absent rule denies.

        ``mu2``: what the job may spend. A noisy result whose noise cannot be drawn, or whose cut-off
        tails use up the contract's delta, is refused here: nothing has been charged yet.
        """
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
        self._check_audiences(contract)
        if self.is_noisy:
            self._check_noise(contract, mu2)

    def _check_audiences(self, contract: Contract) -> None:
        """Nobody else's predicate selects for an exact result. Raises ConfigError."""
        if not self.is_noisy:
            if self.rules:
                raise ConfigError(
                    "match.rules", "a list is made from audiences that their owners froze: name them"
                    " under match.audiences"
                )  # fmt: skip
            for party in self.entering:
                if party not in self.named:
                    raise ConfigError(
                        "match.audiences", f"{party} is missing: a list is made from audiences that"
                        " their owners froze"
                    )  # fmt: skip
        assumed = self.semi_honest(contract)
        if assumed is not None and (contract.matching is None or not contract.matching.assumes):
            raise assumed

    def _check_noise(self, contract: Contract, mu2: float) -> None:
        try:
            charges = self.price(contract, mu2)
        except ParameterError as error:
            raise ConfigError("match", str(error)) from None
        extra = contract.privacy.partners_per_person * sum(delta for _, _, delta in charges)
        if extra >= contract.privacy.delta:
            raise ConfigError(
                "match",
                f"cutting off its noise costs a delta of {extra:.1g}, which the contract's does not cover",
            )

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

    def padding_noise(self, mu2: float) -> PaddingNoise | None:
        """Noise of each party's padded size, for what the job may spend; None for exact results.
        Raises ParameterError."""
        return PaddingNoise.for_mu2(mu2 * PADDING_SHARE) if self.is_noisy else None

    def size_noise(self, mu2: float) -> SizeNoise | None:
        """Noise of each count, for what the job may spend. Raises ParameterError."""
        rest = mu2 * (1.0 - PADDING_SHARE)
        if self.result == "size":
            return SizeNoise.for_mu2(rest)
        if self.result == "sum":
            return SizeNoise.for_mu2(rest / 2)
        if self.result == "overlap":
            return SizeNoise.for_mu2(rest / overlap.COUNTS_PER_PERSON)
        return None

    def sum_noise(self, contract: Contract, mu2: float) -> SumNoise | None:
        """Noise of the sum: as much as the size's. Raises ParameterError, ConfigError."""
        if self.result != "sum":
            return None
        return SumNoise.for_mu2(self.largest_value(contract), mu2 * (1.0 - PADDING_SHARE) / 2)

    def price(self, contract: Contract, mu2: float) -> list[tuple[str, float, float]]:
        """(release, mu^2, delta) of everything that is charged at each party, at most ``mu2`` in all.

        A party's rows go into three things that others see: how many elements its set is padded to
        (its peers and the coordinator, who relays them, count them), the counts, and the sum.

        * Padded size: min(items, cap) plus a cut-off draw, rounded up: sensitivity 1, a tenth of mu^2.
          Otherwise whose rule chose the set would be told where its size lies between two multiples of
          the bucket, uncharged, and with many rules exactly.
        * A count: one person changes it by 1 at most, also where the set is at its cap and one person
          takes the other's place; the cells and sizes of an overlap by 2 in L2
          (:mod:`privacy.matching.overlap`). Each is charged what it costs at a party that knows the
          other side's noise: one side's noise alone.
        * The sum: one person more or less, or one in the other's place, changes it by
          :meth:`largest_value` at most.

        All are Gaussian, so mu^2 adds up; cut-off tails add to delta (:mod:`privacy.matching.size`).
        A set over the cap is cut down to it and never refused, and frames have lengths that follow from
        the padded sizes, so nothing else depends on rows. Raises ParameterError, ConfigError.
        """
        size, total = self.size_noise(mu2), self.sum_noise(contract, mu2)
        padding = self.padding_noise(mu2)
        if size is None or padding is None:
            return []
        charges = [("match padding", padding.mu2, padding.delta)]
        if self.result == "overlap":
            counts = overlap.COUNTS_PER_PERSON
            charges.append(("match overlap", counts * size.mu2, counts * size.delta))
            return charges
        charges.append(("match size", size.mu2, size.delta))
        if total is not None:
            charges.append(("match sum", total.mu2, total.delta))
        return charges
