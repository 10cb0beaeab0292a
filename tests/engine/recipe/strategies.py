"""Random recipes over made-up checkpoints of several architectures, for Hypothesis.

A recipe is a document as a YAML file would hold it, so that it can also be given to other programs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Stack:
    """A stack of like layers."""

    prefix: str
    """What comes before the number."""
    suffixes: tuple[str, ...]
    """What comes after it."""
    module: str
    """Name of a module that has it and no other stack."""


@dataclass(frozen=True)
class Architecture:
    """Names of the tensors of a family of models; all have the shape (2, 3)."""

    name: str
    """For people."""
    before: Mapping[str, str]
    """Tensors before the layers, with the module of each."""
    stacks: tuple[Stack, ...]
    """Stacks of layers."""
    after: Mapping[str, str]
    """Tensors after the layers, with the module of each."""
    filters: tuple[str, ...]
    """Parts of names, some of which fit."""

    def shapes(self, layers: Mapping[str, int]) -> Shapes:
        """Give the tensors of a model, by the number of layers of every stack."""
        names = [*self.before]
        for stack in self.stacks:
            names += [f"{stack.prefix}{i}{suffix}" for i in range(layers[stack.prefix]) for suffix in stack.suffixes]
        return dict.fromkeys([*names, *self.after], (2, 3))


ARCHITECTURES = (
    Architecture(
        "llama",
        {"model.embed_tokens.weight": "default"},
        (Stack("model.layers.", (".self_attn.q_proj.weight", ".mlp.up_proj.weight", ".norm.weight"), "default"),),
        {"model.norm.weight": "default", "lm_head.weight": "default"},
        ("self_attn", "mlp", "norm", "layers.1.", "embed", "lm_head", "nothing"),
    ),
    Architecture(
        "gpt2",
        {"wte.weight": "default", "wpe.weight": "default"},
        (Stack("h.", (".attn.c_attn.weight", ".ln_1.bias", ".mlp.c_fc.weight"), "default"),),
        {"ln_f.weight": "default"},
        ("attn", "ln_", "h.0.", "wte", "bias"),
    ),
    Architecture(
        "bert",
        {"bert.embeddings.word_embeddings.weight": "bert", "bert.embeddings.LayerNorm.weight": "bert"},
        (Stack("bert.encoder.layer.", (".attention.self.query.weight", ".output.dense.weight"), "bert"),),
        {"bert.pooler.dense.weight": "bert"},
        ("attention", "layer.2", "LayerNorm", "pooler"),
    ),
    Architecture(
        "t5",
        {"shared.weight": "shared"},
        (
            Stack("encoder.block.", (".layer.0.SelfAttention.q.weight", ".layer.1.wi.weight"), "encoder"),
            Stack("decoder.block.", (".layer.0.SelfAttention.q.weight", ".layer.1.EncDecAttention.k.bias"), "decoder"),
        ),
        {"encoder.final_layer_norm.weight": "encoder", "decoder.final_layer_norm.weight": "decoder"},
        ("encoder", "decoder.block.1", "SelfAttention", "layer.1"),
    ),
    Architecture(
        "mixtral",
        {"model.embed_tokens.weight": "model"},
        (
            Stack(
                "model.layers.",
                (".block_sparse_moe.gate.weight", *(f".block_sparse_moe.experts.{i}.w1.weight" for i in range(3))),
                "model",
            ),
        ),
        {"model.norm.weight": "model"},
        ("experts.1", "gate", "moe", "layers.0"),
    ),
    Architecture(
        "vit",
        {"cls_token_embed": "default", "patch_embed.proj.weight": "default"},
        (Stack("blocks.", (".attn.qkv.weight", ".mlp.fc1.bias"), "default"),),
        {"norm.weight": "default", "head.weight": "default"},
        ("attn", "blocks.1", "norm", "embed"),
    ),
)
"""Six families; one has two stacks of layers."""


@dataclass(frozen=True)
class Taker:
    """What a method takes: enough of a row of the table of methods to write recipes for it."""

    name: str
    """Value of ``merge_method``."""
    base: str
    """As `Method.base`."""
    models: tuple[int, int]
    """Least and greatest number of models, the base model not counted where it is set apart."""
    model_parameters: Mapping[str, str] = field(default_factory=dict)
    """Parameters of each model: their kinds (float, int, bool) by name."""
    merge_parameters: Mapping[str, str] = field(default_factory=dict)
    """Parameters of the merge."""
    required: frozenset[str] = frozenset()
    """Parameters that have no default."""


@dataclass(frozen=True)
class RandomRecipe:
    """A recipe and its checkpoints."""

    document: dict[str, Any]
    """What a YAML file would hold."""
    architecture: Architecture
    """That of all checkpoints."""
    layers: Mapping[str, Mapping[str, int]]
    """For each checkpoint, the number of layers of each stack."""
    taker: Taker
    """The method."""

    @property
    def catalogues(self) -> dict[str, Shapes]:
        """Tensors of every checkpoint."""
        return {name: self.architecture.shapes(layers) for name, layers in self.layers.items()}


_SCALARS = {
    "float": st.sampled_from([-1.0, 0.0, 0.125, 0.3, 0.5, 1, 2.5]),
    "int": st.integers(1, 8),
    "bool": st.booleans(),
}
_NAMES = ("base", "orca", "platypus", "math")


def settings(kind: str, filters: Sequence[str], *, complete: bool = False) -> st.SearchStrategy[Any]:
    """Values as recipes write them: a scalar, a gradient, or a list of filtered values.

    Parameters
    ----------
    kind
        The parameter's kind.
    filters
        Parts of tensors' names.
    complete
        Whether every tensor gets a value.

    """
    plain = _SCALARS[kind] | st.lists(_SCALARS[kind], min_size=2, max_size=5)
    item = st.fixed_dictionaries({"filter": st.sampled_from([*filters, "*"]), "value": plain})
    last = st.fixed_dictionaries({"value": plain})
    listed = st.tuples(st.lists(item, min_size=0 if complete else 1, max_size=3), last).map(lambda x: [*x[0], x[1]])
    return plain | (listed if complete else listed | st.lists(item, min_size=1, max_size=3))


def _some(kinds: Mapping[str, str], filters: Sequence[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Values of some of the parameters."""
    return st.fixed_dictionaries({}, optional={name: settings(kind, filters) for name, kind in kinds.items()})


@st.composite
def recipes(
    draw: st.DrawFn, takers: Sequence[Taker], architectures: Sequence[Architecture] = ARCHITECTURES
) -> RandomRecipe:
    """Recipes of one document that are valid: models, slices or modules, with parameters at every level."""
    taker, architecture = draw(st.sampled_from(takers)), draw(st.sampled_from(architectures))
    layers = {stack.prefix: draw(st.integers(1, 5)) for stack in architecture.stacks}
    apart = taker.base in ("origin", "pair") or (taker.base == "optional" and draw(st.booleans()))
    shape = draw(st.sampled_from(["models", "slices", "modules"]))
    if shape == "slices" and len(architecture.stacks) > 1:
        shape = "modules"
    document: dict[str, Any] = {"merge_method": taker.name}
    if apart:
        document["base_model"] = "base"
    filters = architecture.filters
    kinds = {**taker.merge_parameters, **taker.model_parameters}
    document["parameters"] = draw(_some(kinds, filters)) | {
        name: draw(settings(kinds[name], filters, complete=True)) for name in sorted(taker.required)
    }
    maker = _Maker(draw, taker, architecture, layers, apart)
    if shape == "models":
        document["models"] = maker.models()
    elif shape == "slices":
        document["slices"] = maker.slices(architecture.stacks[0])
    else:
        document["modules"] = maker.modules(kinds)
    return RandomRecipe(document, architecture, dict.fromkeys(_NAMES, layers), taker)


class _Maker:
    """Draws the parts of one recipe."""

    def __init__(
        self, draw: st.DrawFn, taker: Taker, architecture: Architecture, layers: Mapping[str, int], apart: bool
    ) -> None:
        self.draw, self.taker, self.architecture, self.layers, self.apart = draw, taker, architecture, layers, apart

    def _chosen(self) -> list[str]:
        """Names of the models of a group; the base model, where it is set apart, somewhere among them."""
        least, most = self.taker.models
        others = _NAMES[1:] if self.apart else _NAMES
        order = self.draw(st.permutations(others))
        chosen = list(order[: self.draw(st.integers(least, min(most, len(others))))])
        if self.apart:
            chosen.insert(self.draw(st.integers(0, len(chosen))), "base")
        return chosen

    def models(self) -> list[dict[str, Any]]:
        chosen = self._chosen()
        if self.apart and self.draw(st.booleans()):
            chosen.remove("base")
        return [{"model": name, **self._own(name)} for name in chosen]

    def _own(self, name: str) -> dict[str, Any]:
        if self.apart and name == "base":
            return {}
        own = self.draw(_some(self.taker.model_parameters, self.architecture.filters))
        return {"parameters": own} if own else {}

    def slices(self, stack: Stack) -> list[dict[str, Any]]:
        made = []
        for _ in range(self.draw(st.integers(1, 3))):
            count = self.draw(st.integers(1, self.layers[stack.prefix]))
            sources = []
            for name in self._chosen():
                start = self.draw(st.integers(0, self.layers[stack.prefix] - count))
                sources.append({"model": name, "layer_range": [start, start + count], **self._own(name)})
            piece: dict[str, Any] = {"sources": sources}
            kinds = {**self.taker.merge_parameters, **self.taker.model_parameters}
            if own := self.draw(_some(kinds, self.architecture.filters)):
                piece["parameters"] = own
            if self.apart and self.draw(st.booleans()):
                piece["base_model"] = self.draw(st.sampled_from([source["model"] for source in sources]))
                for source in sources:
                    if source["model"] == piece["base_model"]:
                        source.pop("parameters", None)
            made.append(piece)
        return made

    def modules(self, kinds: Mapping[str, str]) -> dict[str, Any]:
        stacks = {stack.module: stack for stack in self.architecture.stacks}
        names = dict.fromkeys([*self.architecture.before.values(), *stacks, *self.architecture.after.values()])
        made: dict[str, Any] = {}
        for name in names:
            sliced = name in stacks and self.draw(st.booleans())
            made[name] = {"slices": self.slices(stacks[name])} if sliced else {"models": self.models()}
            if own := self.draw(_some(kinds, self.architecture.filters)):
                made[name]["parameters"] = own
        return made
