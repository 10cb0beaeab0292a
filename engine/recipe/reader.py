"""YAML text into plain values, trusting nothing: no tags, no duplicate keys, bounded in size and depth.

Values are built here rather than by PyYAML's constructor, because recipes need four things that it does not
do: errors that name the key path, duplicate keys refused, aliases counted where they are used (a few hundred
bytes of nested aliases can stand for billions of values), and keys and clock-like scalars kept as they are
written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from dovetail.engine.recipe.marks import MARK_KEY, Mark, find_marks
from dovetail.engine.recipe.places import Where, key_path

MAX_TEXT_BYTES: Final = 1 << 20
"""Longest recipe: the largest known (a weight for every tensor of a model) take a quarter of it."""
MAX_DEPTH: Final = 40
"""Deepest nesting; recipes need 9."""
MAX_VALUES: Final = 100_000
"""Most values after aliases are expanded."""
MAX_INTEGER: Final = 1 << 63
"""Integers stay below this in size: they must fit the kernels, and be printable."""

_TAG = "tag:yaml.org,2002:"


class ReadError(Exception):
    """The text is not a recipe's YAML; `where` is the place, `line` counts from 1 (0 if unknown)."""

    def __init__(self, problem: str, expected: str, line: int = 0, where: Where = ()) -> None:
        super().__init__(problem)
        self.problem, self.expected, self.line, self.where = problem, expected, line, where


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with limits on nesting (composing recurses) and on values."""

    depth = count = 0

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.anchored: set[int] = set()
        """The identities of the nodes that have an anchor."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose one node, counting it and how deep it is."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        self.depth += 1
        self.count += 1
        if self.count > MAX_VALUES:  # a text of the greatest size can hold half a million, which takes 10 s
            raise ReadError("the recipe has too many values", f"at most {MAX_VALUES:,}", self.line + 1)
        if self.depth > MAX_DEPTH:
            raise ReadError("the text is nested too deeply", f"at most {MAX_DEPTH} levels", self.line + 1)
        try:
            node: Node | None = super().compose_node(parent, index)
        finally:
            self.depth -= 1
        if not isinstance(event, yaml.AliasEvent) and event.anchor:
            self.anchored.add(id(node))
        return node

    def holds_anchor(self, key: Node, value: Node) -> bool:
        """Whether an anchor stands at a key's value, which is not just an alias of what stands elsewhere."""
        return id(value) in self.anchored and value.start_mark.index > key.start_mark.index


def read_yaml(text: str) -> Any:
    """Read one YAML document made of mappings, lists, strings, numbers, booleans and nulls.

    Raises
    ------
    ReadError
        Anything else, or a text beyond the limits of this module.

    """
    documents = read_documents(text)
    if len(documents) != 1:
        raise ReadError(f"the recipe has {len(documents)} documents", "one")
    return documents[0].value


class Document(NamedTuple):
    """One document of a YAML text."""

    value: Any
    """What it says."""
    text: str
    """Its own part of the text."""
    anchored: frozenset[str]
    """Keys at its top whose values have an anchor."""
    repeated: frozenset[str]
    """Of these, the keys that are given several times; the last value counts."""
    marks: tuple[Mark, ...] = ()
    """Values that are marked to be searched."""


def read_documents(text: str) -> list[Document]:
    """Read a text of several YAML documents, the limits being those of all together; raises as `read_yaml` does."""
    if len(text) > MAX_TEXT_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
        raise ReadError(f"the recipe is larger than {MAX_TEXT_BYTES:,} bytes", "a smaller recipe")
    loader, nodes = _compose(text)
    builder = _Builder(loader)
    documents = []
    for node in nodes:
        builder.repeated = set()
        value = builder.build(node, ())
        own_text = text[node.start_mark.index : node.end_mark.index].rstrip() + "\n"
        pairs = node.value if isinstance(node, MappingNode) else ()
        anchored = frozenset(key.value for key, inner in pairs if loader.holds_anchor(key, inner))
        marks = find_marks(node, builder.build) if MARK_KEY in text else ()
        documents.append(Document(value, own_text, anchored, frozenset(builder.repeated), marks))
    return documents


def find_lines(text: str, places: Sequence[Where], document: int = 0) -> list[int]:
    """Find the lines, from 1, of the innermost part of each place that a document has.

    A line is 0 if the document has no part of the place, or if the text is not YAML.
    """
    if not text or not any(places):
        return [0] * len(places)
    try:
        _, nodes = _compose(text)
    except ReadError:
        return [0] * len(places)
    return [_find_line(nodes[document] if document < len(nodes) else None, where) for where in places]


def _find_line(node: Node | None, where: Where) -> int:
    line = 0
    for part in where:
        if isinstance(node, MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == part), None)
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = (node.value[part], node.value[part])
        else:
            break
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _compose(text: str) -> tuple[_Loader, list[Node]]:
    """Parse the text into nodes, one a document, empty documents left out."""
    try:
        loader = _Loader(text)
        nodes = []
        while loader.check_node():
            node = loader.get_node()
            if node is not None and not (isinstance(node, ScalarNode) and node.tag == _TAG + "null"):
                nodes.append(node)
    except ReadError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        raise ReadError(f"the text is not valid YAML: {error.problem or error.context}", "YAML", line) from error
    # The scanner also lets these escape, for instance from "\UFFFFFFFF" and from absurd version numbers.
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, RecursionError, TypeError) as error:
        raise ReadError(f"the text is not valid YAML: {str(error).splitlines()[0]}", "YAML") from error
    return loader, nodes


class _Builder:
    """Builds values from nodes, counting them."""

    def __init__(self, loader: _Loader) -> None:
        self.loader, self.count, self.depth = loader, 0, 0
        self.repeated: set[str] = set()
        """Keys at the top of the document that are repeated, where every value has an anchor."""

    def build(self, node: Node, where: Where) -> Any:
        self.count += 1
        self.depth += 1
        if self.count > MAX_VALUES or self.depth > MAX_DEPTH:
            # A node that contains itself goes ever deeper, nested aliases multiply.
            raise ReadError(
                "the recipe's aliases expand too far",
                f"at most {MAX_VALUES:,} values and {MAX_DEPTH} levels",
                node.start_mark.line + 1,
            )
        value: Any
        if isinstance(node, MappingNode):
            value = self.build_mapping(node, where)
        elif isinstance(node, SequenceNode):
            _check_tag(node, "seq", where)
            value = [self.build(item, (*where, i)) for i, item in enumerate(node.value)]
        else:
            assert isinstance(node, ScalarNode)
            value = self.build_scalar(node, where)
        self.depth -= 1
        return value

    def build_mapping(self, node: MappingNode, where: Where) -> dict[str, Any]:
        _check_tag(node, "map", where)
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        anchors: set[str] = set()
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                raise ReadError(f"a key of {key_path(where)} is a {key_node.id}", "a name", line, where)
            if key_node.tag == _TAG + "merge":
                for source in self.merge_sources(value_node, where):
                    for key, value in source.items():
                        merged.setdefault(key, value)
                continue
            key = _checked_text(key_node, where)
            is_anchor = not where and self.loader.holds_anchor(key_node, value_node)
            if key in own and is_anchor and key in anchors:
                self.repeated.add(key)
            elif key in own:
                raise ReadError(f"{key_path((*where, key))} is given twice", "each key once", line, (*where, key))
            own[key] = self.build(value_node, (*where, key))
            anchors |= {key} if is_anchor else set()
        return merged | own

    def merge_sources(self, node: Node, where: Where) -> Iterator[dict[str, Any]]:
        """Mappings that a ``<<`` key merges in, the strongest first."""
        for source in node.value if isinstance(node, SequenceNode) else [node]:
            if not isinstance(source, MappingNode):
                line = source.start_mark.line + 1
                raise ReadError(f"the '<<' of {key_path(where)} is not a mapping", "a mapping or mappings", line, where)
            yield self.build(source, where)

    def build_scalar(self, node: ScalarNode, where: Where) -> Any:
        text, line = _checked_text(node, where), node.start_mark.line + 1
        kind = node.tag.removeprefix(_TAG)
        # Dates are strings here, and so is 3:32, which YAML 1.1 takes for a number to the base 60.
        if kind in ("str", "timestamp", "value") or (kind in ("int", "float") and ":" in text):
            return text
        if kind not in ("null", "bool", "int", "float"):
            raise ReadError(f"{key_path(where)} has the tag {node.tag[:60]!r}", "no tags", line, where)
        try:
            value = self.loader.construct_object(node)
        except (ValueError, LookupError, ArithmeticError) as error:
            raise ReadError(f"{key_path(where)} is not a valid {kind}", "a plain value", line, where) from error
        if isinstance(value, int) and not -MAX_INTEGER < value < MAX_INTEGER:
            raise ReadError(f"{key_path(where)} is too large a number", "a number below 2^63", line, where)
        return value


def _check_tag(node: Node, kind: str, where: Where) -> None:
    if node.tag != _TAG + kind:
        raise ReadError(f"{key_path(where)} has the tag {node.tag[:60]!r}", "no tags", node.start_mark.line + 1, where)


def _checked_text(node: ScalarNode, where: Where) -> str:
    text: str = node.value
    # Escapes in quotes can make both; neither paths nor UTF-8 output can hold them.
    if "\0" in text or len(text.encode("utf-8", "ignore")) != len(text.encode("utf-8", "surrogatepass")):
        line = node.start_mark.line + 1
        raise ReadError(
            f"{key_path(where)} has a character that is not text", "no NUL, no lone surrogates", line, where
        )
    return text
