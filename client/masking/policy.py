"""The table policy: what becomes of each column, for each purpose. TOML, strict; see docs/masking.md.

    version = 1
    name = "customers"
    key = "file:masking.key"

    [columns.mobile]
    kind = "phone"
    role = "direct"
    display = "partial"
    partner_join = "hmac"
    release = "suppress"

A column that the policy does not name, or to which it gives no transform for the purpose asked for, is
dropped: an absent rule denies.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from client.masking.keys import KeySource
from privacy.errors import ConfigError, ParameterError
from privacy.identifiers import HOME_REGION
from privacy.identifiers.numbering import plan_of
from privacy.masking.duplicates import Rule
from privacy.masking.kinds import kind as kind_of
from privacy.masking.transform import KEYED, Column, Transform
from protos.toml import Strict, build, canonical, read_toml

Purpose = Literal["display", "partner_join", "release"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
Role = Literal["direct", "quasi", "sensitive", "safe"]
UPLOADABLE = {
    "email": "email", "phone": "phone", "device_id": "device_id", "given_name": "name",
    "family_name": "name", "country": "category", "postal_code": "category",
}  # fmt: skip
"""Fields of platforms, and the kind of column that each is."""


class How(Strict):
    """A transform: ``{ do = "generalise", to = "5-year" }``, or its name alone."""

    do: str
    to: str = ""
    scale: float = 0.0
    find: tuple[str, ...] = ()
    long_numbers: bool = True
    own: bool = True

    def transform(self) -> Transform:
        """For :mod:`privacy.masking`."""
        return Transform(self.do, self.to, self.scale, self.find, self.long_numbers, self.own)


class ColumnRule(Strict):
    """One column. ``domain``: columns of one domain have equal tokens for equal values within a purpose;
    by default a column's own name. ``platform_upload``: which of a platform's fields it is.
    ``reviewed``: somebody looked, and what looks personal in a column that is kept is not."""

    kind: str
    role: Role
    domain: str = ""
    reviewed: bool = False
    display: How | None = None
    partner_join: How | None = None
    platform_upload: str | None = None
    release: How | None = None

    def how(self, purpose: Purpose) -> How | None:
        """The transform for a purpose, if there is one."""
        found: How | None = getattr(self, purpose)
        return found

    @field_validator(*PURPOSES, mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"do": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        try:
            kind = kind_of(self.kind)
        except ParameterError as error:
            raise ValueError(f"kind: {error}") from None
        for purpose in PURPOSES:
            how = self.how(purpose)
            if how is None:
                continue
            try:
                how.transform().check(self.kind)
            except ParameterError as error:
                raise ValueError(f"{purpose}: {error}") from None
            if how.do == "keep" and (self.role == "direct" or kind.identifies):
                what = "role direct" if self.role == "direct" else f"kind {self.kind}"
                raise ValueError(f"{purpose}: keep contradicts {what}; mask or suppress it")
            if how.do == "keep" and self.kind == "text":
                raise ValueError(f"{purpose}: free text may hold anything; redact or suppress it")
        if self.role == "safe" and kind.identifies:
            raise ValueError(f"role: a column of kind {self.kind} is not safe; it is direct")
        if self.release is not None:
            allowed = ("suppress", "hmac", "token")
            if self.role == "direct" and self.release.do not in allowed:
                raise ValueError(
                    "release: a direct identifier is suppressed, or becomes hmac or token"
                )
            if kind.identifies and self.release.do not in (*allowed, "generalise"):
                raise ValueError(
                    f"release: a {self.kind} is generalised, suppressed or made a token"
                )
            if self.kind == "text" and self.release.do != "suppress":
                raise ValueError("release: free text cannot be released; suppress it")
        if self.platform_upload is not None:
            if self.platform_upload not in UPLOADABLE:
                raise ValueError(f"platform_upload: is one of {', '.join(UPLOADABLE)}")
            if UPLOADABLE[self.platform_upload] != self.kind:
                raise ValueError(f"platform_upload: a {self.kind} is no {self.platform_upload}")
        return self


class Release(Strict):
    """Thresholds under which nothing is released."""

    k: int = Field(default=5, ge=2, le=100_000)
    l: int = Field(default=2, ge=1, le=1000)  # noqa: E741 - its name in the literature


class Duplicates(Strict):
    """How rows of one person are found: ``keys``, ``name``, and columns that must agree for nearly
    equal names. ``newest``: the column whose latest row wins."""

    keys: tuple[str, ...] = Field(min_length=1)
    name: str | None = None
    within: tuple[str, ...] = ()
    similarity: float = Field(default=0.92, gt=0.5, le=1.0)
    newest: str | None = None


class Quality(Strict):
    """``times``: columns that say when a row came to be, for the delay."""

    times: tuple[str, ...] = ()


class Policy(Strict):
    """The whole policy; see the module's docstring. ``region``: of phone numbers without a country code."""

    version: Literal[1]
    name: str = Field(min_length=1, max_length=64)
    key: str = ""
    region: str = HOME_REGION
    columns: dict[str, ColumnRule] = Field(min_length=1)
    release: Release = Release()
    duplicates: Duplicates | None = None
    quality: Quality = Quality()

    @field_validator("region")
    @classmethod
    def _region(cls, value: str) -> str:
        try:
            plan_of(value)
        except ParameterError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.key:
            try:
                KeySource.parse(self.key)
            except ParameterError as error:
                raise ValueError(str(error)) from None
        used = [*self.quality.times]
        if self.duplicates:
            named = self.duplicates
            used += [*named.keys, *named.within, *filter(None, (named.name, named.newest))]
        for name in used:
            if name not in self.columns:
                raise ValueError(
                    f"columns.{name} is used by duplicates or quality, but not declared"
                )
        return self

    def for_purpose(self, purpose: Purpose) -> list[Column]:
        """Columns that this purpose keeps, in order. Raises ConfigError where there is none.

        Keys are of a purpose: who holds the tokens of a join, and the key, cannot link a release.
        """
        found = []
        direct = tuple(
            (name, rule.kind)
            for name, rule in self.columns.items()
            if rule.role == "direct" and rule.kind != "text"
        )
        for name, rule in self.columns.items():
            how = rule.how(purpose)
            if how is not None:
                domain = f"{purpose}/{rule.domain or name}"
                own = direct if how.do == "redact" and how.own else ()
                found.append(Column(name, rule.kind, how.transform(), domain, self.region, own))
        if not found:
            raise ConfigError("columns", f"no column has a transform for {purpose}")
        return found

    def needs_key(self, purpose: Purpose) -> bool:
        """Whether any column becomes a token."""
        return any(column.transform.do in KEYED for column in self.for_purpose(purpose))

    def names(self, role: Role, purpose: Purpose) -> list[str]:
        """Columns of a role that come out of a purpose with anything in them."""
        kept = {c.name for c in self.for_purpose(purpose) if c.transform.do != "suppress"}
        return [n for n, rule in self.columns.items() if rule.role == role and n in kept]

    def check_columns(self, present: list[str], table: str) -> None:
        """Raises ConfigError for a declared column that the table lacks."""
        for name in self.columns:
            if name not in present:
                some = ", ".join(present[:12]) + (", ..." if len(present) > 12 else "")
                raise ConfigError(f"columns.{name}", f"{table} has no such column; it has {some}")

    def duplicate_rule(self) -> Rule:
        """For :mod:`privacy.masking.duplicates`. Raises ConfigError."""
        if self.duplicates is None:
            raise ConfigError("duplicates", "is missing: say which columns tell a person")
        rule = self.duplicates
        keys = {name: self.columns[name].kind for name in rule.keys}
        return Rule(keys, rule.name, rule.within, rule.similarity, self.region)

    def digest(self) -> str:
        """SHA-256 over everything, hexadecimal."""
        return hashlib.sha256(canonical(self.model_dump(mode="json"))).hexdigest()


def load(path: Path) -> Policy:
    """Read a policy. Raises ConfigError with the key path."""
    return build(Policy, read_toml(path))
