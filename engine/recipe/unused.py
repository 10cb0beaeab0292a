"""Keys of a recipe that have no effect: found, said all at once, and left out of what is read further.

A key counts if it is known where it stands. Of the others, those that are plainly something else (a parameter of
another method, a key of another place, a name that nothing has) have no effect, in mergekit as here. What looks like a
slip of the finger in a name that would change values is left where it is, for the error that it deserves. Nothing is
said of names that begin with ``x-``, ``.`` or ``_``, and of keys at the top whose value has an anchor: they are there
for YAML.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.method import Method
from dovetail.engine.recipe.keys import EMBEDDING, FILTERED, MODEL_PARTS, AnyKeys, ParameterKeys, Place
from dovetail.engine.recipe.origin import Origin
from dovetail.engine.recipe.places import Unused, Where, key_path
from dovetail.engine.recipe.reader import Document

Methods = Callable[[], Collection[Method]]
"""Gives the rows of all methods, when they are needed."""

MOST_SHOWN: Final = 50
"""Most keys of which a recipe's warnings say something one by one."""

_OURS = ("cabs", "nm_pruning", "magnitude")
"""Methods that mergekit lacks."""
_ALIKE = 0.75
"""Least similarity, from 0 to 1, of a slip of the finger to what was meant."""
_LONGEST_SLIP = 60
"""Longest name, in characters, that is compared: similarity takes quadratic time."""
_HINTS: Final = {
    "revision": "write model: NAME@REVISION",
    "lora": "write model: NAME+ADAPTER",
    "filter": "write NAME: [{filter: PART, value: VALUE}, ...]",
    "layer_range": "layers are chosen under 'slices'",
    "sources": "they belong under 'slices'",
    "tokens": "put it under 'tokenizer'",
    "pad_to_multiple_of": "put it under 'tokenizer'",
    "seed": "pass --seed N",
    "random_seed": "pass --seed N",
}
"""What to do instead, by the key."""


def without_unused(
    document: Document, origin: Origin, top: Place, method: Method | None = None, methods: Methods = tuple
) -> tuple[Any, tuple[Unused, ...]]:
    """Leave out the keys of a recipe that have no effect.

    Parameters
    ----------
    document
        The recipe; whatever is not of a recipe's form is left as it is.
    origin
        Where it comes from, for errors.
    top
        The keys of the whole recipe.
    method
        The recipe's method; None if it is not known, and then its parameters are left as they are.
    methods
        Gives all methods; asked only where a parameter is not the method's.

    Returns
    -------
    tuple
        The values without these keys, and what is to be said of each, in the order of the recipe.

    Raises
    ------
    RecipeError
        A key that has an effect is given twice.

    """
    for key in document.repeated.intersection(top.keys):
        raise origin.error((key,), f"{key} is given twice", "each key once")
    found: list[Unused] = []
    return _Sweep(top, document.anchored, method, methods, found).sweep(document.value, top, ()), tuple(found)


def notes(unused: Sequence[Unused], origin: Origin) -> tuple[str, ...]:
    """Write what a person should know of a recipe's keys without effect, one sentence each."""
    texts = [f"{place}{each.what}; {each.hint or each.fate}" for place, each in _placed(unused, origin)]
    more = len(unused) - len(texts)
    return (*texts, f"{more:,} more keys have no effect") if more else tuple(texts)


class ReadRecipe(Protocol):
    """A recipe of a merge or of a mixture, as far as its keys without effect go."""

    @property
    def origin(self) -> Origin:
        """Where it comes from."""

    @property
    def unused(self) -> tuple[Unused, ...]:
        """What is to be said of its keys that have no effect."""


def refuse_unused(recipes: Sequence[ReadRecipe]) -> None:
    """Refuse recipes that have keys without effect, with all of them in one error.

    Raises
    ------
    RecipeError
        There is such a key.

    """
    placed = [pair for recipe in recipes for pair in _placed(recipe.unused, recipe.origin)]
    if placed:
        texts = [f"{place}{each.what}" + (f" ({each.hint})" if each.hint else "") for place, each in placed]
        raise RecipeError(
            f"{recipes[0].origin.name}: {', '.join(texts)}",
            "only keys that have an effect",
            "correct or remove them, or leave --strict out",
        )


def _placed(unused: Sequence[Unused], origin: Origin) -> list[tuple[str, Unused]]:
    """Give the first keys without effect, each with the words that name its line."""
    shown = unused[:MOST_SHOWN]
    lines = origin.lines([each.where for each in shown])
    return [(f"line {line}: " if line else "", each) for line, each in zip(lines, shown, strict=True)]


@dataclass(frozen=True, slots=True)
class _Sweep:
    """One walk through a recipe."""

    top: Place
    anchored: frozenset[str]
    method: Method | None
    methods: Methods
    found: list[Unused]

    def sweep(self, data: Any, place: Place | AnyKeys | ParameterKeys | None, where: Where) -> Any:
        """Give a value without the keys that have no effect."""
        if isinstance(data, list):
            return [self.sweep(item, place, (*where, i)) for i, item in enumerate(data)]
        if not isinstance(data, dict):
            return data
        if place is None:  # canonical recipes have all parts of a model's name in one mapping
            return data if "path" in data else self.sweep(data, MODEL_PARTS, where)
        if place is EMBEDDING and "kind" not in data:
            return self.sweep(data, None, where)
        if isinstance(place, AnyKeys):
            return {key: self.sweep(value, place.each, (*where, key)) for key, value in data.items()}
        if isinstance(place, ParameterKeys):
            return self.parameters(data, place, where)
        kept = {}
        for key, value in data.items():
            if self.is_silent(key, place):
                continue
            unused = self.judge(key, place, (*where, key))
            if unused is not None:
                self.found.append(unused)
            if unused is None or unused.stays:
                kept[key] = self.sweep(value, place.inside[key], (*where, key)) if key in place.inside else value
        return kept

    def judge(self, key: str, place: Place, where: Where) -> Unused | None:
        """Say what is wrong with a key of a mapping; None if it has an effect or must be an error."""
        path = key_path(where)
        if key in place.keys:
            return self.unused(where, f"{path} has no effect", stays=True) if key in place.inert else None
        if "parameters" in place.keys and self.method is not None and key in _names(self.method):
            top = place is self.top
            what = f"{path} stands at the top and has no effect there" if top else f"{path} has no effect there"
            return self.unused(where, what, "put it under 'parameters'")
        if place is not self.top and key in self.top.keys:
            return self.unused(where, f"{path} has no effect there", f"{key!r} belongs to the top of the recipe")
        if key in _HINTS:
            return self.unused(where, f"{path} has no effect there", _HINTS[key])
        if _slip_of(key, place.deciding):
            return None
        if meant := _slip_of(key, place.harmless):
            return self.unused(where, f"{path} is unknown and has no effect", f"did you mean {meant!r}?")
        if any(key in _names(other) for other in self.methods()):
            return self.unused(where, f"{path} has no effect there")
        return self.unused(where, f"{path} is unknown")

    def is_silent(self, key: str, place: Place) -> bool:
        """Whether a key is there to hold anchors: by its name, or at the top by an anchor at its value."""
        if key in place.keys:
            return False
        holds = place is self.top and key in self.anchored and not _slip_of(key, place.deciding)
        return holds or key.startswith(("x-", "x_", ".", "_"))

    def parameters(self, data: dict[str, Any], place: ParameterKeys, where: Where) -> dict[str, Any]:
        """Give parameters without those that have no effect."""
        kept = {}
        for key, value in data.items():
            unused = None if self.method is None else self.judge_parameter(self.method, key, place, (*where, key))
            if unused is not None:
                self.found.append(unused)
            if unused is None or unused.stays:
                kept[key] = self.sweep(value, FILTERED, (*where, key))
        return kept

    def judge_parameter(self, method: Method, key: str, place: ParameterKeys, where: Where) -> Unused | None:
        """Say what is wrong with a parameter; None if it has an effect or must be an error."""
        path = key_path(where)
        row = next((row for row in method.parameters if key in (row.name, *row.synonyms)), None)
        if row is not None and place.alone and row.scope == "merge":
            return self.unused(where, f"{path} has no effect on one model", "put it under the recipe's 'parameters'")
        if row is not None:
            what = f"{path} has no effect on {method.name}"
            return self.unused(where, what, stays=True) if row.inert else None
        if any(key in _names(other) for other in self.methods()):
            return self.unused(where, f"{path} has no effect on {method.name}")
        if key in self.top.keys:
            return self.unused(where, f"{path} has no effect there", f"{key!r} belongs to the top of the recipe")
        if key in _HINTS:
            return self.unused(where, f"{path} has no effect there", _HINTS[key])
        if _slip_of(key, [name for row in method.parameters if not row.inert for name in (row.name, *row.synonyms)]):
            return None
        return self.unused(where, f"{path} is a parameter of no method")

    def unused(self, where: Where, what: str, hint: str = "", *, stays: bool = False) -> Unused:
        """Describe a key without effect."""
        method = self.method
        ours = method is not None and (method.name in _OURS or method.plug_in is not None)
        return Unused(where, what, hint, "ignored" if ours else "ignored, as mergekit ignores it", stays)


def _names(method: Method) -> Iterator[str]:
    for row in method.parameters:
        yield from (row.name, *row.synonyms)


def _slip_of(key: str, names: Collection[str]) -> str:
    """Find the name that a key is a slip of, or an abbreviation; an empty string if it is none."""
    if len(key) > _LONGEST_SLIP:
        return ""
    plain = key.lower().replace("-", "_")
    words = set(plain.split("_"))
    for name in names:
        if plain == name.lower() or words < set(name.lower().split("_")):
            return name
    found = difflib.get_close_matches(plain, list(names), n=1, cutoff=_ALIKE)
    return found[0] if found else ""
