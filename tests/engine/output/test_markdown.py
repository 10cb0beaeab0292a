"""Model cards: names and recipes are text in them, whatever they hold, as an independent reader of Markdown sees it."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dovetail.engine import merge
from dovetail.engine.output.markdown import block, cell, code, heading, sentence
from dovetail.engine.planning.plan import PlanOptions
from tests.checkpoints import cabs_recipe
from tests.engine.conftest import Family

READER = MarkdownIt("gfm-like", {"html": True, "linkify": False})
NASTY = "<img src=x onerror=alert(1)>`` `|*x* [a](javascript:1) $\\"
NAMES = st.text(st.sampled_from("`|<>*_[]()!# \n\r\t\\a&;~$:/-\u2028\u202e"), min_size=1, max_size=12) | st.text(
    min_size=1
)


def kinds(text: str) -> list[str]:
    """Give the kinds of all that a reader of Markdown finds, from the outside in."""
    found = []
    for token in READER.parse(text):
        found.append(token.type)
        found += [child.type for child in token.children or ()]
    return found


@given(NAMES)
def test_names(name: str) -> None:
    """A name in a sentence, in a cell and in a heading is one piece of text or of code, with nothing in it."""
    assert ["paragraph_open", "inline", "text", "code_inline", "text", "paragraph_close"] == kinds(f"a {code(name)} b")
    row = kinds(f"| a | b |\n|---|---|\n| {cell(name)} | b |")
    assert kinds("| a | b |\n|---|---|\n| `x` | b |") == row
    assert kinds(f"# {heading(name)}") in (kinds("# x"), kinds("# `x`"))


@given(NAMES)
def test_sentences(name: str) -> None:
    """A sentence with names in it is text."""
    assert {"paragraph_open", "inline", "text", "text_special", "paragraph_close", "entity"} >= set(
        kinds(f"word {sentence(name)}")
    )


@given(st.text(st.sampled_from("`~\n a<>|"), max_size=30))
def test_blocks(text: str) -> None:
    """No line of a fenced block ends it."""
    assert ["fence"] == kinds("\n".join(block(text, "yaml")))


def test_ordinary_names() -> None:
    """Ordinary names look as people write them."""
    name = "Llama-3.1_8B"
    assert (f"`{name}`", name, "Llama-3.1_8B") == (code(name), heading(name), sentence(name))
    assert ("`a\\|b`", "``a`b``", "`` `a ``") == (cell("a|b"), code("a`b"), code("`a"))
    assert ["```yaml", "a: 1", "```"] == block("a: 1", "yaml")


def test_hostile_models(family: Family) -> None:
    """Folders with names that look like markup, and a recipe that would end its block, leave the card as it is."""
    merge(family.recipe_path, family.home / "plain", PlanOptions(card_pictures=True))
    nasty = NASTY.replace("/", "")
    shutil.move(family.math, family.home / nasty)
    cabs_recipe(family.recipe_path, family.base, [family.home / nasty, family.code])
    family.recipe_path.write_text(f"# ```\n# <script>\n{family.recipe_path.read_text()}\n# ````\n")
    merge(family.recipe_path, family.out, PlanOptions(card_pictures=True))
    plain, hostile = ((folder / "README.md").read_text() for folder in (family.home / "plain", family.out))
    assert kinds(plain) == kinds(hostile)
    assert not {"html_inline", "html_block", "link_open"} & set(kinds(hostile.replace("[paper]", "paper")))


@pytest.mark.parametrize("name", ["dovetail_models.svg", "dovetail_layers.svg"])
def test_hostile_pictures(family: Family, name: str) -> None:
    """Names are text in pictures too: the same elements in the same order."""
    from xml.etree import ElementTree

    merge(family.recipe_path, family.home / "plain", PlanOptions(card_pictures=True))
    nasty = '</text><script>alert(1)</script>&"\x01'.replace("/", "")
    shutil.move(family.math, family.home / nasty)
    cabs_recipe(family.recipe_path, family.base, [family.home / nasty, family.code])
    merge(family.recipe_path, family.out, PlanOptions(card_pictures=True))
    plain, hostile = (ElementTree.parse(folder / name).getroot() for folder in (family.home / "plain", family.out))
    assert [each.tag for each in plain.iter()] == [each.tag for each in hostile.iter()]
    assert [sorted(each.attrib) for each in plain.iter()] == [sorted(each.attrib) for each in hostile.iter()]
    shown = [each.text or "" for each in hostile.iter()]
    assert (name == "dovetail_models.svg") == any('<text><script>alert(1)<script>&" ' in text for text in shown)
