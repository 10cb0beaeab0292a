"""Which models a recipe merges into which part of the output, and with which parameters.

The rules are mergekit's. A part is a module, or all of the output; a group is one item of its ``slices``, or all
its whole models together. Parameters are looked for in the source's own, then the slice's, the module's, the
recipe's; those of the whole merge everywhere but in the source's own. What a base model is depends on the method:
see `Method.base`. Where it is a model like any other (linear), it is added to ``models`` as the last one if it is
not listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dovetail.engine.methods.method import REQUIRED, Method
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.origin import Origin
from dovetail.engine.recipe.places import Where, key_path, nearest, one_of, shown
from dovetail.engine.recipe.schema import InputModel, OutputModule, OutputSlice, Recipe, SliceSource
from dovetail.engine.recipe.values import Scope, check_parameters


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint, or some of its layers, that takes part in a merge."""

    ref: ModelRef
    """The checkpoint."""
    where: Where
    """Its place in the recipe."""
    own: Scope
    """Its own parameters."""
    start: int = 0
    """Its first layer."""
    stop: int | None = None
    """One past its last layer; None for the whole checkpoint."""


@dataclass(frozen=True, slots=True)
class Group:
    """What is merged into one slice of the output, or into all of a part."""

    where: Where
    """Its place in the recipe."""
    base: Source | None
    """The base model where the method sets it apart from the models; else None."""
    models: tuple[Source, ...]
    """The models to merge, in the order of the method."""
    reference: Source
    """Decides the tensors and their shapes: the base model if there is one, else the first model."""
    shared: tuple[Scope, ...]
    """Parameters of the slice, the module and the recipe, the strongest first."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """Base model, if any, and models."""
        return self.models if self.base is None else (self.base, *self.models)


@dataclass(frozen=True, slots=True)
class Part:
    """A module of the output, or all of it."""

    module: str | None
    """The module's name; None for all of the output."""
    where: Where
    """Its place in the recipe."""
    groups: tuple[Group, ...]
    """Its slices in the order of the output's layers, or the one group of whole models."""

    @property
    def sliced(self) -> bool:
        """Whether its layers are stacked from slices."""
        return self.groups[0].reference.stop is not None


def make_parts(recipe: Recipe, method: Method) -> tuple[tuple[Part, ...], list[str]]:
    """Check a recipe against its method and sort its models into parts and groups.

    Returns
    -------
    tuple
        The parts in the recipe's order, and warnings.

    Raises
    ------
    RecipeError
        A missing base model, too few or too many models, or parameters that are missing or not the method's.

    """
    origin = recipe.origin
    shared: tuple[Scope, ...] = (check_parameters(recipe.parameters, method, ("parameters",), origin),)
    warnings: list[str] = []
    if not recipe.modules:
        return (Part(None, (), _part_groups(recipe, recipe, method, (), shared, warnings)),), warnings
    parts = []
    for name, module in recipe.modules.items():
        where: Where = ("modules", name)
        own = check_parameters(module.parameters, method, (*where, "parameters"), origin)
        parts.append(Part(name, where, _part_groups(module, recipe, method, where, (own, *shared), warnings)))
    return tuple(parts), list(dict.fromkeys(warnings))


def sets_base_apart(method: Method, *, given: bool) -> bool:
    """Whether a base model is the origin of task vectors, or the first of a pair, rather than one of the models."""
    return method.base in ("origin", "pair") or (method.base == "optional" and given)


def _part_groups(
    part: Recipe | OutputModule,
    recipe: Recipe,
    method: Method,
    where: Where,
    shared: tuple[Scope, ...],
    warnings: list[str],
) -> tuple[Group, ...]:
    if part.slices:
        groups = [_slice_group(cut, recipe, method, (*where, "slices", i), shared) for i, cut in enumerate(part.slices)]
    else:
        groups = [_whole_group(part.models, recipe, method, (*where, "models"), shared, warnings)]
    for group in groups:
        if group.base and not group.models and method.base == "origin" and method.min_models == 1:
            warnings.append(f"{key_path(group.where)} names only the base model {group.base.ref}, which is not changed")
        else:
            _check_count(group, method, recipe.origin)
        _check_required(group, method, recipe.origin)
    return tuple(_in_order(group, method, recipe.origin) for group in groups)


def _whole_group(
    entries: Sequence[InputModel],
    recipe: Recipe,
    method: Method,
    where: Where,
    shared: tuple[Scope, ...],
    warnings: list[str],
) -> Group:
    listed = [_source(entry, method, (*where, i), recipe.origin) for i, entry in enumerate(entries)]
    base = next((s for s in listed if s.ref == recipe.base_model), None)
    if base is None and recipe.base_model:
        base = Source(recipe.base_model, ("base_model",), {})
    if sets_base_apart(method, given=base is not None):
        if base is None:
            raise _no_base(method, recipe.origin)
        others = [s for s in listed if s.ref != base.ref]
        if method.base == "pair" and not others:  # a model merged with itself
            others = [s for s in listed if s is not base]
        return Group(where, base, tuple(others), base, shared)
    if base is not None and base not in listed:
        ready = all(
            row.name in shared[-1] for row in method.parameters if row.scope == "model" and row.default is REQUIRED
        )
        taken = ready and (method.max_models is None or len(listed) < method.max_models)
        listed += [base] if taken else []
        warnings.append(
            f"base_model {shown(str(base.ref))} is not listed under models: "
            + ("it is merged too, as the last model" if taken else "it is not merged")
        )
    return Group(where, None, tuple(listed), base or listed[0], shared)


def _slice_group(cut: OutputSlice, recipe: Recipe, method: Method, where: Where, shared: tuple[Scope, ...]) -> Group:
    origin = recipe.origin
    own = check_parameters(cut.parameters, method, (*where, "parameters"), origin)
    shared = (own, *shared)
    where = (*where, "sources")
    sources = [_source(entry, method, (*where, i), origin) for i, entry in enumerate(cut.sources)]
    base_model = cut.base_model or recipe.base_model
    bases = [source for source in sources if source.ref == base_model]
    if not sets_base_apart(method, given=base_model is not None):
        return Group(where, None, tuple(sources), bases[0] if bases else sources[0], shared)
    if base_model is None:
        raise _no_base(method, origin)
    if len(bases) != 1:
        raise origin.error(
            where,
            f"{key_path(where)} has {len(bases)} sources from the base model {shown(str(base_model))}",
            "one, so that its layers are known",
            "list it with its layer_range",
        )
    models = tuple(source for source in sources if source is not bases[0])
    return Group(where, bases[0], models, bases[0], shared)


def _source(entry: InputModel | SliceSource, method: Method, where: Where, origin: Origin) -> Source:
    own = check_parameters(entry.parameters, method, (*where, "parameters"), origin, level="model")
    if isinstance(entry, SliceSource):
        return Source(entry.model, where, own, *entry.layer_range)
    return Source(entry.model, where, own)


def _no_base(method: Method, origin: Origin) -> Exception:
    meant = "one of the two models" if method.base == "pair" else "the model that the others were made from"
    return origin.error(
        ("merge_method",),
        f"merge_method {method.name} has no base_model to compare with",
        meant,
        "add 'base_model: PATH'",
    )


def _check_count(group: Group, method: Method, origin: Origin) -> None:
    count, least, most = len(group.models), method.min_models, method.max_models
    if method.base == "pair":
        least, most = 1, 1
    if count >= least and (most is None or count <= most):
        return
    limits = f"at least {least}" if most is None else f"{least} to {most}"
    limits = f"{most}" if most == least else limits
    besides = " besides the base model" if group.base else ""
    raise origin.error(
        group.where,
        f"{key_path(group.where)} has {count} models{besides}",
        f"{limits} for merge_method {method.name}",
    )


def _check_required(group: Group, method: Method, origin: Origin) -> None:
    """Refuse what no tensor could have a value for, before any checkpoint is opened."""
    for row in method.parameters:
        if row.default is not REQUIRED or any(row.name in scope for scope in group.shared):
            continue
        if row.scope == "merge":
            raise origin.error(
                ("merge_method",),
                f"parameter {row.name} of {method.name} is missing",
                "a value",
                f"add 'parameters: {{{row.name}: VALUE}}'",
            )
        for source in group.models:
            if row.name not in source.own:
                raise origin.error(
                    source.where,
                    f"{key_path((*source.where, 'parameters', row.name))} is missing for model {source.ref}",
                    "a value",
                    f"give {row.name} there, or for all models in the parameters at the top",
                )


def _in_order(group: Group, method: Method, origin: Origin) -> Group:
    """Put the models into the order that a parameter of kind ``models`` (pruning_order) gives."""
    row = next((row for row in method.parameters if row.kind == "models"), None)
    given = next((scope[row.name] for scope in group.shared if row.name in scope), None) if row else None
    if row is None or given is None or not group.models:
        return group
    by_name: dict[str, list[Source]] = {}
    for source in group.models:
        by_name.setdefault(str(source.ref), []).append(source)
    order: list[Source] = []
    for name in given[0].points:
        found = by_name.get(str(name))
        if not found:
            again = any(str(name) == str(s.ref) for s in order)
            raise origin.error(
                ("parameters", row.name),
                f"{row.name} names {shown(name)}" + (" twice" if again else ", which is not one of the merged models"),
                f"each of {', '.join(str(s.ref) for s in group.models)} once",
                nearest(str(name), [each for each, sources in by_name.items() if sources]),
            )
        order.append(found.pop(0))
    if left := [name for name, sources in by_name.items() if sources]:
        raise origin.error(("parameters", row.name), f"{row.name} leaves out {one_of(left)}", "every model once")
    return replace(group, models=tuple(order))
