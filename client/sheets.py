"""Cells that a spreadsheet would run as a formula, in the files that people open.

A customer chooses his name. Excel, LibreOffice and Google Sheets run what begins with = + - or @, and Excel
also after a tab or a line break at the start (OWASP, "CSV Injection"; CWE-1236); where a program splits lines
at another character than the comma, a cell of ours becomes several and each may begin so. What a program
trims before it looks (blanks of any width, controls, characters that are not seen) hides nothing. A text gets
an apostrophe, which a spreadsheet takes as "this is text", before such a character and what is trimmed

    at its start, and after ; | tab and line breaks within it; full-width and small forms too; not where the
    whole text is a plain number (-5, +4.2) or a telephone number that is no sum (+1 312 753 0189, which it
    would be with hyphens)

and one more where apostrophes stand there already, so that :func:`plain` gives every text back
(``plain(quoted(x)) == x``). Whatever else reads such a file sees the apostrophes: ``--as-is`` writes none.

*Not* handled: Parquet, which no spreadsheet opens by itself; programs that take an apostrophe for nothing.
"""

from __future__ import annotations

import re

FORMULA = "=+\\-@＝＋－＠﹦﹢﹣﹫"
BREAKS = ";|\\t\\r\\n"
_TRIMMED = (
    "\\x00-\\x08\\x0b\\x0c\\x0e-\\x20\\x7f-\\xa0\\xad\\u034f\\u0600-\\u0605\\u061c\\u06dd\\u070f\\u1680\\u180b-\\u180f"
    "\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u206f\\u3000\\ufe00-\\ufe0f\\ufeff\\ufff9-\\ufffb\\U000e0000-\\U000e01ef"
)
"""Controls, spaces and what has no width, but those that split lines."""
_LEAD = rf"'*[{_TRIMMED}]*"
ROUGHLY = rf"^{_LEAD}[{FORMULA}\t\r\n]|[{BREAKS}]"
"""Finds, in half the time, all that :data:`SUSPECT` finds and more."""
SUSPECT = rf"(?:^|[{BREAKS}]){_LEAD}[{FORMULA}]|^{_LEAD}[\t\r\n]"
"""Finds, without looking around, every text that may be changed: in Rust's patterns and in Python's."""
NUMBER = r"^ *(?:[+-]?[0-9]+(?:[.,][0-9]+)?(?:[eE][+-]?[0-9]+)?|\+[0-9](?:[ ().]{0,2}[0-9]){6,14})$"

_HERE = rf"(?:^|(?<=[{BREAKS}]))"
_QUOTE = re.compile(rf"{_HERE}(?={_LEAD}[{FORMULA}])|^(?={_LEAD}[\t\r\n])")
_PLAIN = re.compile(rf"{_HERE}'(?={_LEAD}[{FORMULA}])|^'(?={_LEAD}[\t\r\n])")
_SUSPECT, _NUMBER = re.compile(SUSPECT), re.compile(NUMBER.removesuffix("$") + r"\Z")


def quoted(text: str) -> str:
    """The text as a cell that stays text."""
    if not _SUSPECT.search(text) or _NUMBER.match(text):
        return text
    return _QUOTE.sub("'", text)


def plain(text: str) -> str:
    """What :func:`quoted` was given."""
    return _PLAIN.sub("", text) if "'" in text else text
