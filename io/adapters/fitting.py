"""Making changed tensors of the parts of an adapter's modules, with every shape checked against the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from dovetail.io.adapters.changes import (
    Hadamard,
    LowRank,
    ReplacedRows,
    Rescaled,
    ScaledVector,
)
from dovetail.io.adapters.config import MERGE_FIRST, AdapterConfig
from dovetail.io.adapters.kronecker import PARTS as LOKR_PARTS
from dovetail.io.adapters.kronecker import fit_kronecker
from dovetail.io.adapters.matrices import Matrix
from dovetail.io.adapters.source import ChangedSource, DoraSource, changed_tensor, computed_tensor
from dovetail.io.checkpoint import TensorInfo
from dovetail.io.errors import AdapterError, UnsupportedError
from dovetail.io.source import Source

_LOHA: Final = frozenset(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"))

_LORA: Final = frozenset(("A", "B"))

_ADALORA: Final = frozenset(("A", "B", "singular"))

_EMBEDDING: Final = frozenset(("embedding_A", "embedding_B"))

_PARTS: Final[Mapping[str, tuple[frozenset[str], ...]]] = {
    "LORA": (_LORA, _EMBEDDING, frozenset(("tokens",))),
    "ADALORA": (_ADALORA,),
    "IA3": (frozenset(("ia3",)),),
    "LOHA": (_LOHA,),
    "LOKR": LOKR_PARTS,
    "TRAINABLE_TOKENS": (frozenset(("tokens",)),),
}
"""The sets of parts that a module may have, by kind of adapter; modules of LoRA may have a bias and magnitudes too."""


class Changes:
    """Makes all tensors that an adapter changes.

    Parameters
    ----------
    folder
        Folder of the adapter, for error messages.
    config
        Configuration of the adapter.
    modules
        The parts of each module.
    weights
        For each module, the name of its weight in the model.

    """

    def __init__(
        self,
        folder: Path,
        config: AdapterConfig,
        modules: Mapping[str, Mapping[str, TensorInfo]],
        weights: Mapping[str, str],
    ) -> None:
        self._folder, self._config, self._modules, self._weights = folder, config, modules, weights
        self._turned: dict[str, set[bool]] = {}

    def of(self, tensors: Mapping[str, TensorInfo]) -> Iterator[TensorInfo]:
        """Make the changed tensors of a model.

        Raises
        ------
        AdapterError
            A part is missing, or has a shape or dtype that does not fit.
        UnsupportedError
            The adapter changes a tensor in a way that cannot be computed here.

        """
        for module, parts in self._modules.items():
            weight = tensors[self._weights[module]]
            self._check(module, parts, weight)
            turned = self._orientations(parts, weight)
            if len(turned) == 1 and "embedding_A" not in parts:  # an embedding tells nothing about other modules
                self._turned.setdefault(module.rpartition(".")[2], set()).update(turned)
        for module, parts in self._modules.items():
            yield from self._changed(module, parts, tensors[self._weights[module]], tensors)

    def _check(self, module: str, parts: Mapping[str, TensorInfo], weight: TensorInfo) -> None:
        """Check that a module has the parts of one kind of adapter, and that these and the weight hold numbers."""
        required = frozenset(parts) - {"bias", "magnitude"}
        if required not in _PARTS[self._config.kind] or (
            len(required) < len(parts) and required not in (_LORA, _EMBEDDING)
        ):
            raise self._wrong(f"module {module!r} has parts {', '.join(sorted(parts))}", "those of one kind of adapter")
        if ("magnitude" in parts) != (self._config.dora and "tokens" not in parts):
            says = "with" if self._config.dora else "without"
            raise self._wrong(
                f"module {module!r} has {'a' if 'magnitude' in parts else 'no'} magnitude vector",
                f"an adapter {says} DoRA, as its configuration says",
            )
        for info in (*parts.values(), weight):
            if not info.dtype.mergeable:
                raise self._wrong(f"tensor {info.name!r} has dtype {info.dtype}", "a floating-point dtype")
            if info.length == 0 and not (info is not weight and self._is_empty(module, parts)):
                raise self._wrong(f"tensor {info.name!r} is empty", "at least one element")

    def _is_empty(self, module: str, parts: Mapping[str, TensorInfo]) -> bool:
        """Tell whether AdaLoRA has left nothing of a module's change."""
        return "singular" in parts and parts["singular"].shape == (0, 1) and self._config.rank_of(module) == 0

    def _orientations(self, parts: Mapping[str, TensorInfo], weight: TensorInfo) -> set[bool]:
        """Find how the shapes allow a module's weight to be stored: false for the usual way, true for transposed."""
        shape = weight.shape
        if "singular" in parts:  # of convolutions too, AdaLoRA stores matrices
            shape = (shape[0], weight.length // shape[0]) if shape else shape
            if parts["singular"].shape != (*parts["A"].shape[:1], 1):
                raise self._misfit(parts["A"], parts["singular"], weight)
        if "A" in parts:
            a, b = parts["A"].shape, parts["B"].shape
            rank = a[:1]
            if len(a) < 2 or len(a) != len(b) or b[1:] != rank + (1,) * (len(a) - 2):
                raise self._misfit(parts["A"], parts["B"], weight)
            ways = {False} if (b[0], *a[1:]) == shape else set()
            if len(a) == 2 and (a[1], b[0]) == shape:
                ways.add(True)
        elif "embedding_A" in parts:
            a, b = parts["embedding_A"].shape, parts["embedding_B"].shape
            if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
                raise self._misfit(parts["embedding_A"], parts["embedding_B"], weight)
            ways = {True} if (a[1], b[0]) == shape else set()
        elif "ia3" in parts:
            vector = parts["ia3"].shape
            if len(vector) != 2 or len(shape) != 2 or min(vector) != 1 or max(vector) == 1:
                raise UnsupportedError(
                    f"{self._folder} scales {weight.name!r} of shape {list(shape)} by {list(vector)}",
                    "a linear module",
                    MERGE_FIRST,
                )
            line = 0 if vector[1] == 1 else 1
            ways = {turned for turned in (False, True) if shape[line ^ turned] == max(vector)}
        else:
            return set()
        if not ways:
            raise self._misfit(*parts.values(), weight)
        return ways

    def _is_turned(self, module: str, parts: Mapping[str, TensorInfo], weight: TensorInfo) -> bool:
        """Tell whether a weight is stored transposed.

        The shapes do not tell for a square weight. It is stored as weights of other modules of the same name are; else,
        as all other weights are; else, as the configuration says.

        Raises
        ------
        UnsupportedError
            The other weights disagree.

        """
        ways = self._orientations(parts, weight)
        if len(ways) == 1:
            return ways.pop()
        alike = self._turned.get(module.rpartition(".")[2], set())
        everything = {way for found in self._turned.values() for way in found}
        for evidence in (alike, everything):
            if len(evidence) == 1:
                return next(iter(evidence))
        if not everything:
            return self._config.fan_in_fan_out
        raise UnsupportedError(
            f"{self._folder} changes square weight {weight.name!r}, which can be stored either way",
            "other weights of that name that are not square, to tell which",
            MERGE_FIRST,
        )

    def _changed(
        self, module: str, parts: Mapping[str, TensorInfo], weight: TensorInfo, tensors: Mapping[str, TensorInfo]
    ) -> Iterator[TensorInfo]:
        """Make the changed tensors of one module: the weight, and the bias if it changes."""
        if "tokens" in parts:
            yield changed_tensor(weight, self._tokens(module, parts["tokens"], weight))
        elif "ia3" in parts:
            yield from self._rescaled(module, parts, weight, tensors)
        elif "singular" in parts and self._is_empty(module, parts):
            return
        elif self._config.kind == "LOKR":
            change = fit_kronecker(self._folder, self._config, module, parts, weight)
            yield changed_tensor(weight, change)
        elif "hada_w1_a" in parts:
            yield changed_tensor(weight, self._hadamard(module, parts, weight))
        else:
            low_rank = self._low_rank(module, parts, weight)
            changed = ChangedSource(weight.source, weight.dtype, low_rank)
            yield computed_tensor(
                weight, self._dora(changed, low_rank, parts["magnitude"]) if "magnitude" in parts else changed
            )
            if "bias" in parts:
                bias = self._bias(weight, tensors)
                if bias is None or bias.shape != parts["bias"].shape:
                    raise self._wrong(
                        f"module {module!r} adds a bias of shape {list(parts['bias'].shape)}",
                        f"a bias of the model of that shape beside {weight.name!r}",
                    )
                scaled = ScaledVector(Matrix.of(parts["bias"]), low_rank.scale)
                yield changed_tensor(bias, scaled)

    def _low_rank(self, module: str, parts: Mapping[str, TensorInfo], weight: TensorInfo) -> LowRank:
        turned = self._is_turned(module, parts, weight)
        a, b = (parts["A"], parts["B"]) if "A" in parts else (parts["embedding_A"], parts["embedding_B"])
        rank = self._rank(module, a.shape[0])
        singular = parts.get("singular")
        if singular is not None and rank != self._config.rank_of(module):
            raise self._wrong(
                f"module {module!r} has rank {rank}", f"rank {self._config.rank_of(module)}, as its rank_pattern says"
            )
        adaptive = singular is not None
        down = Matrix.of(a, rank)
        up = Matrix.of(b, b.length // rank)
        return LowRank(
            rows=weight.shape[0],
            columns=weight.length // weight.shape[0],
            rank=rank,
            left=down if turned else up,
            right=up if turned else down,
            turned=turned,
            scale=self._config.adaptive_scale(rank) if adaptive else self._config.scale(module, rank),
            singular=None if singular is None else Matrix.of(singular),
        )

    def _rank(self, module: str, rank: int) -> int:
        if rank not in self._config.ranks:
            raise self._wrong(
                f"module {module!r} has rank {rank}",
                f"rank {' or '.join(map(str, sorted(self._config.ranks)[:5]))}, as its configuration says",
            )
        return rank

    def _dora(self, changed: ChangedSource, low_rank: LowRank, magnitude: TensorInfo) -> Source:
        lines = low_rank.columns if low_rank.turned else low_rank.rows
        if magnitude.length != lines or math.prod(magnitude.shape) != max(magnitude.shape, default=1):
            raise self._wrong(f"tensor {magnitude.name!r} has shape {list(magnitude.shape)}", f"{lines} magnitudes")
        return DoraSource(changed, low_rank.columns, Matrix.of(magnitude), low_rank.turned)

    def _rescaled(
        self, module: str, parts: Mapping[str, TensorInfo], weight: TensorInfo, tensors: Mapping[str, TensorInfo]
    ) -> Iterator[TensorInfo]:
        """Scale the outputs of a module, and with them its bias, or scale its inputs."""
        vector, outputs = parts["ia3"], parts["ia3"].shape[1] == 1
        by_column = outputs == self._is_turned(module, parts, weight)
        change = Rescaled(weight.shape[1], Matrix.of(vector), by_column)
        yield changed_tensor(weight, change)
        bias = self._bias(weight, tensors)
        if outputs and bias is not None:
            if bias.shape != (vector.length,):
                raise self._misfit(vector, bias)
            yield changed_tensor(bias, Rescaled(1, Matrix.of(vector), by_column=False))

    def _hadamard(self, module: str, parts: Mapping[str, TensorInfo], weight: TensorInfo) -> Hadamard:
        factors = []
        rows, columns = weight.shape[0], weight.length // weight.shape[0]
        for left, right in ((parts["hada_w1_a"], parts["hada_w1_b"]), (parts["hada_w2_a"], parts["hada_w2_b"])):
            rank = self._rank(module, right.shape[0] if right.shape else 0)
            if left.shape != (rows, rank) or right.shape != (rank, columns):
                raise self._misfit(left, right, weight)
            both = Matrix.of(left, rows), Matrix.of(right, rank)
            factors.append(LowRank(rows, columns, rank, *both, turned=False, scale=1.0))
        return Hadamard(factors[0], factors[1], self._config.scale(module, factors[0].rank))

    def _tokens(self, module: str, new: TensorInfo, weight: TensorInfo) -> ReplacedRows:
        """Place the trained rows at the row numbers that the configuration lists."""
        listed = self._config.tokens
        if isinstance(listed, Mapping):
            found = [rows for key, rows in listed.items() if module == key or module.endswith(f".{key}")]
            listed = found[0] if len(found) == 1 else None
        if listed is None or len(weight.shape) != 2 or new.shape != (len(listed), weight.shape[1]):
            raise self._wrong(
                f"tensor {new.name!r} has shape {list(new.shape)}",
                f"one row of {weight.shape[-1:]} for each token that the configuration lists for it",
            )
        if max(listed, default=0) >= weight.shape[0]:
            raise self._wrong(
                f"a trained token is number {max(listed)}", f"less than the {weight.shape[0]} of the model"
            )
        order = sorted(range(len(listed)), key=listed.__getitem__)
        return ReplacedRows(weight.shape[1], tuple(sorted(listed)), tuple(order), Matrix.of(new, len(listed)))

    def _bias(self, weight: TensorInfo, tensors: Mapping[str, TensorInfo]) -> TensorInfo | None:
        """Find the bias of the module of a weight; None if it has none."""
        return tensors.get(weight.name.removesuffix("weight") + "bias")

    def _misfit(self, *infos: TensorInfo) -> AdapterError:
        shapes = ", ".join(f"{info.name!r} {list(info.shape)}" for info in infos)
        return self._wrong(f"tensors have shapes {shapes}", "shapes that fit one another")

    def _wrong(self, what: str, expected: str) -> AdapterError:
        return AdapterError(f"{self._folder}: {what}", expected, "use the model that the adapter was trained on")
