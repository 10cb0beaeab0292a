"""Patterns of module names, against the regular expressions of Python that peft runs."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.io.adapters.patterns import PatternError, PatternTable
from tests.pace import within

NAMES = ("model.layers.0.self_attn.q_proj", "model.layers.10.mlp.up_proj", "lm_head", "a", "aab", "a.b", "", "x_y.z9")


def by_peft(keys: Sequence[str], name: str) -> str | None:
    """Find the first key that matches as peft does."""
    return next((key for key in keys if re.match(rf"(.*\.)?({key})$", name)), None)


@pytest.mark.parametrize(
    "keys",
    [
        ["q_proj", "up_proj"],
        ["proj"],
        ["self_attn.q_proj", "q_proj"],
        ["q_proj", "self_attn.q_proj"],
        ["self.attn.q.proj"],
        [r".*\.layers\.[0-5]\..*q_proj", "q_proj"],
        [r"^model\.layers\.\d+\.mlp", r"^model\.layers\.\d+\.mlp\.up_proj$"],
        ["(lm|up)_(head|proj)"],
        ["(?:a|aa)b?", "a*b", "a+", "[^a]b", "[a-c]+[b.]", "a{2}b{0,1}"],
        [r"\w+", r"\w+\.z\d"],
        ["x|", "(|a)b"],
    ],
)
def test_like_peft(keys: list[str]) -> None:
    """The first key that matches is that of Python's expressions."""
    table = PatternTable(keys)
    for name in NAMES:
        assert by_peft(keys, name) == table.find(name), name


ATOMS = st.sampled_from(["a", "b", ".", r"\.", "[ab]", "[^a]", r"\w", "(a|b)", "(?:ab)", "^", "$"])
PIECES = st.builds("".join, st.tuples(ATOMS, st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,3}"])))
KEYS = st.lists(st.one_of(PIECES, st.just("|")), min_size=1, max_size=6).map("".join)


@given(st.lists(KEYS, min_size=1, max_size=3), st.text("ab._", max_size=8))
def test_any_key(keys: list[str], name: str) -> None:
    """All of the language that is understood means what it means in Python."""
    try:
        table = PatternTable(keys)
    except PatternError:
        return
    assert by_peft(keys, name) == table.find(name)


REFUSED = [
    "(a", "a)", "a**", "a++", "*a", r"\b", r"\1", r"\x41", r"\Qa", "a(?=b)", "(?i)a", "(?P<n>a)", "[z-a]", "[", "[]",
    "^*", "[[:alpha:]]", "[[a]]", "a{,3}", "a{2000}", "x" * 1001 + "+", "(" * 99, "(é|a)", "a+\n",
]  # fmt: skip


@pytest.mark.parametrize("key", REFUSED)
def test_refused(key: str) -> None:
    """What is not understood, or means something else to one of the two libraries, is refused, not guessed."""
    with pytest.raises(PatternError):
        PatternTable([key])


@pytest.mark.parametrize("name", ["a\n", "é"])
def test_names_on_which_libraries_disagree(name: str) -> None:
    """Expressions are not tried on names with line breaks or letters beyond ASCII; plain keys are."""
    with pytest.raises(PatternError, match="not plain ASCII"):
        PatternTable(["a+"]).find(name)
    assert name == PatternTable([name]).find(name)


def test_catastrophes_end() -> None:
    """What would keep Python busy for ever is answered, and too many matches are given up, by counting."""
    name = "a" * 60 + "!"
    assert PatternTable(["(a*)*b", "(a|a)*b", "(a+)+$", "(.*)*" * 100 + "b"]).find(name) is None
    table = PatternTable([f"x{number}+" for number in range(1000)])
    with pytest.raises(PatternError, match="takes too long"):
        [table.find("a" * 1000) for _ in range(100)]


def test_many_plain_keys() -> None:
    """A key for every module, as some converters write them, takes no time."""
    keys = [f"model.layers.{layer}.mlp.experts.{expert}.up_proj" for layer in range(60) for expert in range(128)]
    table = PatternTable(keys)
    with within(2):
        assert all(key == table.find(key) for key in keys)
