"""Finding the tensors that an adapter changes in a model that gives their names other beginnings."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from dovetail.io.errors import AdapterError

WHOLE_MODEL: Final = frozenset(
    (
        "0", "albert", "auto_model", "base_model", "bert", "biogpt", "camembert", "canine", "convbert",
        "data2vec_text", "deberta", "distilbert", "electra", "ernie", "esm", "fnet", "funnel", "gpt_neox", "gte",
        "ibert", "language_model", "layoutlm", "layoutlmv2", "layoutlmv3", "lilt", "llm", "longformer", "luke",
        "markuplm", "mobilebert", "model", "module", "mpnet", "mra", "nomic_bert", "nystromformer", "prophetnet",
        "reformer", "rembert", "roberta", "roberta_prelayernorm", "roc_bert", "roformer", "rwkv", "splinter",
        "switch_transformers", "text_model", "transformer", "xlm", "yoso",
    )
)  # fmt: skip
"""Components of names that stand for a whole (language) model, so that classes of transformers differ in them alone.

All others, such as ``mtp`` and ``vision_tower``, name a part of a model, and are never added, dropped or exchanged.
"""

_MOST_CANDIDATES: Final = 1000


def find_names(
    adapter: str, model: str, needed: Iterable[str], available: Collection[str], optional: Collection[str] = ()
) -> dict[str, str]:
    """Find the names that a model gives to the tensors that an adapter changes.

    Checkpoints and adapters differ in the prefix before the layers (``model.``, ``transformer.``,
    ``model.language_model.``). Names that start with the same two components are handled as a group. A group is found
    unchanged, or by replacing the prefix of all its names by another. If several other prefixes find all names of the
    group, the one that keeps the most components is taken; if several keep as many, that is an error. Two prefixes may
    differ only in components that stand for a whole model, so that one part of a model is never taken for another: of
    a language model and a vision tower with layers of the same names, short names mean the first. Each list of layers
    in the adapter belongs to exactly one list in the model.

    Parameters
    ----------
    adapter, model
        The adapter and the model, for error messages.
    needed
        Names of the changed tensors in the adapter.
    available
        Names of the tensors of the model.
    optional
        Names in `needed` that the model may lack.

    Returns
    -------
    dict
        The name in the model by the name in the adapter; without optional names that the model lacks.

    Raises
    ------
    AdapterError
        A required name is not found, or several names of the model fit.

    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in needed:
        groups.setdefault(tuple(name.split(".")[:2]), []).append(name)
    endings: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    for names in groups.values():
        same = [name for name in names if name in available]
        found.update(zip(same, same, strict=True))
        missing = [name for name in names if name not in available]
        required = [name for name in missing if name not in optional]
        if not missing or (same and not required):
            continue
        if not endings:
            for name in available:
                endings.setdefault(_ending(name), []).append(name)
        change = None if same else _common_change(adapter, required or missing, endings, available)
        if change is None:
            if required:
                raise _not_found(adapter, model, required[0], available)
            continue
        stripped, added = change
        for name in missing:
            other = added + name.removeprefix(stripped)
            if name.startswith(stripped) and other in available:
                found[name] = other
            elif name in required:
                raise _not_found(adapter, model, name, available)
    if len(set(found.values())) != len(found):
        raise AdapterError(
            f"{adapter} changes a tensor of {model} under two names", "each tensor once", "repair the adapter"
        )
    _check_lists(adapter, model, found)
    return found


def _is_same_part(stripped: str, added: str) -> bool:
    """Tell whether two prefixes differ only in components that stand for a whole model."""
    before, after = Counter(stripped.split(".")[:-1]), Counter(added.split(".")[:-1])
    return (before - after).keys() | (after - before).keys() <= WHOLE_MODEL


def _check_lists(adapter: str, model: str, found: Mapping[str, str]) -> None:
    """Check that names which differ only after a layer's number were renamed alike, and no two lists became one.

    Raises
    ------
    AdapterError
        One list of layers in the adapter was found in two lists of the model, or two in one.

    """
    there: dict[str, str] = {}
    back: dict[str, str] = {}
    for name, other in found.items():
        mine, its = _list(name), _list(other)
        if mine is None or its is None:
            continue
        if there.setdefault(mine, its) != its or back.setdefault(its, mine) != mine:
            raise AdapterError(
                f"{adapter} changes {name!r}, and {model} has the adapter's layers under several names",
                "each list of layers of the adapter in exactly one list of the model",
                "rename the adapter's tensors to the model's names",
            )


def _list(name: str) -> str | None:
    """Name the list of layers that a tensor belongs to, by the components before the layer's number; None if none."""
    components = name.split(".")
    place = next((index for index, each in enumerate(components) if each.isdecimal() and index), None)
    return None if place is None else ".".join(components[:place])


def _common_change(
    adapter: str, names: list[str], endings: Mapping[str, list[str]], available: Collection[str]
) -> tuple[str, str] | None:
    """Find the prefix to take away from all names, and the prefix to put in its place; None if no prefix fits."""
    components = names[0].split(".")
    other_parts: list[str] = []
    for cut in range(len(components) - 1):
        if any(each.isdecimal() for each in components[:cut]):
            break  # layers are never renumbered
        stripped = "".join(each + "." for each in components[:cut])
        tail = names[0].removeprefix(stripped)
        candidates = [name for name in endings.get(_ending(tail), ()) if name == tail or name.endswith("." + tail)]
        if len(candidates) > _MOST_CANDIDATES:
            break
        fitting = [
            added
            for added in (name.removesuffix(tail) for name in candidates)
            if all(name.startswith(stripped) and added + name.removeprefix(stripped) in available for name in names)
        ]
        changes = [added for added in fitting if _is_same_part(stripped, added)]
        other_parts = other_parts or [added + tail for added in fitting]
        if len(changes) > 1:  # the components of vision models were reordered at some time: prefer those that stay
            alike = [len(set(added.split(".")[:-1]) & set(components[:cut])) for added in changes]
            changes = [added for added, count in zip(changes, alike, strict=True) if count == max(alike)]
        if len(changes) > 1:
            raise _no_choice(adapter, names[0], [added + tail for added in changes])
        if changes:
            return stripped, changes[0]
    if len(other_parts) > 1:
        raise _no_choice(adapter, names[0], other_parts)
    return None


def _no_choice(adapter: str, name: str, candidates: list[str]) -> AdapterError:
    return AdapterError(
        f"{adapter} changes {name!r}, which could be {candidates[0]!r} or {candidates[1]!r}",
        "names that leave no choice",
        "rename the adapter's tensors to the model's names",
    )


def _ending(name: str) -> str:
    """Cut a name to its last two components."""
    return ".".join(name.rsplit(".", 2)[-2:])


def _not_found(adapter: str, model: str, name: str, available: Collection[str]) -> AdapterError:
    alike = [each for each in available if _ending(each) == _ending(name)][:1000] or list(available)[:1000]
    near = difflib.get_close_matches(name, alike, n=2, cutoff=0.0)
    return AdapterError(
        f"{adapter} changes {name!r}, which {model} does not have",
        f"a tensor of the model; the nearest are {' and '.join(map(repr, near))}",
        "use the model that the adapter was trained on; if its names differ only in their beginnings, rename the "
        "adapter's tensors to the model's names",
    )
