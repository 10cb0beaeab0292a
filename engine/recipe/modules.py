"""Modules: named parts of a model, found in the tensors' names without any table of architectures.

A module has the tensors whose names hold the module's name as a component, or as consecutive ones if it has dots:
``vision_tower`` has ``model.vision_tower.patch_embed.weight``. In a layer's tensor only what comes before the layer's
number counts, so that ``decoder.block.0.encoder.w`` is no part of ``encoder``. Where several modules fit, the one
furthest to the right has the tensor: of ``visual`` and ``merger``, ``merger`` has ``visual.merger.weight``.

mergekit's recipes name the parts of vision and language models by words of their own. Where no tensor holds such a
name, its synonyms are tried, and ``default`` and ``text_decoder`` at last have all that no other module has.
A head, and layers for multi-token prediction, that are stored outside all modules belong to the text decoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from dovetail.engine.recipe.groups import Part
from dovetail.engine.recipe.layers import parse_layer
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.origin import Origin
from dovetail.engine.recipe.places import key_path, nearest, shown
from dovetail.engine.recipe.prediction import is_apart

_SYNONYMS: Final[Mapping[str, tuple[str, ...]]] = {
    "text_decoder": ("language_model", "text_model"),
    "vision_tower": ("vision_model", "visual", "vision_encoder"),
    "vision_model": ("vision_tower", "visual", "vision_encoder"),
    "multi_modal_projector": ("mm_projector", "connector", "merger"),
}
"""Words for the same part of a model."""

_REST: Final = ("default", "text_decoder")
"""Modules that have what no other has, unless a tensor's name holds theirs."""

_TEXT_DECODERS: Final = ("text_decoder", *_SYNONYMS["text_decoder"])
"""Modules that a head outside all modules belongs to."""

_HEAD: Final = "lm_head"
"""The component that a head's name begins with."""

_MOST_SHOWN = 12
"""Most names that an error lists."""


class Modules:
    """Says which module every tensor belongs to.

    Parameters
    ----------
    parts
        The recipe's modules.
    catalogues
        Names of the tensors of every checkpoint.
    origin
        The recipe, for errors.

    Raises
    ------
    RecipeError
        No tensor belongs to a module.

    """

    def __init__(self, parts: Sequence[Part], catalogues: Mapping[ModelRef, Iterable[str]], origin: Origin) -> None:
        # Checkpoints of one recipe have mostly the same names: each is looked at once.
        names = dict.fromkeys(name for names in catalogues.values() for name in names)
        by_name = {name: _prefix(name) for name in names}
        prefixes = dict.fromkeys(by_name.values())
        self._words: dict[tuple[str, ...], str] = {}
        self._rest: str | None = None
        for part in parts:
            name = str(part.module)
            words = next((w for w in (name, *_SYNONYMS.get(name, ())) if _is_in_any(_split(w), prefixes)), None)
            if words is not None and _split(words) not in self._words:
                self._words[_split(words)] = name
            elif name in _REST and self._rest is None:
                self._rest = name
            else:
                raise _unknown(part, prefixes, origin)
        self._decoder = next((name for name in map(str, (p.module for p in parts)) if name in _TEXT_DECODERS), None)
        owners = {prefix: self._find_owner(prefix) for prefix in prefixes}
        self._owners = {name: owners[prefix] for name, prefix in by_name.items()}

    def select(self, names: Iterable[str], module: str | None) -> list[str]:
        """Give the names of a module's tensors, or of those that belong to none, in the order given."""
        return [name for name in names if self._owners[name] == module]

    def _find_owner(self, prefix: str) -> str | None:
        components, best, owner = _split(prefix), (0, 0), self._rest
        for words, module in self._words.items():
            # Of two that end at the same component, the longer says more.
            found = (_last_end(words, components), len(words))
            if found[0] and found > best:
                best, owner = found, module
        if owner is None and (_HEAD in components or is_apart(prefix)):
            return self._decoder
        return owner


def _prefix(name: str) -> str:
    """Give what comes before a layer's number, or the whole name: the part that shows the module of a tensor."""
    layer = parse_layer(name)
    return name if layer is None else layer.stack


def _split(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.split(".") if part)


def _last_end(words: tuple[str, ...], components: tuple[str, ...]) -> int:
    """Give where the last run of components that are `words` ends; 0 if there is none."""
    size = len(words)
    for end in range(len(components), size - 1, -1):
        if size and components[end - size : end] == words:
            return end
    return 0


def _is_in_any(words: tuple[str, ...], prefixes: Iterable[str]) -> bool:
    return any(_last_end(words, _split(prefix)) for prefix in prefixes)


def _unknown(part: Part, prefixes: Iterable[str], origin: Origin) -> Exception:
    stacks = list(dict.fromkeys(f"{prefix}*" for prefix in prefixes if prefix.endswith(".")))
    words = list(dict.fromkeys(word for prefix in prefixes for word in _split(prefix)))
    listed = ", ".join(stacks[:_MOST_SHOWN]) or "none"
    return origin.error(
        part.where,
        f"{key_path(part.where)}: no tensor belongs to a module named {shown(part.module)}",
        f"a component of the tensors' names, or default for all others; the stacks of layers are {listed}",
        nearest(str(part.module), words),
    )
