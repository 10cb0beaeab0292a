"""Every parameter's value for every tensor of a group, computed once for tensors that are treated alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dovetail.engine.methods.method import REQUIRED, Method, Parameter
from dovetail.engine.recipe.groups import Group, Source
from dovetail.engine.recipe.origin import Origin
from dovetail.engine.recipe.places import key_path
from dovetail.engine.recipe.values import Scope

Resolved = tuple[Mapping[str, Any], tuple[Mapping[str, Any], ...]]
"""Parameters of the merge, and of each model in the order of the method."""


class Resolver:
    """Resolves parameters for the tensors of one group.

    A value depends on a tensor only by its layer and by which filters its name fits, so results are shared
    between tensors for which both are the same. Filters of the merge's parameters look at the output's name,
    those of the models' parameters at the name in the model's checkpoint, as in mergekit; they differ only in
    slices.

    Parameters
    ----------
    group
        The models and their parameters.
    method
        The method that takes them.
    origin
        The recipe, for errors.

    """

    def __init__(self, group: Group, method: Method, origin: Origin) -> None:
        self._group, self.method, self._origin = group, method, origin
        filters = (
            candidate.filter
            for scope in (*group.shared, *(source.own for source in group.models))
            for candidates in scope.values()
            for candidate in candidates
            if candidate.filter is not None
        )
        self._bits = {text: 1 << i for i, text in enumerate(dict.fromkeys(filters))}
        self._cache: dict[tuple[Any, ...], Resolved] = {}

    def resolve(self, fraction: float, name: str, source_names: Sequence[str] = ()) -> Resolved:
        """Resolve all parameters of one tensor.

        Parameters
        ----------
        fraction
            Its layer's position from 0, the first, to 1, the last; 0 outside the layers.
        name
            Its name in the output.
        source_names
            Its names in the models; empty if they are all `name`.

        Raises
        ------
        RecipeError
            A required parameter has no value for it.

        """
        fits = self._fits(name) if self._bits else 0
        key: tuple[Any, ...] = (fraction, fits)
        if self._bits and source_names:
            key += tuple(map(self._fits, source_names))
        known = self._cache.get(key)
        if known is None:
            model_fits = key[2:] or (fits,) * len(self._group.models)
            known = self._cache[key] = (
                self._values("merge", self._group.shared, fraction, fits, name, None),
                tuple(
                    self._values("model", (source.own, *self._group.shared), fraction, own_fits, name, source)
                    for source, own_fits in zip(self._group.models, model_fits, strict=True)
                ),
            )
        return known

    def _fits(self, name: str) -> int:
        """Set of the filters that a name fits, a bit for each."""
        fits = 0
        for text, bit in self._bits.items():
            if text in name:
                fits |= bit
        return fits

    def _values(
        self,
        level: str,
        scopes: Sequence[Scope],
        fraction: float,
        fits: int,
        name: str,
        source: Source | None,
    ) -> dict[str, Any]:
        values = {}
        for row in self.method.parameters:
            if row.scope == level:
                value = self._find(row, scopes, fraction, fits)
                if value is REQUIRED:
                    raise self._missing(row, name, source)
                values[row.name] = value
        return values

    def _find(self, row: Parameter, scopes: Sequence[Scope], fraction: float, fits: int) -> Any:
        for scope in scopes:
            for candidate in scope.get(row.name, ()):
                if candidate.filter is None or self._bits[candidate.filter] & fits:
                    return candidate.at(fraction)
        return row.default

    def _missing(self, row: Parameter, name: str, source: Source | None) -> Exception:
        where = (*source.where, "parameters", row.name) if source else ("parameters", row.name)
        of_model = f" of model {source.ref}" if source else ""
        return self._origin.error(
            where,
            f"{key_path(where)} has no value{of_model} for tensor {name!r}: none of the filters fits",
            "a value for every tensor",
            "add an item {value: VALUE} without a filter as the last",
        )
