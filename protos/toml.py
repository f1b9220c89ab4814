"""TOML files into strict, frozen models: unknown keys and wrong types are errors with a key path."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from privacy.errors import ConfigError, ParameterError

LARGEST_FILE = 1 << 20


class Strict(BaseModel):
    """Frozen; an unknown key is an error; numbers must be finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def later(**more: Any) -> Any:
    """A key that came after 0.3.0: absent it is None, denies, and stays out of every canonical form, so that
    what was signed before still has the digest that was signed."""
    return Field(default=None, exclude_if=lambda value: value is None, **more)


Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file. Raises ConfigError that names the file and the place."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(str(path), "file is larger than 1 MiB")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(str(path), "file not found") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read: {type(error).__name__}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), f"is not TOML: {error}") from None


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


def canonical(data: Any) -> bytes:
    """One byte string for equal values: JSON, keys sorted, no spaces, UTF-8."""
    return json.dumps(
        data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()
