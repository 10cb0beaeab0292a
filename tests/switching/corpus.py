"""The corpus: public recipes with neutral names for their models, and what their first lines say of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

RECIPES = Path(__file__).parent / "recipes"
RANDOM = frozenset({"dare_linear", "dare_ties", "della", "della_linear"})
"""Methods that draw random masks: two programs cannot give the same values."""
FEW = 3
"""Models of one merge for which masks are drawn: kernels of masks are compiled for each number of models, for 10 s."""
LAYERS = 6
"""Layers of the models of a recipe that names no layer."""
TOKENS = 32
"""Tokens of every model's vocabulary; where a recipe is about tokenizers, ``model-b`` has `EXTRA` as well."""
EXTRA = ("<|im_start|>", "<|im_end|>")
_MODEL = re.compile(r"\b(?:model|adapter)-[a-z]\b")


@dataclass(frozen=True)
class Entry:
    """One recipe of the corpus."""

    name: str
    """Name of the recipe's file, without its ending."""
    source: str
    """Kind of the place that it was found in: card, tutorial, example, issue or doc."""
    family: str
    """Family of its models: a key of `families.CLASSES`."""
    text: str
    """The recipe, without its first line."""
    said_layers: int | None
    """Layers of its models, if more than the recipe's highest layer."""

    @cached_property
    def documents(self) -> list[dict[str, Any]]:
        """The recipe's documents, as YAML reads them."""
        return [each for each in yaml.safe_load_all(self.text) if each]

    @cached_property
    def layers(self) -> int:
        """Layers of every model: as many as the recipe needs."""
        ends = [each["layer_range"][1] for each in _mappings(self.documents) if "layer_range" in each]
        return self.said_layers or max(ends, default=LAYERS)

    @property
    def methods(self) -> set[str]:
        """The merge methods of all documents."""
        return {str(document.get("merge_method")) for document in self.documents}

    @property
    def has_tokenizer(self) -> bool:
        """Whether the last merge says anything of tokenizers."""
        return not self.documents[-1].keys().isdisjoint({"tokenizer", "tokenizer_source"})

    @property
    def models(self) -> list[str]:
        """The names of all models and adapters, sorted."""
        return sorted(set(_MODEL.findall(self.text)))

    @property
    def first_model(self) -> str | None:
        """The model that is named first, if the last merge has no base model and says nothing of templates.

        mergekit takes configuration and tokenizer from any of the models then, another in every run.
        """
        last = self.documents[-1]
        if not last.keys().isdisjoint({"base_model", "chat_template", "tokenizer", "tokenizer_source"}):
            return None
        return next(str(each["model"]).partition("+")[0] for each in _mappings(last) if "model" in each)

    @property
    def place(self) -> str:
        """Name of the folder that holds the models, which recipes of the same family and size share."""
        return f"{self.family}-{self.layers}{'-tokens' if self.has_tokenizer else ''}"

    def rows(self, model: str) -> int:
        """Count the rows of a model's embedding."""
        return TOKENS + (len(EXTRA) if self.has_tokenizer and model == "model-b" else 0)

    @property
    def most_models(self) -> int:
        """The models beside the base model in the merge that has most of them; 0 where all have slices."""
        return max((len(_beside_base(document)) for document in self.documents), default=0)

    def in_float32(self, *, dense: bool = True) -> str:
        """Give the recipe with everything computed and stored in float32.

        Parameters
        ----------
        dense
            Let random masks keep everything, so that two programs can give the same values; else the merge has the
            first `FEW` of its models.

        """
        changed = []
        for document in self.documents:
            kept = {key: value for key, value in document.items() if key not in ("dtype", "out_dtype")}
            if document.get("merge_method") in RANDOM:
                kept = _dense(kept) if dense else _with_few_models(kept)
            changed.append(kept | {"dtype": "float32"})
        return yaml.safe_dump_all(changed, sort_keys=False)


def _beside_base(document: dict[str, Any]) -> list[Any]:
    """List the models of a merge but for the base model, which may be listed too."""
    return [each for each in document.get("models") or [] if each["model"] != document.get("base_model")]


def _with_few_models(document: dict[str, Any]) -> dict[str, Any]:
    """Take the first `FEW` models of a merge, and the base model where it is listed."""
    left_out = _beside_base(document)[FEW:]
    models = [each for each in document.get("models") or [] if each not in left_out]
    return document | ({"models": models} if left_out else {})


def _dense(value: Any) -> Any:
    """Replace every density by 1 and every epsilon, by which densities differ, by 0."""
    if isinstance(value, dict):
        full = {"density": 1.0, "epsilon": 0.0}
        return {key: full.get(key, _dense(each)) for key, each in value.items()}
    return [_dense(each) for each in value] if isinstance(value, list) else value


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Go through every mapping inside a document."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _mappings(each)


def read_corpus() -> list[Entry]:
    """Read all recipes, sorted by name.

    The first line of each file says where the recipe is from and what its models are: ``# card qwen2 layers=80``.
    """
    found = []
    for path in sorted(RECIPES.glob("*.yml")):
        first, _, text = path.read_text().partition("\n")
        source, family, *more = first.removeprefix("# ").split()
        said = [int(word.removeprefix("layers=")) for word in more]
        found.append(Entry(path.stem, source, family, text, *(said or [None])))
    return found


CORPUS = {entry.name: entry for entry in read_corpus()}
"""All recipes by name."""
