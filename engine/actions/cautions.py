"""What is to be looked at before models are merged, in words, with what to do. docs/analyze.md gives the reasons."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from dovetail.engine.actions.analysis import AnalysedTensor, Caution
from dovetail.engine.actions.analysis_figures import Figures
from dovetail.engine.actions.analysis_table import Records, pairs_of
from dovetail.engine.planning.analysis import AnalysisPlan
from dovetail.engine.text import counted, percent, short_name

FAR: Final = 0.5
"""Norm of a task vector over that of the base model from which on a model is no fine-tune of it. Models that have
nothing to do with each other have 1.41, and fine-tunes mostly less than 0.1."""

ALIKE: Final = 0.9
"""Cosine between task vectors from which on two models share what they changed. Fine-tunes of one base model on
different tasks mostly have less than 0.5."""

UNEVEN: Final = 10.0
"""Ratio of the norms of two task vectors from which on the lesser one hardly counts."""

LOST: Final = 0.5
"""Share of a model's changes below bfloat16's resolution from which on it is worth a sentence."""

OUTLIER: Final = 10.0
"""How many times the relative norm of a model's tensor is that of its median tensor, to be named; see also `FAR`."""

_MOST_NAMES: Final = 3


@dataclass(frozen=True, slots=True)
class Findings:
    """What cautions are made of."""

    plan: AnalysisPlan
    """What was planned."""
    names: Sequence[str]
    """Names of the models, for people."""
    base: str
    """Name of the base model, for people."""
    total: Figures
    """Figures of all tensors together."""
    tensors: Sequence[AnalysedTensor]
    """The tensors."""
    records: Records
    """Their sums."""


def find_cautions(found: Findings) -> tuple[Caution, ...]:
    """List all that is to be looked at, what most likely spoils a merge first."""
    kinds = (
        _far_models,
        _shared_bases,
        _far_tensors,
        _unchanged_models,
        _identical_models,
        _same_tensors,
        _uneven_models,
        _rows,
        _lost_changes,
        _nonfinite,
        _unmerged,
        _unchanged_tensors,
    )
    return tuple(caution for kind in kinds for caution in kind(found))


def _far_models(found: Findings) -> Iterator[Caution]:
    norms = [each.relative_norm for each in found.total.models]
    near = [name for name, norm in zip(found.names, norms, strict=True) if 0 < norm <= FAR]
    for name, norm in zip(found.names, norms, strict=True):
        if norm > FAR:
            others = f", while {_some(near)} {'comes' if len(near) == 1 else 'come'} from it" if near else ""
            yield Caution(
                "far_model",
                f"{name} is no fine-tune of {found.base}{others}: its changes are {percent(norm)} of the base model's "
                "norm. Leave it out, or merge it with models of its own base model.",
            )


def _shared_bases(found: Findings) -> Iterator[Caution]:
    pairs = [
        (names, figures.cosine)
        for names, figures in zip(_pairs(found), found.total.pairs, strict=True)
        if figures.cosine > ALIKE and figures.differing
    ]
    if pairs:
        (one, other), cosine = max(pairs, key=lambda pair: pair[1])
        more = f", and so are {counted(len(pairs) - 1, 'other pair')}" if len(pairs) > 1 else ""
        yield Caution(
            "shared_base",
            f"{one} and {other} are nearer to each other than to {found.base}{more} (the cosine between their changes "
            f"is {cosine:.2f}): they share most of what they changed, as models do that were made from a later version "
            "of the base model. Name that version as base_model.",
        )


def _far_tensors(found: Findings) -> Iterator[Caution]:
    for model, name in enumerate(found.names):
        if found.total.models[model].relative_norm > FAR:
            continue
        norms = {}
        for each, record in zip(found.tensors, found.records, strict=True):
            # Vectors are left out: that of a bias is often zero in the base model, and any change is far from it.
            if each.same is None and len(each.shape) > 1 and record["base_square"][model]:
                norms[each.name] = float((record["square"][model] / record["base_square"][model]) ** 0.5)
        median = statistics.median(norms.values()) if norms else 0.0
        far = [tensor for tensor, norm in norms.items() if norm > max(FAR, OUTLIER * median)]
        if far:
            yield Caution(
                "far_tensors",
                f"{name} has {counted(len(far), 'tensor')} far off the base model, unlike its others: {_some(far)}. "
                "See whether these were trained anew or stored otherwise, and leave them out by a filter if so.",
            )


def _unchanged_models(found: Findings) -> Iterator[Caution]:
    for name, figures in zip(found.names, found.total.models, strict=True):
        if figures.elements and figures.unchanged == 1:
            yield Caution(
                "unchanged_model",
                f"{name} does not differ from {found.base}: it gives nothing to a merge. Leave it out, or correct its "
                "path.",
            )


def _identical_models(found: Findings) -> Iterator[Caution]:
    for name in found.plan.repeated:
        yield Caution(
            "identical_models",
            f"{short_name(name)} is named several times. Name it once: together its copies count more than once.",
        )
    for (one, other), (i, _), figures in zip(_pairs(found), _places(found), found.total.pairs, strict=True):
        if figures.elements and not figures.differing and found.total.models[i].unchanged < 1:
            yield Caution(
                "identical_models",
                f"{one} and {other} are the same model. Leave one of them out: together they count twice.",
            )


def _same_tensors(found: Findings) -> Iterator[Caution]:
    for pair, ((one, other), (i, _)) in enumerate(zip(_pairs(found), _places(found), strict=True)):
        if not found.total.pairs[pair].differing:
            continue
        counts = found.records["pairs"][:, pair]
        changed = found.records["zeros"][:, i] < found.records["elements"][:, i]
        same = [found.tensors[at].name for at in ((counts[:, 0] > 0) & (counts[:, 3] == 0) & changed).nonzero()[0]]
        if same:
            yield Caution(
                "same_tensors",
                f"{one} and {other} have the same changes in {counted(len(same), 'tensor')}: {_some(same)}. One of "
                "them was made from the other, or both from a third model; there, a sum counts the change twice.",
            )


def _uneven_models(found: Findings) -> Iterator[Caution]:
    norms = {name: each.norm for name, each in zip(found.names, found.total.models, strict=True) if each.norm}
    if len(norms) < 2:
        return
    least, most = min(norms, key=norms.__getitem__), max(norms, key=norms.__getitem__)
    if norms[most] >= UNEVEN * norms[least]:
        yield Caution(
            "uneven_models",
            f"{most} has changed {norms[most] / norms[least]:.0f} times as much as {least}, whose part in a merge is "
            "small unless its weight is larger. See whether both were trained as you think, then choose weights.",
        )


def _rows(found: Findings) -> Iterator[Caution]:
    if found.plan.aligned or not found.plan.rows:
        return
    first, more = found.plan.rows[0], len(found.plan.rows) - 1
    others = f" ({counted(more, 'more tensor')} likewise)" if more else ""
    what = "the rows beyond are left out" if first.found > first.expected else "the base model's rows stand in"
    yield Caution(
        "rows",
        f"{first.tensor} of {first.model} has {first.found:,} rows, and the base model's has {first.expected:,}{others}"
        f": {what}. If tokens were added, add 'tokenizer_source: union' to the recipe, which matches rows by tokens.",
    )


def _lost_changes(found: Findings) -> Iterator[Caution]:
    for name, figures in zip(found.names, found.total.models, strict=True):
        if figures.below_bfloat16 > LOST:
            yield Caution(
                "below_bfloat16",
                f"{percent(figures.below_bfloat16)} of the changes of {name} are below bfloat16's resolution: they are "
                "lost where the result is stored in bfloat16. Merge with dtype: float32.",
            )


def _nonfinite(found: Findings) -> Iterator[Caution]:
    for model, name in enumerate(found.names):
        if count := int(found.records["nonfinite"][:, model].sum()):
            yield Caution(
                "nonfinite",
                f"{counted(count, 'value')} of {name} {_are(count)} NaN or infinite. Here they count as unchanged, "
                "and a merge refuses them: repair the model.",
            )
    if count := int(found.records["base_nonfinite"].sum()):
        yield Caution(
            "nonfinite",
            f"{counted(count, 'value')} of {found.base} {_are(count)} NaN or infinite. Here they count as unchanged, "
            "and a merge refuses them: repair the model.",
        )


def _unmerged(found: Findings) -> Iterator[Caution]:
    differing = [each.name for each in found.tensors if each.same is not None and not all(each.same)]
    if differing:
        yield Caution(
            "unmerged",
            f"{counted(len(differing), 'tensor')} that no method merges differ between the models: {_some(differing)}. "
            "A merge takes them from the base model; see whether that is what you want.",
        )


def _unchanged_tensors(found: Findings) -> Iterator[Caution]:
    zeros, elements = found.records["zeros"], found.records["elements"]
    unchanged = (zeros == elements).all(axis=1) & (elements.sum(axis=1) > 0)
    names = [found.tensors[at].name for at in unchanged.nonzero()[0]]
    if names and not all(each.unchanged == 1 for each in found.total.models):
        yield Caution(
            "unchanged_tensors",
            f"No model changes {counted(len(names), 'tensor')}: {_some(names)}. Whatever the method, a merge has the "
            "base model's values there.",
        )


def _places(found: Findings) -> list[tuple[int, int]]:
    return pairs_of(len(found.names))


def _pairs(found: Findings) -> list[tuple[str, str]]:
    return [(found.names[i], found.names[j]) for i, j in _places(found)]


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
