"""What the three command lines share: one way to fail, plain tables, and foreign text made harmless.

Text from outside (names, purposes, categories, reasons, a table's headings) can hold escape sequences that
rewrite a terminal, marks that turn its direction, characters that take no room, or spaces that push invented
lines under the true ones where a terminal wraps. Whatever goes through :func:`shown` is one printable line;
:func:`table`, :func:`say`, :func:`json_text` and :func:`run` send everything through it. *Not* handled:
letters of two scripts that look alike; names of parties and columns are ASCII by the contract's rules.

Exit codes: 0 done, 1 the answer is no (a check failed, a job failed), 2 a file, an option or the data is
wrong, 130 interrupted, 143 and 129 ended by SIGTERM and SIGHUP. A command that is ended cleans up as one
that fails; one that is killed leaves nothing in the clear either (:mod:`protos.files`), and no core file.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import resource
import signal
import sys
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import click
import typer

from privacy.errors import LedgerExhausted, Refused, ReleaseRefused, RoundFailed, TallystickError

LONGEST = 500
"""Characters of a foreign text that are shown."""
LONGEST_MESSAGE = 4000
_UNSAFE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"))
"""Controls, format characters, halves of pairs, private use, unassigned, line breaks, odd spaces."""
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U0001d159\U000e0100-\U000e01ef]"
)
"""Letters and marks that take no room or show nothing (Unicode: Default_Ignorable, and a blank braille)."""
_MOST_MARKS = 2
"""Combining marks on one letter; more of them climb into the lines above and below."""


class Ended(BaseException):
    """A signal asked the process to end. Not an Exception: nobody takes it for a failure and goes on."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


def shown(text: object, limit: int = LONGEST) -> str:
    r"""One line that cannot change the terminal: what is unsafe becomes \xNN, \uNNNN or \UNNNNNNNN.

    So does a backslash (an escape is always ours), a space at either end, and a space after a space. Of a
    longer text the first ``limit`` characters, and how many follow.
    """
    whole = str(text)
    head = whole[:limit]
    plain = head.isascii() and head.isprintable() and "\\" not in head and "  " not in head
    if not plain or head != head.strip(" "):
        head = "".join(_safe(head))
    return head if len(whole) <= limit else f"{head}... ({len(whole) - limit} more characters)"


def _safe(text: str) -> Sequence[str]:
    pieces, marks, last = [], 0, len(text) - 1
    for place, letter in enumerate(text):
        marks = marks + 1 if unicodedata.category(letter) in ("Mn", "Me") else 0
        if letter == " ":
            alone = 0 < place < last and text[place - 1] != " "
            pieces.append(letter if alone else "\\x20")
        elif letter == "\\" or _unsafe(letter) or marks > _MOST_MARKS or (marks and not place):
            pieces.append(_escape(letter))
        else:
            pieces.append(letter)
    return pieces


def _unsafe(letter: str) -> bool:
    return unicodedata.category(letter) in _UNSAFE or bool(_INVISIBLE.match(letter))


def _escape(letter: str) -> str:
    code = ord(letter)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def say(text: str, *foreign: object, err: bool = False) -> None:
    """Print ``text``, which is ours, with each ``{}`` replaced by a foreign text, escaped."""
    typer.echo(text.format(*map(shown, foreign)), err=err)


def agree(question: str) -> None:
    """Ask, and end the command with exit code 1 where the answer is no."""
    if not typer.confirm(question):
        typer.echo("not agreed; nothing was done", err=True)
        raise typer.Exit(1)


def json_text(value: Any) -> str:
    """JSON for people and programs: the same value when read, but harmless to a terminal."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if text.isascii() and "\x7f" not in text:
        return text  # json has escaped the ASCII controls; our own line breaks are left
    return "".join(_json_escape(c) if c >= "\x7f" and _unsafe(c) else c for c in text)


def _json_escape(letter: str) -> str:
    return json.dumps(letter)[1:-1] if letter != "\x7f" else "\\u007f"


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
        _usage(error)
        return 2
    except (RoundFailed, Refused, LedgerExhausted, ReleaseRefused) as error:
        _complain(error)
        return 1
    except (TallystickError, OSError) as error:
        _complain(error)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Ended as ended:
        with contextlib.suppress(OSError):  # of a terminal that hung up
            print("ended by a signal", file=sys.stderr)
        return 128 + ended.number


def _complain(error: Exception) -> None:
    # Messages quote key paths, file names and names of others.
    print(f"error: {shown(error, LONGEST_MESSAGE)}", file=sys.stderr)


def _usage(error: click.ClickException) -> None:
    """Click's own lines, each escaped: an argument may have been pasted from a file of others."""
    lines = io.StringIO()
    error.show(lines)
    for line in lines.getvalue().splitlines():
        # Click indents its own lines; a foreign run of spaces inside of one is still escaped.
        body = line.lstrip(" ")
        indent = " " * (len(line) - len(body))
        print(f"{indent}{shown(body, LONGEST_MESSAGE)}", file=sys.stderr)


def entry(app: typer.Typer) -> Callable[[], None]:
    """A console-script entry point."""

    def main() -> None:
        for stream in (sys.stdout, sys.stderr):
            # A terminal that lacks a letter of somebody's name gets its number, not a traceback.
            if isinstance(stream, io.TextIOWrapper):
                with contextlib.suppress(ValueError, OSError):
                    stream.reconfigure(errors="backslashreplace")
        _end_cleanly()
        sys.exit(run(app))

    return main


def _end_cleanly() -> None:
    """SIGTERM and SIGHUP unwind a command as Ctrl-C does; what was ignored (nohup) stays so. ``start`` sets
    its own. A crash writes no memory to disk."""

    def end(number: int, _: object) -> None:
        for each in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)  # once: the second would break the cleaning up
        raise Ended(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, end)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned with spaces; numbers to the right. Every cell is escaped."""
    titles = [shown(title) for title in head]
    texts = [[shown(cell) for cell in row] for row in rows]
    widths = [max(len(titles[i]), *(len(row[i]) for row in texts), 0) if texts else len(titles[i])
              for i in range(len(titles))]  # fmt: skip
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

    return "\n".join([line(titles), "  ".join("-" * w for w in widths), *map(line, texts)])


def _numeric(text: str) -> bool:
    return text != "" and text.lstrip("+-").replace(".", "", 1).replace(",", "").isdigit()
