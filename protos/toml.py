"""TOML and JSON from others into strict, frozen models, with bounds on size, depth and time.

Unknown keys and wrong types are errors with a key path. The standard parsers recurse for every level, take
quadratic time for a long dotted key, and turn digits into numbers of any length; so the text is first read
over once, in linear time, and what is deeper, longer or more than a real file needs is refused before a
parser sees it. The pass knows strings and comments exactly as far as the parser gets without an error:
whatever it misjudges, the parser has stopped before.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from privacy.errors import ConfigError, ParameterError
from protos.files import read_own

LARGEST_FILE = 1 << 20
DEEPEST = 32
"""Brackets within brackets, of TOML and of JSON."""
MOST_PARTS = 16
"""Parts of a dotted key."""
MOST_KEYS = 20_000
"""Keys and headers in a file."""
MOST_DOTS = 40_000
"""Dots of all keys together: each part of a header costs the parser a kilobyte."""
MOST_ITEMS = 100_000
"""Items of all arrays together, and lines."""
LONGEST_WORD = 128
"""Characters of a bare key, a number or a date."""
LONGEST_REASON = 300

_TOML = re.compile(
    r"""
      (?P<skip>   (?: [ \t\n]++ | \#[^\n]*+ )++ )
    | (?P<string> \"{3} (?: [^"\\]++ | \\. | "(?!"") )*+ \"{3} "{0,2}+
                | '{3} (?: [^']++ | '(?!'') )*+ '{3} '{0,2}+
                | "(?!"") (?: [^"\\\n]++ | \\[^\n] )*+ "
                | '(?!'') [^'\n]*+ ' )
    | (?P<open>   [\[{] )
    | (?P<close>  [\]}] )
    | (?P<equals> = )
    | (?P<comma>  , )
    | (?P<dot>    \. )
    | (?P<endless> ["'] )
    | (?P<word>   [^\ \t\n\#"'\[\]{}=,.]++ )
    """,
    re.VERBOSE | re.DOTALL,
)
_JSON = re.compile(
    r'"(?:[^"\\]++|\\.)*+"|(?P<open>[\[{])|(?P<close>[\]}])|(?P<endless>")', re.DOTALL
)


class Strict(BaseModel):
    """Frozen; an unknown key is an error; numbers must be finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def later(**more: Any) -> Any:
    """A key that came after 0.3.0: absent it is None, denies, and stays out of every canonical form, so that
    what was signed before still has the digest that was signed."""
    return Field(default=None, exclude_if=lambda value: value is None, **more)


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("needs a time zone, such as 2027-01-31T00:00:00Z")
    try:
        return value.astimezone(UTC)
    except OverflowError:  # in the last hours of the year 9999
        raise ValueError("is out of range") from None


Moment = Annotated[datetime, AfterValidator(_utc)]
"""A time with its zone, kept in UTC."""
Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path, *, own: bool = False) -> dict[str, Any]:
    """Parse a TOML file. ``own``: it decides what is done in our name, and nobody else may have written it
    (:func:`protos.files.read_own`). Raises ConfigError that names the file and the place."""
    try:
        if own:
            data = read_own(path, LARGEST_FILE)
        else:
            with path.open("rb") as file:  # not by its size first: it may grow, or be a pipe
                data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise ConfigError(str(path), "file is larger than 1 MiB")
        text = data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        raise ConfigError(str(path), "file not found") from None
    except (OSError, ValueError) as error:
        raise ConfigError(str(path), f"cannot be read: {type(error).__name__}") from None
    return loads_toml(text, str(path))


def loads_toml(text: str, where: str = "") -> dict[str, Any]:
    """Parse TOML whose bounds are checked first. Raises ConfigError at ``where``, and nothing else."""
    text = text.replace("\r\n", "\n")  # as the parser does: both must see the same lines
    if "\r" in text:  # of "\r\r\n" the parser would make another line break than was checked
        raise ConfigError(where, "is not TOML: a carriage return without a line feed")
    if len(text) > LARGEST_FILE:
        raise ConfigError(where, "is larger than 1 MiB")
    _check_toml(text, where)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(where, f"is not TOML: {str(error)[:LONGEST_REASON]}") from None
    except (ValueError, ArithmeticError, LookupError, TypeError) as error:
        raise ConfigError(where, f"is not TOML: {type(error).__name__}") from None
    except (RecursionError, MemoryError):
        raise ConfigError(where, "is nested too deeply, or too large") from None


def _check_toml(text: str, where: str) -> None:
    """One pass over the tokens. Raises ConfigError for what is past a bound."""
    if text.count("\n") > MOST_ITEMS:
        raise ConfigError(where, f"has over {MOST_ITEMS} lines")
    depth = dots = all_dots = keys = items = 0
    for token in _TOML.finditer(text):
        kind = token.lastgroup
        if kind == "dot":
            dots, all_dots = dots + 1, all_dots + 1
            if dots >= MOST_PARTS or all_dots > MOST_DOTS:
                raise ConfigError(where, f"line {_line(text, token)}: too many dotted keys")
        elif kind == "word":
            if token.end() - token.start() > LONGEST_WORD:
                raise ConfigError(
                    where,
                    f"line {_line(text, token)}: a key or number has over {LONGEST_WORD} characters",
                )
        elif kind == "skip":
            if "\n" in token[0]:
                dots = 0
        elif kind == "open":
            dots, keys, depth = 0, keys + (not depth), depth + 1
            if depth > DEEPEST:
                raise ConfigError(where, f"line {_line(text, token)}: over {DEEPEST} levels deep")
        elif kind == "close":
            dots, depth = 0, max(0, depth - 1)
        elif kind == "equals":
            dots, keys = 0, keys + 1
        elif kind == "comma":
            dots, items = 0, items + 1
        elif kind == "endless":
            raise ConfigError(where, f"line {_line(text, token)}: a string has no end")
        if keys > MOST_KEYS or items > MOST_ITEMS:
            raise ConfigError(where, f"has over {MOST_KEYS} keys, or over {MOST_ITEMS} items")


def _line(text: str, token: re.Match[str]) -> int:
    return text.count("\n", 0, token.start()) + 1


def loads_json(data: bytes, limit: int = LARGEST_FILE) -> Any:
    """JSON from another party: UTF-8, at most ``limit`` bytes and :data:`DEEPEST` levels.

    No key twice, no NaN or Infinity, no number that overflows, integers of 64 bits, no half of a surrogate
    pair. Raises ConfigError, and nothing else.
    """
    if len(data) > limit:
        raise ConfigError("", f"JSON has over {limit} bytes")
    try:
        text = data.decode("utf-8")
        _check_json(text)
        value = json.loads(
            text, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite,
            parse_int=_int64,
        )  # fmt: skip
        if "\\u" in text:  # a lone surrogate parses, and fails where the text is next encoded
            json.dumps(value, ensure_ascii=False).encode()
    except ConfigError:
        raise
    except (ValueError, RecursionError, MemoryError):
        raise ConfigError("", "is not JSON") from None
    return value


def _check_json(text: str) -> None:
    depth = 0
    for token in _JSON.finditer(text):
        if token.lastgroup == "open":
            depth += 1
            if depth > DEEPEST:
                raise ConfigError("", f"JSON is over {DEEPEST} levels deep")
        elif token.lastgroup == "close":
            depth = max(0, depth - 1)
        elif token.lastgroup == "endless":  # looking on from each quote in it would be quadratic
            raise ConfigError("", "is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ConfigError("", "JSON has a key twice")
    return found


def _no_constant(_: str) -> float:
    raise ConfigError("", "JSON has a number that is not finite")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ConfigError("", "JSON has a number that is not finite")
    return value


def _int64(text: str) -> int:
    value = int(text) if len(text) <= 20 else 1 << 64
    if not -(1 << 63) <= value < 1 << 63:
        raise ConfigError("", "JSON has an integer of more than 64 bits")
    return value


def build(model: type[Model], data: Any, where: str = "") -> Model:
    """Validate plain data. Raises ConfigError with the key path of the first mistake."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        reason = {"extra_forbidden": "unknown key", "missing": "is missing"}.get(
            first["type"], first["msg"].removeprefix("Value error, ")
        )
        more = error.error_count() - 1
        if more:
            reason += f" (and {more} more)"
        raise ConfigError(".".join(p for p in (where, path) if p), reason) from None
    except ParameterError as error:
        raise ConfigError(where, str(error)) from None
    except (RecursionError, MemoryError):
        raise ConfigError(where, "is nested too deeply, or too large") from None


def canonical(data: Any) -> bytes:
    """One byte string for equal values: JSON, keys sorted, no spaces, UTF-8."""
    return json.dumps(
        data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()
