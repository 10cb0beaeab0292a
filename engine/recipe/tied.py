"""Output heads that are tied to embeddings, and so are stored in some checkpoints and not in others.

Where a checkpoint has no head of its own because its configuration ties it to the embedding, and another has one, the
embedding stands in for the head, as it does when the model runs. Where no checkpoint has a head of its own, the
output has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dovetail.engine.recipe.layers import parse_layer
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.specs import Catalogue, SourceTensor, TensorSpec

_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight", "output_layer.weight")
_EMBEDDINGS = tuple(
    f"{word}.weight"
    for word in ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in", "shared", "embedding", "emb")
)
"""How names of heads and embeddings end."""


@dataclass(frozen=True, slots=True)
class Heads:
    """What stands in for heads that are not stored."""

    catalogues: Mapping[ModelRef, Catalogue]
    """Every checkpoint's tensors, stand-ins among them."""
    stand_ins: Mapping[ModelRef, Mapping[str, str]] = field(default_factory=dict)
    """By checkpoint, the tensor that is read in the place of one that is not stored."""
    own: frozenset[str] = frozenset()
    """Heads that at least one checkpoint does not tie."""

    def read_instead(self, spec: TensorSpec, checkpoints: tuple[ModelRef, ...]) -> TensorSpec:
        """Give a tensor the sources that are stored."""

        def stored(item: SourceTensor) -> SourceTensor:
            return item._replace(name=self.stand_ins.get(checkpoints[item.checkpoint], {}).get(item.name, item.name))

        base = None if spec.base is None else stored(spec.base)
        return replace(spec, base=base, inputs=tuple(map(stored, spec.inputs)), reference=stored(spec.reference))


def find_heads(catalogues: Mapping[ModelRef, Catalogue], tied: Mapping[ModelRef, bool | None]) -> Heads:
    """Find the heads that are not stored.

    Parameters
    ----------
    catalogues
        Every checkpoint's tensors.
    tied
        Whether its configuration says that its head is its embedding; None where it does not say.

    """
    names = dict.fromkeys(name for catalogue in catalogues.values() for name in _loose(catalogue, _HEADS))
    found = dict(catalogues)
    stand_ins: dict[ModelRef, dict[str, str]] = {}
    own = set()
    for name in names:
        having = [ref for ref, catalogue in catalogues.items() if name in catalogue]
        owners = [ref for ref in having if tied.get(ref) is not True and _is_head(catalogues[ref], name)]
        if owners:
            own.add(name)
        for ref, catalogue in catalogues.items():
            if name in catalogue:
                if not owners and len(having) < len(catalogues) and _is_head(catalogue, name):
                    found[ref] = {key: shape for key, shape in found[ref].items() if key != name}
            elif owners and tied.get(ref) is not False:
                embedding = _embedding(catalogue, catalogues[owners[0]][name])
                if embedding is not None:
                    stand_ins.setdefault(ref, {})[name] = embedding
                    found[ref] = {**found[ref], name: catalogue[embedding]}
    return Heads(found, stand_ins, frozenset(own))


def _loose(catalogue: Catalogue, endings: tuple[str, ...]) -> list[str]:
    """Give the tensors outside the layers whose last components are one of `endings`."""
    # Few names pass the first test, which is all the time that a large catalogue takes.
    found = [name for name in catalogue if name.endswith(endings)]
    return [name for name in found if f".{name}".endswith(tuple(f".{e}" for e in endings)) and not parse_layer(name)]


def _is_head(catalogue: Catalogue, name: str) -> bool:
    """Whether a tensor has the shape of an embedding of its checkpoint, as heads have."""
    return any(catalogue[item] == catalogue[name] for item in _loose(catalogue, _EMBEDDINGS))


def _embedding(catalogue: Catalogue, head: tuple[int, ...]) -> str | None:
    """Name the embedding that has a head's columns, if possible its rows too; the first in the file of several."""
    found = [name for name in _loose(catalogue, _EMBEDDINGS) if len(head) == 2 and catalogue[name][1:] == head[1:]]
    return next((name for name in found if catalogue[name] == head), found[0] if found else None)
