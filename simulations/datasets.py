"""Real data sets, and how partners split them.

CDNOW: 69,659 purchases of 23,570 customers, 1997 to mid 1998 (Fader, Hardie 2001), as the package
Lifetimes ships it. The file is read; the package is never imported.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import DataError
from privacy.programs.columns import Column, Floats, Label, Number

CDNOW_FILE = "lifetimes/datasets/CDNOW_master.txt"
CUT = date(1997, 10, 1)
"""Features are of purchases before this day; the label is a purchase on it or later."""

CDNOW_COLUMNS: dict[str, dict[str, Any]] = {
    "recency": {"type": "number", "low": 0, "high": 280},
    "frequency": {"type": "number", "low": 1, "high": 100, "scale": "log"},
    "monetary": {"type": "number", "low": 0, "high": 4000, "scale": "log"},
    "items": {"type": "number", "low": 1, "high": 300, "scale": "log"},
    "tenure": {"type": "number", "low": 180, "high": 280},
    "returned": {"type": "label"},
}
CDNOW_FEATURES = ("recency", "frequency", "monetary", "items", "tenure")
RFM = ("recency", "frequency", "monetary")


@dataclass(frozen=True)
class Purchases:
    """One array each, (n,): customer, day number, items, dollars."""

    customer: NDArray[np.int64]
    day: NDArray[np.int64]
    items: Floats
    dollars: Floats

    def only(self, chosen: NDArray[np.bool_]) -> Purchases:
        """The chosen purchases."""
        return Purchases(
            self.customer[chosen], self.day[chosen], self.items[chosen], self.dollars[chosen]
        )


def find_cdnow(data: Path | None = None) -> Path:
    """The file, in ``data`` or in the installed package. Raises DataError that says what to do."""
    if data is not None:
        for candidate in (data / "CDNOW_master.txt", data / CDNOW_FILE):
            if candidate.is_file():
                return candidate
    try:
        found = importlib.metadata.distribution("Lifetimes").locate_file(CDNOW_FILE)
        if Path(str(found)).is_file():
            return Path(str(found))
    except importlib.metadata.PackageNotFoundError:
        pass
    raise DataError(
        "CDNOW_master.txt is missing: pip install 'tallystick[demo]', or --data its folder"
    )


def load_cdnow(path: Path) -> Purchases:
    """Every purchase. Raises DataError if the file is not the data set."""
    lines = path.read_text(encoding="ascii").splitlines()[1:]
    try:
        table = np.array([line.split() for line in lines if line.strip()], dtype=np.float64)
        dates = table[:, 1].astype(np.int64)
        days = np.array(
            [date(d // 10_000, d // 100 % 100, d % 100).toordinal() for d in dates.tolist()]
        )
    except (ValueError, IndexError):
        raise DataError(f"{path.name} is not the CDNOW file") from None
    return Purchases(table[:, 0].astype(np.int64), days, table[:, 2], table[:, 3])


def customers(purchases: Purchases, cut: date = CUT) -> dict[str, Floats]:
    """RFM features before ``cut`` and whether the customer came back, one row for each customer.

    Days, purchase days, dollars, items, days; ``returned`` 0 or 1; ``customer`` the key.
    """
    edge = cut.toordinal()
    before = purchases.only(purchases.day < edge)
    keys, row = np.unique(before.customer, return_inverse=True)
    count = len(keys)
    last, first = np.zeros(count), np.full(count, np.inf)
    np.maximum.at(last, row, before.day)
    np.minimum.at(first, row, before.day)
    visits = np.unique(np.stack([row, before.day], axis=1), axis=0)[:, 0]
    later = np.unique(purchases.customer[purchases.day >= edge])
    return {
        "customer": keys.astype(np.float64),
        "recency": edge - last,
        "frequency": np.bincount(visits, minlength=count).astype(np.float64),
        "monetary": np.bincount(row, before.dollars, count),
        "items": np.bincount(row, before.items, count),
        "tenure": edge - first,
        "returned": np.isin(keys, later).astype(np.float64),
    }


def declared(columns: dict[str, dict[str, Any]]) -> dict[str, Column]:
    """Columns of a contract as programs see them."""
    result: dict[str, Column] = {}
    for name, spec in columns.items():
        if spec["type"] == "number":
            result[name] = Number(name, spec["low"], spec["high"], spec.get("scale", "linear"))
        else:
            result[name] = Label(name)
    return result


def overlapping_split(
    purchases: Purchases, names: Sequence[str], share: float, seed: int
) -> dict[str, Purchases]:
    """Every customer belongs to one partner; ``share`` of them to a second one too, and then each
    purchase was at one of the two. The split is simulated; the purchases are real."""
    rng = np.random.default_rng(seed)
    most = int(purchases.customer.max()) + 1
    home = rng.integers(0, len(names), most)
    second = (home + rng.integers(1, len(names), most)) % len(names)
    both = rng.random(most) < share
    coin = rng.random(len(purchases.customer)) < 0.5
    who = purchases.customer
    at = np.where(both[who] & coin, second[who], home[who])
    return {name: purchases.only(at == i) for i, name in enumerate(names)}
