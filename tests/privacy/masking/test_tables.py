"""Generalising, risk, quality, duplicates: whole tables."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privacy.errors import ParameterError
from privacy.masking import duplicates, quality, risk
from privacy.masking.duplicates import Rule
from privacy.masking.generalise import generalised, noisy
from privacy.masking.statistics import wilson
from privacy.randomness import stream


@pytest.mark.parametrize(
    ("kind", "to", "raw", "expected"),
    [
        ("birth_date", "year", "1949-12-31", "1949"),
        ("birth_date", "month", "19491231", "1949-12"),
        ("birth_date", "5-year", "1949-12-31", "1945..1949"),
        ("birth_date", "10-year", "1950-01-01", "1950..1959"),
        ("birth_date", "year", "unknown", None),
        ("number", "band:50", "149.99", "100..150"),
        ("number", "band:0.5", "0.7", "0.5..1.0"),
        ("number", "band:50", "-1", "-50..0"),
        ("number", "band:50", "inf", None),
        ("number", "band:50", "x", None),
        ("id_card", "province", "11010519491231002X", "北京市"),
        ("id_card", "province", "11010519491231002", None),
        ("address", "province", "浙江省杭州市西湖区", "浙江"),
        ("address", "province", "中国内蒙古自治区", "内蒙古"),
        ("address", "province", "Baker Street", None),
        ("category", "prefix:3", "94045", "940*"),
        ("category", "prefix:5", "94045", None),
    ],
)
def test_generalising(kind: str, to: str, raw: str, expected: str | None) -> None:
    assert generalised(kind, pl.Series([raw, None]), to).to_list() == [expected, None]


def test_typed_columns_generalise_too() -> None:
    dates = pl.Series([datetime(1949, 12, 31)]).cast(pl.Date)
    assert generalised("birth_date", dates, "year").to_list() == ["1949"]
    assert generalised("number", pl.Series([149, None]), "band:50").to_list() == ["100..150", None]
    with pytest.raises(ParameterError):
        generalised("number", pl.Series([1]), "year")


def test_noise_is_laplace() -> None:
    """Kolmogorov-Smirnov over 20,000 draws; a fixed seed, and a false alarm in 10^4 seeds."""
    values = pl.Series(np.full(20_000, 10.0))
    drawn = noisy(values, 2.0, stream(bytes(range(32)))).to_numpy() - 10.0
    assert stats.kstest(drawn, stats.laplace(scale=2.0).cdf).pvalue > 1e-4
    assert noisy(pl.Series(["x", None, "3"]), 1.0, stream(bytes(32))).null_count() == 2


def test_k_l_and_uniqueness_by_hand() -> None:
    table = pl.DataFrame(
        {
            "age": ["30", "30", "30", "40", "40", "50"],
            "city": ["a", "a", "a", "b", "b", "c"],
            "illness": ["x", "y", "x", "z", "z", "x"],
        }
    ).lazy()
    found = risk.measure(table, ["age", "city"], ["illness"], 3)
    assert (found.rows, found.groups, found.k) == (6, 3, 1)
    assert found.unique == pytest.approx(1 / 6)
    assert found.under == pytest.approx(3 / 6)
    assert found.diversity == {"illness": 1}
    whole = risk.measure(table, [], ["illness"], 3)
    assert (whole.k, whole.unique, whole.under, whole.diversity) == (6, 0.0, 0.0, {"illness": 3})


def test_the_column_that_causes_it_is_named_first() -> None:
    table = pl.DataFrame({"year": ["1"] * 50, "street": [str(i) for i in range(50)]}).lazy()
    now = risk.measure(table, ["year", "street"], [], 5)
    worst = risk.culprits(table, ["year", "street"], 5, now)
    assert worst[0] == ("street", 1.0)
    assert worst[1] == ("year", 0.0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=40))
def test_risk_is_what_counting_gives(rows: list[tuple[int, int]]) -> None:
    table = pl.DataFrame(rows, schema=["a", "b"], orient="row").lazy()
    sizes = [rows.count(row) for row in rows]
    found = risk.measure(table, ["a", "b"], [], 3)
    assert found.k == min(sizes)
    assert found.unique == pytest.approx(sizes.count(1) / len(rows))
    assert found.under == pytest.approx(sum(s < 3 for s in sizes) / len(rows))


def test_wilson_against_scipy() -> None:
    for hits, trials in ((0, 10), (5, 10), (9, 10), (10, 10), (3, 1000)):
        exact = stats.binomtest(hits, trials).proportion_ci(0.95, "wilson")
        assert wilson(hits, trials) == pytest.approx((exact.low, exact.high), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


def test_quality_by_hand() -> None:
    report = quality.Report(
        {"phone": "phone", "spend": "number"}, ["seen"], {"spend": (0.0, 100.0)}
    )
    for _ in range(2):
        report.add(
            pl.DataFrame(
                {
                    "phone": ["13812341234", "", None, "12", "13912341234"],
                    "spend": ["1", "2", "3", "1000", "a lot"],
                    "seen": [
                        "2026-01-01 08:00:00",
                        "2026-01-01T09:00:00Z",
                        None,
                        "x",
                        "2025-12-31",
                    ],
                }
            )
        )
    found = {(f.check, f.column): f for f in report.findings(datetime(2026, 1, 1, 12), 0.18)}
    assert found["missing", "phone"].value == pytest.approx(0.4)
    assert found["invalid", "phone"].value == pytest.approx(1 / 3)
    assert found["outliers", "spend"].value == pytest.approx(0.25)
    assert found["delay", "seen"].value == pytest.approx(3.0)
    assert found["duplicates", ""].alert
    assert found["delay", "seen"].alert
    assert found["missing", "spend"].value == 0
    assert found["invalid", "spend"].value == pytest.approx(0.2)
    assert quality.fences(pl.Series([1, 2, 3, 4, 5])) == (-1.0, 7.0)
    assert quality.fences(pl.Series([1, 1, 1, 1, 9])) is None


PEOPLE = pl.DataFrame(
    {
        "name": ["张三", "张 三", "李四", None, "王五", "Jon Smith", "John Smith", "Jane Smith"],
        "phone": ["13812341234", "138 1234 1234", "13812341234", "13900000000", "13900000000",
                  None, None, None],
        "mail": [None, "z3@example.com", None, None, "w5@example.com", None, None, None],
        "born": ["1", "1", "1", "2", "2", "3", "3", "3"],
    }
)  # fmt: skip
RULE = Rule({"phone": "phone", "mail": "email"}, "name", ("born",), 0.92)


def test_rows_of_one_person() -> None:
    """Families share telephones; a row without a name joins the only name there is."""
    assert duplicates.groups(PEOPLE, RULE).tolist() == [0, 0, 2, 3, 3, 5, 5, 7]
    assert duplicates.rate(duplicates.groups(PEOPLE, RULE)) == pytest.approx(3 / 8)
    assert duplicates.rate(duplicates.groups(PEOPLE.clear(), RULE)) == 0.0


def test_merging_keeps_what_is_there() -> None:
    merged = duplicates.merged(PEOPLE, duplicates.groups(PEOPLE, RULE), None)
    assert len(merged) == 5
    assert merged.row(0) == ("张 三", "138 1234 1234", "z3@example.com", "1")
    assert merged.row(2) == ("王五", "13900000000", "w5@example.com", "2")
    assert merged.columns == PEOPLE.columns
    newest = PEOPLE.with_columns(pl.Series("seen", ["9", "1", "1", "9", "1", "1", "2", "1"]))
    first = duplicates.merged(newest, duplicates.groups(newest, RULE), "seen").row(0)
    assert first == ("张三", "13812341234", "z3@example.com", "1", "9")


def test_a_placeholder_joins_nobody() -> None:
    many = pl.DataFrame({"phone": ["13800000000"] * 500, "name": ["张三"] * 500})
    found = duplicates.groups(many, Rule({"phone": "phone"}, "name"))
    assert len(np.unique(found)) == 500


@given(
    st.lists(
        st.tuples(st.sampled_from(["1", "2", None]), st.sampled_from(["anna k", "anna novak", "anna", "ben d",
                                                                      "ben g", None])),
        max_size=12,
    )
)  # fmt: skip
def test_nearly_equal_names_are_compared_each_with_each_other(
    rows: list[tuple[str | None, str | None]],
) -> None:
    """Against a loop over all pairs; some are exactly as similar as they must be."""
    from rapidfuzz.distance import JaroWinkler

    born, names = [row[0] for row in rows], [row[1] for row in rows]
    table = pl.DataFrame({"name": names, "born": born, "key": [None] * len(rows)}).cast(pl.String)
    rule = Rule({"key": "category"}, "name", ("born",), 0.92)
    pairs = [
        (one, other)
        for one in range(len(rows))
        for other in range(one)
        if born[one] is not None and born[one] == born[other]
        and names[one] is not None and names[other] is not None
        and JaroWinkler.similarity(names[one], names[other]) >= 0.92
    ]  # fmt: skip
    wanted = duplicates._joined(len(rows), np.array(pairs, np.int64).reshape(-1, 2))
    assert duplicates.groups(table, rule).tolist() == wanted.tolist()


def test_rows_whose_names_are_not_compared_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "LARGEST_WITHIN", 2)
    assert duplicates.uncompared(PEOPLE, RULE) == 6
    assert duplicates.groups(PEOPLE, RULE).tolist() == [0, 0, 2, 3, 3, 5, 6, 7]
    assert duplicates.uncompared(PEOPLE, Rule(RULE.keys)) == 0


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=20))
def test_joined_rows_are_connected_components(edges: list[tuple[int, int]]) -> None:
    import scipy.sparse.csgraph as graphs
    from scipy.sparse import coo_matrix

    pairs = np.array(edges, np.int64).reshape(-1, 2)
    found = duplicates._joined(13, pairs)
    matrix = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(13, 13))
    count, labels = graphs.connected_components(matrix, directed=False)
    assert len(np.unique(found)) == count
    assert all(labels[i] == labels[found[i]] for i in range(13))
