"""Making a plan: recipe and checkpoint headers in, `Plan` out. No tensor data is read."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dovetail.engine import events
from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.convert import CONVERT, Recode, conversion
from dovetail.engine.methods.copy import Copy
from dovetail.engine.methods.method import Method
from dovetail.engine.methods.program import Problem, Program
from dovetail.engine.methods.registry import find
from dovetail.engine.planning.grid import chunk_elements, make_jobs
from dovetail.engine.planning.locations import Location, locate, open_location
from dovetail.engine.planning.model_config import read_config, restack, says_tied
from dovetail.engine.planning.placing import lay_out
from dovetail.engine.planning.plan import MATHS_VERSION, Plan, PlannedTensor, PlanOptions
from dovetail.engine.planning.vocabulary import Vocabulary, plan_vocabulary
from dovetail.engine.planning.work import Input
from dovetail.engine.recipe import (
    Expansion,
    Recipe,
    SourceTensor,
    StackedLayers,
    TensorSpec,
    expand,
    load_recipe,
)
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.dtypes import DType, parse_dtype
from dovetail.io.errors import TensorMismatchError
from dovetail.io.files.collector import collector_paused
from dovetail.io.formats.header import headers_shared
from dovetail.io.output import Layout
from dovetail.io.sources.rows import FilledElements, LeadingElements

CODES = {"F32": 0, "F16": 1, "BF16": 2, "F64": 3, "F8_E4M3": 4, "F8_E5M2": 5}
"""The kernels' dtype codes by safetensors dtype name."""


@collector_paused()
def make_plan(
    recipe: str | Path | Recipe,
    options: PlanOptions | None = None,
    locations: Sequence[Location] | None = None,
    checkpoints: Sequence[Checkpoint] | None = None,
    download: events.Listener | None = None,
) -> Plan:
    """Decide everything about a merge from the recipe and the checkpoints' headers.

    The result depends on nothing else: not on memory, workers or the machine.

    Parameters
    ----------
    recipe
        A mergekit YAML file, or what was read from one.
    options
        What else decides the output.
    locations
        Where the checkpoints are, in the order of `Recipe.references`; None to look where the recipe says.
    checkpoints
        The checkpoints themselves, in the same order, where they are open already.
    download
        Told of what is downloaded of models on a hub; None to download no weights: the headers of those that are not
        in the hub's cache are then read through the network.

    Raises
    ------
    RecipeError
        The recipe or an option is wrong.
    CheckpointError
        A checkpoint is bad, or the checkpoints do not fit together.

    """
    options = options or PlanOptions()
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    method = find(recipe.merge_method)
    references = recipe.references()
    if checkpoints is None:
        if locations is None:
            locations = [locate(ref, recipe.origin.folder, download) for ref in references]
        with headers_shared():
            checkpoints = [open_location(location) for location in locations]
    checkpoints = tuple(checkpoints)
    catalogues = {
        ref: {name: info.shape for name, info in checkpoint.tensors.items()}
        for ref, checkpoint in zip(references, checkpoints, strict=True)
    }
    vocabulary = plan_vocabulary(recipe, references, checkpoints)
    if vocabulary is not None:
        catalogues = {ref: vocabulary.reshaped(shapes) for ref, shapes in catalogues.items()}
    configs = [read_config(checkpoint) for checkpoint in checkpoints]
    tied = {ref: says_tied(config) for ref, config in zip(references, configs, strict=True)}
    expansion = expand(recipe, method, catalogues, tied, strict=options.strict)
    builder = _Builder(method, checkpoints, expansion, options, _requested_dtype(recipe, options), vocabulary)
    tensors = tuple(builder.tensor(spec) for spec in expansion.tensors)
    restacked = restack(copy.deepcopy(configs[0]), expansion.stacks, configs, 0) if configs[0] else []
    return assemble(
        recipe=recipe,
        options=options,
        method=method,
        checkpoints=checkpoints,
        base=checkpoints[references.index(recipe.base_model)] if recipe.base_model else None,
        models=tuple(str(expansion.checkpoints[index]) for index in builder.models),
        tensors=tensors,
        stacks=expansion.stacks,
        untied=references[0] in expansion.untied,
        vocabulary=vocabulary,
        warnings=(
            *(note for checkpoint in checkpoints for note in checkpoint.notes),
            *expansion.warnings,
            *restacked,
            *builder.warnings(),
            *(vocabulary.findings() if vocabulary else ()),
        ),
    )


def assemble(
    *,
    recipe: Recipe,
    options: PlanOptions,
    method: Method,
    checkpoints: tuple[Checkpoint, ...],
    base: Checkpoint | None,
    models: tuple[str, ...],
    tensors: tuple[PlannedTensor, ...],
    stacks: tuple[StackedLayers, ...] = (),
    untied: bool = False,
    vocabulary: Vocabulary | None = None,
    warnings: tuple[str, ...] = (),
    metadata: Mapping[str, str] | None = None,
) -> Plan:
    """Give every planned tensor its place in the output and in a task; see `Plan` for the parameters.

    Parameters
    ----------
    metadata
        Free-form metadata of the output; None for the usual.

    """
    tensors, layout = lay_out(tensors, options, metadata)
    jobs = make_jobs(
        [item.length for item in tensors],
        [item.element_bytes for item in tensors],
        [item.chunk_elements for item in tensors],
        [item.chunk_period for item in tensors],
    )
    return Plan(
        recipe=recipe,
        options=options,
        method=method,
        checkpoints=checkpoints,
        base=base,
        models=models,
        tensors=tensors,
        layout=layout,
        jobs=tuple(jobs),
        stacks=stacks,
        untied=untied,
        vocabulary=vocabulary,
        warnings=warnings,
        hash=_hash(recipe, options, checkpoints, tensors, layout, vocabulary),
    )


def problems(plan: Plan) -> Iterator[Problem]:
    """Give the problems of the tensors that are merged rather than copied, each once."""
    found = {id(tensor.problem): tensor.problem for tensor in plan.tensors}
    return (problem for problem in found.values() if problem is not None)


def conversions(plan: Plan) -> Iterator[Problem]:
    """Give the problem of every tensor that a merge takes as it is, in the output's dtype."""
    for tensor in plan.tensors:
        if tensor.copied and isinstance(tensor.program, Recode):
            yield conversion(tensor.name, tensor.shape, tensor.models[0].code, CODES[tensor.dtype.name])


class _Builder:
    """Turns the recipe's tensors into planned ones, collecting what a person should know."""

    def __init__(
        self,
        method: Method,
        checkpoints: Sequence[Checkpoint],
        expansion: Expansion,
        options: PlanOptions,
        dtype: DType | None,
        vocabulary: Vocabulary | None,
    ) -> None:
        self._method, self._checkpoints, self._options, self._dtype = method, checkpoints, options, dtype
        self._labels = [str(ref) for ref in expansion.checkpoints]
        self._vocabulary = vocabulary
        self._gathered: dict[SourceTensor, TensorInfo] = {}
        used = {item.checkpoint for spec in expansion.tensors for item in spec.inputs}
        self.models = sorted(used)
        self._model_index = {checkpoint: index for index, checkpoint in enumerate(self.models)}
        self._programs: dict[Any, tuple[Problem, Program]] = {}
        self._double = self._copied = 0

    def warnings(self) -> list[str]:
        """Say what the planned tensors have that a person should know."""
        found = []
        if self._double:
            found.append(f"{self._double} float64 tensors are merged in float32.")
        if self._copied:
            found.append(f"{self._copied} integer tensors are not merged but taken from the base model.")
        return found

    def tensor(self, spec: TensorSpec) -> PlannedTensor:
        """Plan one output tensor."""
        self._gathered = self._vocabulary.gather(spec, self._checkpoints) if self._vocabulary else {}
        reference = self._find(spec.reference)
        if not reference.dtype.mergeable:
            return self._copy(spec, reference)
        if spec.copied:
            return self._take(spec, reference)
        base = None if spec.base is None else self._input(spec.base, spec.reference)
        # Comprehensions are faster than generators.
        models = tuple([self._input(item, spec.reference) for item in spec.inputs])
        inputs = models if base is None else (base, *models)
        self._double += CODES["F64"] in [item.code for item in inputs]
        dtype = self._dtype or reference.output_dtype
        # Of many thousand tensors, most differ from others by their names alone. Parameters are shared between tensors.
        like = (reference.shape, dtype.name, tuple([(item.code, item.checkpoint) for item in inputs]))
        key = (*like, id(spec.parameters), id(spec.model_parameters))
        known = None if self._method.by_name else self._programs.get(key)
        if known is None:
            problem = self._problem(spec, reference, dtype, base, models)
            known = self._programs[key] = problem, self._method.program(problem)
        problem, program = known
        return self._planned(spec, reference, dtype, program, problem, base, models)

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
            name=spec.name,
            shape=reference.shape,
            length=reference.length,
            base_code=None if base is None else base.code,
            model_codes=tuple(item.code for item in models),
            out_code=CODES[dtype.name],
            parameters=spec.parameters,
            model_parameters=spec.model_parameters,
            seed=self._options.seed,
            model_names=tuple(item.checkpoint for item in models),
        )

    def _copy(self, spec: TensorSpec, reference: TensorInfo) -> PlannedTensor:
        """Plan a tensor that is taken from the base model, and compared with the others'."""
        self._copied += 1
        alike = [item for item in spec.inputs if item != spec.reference and self._find(item).shape == reference.shape]
        base, models = self._raw(spec.reference), tuple(self._raw(item) for item in alike)
        spec = replace(spec, inputs=tuple(alike))
        return self._planned(spec, reference, reference.dtype, Copy(), None, base, models)

    def _take(self, spec: TensorSpec, reference: TensorInfo) -> PlannedTensor:
        """Plan a tensor that is not merged, but has the output's dtype."""
        dtype = self._dtype or reference.output_dtype
        if dtype == reference.dtype == parse_dtype("F64"):  # all else is exact by way of float32
            return self._planned(spec, reference, dtype, Copy(), None, self._raw(spec.reference), ())
        problem = conversion(spec.name, reference.shape, CODES[reference.dtype.name], CODES[dtype.name])
        taken = self._input(spec.reference, spec.reference)
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
        return PlannedTensor(
            name=spec.name,
            shape=reference.shape,
            length=reference.length,
            dtype=dtype,
            program=program,
            problem=problem,
            base=base,
            models=models,
            order=tuple([self._model_index[item.checkpoint] for item in spec.inputs]),
            element_bytes=element_bytes,
            chunk_elements=chunk_elements(element_bytes, len(inputs)),
        )

    def _find(self, item: SourceTensor) -> TensorInfo:
        return self._gathered.get(item) or self._checkpoints[item.checkpoint].tensors[item.name]

    def _raw(self, item: SourceTensor) -> Input:
        return Input(self._find(item).source, -1, self._labels[item.checkpoint], item.name)

    def _input(self, item: SourceTensor, reference: SourceTensor) -> Input:
        info, model = self._find(item), self._find(reference)
        if not info.dtype.mergeable:
            raise TensorMismatchError(
                f"tensor {item.name!r} of checkpoint {self._labels[item.checkpoint]} has dtype {info.dtype}",
                "a floating-point dtype, as in the other checkpoints",
                "merge checkpoints of one architecture",
            )
        source = info.source
        if info.length > model.length:
            source = LeadingElements(source, model.length)
        elif info.length < model.length:
            if info.dtype != model.dtype:
                raise TensorMismatchError(
                    f"tensor {item.name!r} of checkpoint {self._labels[item.checkpoint]} has {info.shape[0]} rows of "
                    f"{info.dtype}",
                    f"{model.shape[0]} rows, or dtype {model.dtype}, so that rows of "
                    f"{self._labels[reference.checkpoint]} can stand in for those that are missing",
                    "bring the models to one dtype or one vocabulary first",
                )
            source = FilledElements(source, model.source)
        return Input(source, CODES[info.dtype.name], self._labels[item.checkpoint], item.name)


def _requested_dtype(recipe: Recipe, options: PlanOptions) -> DType | None:
    """Give the one output dtype asked for, if any."""
    return requested_dtype(options.dtype or recipe.out_dtype or recipe.dtype)


def requested_dtype(name: str | None) -> DType | None:
    """Find the dtype of a name, which must be one that numbers can be stored in.

    Raises
    ------
    DTypeNameError, RecipeError
        There is no such dtype, or it is not floating-point.

    """
    if name is None:
        return None
    dtype = parse_dtype(name)
    if not dtype.mergeable:
        raise RecipeError(f"output dtype is {name}", "a floating-point dtype, such as bfloat16")
    return dtype


def _identity(checkpoint: Checkpoint) -> list[object]:
    """List what tells a checkpoint, and its adapter if it has one, from any other."""
    identity: list[object] = [str(checkpoint.path), [asdict(file) for file in checkpoint.files]]
    if checkpoint.adapter is not None:
        identity += [str(checkpoint.adapter.folder), [asdict(file) for file in checkpoint.adapter.files]]
    if checkpoint.dequantised:  # the blocks of scales may come from config.json, which is none of the files
        forms = {name: info.stored.text for name, info in checkpoint.tensors.items() if info.stored is not None}
        identity.append(hashlib.sha256(json.dumps(forms).encode()).hexdigest())
    return identity


def _hash(
    recipe: Recipe,
    options: PlanOptions,
    checkpoints: Sequence[Checkpoint],
    tensors: Sequence[PlannedTensor],
    layout: Layout,
    vocabulary: Vocabulary | None,
) -> str:
    """Hash everything that decides the output's bytes, and what a journal's entries mean: files and chunks."""
    content = {
        "maths_version": MATHS_VERSION,
        "recipe": recipe.canonical_json(),
        "options": {key: value for key, value in asdict(options).items() if key != "strict"},
        "inputs": [_identity(item) for item in checkpoints],
        "outputs": [[shard.file_name, hashlib.sha256(shard.header).hexdigest()] for shard in layout.shards],
        "vocabulary": vocabulary.inputs() if vocabulary else None,
        "chunks": [[item.chunk_elements, item.chunk_period] for item in tensors],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
