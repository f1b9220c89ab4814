"""What the three command lines share: one way to fail, and plain tables.

Exit codes: 0 done, 1 the answer is no (a check failed, a job failed), 2 a file, an option or the
data is wrong, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import click
import typer

from privacy.errors import LedgerExhausted, Refused, ReleaseRefused, RoundFailed, TallystickError


def new_app(purpose: str) -> typer.Typer:
    """A typer application in the house's style."""
    return typer.Typer(
        help=purpose, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )  # fmt: skip


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a command line; errors become one line on standard error and an exit code."""
    try:
        result = app(args=arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.Abort:
        print("interrupted", file=sys.stderr)
        return 130
    except click.ClickException as error:
        error.show()
        return 2
    except (RoundFailed, Refused, LedgerExhausted, ReleaseRefused) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (TallystickError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def entry(app: typer.Typer) -> Callable[[], None]:
    """A console-script entry point."""

    def main() -> None:
        sys.exit(run(app))

    return main


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned with spaces; numbers to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(head[i]), *(len(row[i]) for row in texts), 0) if texts else len(head[i])
              for i in range(len(head))]  # fmt: skip
    right = [
        bool(rows)
        and all(isinstance(row[i], (int, float)) or _numeric(str(row[i])) for row in rows)
        for i in range(len(head))
    ]

    def line(cells: Sequence[str]) -> str:
        parts = [
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return "\n".join([line(list(head)), "  ".join("-" * w for w in widths), *map(line, texts)])


def _numeric(text: str) -> bool:
    return text != "" and text.lstrip("+-").replace(".", "", 1).replace(",", "").isdigit()
