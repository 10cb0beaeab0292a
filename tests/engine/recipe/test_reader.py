"""YAML into plain values, and every limit on the way."""

from __future__ import annotations

import pytest

from dovetail.engine.recipe.reader import MAX_DEPTH, MAX_TEXT_BYTES, ReadError, find_lines, read_yaml


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: [x, 2.5, true, null]", {"a": 1, "b": ["x", 2.5, True, None]}),
        ('{"a": {"b": "c"}}', {"a": {"b": "c"}}),
        ("a: 3:32", {"a": "3:32"}),
        ("a: 2024-01-31", {"a": "2024-01-31"}),
        ("a: 1e-5", {"a": "1e-5"}),
        ("yes: 1\n2: no", {"yes": 1, "2": False}),
        ("a: 'x'\n---\n", {"a": "x"}),
        ("p: &p {w: 1, n: 2}\nq: {<<: *p, w: 3}", {"p": {"w": 1, "n": 2}, "q": {"w": 3, "n": 2}}),
        (
            "p: &p {w: 1}\nr: &r {w: 2, x: 3}\nq: {<<: [*p, *r]}",
            {"p": {"w": 1}, "r": {"w": 2, "x": 3}, "q": {"w": 1, "x": 3}},
        ),
        ("p: &p [1]\nq: *p", {"p": [1], "q": [1]}),
    ],
)
def test_plain_values(text: str, expected: object) -> None:
    """Plain YAML comes out as written; clock times, dates and keys stay text, aliases and merge keys work."""
    assert expected == read_yaml(text)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3", 3, "a is given twice"),
        ("x:\n  - y: 1\n    y: 1", 3, "x[0].y is given twice"),
        ("a: !!python/object/apply:os.system [ls]", 1, "tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
        ("a: !custom 1", 1, "tag '!custom'"),
        ("a: !!binary aGk=", 1, "tag"),
        ("a: !!set {x, y}", 1, "tag"),
        ("a: !!int x", 1, "not a valid int"),
        ("a: !!float ''", 1, "not a valid float"),
        ("a: !!bool maybe", 1, "not a valid bool"),
        ("? [1, 2]\n: 3", 1, "a key of the recipe is a sequence"),
        ("a: {<<: 3}", 1, "the '<<' of a is not a mapping"),
        ("a: [1", 1, "not valid YAML"),
        ("a: b: c", 1, "not valid YAML"),
        ("a: *nowhere", 1, "not valid YAML"),
        ("%YAML 9.9\n---\na", 1, "not valid YAML"),
        ("a: \x00", 0, "not valid YAML"),
        ('a: "\\0"', 1, "not text"),
        ('a: "\\ud800"', 1, "not text"),
        ('"\\ud800": 1', 1, "not text"),
        ('a: "\\UFFFFFFFF"', 0, "not valid YAML"),
        ("%YAML " + "9" * 5000 + ".1\n---\na", 0, "not valid YAML"),
        ("a: " + "9" * 5000, 1, "not a valid int"),
        ("a: 0x" + "f" * 5000, 1, "too large a number"),
        ("a: 9223372036854775808", 1, "too large a number"),
        ("a: -9223372036854775808", 1, "too large a number"),
        ("a: 1\n---\nb: 2", 0, "2 documents"),
        ("", 0, "0 documents"),
        ("# nothing", 0, "0 documents"),
        ("- " * (MAX_DEPTH + 1), 1, "nested too deeply"),
        ("[" * 100_000, 1, "nested too deeply"),
        ("{a: " * 50_000, 1, "nested too deeply"),
        ("a: &a [*a]", 1, "expand too far"),
        ("a: &a {<<: *a}", 1, "expand too far"),
        ("x" * (MAX_TEXT_BYTES + 1), 0, "larger than"),
        ("é" * (MAX_TEXT_BYTES // 2 + 1), 0, "larger than"),
    ],
)
def test_refusals(text: str, line: int, message: str) -> None:
    """Whatever is not plain YAML within the limits is refused, with its line where it has one."""
    with pytest.raises(ReadError) as caught:
        read_yaml(text)
    assert message in str(caught.value)
    assert line in (caught.value.line, 0)


@pytest.mark.parametrize("merge", ["[{}]", "{{k: {}}}", "{{<<: [{}]}}"])
def test_nested_aliases_are_counted(merge: str) -> None:
    """A few hundred bytes of aliases that stand for 10^12 values are refused at once."""
    lines = ["a0: &a0 {x: 1}"]
    for i in range(1, 13):
        many = ", ".join([f"*a{i - 1}"] * 10) if "[" in merge else f"[{', '.join([f'*a{i - 1}'] * 10)}]"
        lines.append(f"a{i}: &a{i} " + merge.format(many))
    with pytest.raises(ReadError, match="expand too far"):
        read_yaml("\n".join(lines))


def test_limits_are_wide_enough() -> None:
    """A recipe with a weight for each of 6,000 tensors is read."""
    items = "\n".join(f"    - {{filter: model.layers.{i}.w, value: 0.5}}" for i in range(6_000))
    value = read_yaml(f"parameters:\n  weight:\n{items}\n")
    assert 6_000 == len(value["parameters"]["weight"])


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (("a",), 1),
        (("b", 1, "c"), 4),
        (("b", 1, "c", "gone"), 4),
        (("b", 7), 2),
        (("b", "x"), 2),
        (("gone",), 0),
        ((), 0),
    ],
)
def test_find_lines(where: tuple[str | int, ...], expected: int) -> None:
    """The line is that of the innermost part of the place that the text has, and each place gets its own."""
    text = "a: 1\nb:\n  - 1\n  - c: 2\n"
    assert [expected, 1] == find_lines(text, [where, ("a",)])
    assert [0] == find_lines(text, [where], document=1)


def test_find_lines_of_other_text() -> None:
    """A text that is not YAML has no lines to tell."""
    assert [0, 0] == find_lines("a: [", [("a",), ("b",)])
