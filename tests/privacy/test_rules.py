"""Rules: a small language in which a bare name is a column and ``model:NAME`` a model, and nothing else."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import ParameterError
from privacy.programs import rules
from privacy.programs.columns import Category, Column, Number

COLUMNS: dict[str, Column] = {
    "x": Number("x", -5, 5),
    "buyers": Number("buyers", 0, 1),
    "region": Category("region", ("north", "model:buyers", "a'b", 'say "no"', "北")),
}
ROWS = {
    "x": np.array([1.0, -1.0, np.nan, 0.0, 2.0]),
    "buyers": np.array([0.0, 0.0, 0.0, 0.0, 0.0]),
    "region": np.array([0.0, 1.0, 2.0, 3.0, 4.0]),
    "model:buyers": np.array([0.9, 0.2, 0.9, np.nan, 0.5]),
    "model:buyers@00ff00aa": np.array([0.1, 0.2, 0.3, 0.4, 0.5]),
    "model:a-b_c9": np.zeros(5),
}


def _select(text: str) -> list[int]:
    found: list[int] = np.flatnonzero(rules.parse(text).select(ROWS, COLUMNS, 5)).tolist()
    return found


@pytest.mark.parametrize(
    ("text", "names", "chosen"),
    [
        ("model:buyers > 0.4", {"model:buyers"}, [0, 2, 4]),
        ("model:buyers@00ff00aa>.35", {"model:buyers@00ff00aa"}, [3, 4]),
        ("buyers == 0 and model:buyers <= 0.5", {"buyers", "model:buyers"}, [1, 4]),
        ("not model:buyers > 0.4", {"model:buyers"}, [1, 3]),
        ("model:a-b_c9 == 0 and x >= 1", {"model:a-b_c9", "x"}, [0, 4]),
        ('region == "model:buyers"', {"region"}, [1]),
        ("region == 'model:buyers' or model:buyers == 0.5", {"region", "model:buyers"}, [1, 4]),
        ("region == 'a\\'b'", {"region"}, [2]),
        ('region == "a\'b" or region == \'say "no"\'', {"region"}, [2, 3]),
        ('region != "北" and x > -10', {"region", "x"}, [0, 1, 3]),
        ("(x > 0 or (x < 0))", {"x"}, [0, 1, 4]),
        ("x >= -1 and x <= 1_0e-1", {"x"}, [0, 1, 3]),
        ("model:buyers>0.4 and model:buyers<0.8", {"model:buyers"}, [4]),
    ],
)
def test_models_and_columns_have_names_of_their_own(
    text: str, names: set[str], chosen: list[int]
) -> None:
    rule = rules.parse(text)
    assert rule.names == names
    assert rule.models == {n for n in names if n.startswith("model:")}
    assert rule.columns == names - rule.models
    assert _select(text) == chosen


def test_what_a_models_name_says() -> None:
    assert rules.model_of("model:buyers") == ("buyers", None)
    assert rules.model_of("model:a-b@00ff00aa") == ("a-b", "00ff00aa")
    for name in ("buyers", "model:", "model:A", "model:a@00ff00a", "model:a@00FF00AA", "model:a "):
        assert rules.model_of(name) is None


@pytest.mark.parametrize(
    "text",
    [
        "model:buyers", "model: buyers > 1", "model :buyers > 1", "model:Buyers > 1", "model:9 > 1",
        "model:buyers@ > 1", "model:buyers@12345 > 1", "model:buyers@123456789 > 1",
        "model:buyers@GGGGGGGG > 1", "model:buyers.x > 1", "model:buyers:x > 1", "model > 1:",
        "model:" + "a" * 33 + " > 1", "x > model:buyers", "1 > model:buyers", "model:a == model:b",
        "M0 > 1", "M0 > 1 and model:a > 1", "models:a > 1", "xmodel:a > 1", "Model:a > 1",
        "ｘ > 1", "model:ｂ > 1", "ſ > 1", "x ＞ 1", "x > ١", "x\u00a0> 1", "ⅸ > 1", "x\u200b > 1",
        'r"a" == 1', 'x == r"a"', 'x == b"a"', 'x == f"{x}"', 'x == u"a"', 'x == "a" "b"', 'x == """a"""',
        'x == "a', "x == 'a\"", 'x == "\\x41"', 'x == "\\N{BULLET}"', 'x == "\\d"', 'x == "a\nb"',
        'x == "\0"', 'x == "\x1b[2J"', "x > 1 # c", "x > 1; x", "x > 1\nx > 2", "x := 1", "x > 0x10",
        "x > 1j", "x > 1if x else 2", "x > 007", "x > 1__0", "x > 1.e", "x > 1..2", "x > +1", "x > ~1",
        "x > 1 > 0", "x == None", "None == 1", "True", "1 < x", "x is 1", "x in 1", "if > 1", "x > 1e999",
        "x > " + "9" * 490, "x > -" + "9" * 400, "x > " + "-" * 400 + "1", "x > - - - -" + "-" * 30 + "1",
        "(" * 200 + "x > 1" + ")" * 200, "not " * 100 + "x > 1", "x > 1" + " and x > 1" * 80,
        "(" * 120 + "x > 1 and (x > 1", "", " ", "()", "x > \ud800", "x == '\ud800'", "x > 1e", "\\",
        "x > 1\\",
    ],
)  # fmt: skip
def test_everything_else_is_a_parameter_error_that_does_not_quote(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ParameterError) as caught:
            rules.parse(text)
    assert caught.value.__cause__ is None
    message = str(caught.value)
    assert message.startswith("rule")
    assert message.isascii()
    assert len(message) < 200


def test_errors_of_a_selection_name_no_constant() -> None:
    for text in ('x == "secret"', 'region == "secret"', 'model:buyers == "secret"'):
        with pytest.raises(ParameterError, match="has no value") as caught:
            rules.parse(text).select(ROWS, COLUMNS, 5)
        assert "secret" not in str(caught.value)
    with pytest.raises(ParameterError, match="neither"):
        rules.parse("model:others > 1").select(ROWS, COLUMNS, 5)


PIECES = st.sampled_from(
    ["x", "region", "model:buyers", "model:a@00ff00aa", "and", "or", "not", "(", ")", "==", "<", ">=",
     "!=", "-", "1", ".5", "1e9", "1e400", '"north"', "'北'", '"', "'", "\\", "True", "M0", " ", "\n",
     "#", "ｘ", "@", ":", "model:", "lambda", "[", "{", "9" * 60, "0x", "_", ",", "\0", "\ud800", "é"]
)  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(st.one_of(st.lists(PIECES, max_size=60).map(" ".join), st.text(max_size=300)))
def test_any_text_is_a_rule_or_a_parameter_error(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            rule = rules.parse(text)
        except ParameterError:
            return
        for name in rule.names:
            assert rules.model_of(name) or name.isidentifier()
            assert name in text  # nothing was normalised into another name
            assert name.isascii()
        try:
            mask = rule.select(ROWS, COLUMNS, 5)
        except ParameterError:
            return
    assert mask.shape == (5,)
    assert mask.dtype == np.bool_


@settings(max_examples=500, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_any_run_of_tokens_is_a_rule_or_a_parameter_error(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            rules.parse(text)
        except ParameterError:
            return
