"""Recipes that break one rule of safe reading each, and what must be said about them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RecipeAttack:
    """One hostile recipe."""

    id: str
    """What is wrong with it, in a word or two."""
    content: bytes
    """The whole file."""
    text: str
    """Part of the error's text."""


def _laughs(levels: int, width: int) -> bytes:
    """Name lists of ten of the name before: a few hundred bytes stand for billions of values."""
    lines = ["l0: &l0 [lol]"]
    lines += [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * width)}]" for level in range(1, levels)]
    return "\n".join(lines).encode()


def _merges(levels: int) -> bytes:
    """Merge keys that merge the mapping before, twice each."""
    lines = ["m0: &m0 {a: 1}"]
    lines += [f"m{level}: &m{level} {{<<: [*m{level - 1}, *m{level - 1}]}}" for level in range(1, levels)]
    return "\n".join(lines).encode()


MEBIBYTE = 2**20
_MODELS = b"models: [{model: a}]\n"
_TAG = "has the tag 'tag:yaml.org,2002:python"
RECIPE_ATTACKS = (
    RecipeAttack("billion laughs", _laughs(10, 10), "aliases expand too far"),
    RecipeAttack("billion laughs by merge keys", _merges(40), "aliases expand too far"),
    RecipeAttack("list that holds itself", b"models: &m [*m]", "aliases expand too far"),
    RecipeAttack("too large", b" " * (MEBIBYTE + 1), "the recipe is too large; expected at most 1,048,576 bytes"),
    RecipeAttack("half a million values", b"[" + b"[]," * (MEBIBYTE // 3 - 2) + b"]\n", "too many values"),
    RecipeAttack("deep brackets", b"[" * 100_000 + b"\n", "nested too deeply"),
    RecipeAttack("deep dashes", b"- " * 100_000 + b"\n", "nested too deeply"),
    RecipeAttack("key twice", b"merge_method: cabs\nmerge_method: cabs\n", "merge_method is given twice"),
    RecipeAttack("two documents", b"merge_method: cabs\n---\nmerge_method: cabs\n", "has 2 documents; expected one"),
    RecipeAttack("not UTF-8", b"merge_method: \xff\n", "byte 14 is not UTF-8 text"),
    RecipeAttack("NUL", b'merge_method: "\\0"\n', "has a character that is not text"),
    RecipeAttack("half a character", b'merge_method: "\\ud800"\n', "has a character that is not text"),
    RecipeAttack("escape sequence", b'"base_mode\\e": 1\n', "base_mode\\x1b is an unknown key"),
    RecipeAttack(
        "code", b"merge_method: !!python/object/apply:os.system [id]\n", "has the tag 'tag:yaml.org,2002:python"
    ),
    RecipeAttack("module", b"merge_method: !!python/module:antigravity\n", _TAG),
    RecipeAttack("unknown tag", b"merge_method: !x cabs\n", "has the tag '!x'; expected no tags"),
    RecipeAttack("binary", b"merge_method: !!binary aGk=\n", "has the tag 'tag:yaml.org,2002:binary'"),
    RecipeAttack("enormous integer", b"merge_method: 1" + b"0" * 5_000 + b"\n", "merge_method is not a valid int"),
    RecipeAttack("number to the base 60", _MODELS + b"merge_method: 1" + b":0" * 5_000 + b"\n", "expected one of cabs"),
    RecipeAttack("enormous name", _MODELS + b"merge_method: " + b"x" * 500_000 + b"\n", "merge_method is 'xxx"),
)
