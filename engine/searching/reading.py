"""Reading marks: what ``{search: ...}`` says in a recipe, checked against the method's table row, as dimensions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import yaml
from pydantic import TypeAdapter, ValidationError

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.method import Method, Parameter
from dovetail.engine.methods.registry import find
from dovetail.engine.recipe.load import parse_documents
from dovetail.engine.recipe.marks import MARK_KEY, Mark, replaced
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.origin import Origin
from dovetail.engine.recipe.places import Where, key_path, nearest, one_of, shown
from dovetail.engine.recipe.reader import MAX_TEXT_BYTES, Document
from dovetail.engine.recipe.scalars import read_number, read_switch, read_whole
from dovetail.engine.searching.space import Dimension, Space, Value, Values
from dovetail.engine.text import short_name

_KEYS: Final = (MARK_KEY, "scale", "start")
_SCALES: Final = ("linear", "log")
_FORM: Final = "[LOW, HIGH], or {choices: [VALUE, ...]}"
_LARGEST: Final = 3.4028234663852886e38


@dataclass(frozen=True, slots=True)
class Template:
    """A recipe with marks."""

    origin: Origin
    """Its text, and where that came from."""
    space: Space
    """What the marks say."""
    spans: tuple[tuple[int, int], ...]
    """For each dimension, where its mark begins and ends in the text."""
    stages: int
    """Number of its documents."""

    def text(self, values: Values) -> str:
        """Write the recipe with values in the places of its marks."""
        literals = {span: literal(value) for span, value in zip(self.spans, values, strict=True)}
        return replaced(self.origin.text, literals)

    def filled(self, values: Values) -> Origin:
        """Give the recipe with values, as if it had been read from where the recipe with marks was."""
        return replace(self.origin, text=self.text(values))


def literal(value: Value) -> str:
    """Write a value as YAML, in one line that mergekit reads too."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=MAX_TEXT_BYTES)
    return text.removesuffix("\n").removesuffix("\n...")


def read_template(origin: Origin) -> Template:
    """Read a recipe with marks.

    Raises
    ------
    RecipeError
        The text is no recipe, it has no marks, or a mark says what its parameter cannot be.

    """
    documents = parse_documents(origin)
    found: list[tuple[Dimension, Mark]] = []
    for number, document in enumerate(documents):
        reader = _Reader(replace(origin, document=number), document)
        found += [(reader.dimension(mark), mark) for mark in document.marks]
    if not found:
        raise RecipeError(
            f"{origin.name}: nothing is marked to be searched",
            "a mark such as 'weight: {search: [0.1, 2.0]}'",
            "mark the parameters to search, or use 'dovetail merge'",
        )
    space = Space(tuple(_distinct([dimension for dimension, _ in found])))
    return Template(origin, space, tuple((mark.start, mark.stop) for _, mark in found), len(documents))


def _distinct(dimensions: list[Dimension]) -> list[Dimension]:
    """Give dimensions whose labels would be the same their key paths instead."""
    counts = Counter(each.label for each in dimensions)
    return [
        each if counts[each.label] == 1 else replace(each, label=key_path(each.places[0]).replace(".parameters.", "."))
        for each in dimensions
    ]


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the marks of one document."""

    origin: Origin
    document: Document

    def dimension(self, mark: Mark) -> Dimension:
        """Read one mark."""
        where = mark.places[0]
        row = self.row(where)
        for key in mark.value:
            if key not in _KEYS:
                raise self.error((*where, key), "is not a key of a mark", one_of(_KEYS), nearest(key, _KEYS))
        given = mark.value[MARK_KEY]
        if row.kind == "models":
            found = self.order(row, mark, given)
        elif isinstance(given, Mapping) or row.kind in ("bool", "choice"):
            found = self.choice(row, mark, given)
        else:
            found = self.numbers(row, mark, given)
        if "scale" in mark.value and found.kind not in ("float", "int"):
            raise self.error((*where, "scale"), "is given for what is no range", f"{MARK_KEY}: [LOW, HIGH]")
        return replace(found, start=self.start(found, row, mark))

    def row(self, where: Where) -> Parameter:
        """Find the parameter that a place is of."""
        method = self.method()
        at = where.index("parameters")
        name = str(where[at + 1])
        row = next((row for row in method.parameters if name in (row.name, *row.synonyms)), None)
        usable = [row.name for row in method.parameters if not row.inert]
        if row is None or row.inert:
            raise self.error(where, f"is searched, but has no effect on {method.name}", one_of(usable))
        if row.scope == "merge" and at >= 2 and where[at - 2] in ("models", "sources"):
            raise self.error(where, "is searched for one model", "one value for the whole merge", "move it to the top")
        return row

    def method(self) -> Method:
        """Find the document's method."""
        data = self.document.value
        name = data.get("merge_method") if isinstance(data, dict) else None
        if not isinstance(name, str):
            raise self.error(("merge_method",), f"is {shown(name)}", "the name of a method", "")
        try:
            return find(name)
        except RecipeError as error:
            raise self.origin.error(("merge_method",), error.what, error.expected, error.action) from None

    def order(self, row: Parameter, mark: Mark, given: Any) -> Dimension:
        """Read a mark of the order of models."""
        where = mark.places[0]
        names = self.merged_models()
        if given != "order":
            action = f"write {row.name}: {{search: order}}"
            raise self.error((*where, MARK_KEY), f"is {shown(given)}", "the word order", action)
        if len(names) < 2:
            raise self.error(where, f"orders {len(names)} models", "two or more")
        return Dimension(row.name, row.name, mark.places, "order", options=names)

    def merged_models(self) -> tuple[str, ...]:
        """Give the names of the models that the document merges, in their order, without the base model."""
        data = self.document.value
        entries = data.get("models") or [s for cut in (data.get("slices") or ())[:1] for s in cut.get("sources") or ()]
        base = data.get("base_model")
        refs = TypeAdapter(list[ModelRef])
        try:
            found = refs.validate_python([entry["model"] for entry in entries])
            bases = refs.validate_python([base] if base is not None else [])
        except (ValidationError, TypeError, KeyError, AttributeError):
            return ()  # the recipe's own errors say what is wrong
        return tuple(str(ref) for ref in found if ref not in bases)

    def choice(self, row: Parameter, mark: Mark, given: Any) -> Dimension:
        """Read a mark that lists its values."""
        place = (*mark.places[0], MARK_KEY)
        if isinstance(given, Mapping):
            if list(given) != ["choices"]:
                raise self.error(place, f"has the keys {shown(list(given))}", "choices alone")
            given, place = given["choices"], (*place, "choices")
        if not isinstance(given, list) or len(given) < 2:
            raise self.error(place, f"is {shown(given)}", "a list of two or more values")
        options = tuple(self.scalar(row, value, (*place, i)) for i, value in enumerate(given))
        if len(set(options)) < len(options):
            raise self.error(place, f"is {shown(given)}", "each value once")
        return Dimension(self.label(mark), row.name, mark.places, "choice", options=options)

    def numbers(self, row: Parameter, mark: Mark, given: Any) -> Dimension:
        """Read a mark of a range of numbers."""
        place = (*mark.places[0], MARK_KEY)
        if not isinstance(given, list) or len(given) != 2:
            raise self.error(place, f"is {shown(given)}", _FORM)
        low, high = (self.scalar(row, value, (*place, i)) for i, value in enumerate(given))
        assert isinstance(low, int | float)
        assert isinstance(high, int | float)
        if not low < high:
            raise self.error(place, f"is {shown(given)}", "a low bound, and a greater high one")
        scale = mark.value.get("scale", "linear")
        if scale not in _SCALES:
            raise self.error((*mark.places[0], "scale"), f"is {shown(scale)}", one_of(_SCALES))
        if scale == "log" and low <= 0:
            raise self.error(place, f"begins at {low} on a logarithmic scale", "a low bound above 0")
        kind: Any = row.kind
        return Dimension(self.label(mark), row.name, mark.places, kind, low, high, log=scale == "log")

    def scalar(self, row: Parameter, value: Any, where: Where) -> Value:
        """Read one value of a parameter."""
        found: Value | None = None
        if row.kind == "bool":
            found = read_switch(value)
        elif row.kind == "choice":
            found = value if value in row.choices else None
        elif row.kind == "int":
            found = read_whole(value)
        elif (number := read_number(value)) is not None and abs(number) <= _LARGEST:
            found = float(number)
        if found is None:
            kinds = {"bool": "true or false", "choice": one_of(row.choices), "int": "a whole number"}
            raise self.error(where, f"is {shown(value)}", kinds.get(row.kind, "a number that float32 can hold"))
        return found

    def start(self, found: Dimension, row: Parameter, mark: Mark) -> Value | None:
        """Read where the search is to begin."""
        if "start" not in mark.value:
            return None
        where, given = (*mark.places[0], "start"), mark.value["start"]
        if found.kind == "order":
            if not isinstance(given, list) or sorted(map(str, given)) != sorted(found.options):
                raise self.error(where, f"is {shown(given)}", f"the names {', '.join(found.options)} in some order")
            return tuple(map(str, given))
        value = self.scalar(row, given, where)
        if found.kind == "choice":
            if value not in found.options:
                raise self.error(where, f"is {shown(given)}", "one of the choices")
        elif not found.low <= float(value) <= found.high:  # type: ignore[arg-type]
            raise self.error(where, f"is {shown(given)}", f"a number from {found.low:g} to {found.high:g}")
        return value

    def label(self, mark: Mark) -> str:
        """Name a dimension shortly: the parameter, the model that it is of, and the filter or point."""
        where = mark.places[0]
        at = where.index("parameters")
        text = str(where[at + 1])
        if len(mark.places) == 1 and at >= 2 and where[at - 2] in ("models", "sources"):
            text += f"[{self._model(where[:at])}]"
        rest = where[at + 2 :]
        if rest:
            item = self._at(where[: at + 3]) if isinstance(rest[0], int) else self._at(where[: at + 2])
            chosen = item.get("filter") if isinstance(item, Mapping) else None
            text += f" {chosen}" if chosen else ""
            points = [part for part in rest[1:] if isinstance(part, int)] if chosen or len(rest) > 1 else list(rest)
            text += "".join(f" {part}" for part in points)
        return text

    def _model(self, where: Where) -> str:
        entry = self._at(where)
        model = entry.get("model") if isinstance(entry, Mapping) else None
        return short_name(model) if isinstance(model, str) else key_path(where)

    def _at(self, where: Where) -> Any:
        value = self.document.value
        for part in where:
            value = value[part]
        return value

    def error(self, where: Where, what: str, expected: str, action: str = "") -> RecipeError:
        """Make the error that says what is wrong at a place."""
        return self.origin.error(where, f"{key_path(where)} {what}", expected, action)
