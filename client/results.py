"""Files that a match leaves with those who may learn about single people: for a spreadsheet
(:mod:`client.sheets`), or ``as_is`` where ``[results]`` of partner.toml says so."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.audience import Audience
from client.sheets import quoted
from privacy.matching import tokens
from privacy.matching.deck import Deck
from privacy.matching.engine import TOKEN_BYTES
from privacy.matching.storage import Log, Spool
from protos.files import new_private


def write_people(
    path: Path, audience: Audience, chosen: NDArray[np.bool_], *, as_is: bool = False
) -> None:
    """The file ``path``: the partner's own keys of the chosen people, (n,), in order."""
    with new_private(path) as file:
        file.write(b"person\n")
        for _, keys in audience.keys(chosen):
            cells = csv_cells(keys if as_is else [quoted(key) for key in keys])
            file.write("".join(f"{cell}\n" for cell in cells).encode())


def write_pseudonyms(
    path: Path, audience: Audience, deck: Deck, mine: Log, *, as_is: bool = False
) -> None:
    """``person,pseudonym``: a line for each person and identifier, in order of person."""
    found = np.frombuffer(b"".join(mine.read(i) for i in range(len(mine))), np.uint8)
    found = found.reshape(-1, TOKEN_BYTES)
    pairs = list(deck.members())
    people = np.concatenate([rows for _, rows in pairs])
    places = np.concatenate([positions for positions, _ in pairs])
    order = np.argsort(people, kind="stable")
    people, places = people[order], places[order]
    chosen = np.zeros(audience.people, np.bool_)
    chosen[people] = True
    at = 0
    with new_private(path) as file:
        file.write(b"person,pseudonym\n")
        for numbers, keys in audience.keys(chosen):
            cells = csv_cells(keys if as_is else [quoted(key) for key in keys])
            for number, cell in zip(numbers.tolist(), cells, strict=True):
                while at < len(people) and people[at] == number:
                    file.write(f"{cell},{found[places[at]].tobytes().hex()}\n".encode())
                    at += 1


def write_union(path: Path, spool: Spool, mine: Log, others: Log, expected: int) -> None:
    """Every pseudonym of either side, padding's too, sorted: the same file at both."""
    left = tokens.Shelf.of(spool, "left", mine, expected)
    right = tokens.Shelf.of(spool, "right", others, expected)
    with new_private(path) as file:
        file.write(b"pseudonym\n")
        for bucket in range(1 << left.bits):
            both = [shelf.read(bucket).as_bytes() for shelf in (left, right)]
            for token in np.unique(np.concatenate(both), axis=0):
                file.write(token.tobytes().hex().encode() + b"\n")
    spool.discard("left")
    spool.discard("right")


_SPECIAL = re.compile('[,"\r\n]')


def csv_cells(texts: list[str]) -> list[str]:
    """Cells, quoted where they must be (RFC 4180, 2)."""
    if not _SPECIAL.search("".join(texts)):
        return texts
    return ['"' + t.replace('"', '""') + '"' if _SPECIAL.search(t) else t for t in texts]
