"""Values of parameters: kinds, gradients, filters, synonyms. Expected numbers are worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.method import Method, Parameter
from dovetail.engine.recipe.origin import Origin
from dovetail.engine.recipe.settings import parse_value
from dovetail.engine.recipe.values import Candidate, check_parameters
from tests.engine.recipe.rows import AVERAGE, SPARSE, no_program

KINDS = Method(
    name="kinds",
    summary="one parameter of each kind",
    paper="",
    base="member",
    parameters=(
        Parameter("real", "float", 1.0, "a number"),
        Parameter("whole", "int", 1, "a whole number"),
        Parameter("flag", "bool", True, "a switch"),
        Parameter("word", "choice", "sum", "a word", choices=("sum", "ties")),
        Parameter("order", "models", None, "names"),
    ),
    program=no_program,
)


def check(method: Method = KINDS, level: Any = "merge", **given: Any) -> dict[str, tuple[Candidate, ...]]:
    """Check parameters given by keyword, values as YAML would give them."""
    values = {name: parse_value(value) for name, value in given.items()}
    return check_parameters(values, method, ("parameters",), Origin(), level)


def at(name: str, value: Any, fraction: float) -> Any:
    """Evaluate the first candidate of a parameter of `KINDS`."""
    return check(**{name: value})[name][0].at(fraction)


@pytest.mark.parametrize(
    ("points", "fraction", "expected"),
    [
        ([0, 1], 0.0, 0.0),
        ([0, 1], 0.25, 0.25),
        ([0, 1], 1.0, 1.0),
        ([0, 0.5, 0.3, 0.7, 1], 0.5, 0.3),  # 4 intervals: the middle is the third point
        ([0, 0.5, 0.3, 0.7, 1], 0.125, 0.25),  # halfway between 0 and 0.5
        ([1, 0.7, 0.1], 0.75, 0.4),  # halfway between 0.7 and 0.1
        ([1, 0.7, 0.1], 1.0, 0.1),
        ([5], 0.3, 5.0),
        ([2, 4, 8], 1 / 3, 2 * (1 - 2 / 3) + 4 * (2 / 3)),
        (7, 0.9, 7.0),
        ("1e-5", 0.0, 1e-5),
        (".5", 0.0, 0.5),
        (" 0.5 ", 0.0, 0.5),
        (["1e-1", 0.3], 1.0, 0.3),
    ],
)
def test_gradient(points: Any, fraction: float, expected: float) -> None:
    """mergekit's rule: the points are equally spaced over 0..1, and values between two are linear."""
    value = at("real", points, fraction)
    assert isinstance(value, float)
    assert expected == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize(
    ("points", "fraction", "expected"),
    [
        ([16, 32], 0.5, 24),
        ([1, 2], 0.5, 2),  # 1.5: halves go up
        ([2, 3], 0.5, 3),  # 2.5 too
        ([1, 2], 0.49, 1),
        ([-2, -1], 0.5, -1),
        ([3.4], 0.0, 3),
        ([3.6], 0.0, 4),
        ([0, 1, 9], 0.75, 5),
        (64, 0.3, 64),
        (64.0, 0.3, 64),
        ("64", 0.3, 64),
        (" 64.0 ", 0.3, 64),
        ("9223372036854775807", 0.3, 2**63 - 1),
    ],
)
def test_whole_numbers(points: Any, fraction: float, expected: int) -> None:
    """Gradients of whole numbers are rounded to the nearest, halves up."""
    value = at("whole", points, fraction)
    assert type(value) is int
    assert expected == value


@pytest.mark.parametrize(
    ("points", "fraction", "expected"),
    [
        (True, 0, True),
        (False, 1, False),
        (1, 0, True),
        (0.0, 0, False),
        ("true", 0, True),
        (" Off ", 0, False),
        ("Yes", 0, True),
        (["on", "0"], 1, False),
        ([True, False], 0.5, True),
        ([True, False], 1.0, False),
        ([False, True], 0.0, False),
        ([False, True], 0.9, False),
        ([0, 1], 1.0, True),
        ([False], 0.5, False),
    ],
)
def test_switches(points: Any, fraction: float, expected: bool) -> None:
    """Booleans may be 0, 1 and words; in a gradient, the last point that a layer reached counts, as in mergekit."""
    assert at("flag", points, fraction) is expected


@pytest.mark.parametrize(
    ("points", "fraction", "expected"),
    [
        ("ties", 0, "ties"),
        (["sum", "ties"], 0.99, "sum"),
        (["sum", "ties"], 1.0, "ties"),
        (["sum", "ties", "sum"], 0.5, "ties"),
    ],
)
def test_words(points: Any, fraction: float, expected: str) -> None:
    """A gradient of words is a step function: mergekit takes the point at the whole part of the position."""
    assert expected == at("word", points, fraction)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("real", True, "parameters.real is true; expected a number"),
        ("real", "much", "parameters.real is 'much'"),
        ("real", float("nan"), "parameters.real is nan"),
        ("real", [1, float("inf")], "parameters.real[1] is inf"),
        ("real", 1e39, "parameters.real is 1e+39"),
        ("real", "1e999", "parameters.real is '1e999'"),
        ("real", "nan", "parameters.real is 'nan'"),
        ("real", "1_0", "parameters.real is '1_0'"),
        ("real", "٣", "parameters.real is '٣'"),
        ("real", [1, True], "parameters.real[1] is true"),
        ("whole", 1.5, "parameters.whole is 1.5; expected a whole number"),
        ("whole", "x", "parameters.whole is 'x'"),
        ("whole", 1e30, "parameters.whole is 1e+30"),
        ("whole", [1, 1e39], "parameters.whole[1] is 1e+39"),
        ("whole", False, "parameters.whole is false"),
        ("flag", 2, "parameters.flag is 2; expected true or false"),
        ("flag", "maybe", "parameters.flag is 'maybe'"),
        ("flag", [1, 0.5], "parameters.flag[1] is 0.5"),
        ("word", "tise", "parameters.word is 'tise'; expected one of sum, ties; did you mean 'ties'?"),
        ("word", 1, "parameters.word is 1; expected one of sum, ties"),
        ("order", "a", "parameters.order is not a list of names"),
        ("order", ["a", 1], "parameters.order[1] is 1; expected a list of the models' names"),
        ("order", [{"value": ["a"]}], "parameters.order is not a list of names"),
        (
            "rael",
            1,
            "expected one of real, whole, flag, word, order; did you mean 'real'?",
        ),
        ("real", [{"filter": "mlp", "value": 1}, {"value": "x"}], "parameters.real[1].value is 'x'"),
        ("real", {"filter": "mlp", "value": [1, "x"]}, "parameters.real.value[1] is 'x'"),
    ],
)
def test_wrong_values(name: str, value: Any, message: str) -> None:
    """A value that is not of its parameter's kind is refused by its key path."""
    with pytest.raises(RecipeError) as caught:
        check(**{name: value})
    assert message in str(caught.value)


def test_synonyms() -> None:
    """A parameter's synonyms give its value under its own name; twice the same is no contradiction."""
    found = check(SPARSE, n_val=3, default_m_val=32)
    assert {"n": 3, "m": 32} == {name: candidates[0].at(0) for name, candidates in found.items()}
    assert ["n"] == list(check(SPARSE, n=3, n_val=3, default_n_val=3.0))
    with pytest.raises(RecipeError, match=r"parameters\.n_val and 'n' are one parameter and differ"):
        check(SPARSE, n=3, n_val=4)


def test_places() -> None:
    """What is for the whole merge cannot be given for one model, but what is for models can be given for all."""
    assert ["weight"] == list(check(AVERAGE, weight=1))
    with pytest.raises(RecipeError, match="normalize is given for one model; expected one value for the whole merge"):
        check(AVERAGE, level="model", normalize=True)
    with pytest.raises(RecipeError, match="expected weight"):
        check(AVERAGE, level="model", wieght=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is an empty list"),
        ("", "is empty"),
        ("[1, [2]]", "[1] is [2]"),
        ("[1, null]", "[1] is empty"),
        ("{filter: mlp}", "has no 'value'"),
        ("[{value: 1, fliter: x}]", "[0].fliter is not a key"),
        ("[{value: [1, {value: 2}]}]", "[0].value[1] is"),
        ("[{value: {value: 1}}]", "[0].value is"),
        ("[{value: 1, filter: 3}]", "[0].filter is 3"),
        ("[0.5, {filter: mlp, value: 1}]", "[0] is 0.5; expected filtered values"),
    ],
)
def test_malformed_values(text: str, message: str) -> None:
    """What is neither a value, a gradient nor a list of filtered values is refused by its key path."""
    from tests.engine.recipe.rows import read

    document = {
        "merge_method": "average",
        "models": [{"model": "a", "parameters": {"weight": yaml.safe_load(text) if text else None}}],
    }
    with pytest.raises(RecipeError) as caught:
        read(yaml.safe_dump(document))
    assert "models[0].parameters.weight" + message in str(caught.value).replace("weight ", "weight")


def test_mixed_list() -> None:
    """A bare value may end a list of filtered ones, for all other tensors; "*" means all as well."""
    parsed = parse_value([{"filter": "mlp", "value": [0, 1]}, {"filter": "*", "value": 2}, 3])
    assert [("mlp", (0, 1)), (None, 2), (None, 3)] == [(b.filter, b.value) for b in parsed.branches]
