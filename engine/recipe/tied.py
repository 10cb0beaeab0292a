"""Output heads that are tied to embeddings, and so are stored in some checkpoints and not in others.

A stored head counts if it differs from the embedding, whatever the configuration says: so transformers reads it. A
stored head that is a copy of the embedding counts as tied, unless the base model says that its own is not tied.

Where a checkpoint has no head because it is tied to the embedding, and another has one that counts, the embedding
stands in for the head, as it does when the model runs. Where no head counts, the output has none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from dovetail.engine.recipe.layers import parse_layer
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.places import shown
from dovetail.engine.recipe.prediction import is_apart
from dovetail.engine.recipe.specs import Catalogue

_HEADS = tuple(
    f"{word}.weight"
    for word in (
        "lm_head", "embed_out", "output", "output_layer", "lm_head.linear", "decoder", "proj_out", "head",
        "vocab_projector", "generator_lm_head", "pred_layer.proj",
    )
)  # fmt: skip
_EMBEDDINGS = tuple(
    f"{word}.weight"
    for word in (
        "embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in", "shared", "embedding", "embeddings",
        "emb", "transformer.w",
    )
)  # fmt: skip
"""How names of heads and embeddings end."""


HeadComparison = Callable[[ModelRef, str, str], bool | None]
"""Says whether a checkpoint's head, named first, has the bytes of its embedding; None where it cannot be known."""


@dataclass(frozen=True, slots=True)
class Heads:
    """What stands in for heads that are not stored."""

    catalogues: Mapping[ModelRef, Catalogue]
    """Every checkpoint's tensors, stand-ins among them."""
    stand_ins: Mapping[ModelRef, Mapping[str, str]] = field(default_factory=dict)
    """By checkpoint, the tensor that is read in the place of one that is not stored."""
    untied: Mapping[str, frozenset[ModelRef]] = field(default_factory=dict)
    """By head that counts in at least one checkpoint, those that tie it or may do so."""
    retied: frozenset[ModelRef] = frozenset()
    """Checkpoints that store a head that is left out as a copy, and do not say that it is tied."""
    notes: tuple[str, ...] = ()
    """What a person should know."""


def find_heads(
    catalogues: Mapping[ModelRef, Catalogue],
    tied: Mapping[ModelRef, bool | None],
    is_copy: HeadComparison | None = None,
) -> Heads:
    """Find the heads that are not stored, and those that are stored and do not count.

    Parameters
    ----------
    catalogues
        Every checkpoint's tensors.
    tied
        Whether its configuration says that its head is its embedding; None where it does not say.
    is_copy
        Compares a stored head with the embedding. It is asked only where a configuration ties a head that is stored,
        or where one checkpoint stores a head and another does not.

    """
    names = dict.fromkeys(name for catalogue in catalogues.values() for name in _loose(catalogue, _HEADS))
    found = dict(catalogues)
    stand_ins: dict[ModelRef, dict[str, str]] = {}
    untied: dict[str, frozenset[ModelRef]] = {}
    retied: set[ModelRef] = set()
    notes: list[str] = []
    for name in names:
        heads = {ref: each for ref, each in catalogues.items() if name in each and _is_head(each, name)}
        lacking = [ref for ref, each in catalogues.items() if name not in each]
        # A copy adds nothing to a merge with models that do without, though its configuration unties it.
        some_do_without = any(tied.get(ref) is not False for ref in lacking)
        headless = some_do_without and tied.get(next(iter(catalogues))) is not False
        asked = some_do_without or any(tied.get(ref) for ref in heads)
        copies = [
            ref
            for ref in heads
            if (headless if tied.get(ref) is False else asked) and _is_copy(ref, heads[ref], name, tied, is_copy, notes)
        ]
        owners = [ref for ref in heads if ref not in copies]
        if owners:
            untied[name] = frozenset(
                ref for ref in catalogues if tied.get(ref) is True or (asked and ref in heads and tied.get(ref) is None)
            )
        elif copies and (lacking or tied.get(copies[0]) is True):
            retied |= {ref for ref in copies if tied.get(ref) is not True}
            notes.append(_left_out(name, copies))
            for ref in copies:
                found[ref] = {key: shape for key, shape in found[ref].items() if key != name}
        for ref in lacking if owners else ():
            like = _pairs(catalogues[owners[0]], name, catalogues[owners[0]][name])
            embedding = _embedding(catalogues[ref], name, catalogues[owners[0]][name], like)
            if embedding is not None and tied.get(ref) is not False:
                stand_ins.setdefault(ref, {})[name] = embedding
                found[ref] = {**found[ref], name: catalogues[ref][embedding]}
                untied[name] |= {ref}
    return Heads(found, stand_ins, untied, frozenset(retied), tuple(notes))


def _is_copy(
    ref: ModelRef,
    catalogue: Catalogue,
    name: str,
    tied: Mapping[ModelRef, bool | None],
    is_copy: HeadComparison | None,
    notes: list[str],
) -> bool:
    """Whether a stored head is one with the embedding; say where the configuration says otherwise, or nothing can."""
    embedding = _embedding(catalogue, name, catalogue[name])
    assert embedding is not None  # or it would be no head
    same = None if is_copy is None else is_copy(ref, name, embedding)
    if same is None and is_copy is not None and tied.get(ref) is not False:
        notes.append(
            f"{shown(name)} of {ref} is kept as a head of its own: whether it is only a copy of the embedding cannot "
            "be known before it is read. If it is, set tie_word_embeddings in its config.json and remove it"
        )
    elif same is False and tied.get(ref):
        notes.append(
            f"{shown(name)} of {ref} is merged as a head of its own: it differs from the embedding to which its "
            "config.json ties it. The output's tie_word_embeddings is false"
        )
    return same is True


def _left_out(name: str, copies: Sequence[ModelRef]) -> str:
    """Say that a head is not in the output."""
    models = ", ".join(str(ref) for ref in copies)
    return f"{shown(name)} is not in the output: in {models} it is a copy of the embedding, to which it stays tied"


def _loose(catalogue: Catalogue, endings: tuple[str, ...]) -> list[str]:
    """Give the tensors outside the layers whose last components are one of `endings`."""
    # Few names pass the first test, which is all the time that a large catalogue takes.
    found = [name for name in catalogue if name.endswith(endings)]
    dotted = tuple(f".{ending}" for ending in endings)
    return [name for name in found if f".{name}".endswith(dotted) and not parse_layer(name) and not is_apart(name)]


def _is_head(catalogue: Catalogue, name: str) -> bool:
    """Whether a tensor is a matrix with the shape of an embedding of its checkpoint, as heads are."""
    shape = catalogue[name]
    return len(shape) == 2 and any(catalogue[item] == shape for item in _loose(catalogue, _EMBEDDINGS))


def _embedding(
    catalogue: Catalogue, name: str, head: tuple[int, ...], among: Collection[str] | None = None
) -> str | None:
    """Name the embedding that has a head's columns, if possible its rows too.

    Of several, that is the one whose name has most in common with the head's, else the first in the file. A model that
    does not store the head has no embedding for it but among those that a model with the head has for it: another
    part's head is not made up for it.
    """
    found = [item for item in _loose(catalogue, _EMBEDDINGS) if len(head) == 2 and catalogue[item][1:] == head[1:]]
    alike = [item for item in found if catalogue[item] == head] or found
    return max((item for item in alike if among is None or item in among), key=lambda x: _common(x, name), default=None)


def _pairs(catalogue: Catalogue, name: str, head: tuple[int, ...]) -> list[str]:
    """Name the embeddings that can be a head's in its own checkpoint: those whose names have most in common with its.

    Several may have, as T5's `shared` and its two copies.
    """
    found = [item for item in _loose(catalogue, _EMBEDDINGS) if len(head) == 2 and catalogue[item][1:] == head[1:]]
    most = max((_common(item, name) for item in found), default=0)
    return [item for item in found if _common(item, name) == most]


def _common(one: str, other: str) -> int:
    """Count the components with which two names begin alike."""
    pairs = enumerate(zip(one.split("."), other.split("."), strict=False), 1)
    return max((depth for depth, _ in takewhile(lambda pair: pair[1][0] == pair[1][1], pairs)), default=0)
