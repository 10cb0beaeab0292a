"""From the recipe's tensors to planned ones: sources, programs and output dtypes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.convert import CONVERT, Recode, conversion
from dovetail.engine.methods.copy import Copy
from dovetail.engine.methods.method import Method
from dovetail.engine.methods.program import Problem, Program
from dovetail.engine.planning.grid import chunk_elements
from dovetail.engine.planning.islands import Islands
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.planning.planned_tensor import PlannedTensor, widest_window
from dovetail.engine.planning.work import Input, stored_bytes
from dovetail.engine.recipe import Expansion, SourceTensor, TensorSpec
from dovetail.engine.recipe.shares import LEAST_SHARE
from dovetail.engine.text import counted, percent
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.dtypes import DTYPES, DType
from dovetail.io.errors import TensorMismatchError
from dovetail.io.output import FORMATS
from dovetail.io.output_format import Chunking
from dovetail.io.sources.parts import ElementRun
from dovetail.io.sources.rows import FilledElements

if TYPE_CHECKING:
    from dovetail.engine.planning.vocabulary.output_vocabulary import Vocabulary

_MOST_WIDENED: Final = 1.5
"""How much wider than a chunk what it needs of its inputs may be, before chunks are cut at the ends of rows."""

_LONG_ELEMENTS: Final = 2**16
"""The least chunk of the grid, in elements: where tests cut tensors finer, windows round to blocks, not to rows."""


class TensorPlanner:
    """Turns the recipe's tensors into planned ones, collecting what a person should know."""

    def __init__(
        self,
        method: Method,
        checkpoints: Sequence[Checkpoint],
        expansion: Expansion,
        options: PlanOptions,
        dtype: DType | None,
        vocabulary: Vocabulary | None,
        islands: Islands,
    ) -> None:
        self._method, self._checkpoints, self._options, self._dtype = method, checkpoints, options, dtype
        self._labels = [str(ref) for ref in expansion.checkpoints]
        self._vocabulary, self._islands = vocabulary, islands
        self._catalogues = [checkpoint.tensors for checkpoint in checkpoints]
        self._gathered: dict[SourceTensor, TensorInfo] = {}
        used = {item.checkpoint for spec in expansion.tensors for item in spec.inputs}
        self.models = sorted(used)
        self._model_index = {checkpoint: index for index, checkpoint in enumerate(self.models)}
        self._programs: dict[Any, tuple[Problem, Program]] = {}
        self._chunkings: dict[tuple[int, int, int, int], Chunking] = {}
        self._orders: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._cautions: dict[str, None] = {}
        self._double = self._copied = self._integers = 0

    def warnings(self) -> list[str]:
        """Say what the planned tensors have that a person should know."""
        found = []
        if self._double:
            found.append(f"{self._double} float64 tensors are merged in float32.")
        if self._copied:
            found.append(f"{counted(self._copied, 'integer tensor')} not merged but taken from the base model.")
        for caution in list(self._cautions)[:1]:  # parameters can differ from layer to layer
            others = counted(len(self._cautions) - 1, "further case")
            found.append(caution + (f" ({others} like it.)" if len(self._cautions) > 1 else ""))
        return found

    def tensors(self, specs: Sequence[TensorSpec]) -> tuple[PlannedTensor, ...]:
        """Plan every output tensor.

        Raises
        ------
        RecipeError
            Two of the method's outputs have one name.
        TensorMismatchError
            A tensor does not fit the others that it is merged with, or most elements are integers.

        """
        whole = [self._tensor(spec) for spec in specs]
        self._check_integers(sum([each.length for each in whole]))
        if self._method.outputs is None:
            return tuple(whole)
        planned = [each for tensor in whole for each in self._group(tensor)]
        counts = Counter(each.name for each in planned)
        if twice := next((name for name, count in counts.items() if count > 1), None):
            raise RecipeError(
                f"{self._method.name} gives tensor {twice!r} twice", "names that differ", "leave one of its inputs out"
            )
        return tuple(planned)

    def _check_integers(self, elements: int) -> None:
        """Refuse a merge in which most is taken from the base model, because it is stored as integers."""
        if self._integers > (1 - LEAST_SHARE) * elements and not self._options.allow_partial:
            raise TensorMismatchError(
                f"{percent(self._integers / elements)} of the elements that would be merged are integers, which are "
                "taken from the base model",
                "models whose weights are floating-point numbers",
                "if these are quantised, merge the unquantised originals, or pass --allow-partial to merge the rest",
            )

    def _tensor(self, spec: TensorSpec) -> PlannedTensor:
        """Plan one output tensor; for a method with several outputs it stands for them all until `_group` parts it."""
        self._gathered = self._vocabulary.gather(spec, self._checkpoints) if self._vocabulary else {}
        reference = self._find(spec.reference)
        if not reference.dtype.mergeable:
            return self._copy(spec, reference)
        if spec.copied:
            return self._take(spec, reference)
        base = None if spec.base is None else self._input(spec.base, spec.reference, reference)
        # Comprehensions are faster than generators.
        models = tuple([self._input(item, spec.reference, reference) for item in spec.inputs])
        inputs = models if base is None else (base, *models)
        self._double += DTYPES["F64"].kernel_code in [item.code for item in inputs]
        dtype = self._islands.dtype(spec.name, self._dtype, reference.output_dtype)
        # Of many thousand tensors, most differ from others by their names alone. Parameters are shared between tensors.
        like = (reference.shape, dtype.name, tuple([(item.code, item.checkpoint) for item in inputs]))
        key = (*like, id(spec.parameters), id(spec.model_parameters))
        known = None if self._method.by_name else self._programs.get(key)
        if known is None:
            problem = self._problem(spec, reference, dtype, base, models)
            known = self._programs[key] = problem, self._method.program(problem)
            if self._method.caution and (caution := self._method.caution(problem)):
                self._cautions[caution] = None
        problem, program = known
        planned = self._planned(spec, reference, dtype, program, problem, base, models)
        if planned.length > planned.chunking.chunk_elements and planned.sampled_bytes and not planned.mapped:
            return replace(planned, program=program.frugal())
        return planned

    def _group(self, whole: PlannedTensor) -> Iterator[PlannedTensor]:
        """Give each of the method's outputs for a merged tensor, the first with the inputs; copies stay as they are."""
        if whole.copied or isinstance(whole.program, Recode) or self._method.outputs is None:
            yield whole
            return
        if not self._options.format.takes_any_range:
            output_format = self._options.format.name
            others = [each.name for each in FORMATS.values() if each.takes_any_range]
            raise RecipeError(
                f"the output of {self._method.name}, which makes several tensors of one, is {output_format}",
                "one of " + ", ".join(others),
                "merge to one of these, and convert the result",
            )
        assert whole.problem is not None
        outputs = self._method.outputs(replace(whole.problem, name=whole.name))
        dtypes = [whole.dtype if each.dtype is None else DTYPES[each.dtype] for each in outputs]
        for place, (output, dtype) in enumerate(zip(outputs, dtypes, strict=True)):
            input_bytes = 0 if place else whole.element_bytes - whole.dtype.itemsize
            yield replace(
                whole,
                name=output.name,
                shape=output.shape,
                length=output.length,
                dtype=dtype,
                base=None if place else whole.base,
                models=() if place else whole.models,
                order=() if place else whole.order,
                element_bytes=input_bytes + dtype.itemsize,
                inputs_length=whole.length,
                followers=() if place else tuple(dtypes[1:]),
                output=place,
            )

    def _problem(
        self,
        spec: TensorSpec,
        reference: TensorInfo,
        dtype: DType,
        base: Input | None,
        models: tuple[Input, ...],
    ) -> Problem:
        """Describe a tensor to the method."""
        return Problem(
            name=spec.like or spec.name,
            shape=reference.shape,
            length=reference.length,
            base_code=None if base is None else base.code,
            model_codes=tuple(item.code for item in models),
            out_code=dtype.kernel_code,
            parameters=spec.parameters,
            model_parameters=spec.model_parameters,
            seed=self._options.seed,
            model_names=tuple(item.checkpoint for item in models),
        )

    def _copy(self, spec: TensorSpec, reference: TensorInfo) -> PlannedTensor:
        """Plan a tensor that is taken from the base model, and compared with the others'."""
        self._copied += 1
        for item in spec.inputs:
            if self._find(item).dtype.mergeable:
                raise self._unlike(spec.reference)
        if len({spec.reference, *spec.inputs}) > 1:
            self._integers += reference.length
        alike = [item for item in spec.inputs if item != spec.reference and self._find(item).shape == reference.shape]
        base, models = self._raw(spec.reference), tuple(self._raw(item) for item in alike)
        spec = spec._replace(inputs=tuple(alike))
        return self._planned(spec, reference, reference.dtype, Copy(), None, base, models)

    def _take(self, spec: TensorSpec, reference: TensorInfo) -> PlannedTensor:
        """Plan a tensor that is not merged, but has the output's dtype."""
        dtype = self._islands.dtype(spec.name, self._dtype, reference.output_dtype)
        if dtype == reference.dtype == DTYPES["F64"]:  # all else is exact by way of float32
            return self._planned(spec, reference, dtype, Copy(), None, self._raw(spec.reference), ())
        problem = conversion(spec.name, reference.shape, reference.dtype.kernel_code, dtype.kernel_code)
        taken = self._input(spec.reference, spec.reference, reference)
        return self._planned(spec, reference, dtype, CONVERT.program(problem), None, None, (taken,))

    def _planned(
        self,
        spec: TensorSpec,
        reference: TensorInfo,
        dtype: DType,
        program: Program,
        problem: Problem | None,
        base: Input | None,
        models: tuple[Input, ...],
    ) -> PlannedTensor:
        inputs = models if base is None else (base, *models)
        element_bytes = dtype.itemsize + sum([item.source.itemsize for item in inputs])
        length = reference.length
        # Of many thousand tensors, most are cut alike: these share the objects that say so.
        alike = id(program), element_bytes, len(inputs), length
        chunking = self._chunkings.get(alike)
        if chunking is None:
            chunking = self._chunkings[alike] = Chunking(_chunk(program, element_bytes, len(inputs), length))
        order = tuple([self._model_index[item.checkpoint] for item in spec.inputs])
        return PlannedTensor(
            name=spec.name,
            shape=reference.shape,
            length=length,
            dtype=dtype,
            program=program,
            problem=problem,
            base=base,
            models=models,
            order=self._orders.setdefault(order, order),
            element_bytes=element_bytes,
            chunking=chunking,
        )

    def _find(self, item: SourceTensor) -> TensorInfo:
        if self._gathered and (found := self._gathered.get(item)):
            return found
        return self._catalogues[item.checkpoint][item.name]

    def _unlike(self, item: SourceTensor) -> TensorMismatchError:
        """Make the error for a tensor of integers that others have as floating-point numbers."""
        return TensorMismatchError(
            f"tensor {item.name!r} of checkpoint {self._labels[item.checkpoint]} has dtype {self._find(item).dtype}",
            "a floating-point dtype, as in the other checkpoints",
            "merge checkpoints of one architecture",
        )

    def _raw(self, item: SourceTensor) -> Input:
        return Input(self._find(item).source, -1, self._labels[item.checkpoint], item.name)

    def _input(self, item: SourceTensor, reference: SourceTensor, model: TensorInfo) -> Input:
        """Describe one source of a tensor, of which `reference` is found to be `model`."""
        info = self._find(item)
        if info.dtype.kernel_code < 0:  # as `mergeable` says, which takes longer to ask
            raise self._unlike(item)
        source = info.source
        length, wanted = source.length, model.source.length
        if length > wanted:
            source = ElementRun(source, 0, wanted)
        elif length < wanted:
            if info.dtype != model.dtype:
                raise TensorMismatchError(
                    f"tensor {item.name!r} of checkpoint {self._labels[item.checkpoint]} has {info.shape[0]} rows of "
                    f"{info.dtype}",
                    f"{model.shape[0]} rows, or dtype {model.dtype}, so that rows of "
                    f"{self._labels[reference.checkpoint]} can stand in for those that are missing",
                    "bring the models to one dtype or one vocabulary first",
                )
            source = FilledElements(source, model.source)
        stored = None if info.stored is None else stored_bytes(info, source.length)
        return Input(source, info.dtype.kernel_code, self._labels[item.checkpoint], item.name, stored)


def _chunk(program: Program, element_bytes: int, inputs: int, length: int) -> int:
    """Choose the elements of a chunk: those of the grid or, where chunks need far more of their inputs, whole rows.

    A method that looks at whole rows would otherwise read, and hold, a long row once for each chunk that has a part of
    it. Of whole rows, a chunk has as many as the grid allows, and one at least.
    """
    usual = chunk_elements(element_bytes, inputs)
    if length <= usual or widest_window(program, length, usual) <= max(_MOST_WIDENED * usual, _LONG_ELEMENTS):
        return usual
    _, row = program.window(0, 1)
    return max(1, usual // row) * row


def problems(plan: Plan) -> Iterator[Problem]:
    """Give the problems of the tensors that are merged rather than copied, each once."""
    found = {id(tensor.problem): tensor.problem for tensor in plan.tensors}
    return (problem for problem in found.values() if problem is not None)


def conversions(plan: Plan) -> Iterator[Problem]:
    """Give the problem of every tensor that a merge takes as it is, in the output's dtype."""
    for tensor in plan.tensors:
        if tensor.copied and isinstance(tensor.program, Recode):
            yield conversion(tensor.name, tensor.shape, tensor.models[0].code, tensor.dtype.kernel_code)
