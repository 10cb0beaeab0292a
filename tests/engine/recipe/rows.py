"""Made-up rows of a table of methods, and checkpoints that are nothing but names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from dovetail.engine.methods.method import REQUIRED, Method, Parameter
from dovetail.engine.methods.program import Problem
from dovetail.engine.recipe import Expansion, Recipe, expand, load_recipe

Shapes = Mapping[str, tuple[int, ...]]


def no_program(problem: Problem) -> NoReturn:
    """Recipes never make a program."""
    raise AssertionError(problem)


SPARSE = Method(
    name="sparse",
    summary="keeps a part of each task vector",
    paper="",
    base="origin",
    parameters=(
        Parameter("weight", "float", REQUIRED, "factor", "model"),
        Parameter("n", "int", 1, "kept in a block", "model", synonyms=("n_val", "default_n_val")),
        Parameter("m", "int", 4, "block", "model", synonyms=("m_val", "default_m_val")),
        Parameter("pruning_order", "models", None, "order"),
        Parameter("overlap", "choice", "forbid", "what to do", choices=("forbid", "minimize")),
        Parameter("balanced", "bool", True, "in blocks"),
        Parameter("lambda", "float", 1.0, "factor of the sum"),
    ),
    program=no_program,
)
AVERAGE = Method(
    name="average",
    summary="average",
    paper="",
    base="member",
    parameters=(
        Parameter("weight", "float", REQUIRED, "share", "model"),
        Parameter("normalize", "bool", True, "divide"),
    ),
    program=no_program,
)
BLEND = Method(
    name="blend",
    summary="between a base and a model",
    paper="",
    base="pair",
    parameters=(Parameter("t", "float", REQUIRED, "position"),),
    program=no_program,
    max_models=1,
)
STACK = Method(
    name="stack",
    summary="copy",
    paper="",
    base="member",
    parameters=(Parameter("scale", "float", None, "factor", "model"),),
    program=no_program,
    max_models=1,
)
TURN = Method(
    name="turn",
    summary="between two models, on task vectors if there is a base",
    paper="",
    base="optional",
    parameters=(Parameter("weight", "float", REQUIRED, "share", "model"),),
    program=no_program,
    min_models=2,
    max_models=2,
)
TABLE = {row.name: row for row in (SPARSE, AVERAGE, BLEND, STACK, TURN)}


def llama(layers: int, width: int = 8) -> dict[str, tuple[int, ...]]:
    """Tensors of a Llama-like model, in the order of its file."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32, width)}
    for i in range(layers):
        shapes[f"model.layers.{i}.self_attn.q_proj.weight"] = (width, width)
        shapes[f"model.layers.{i}.mlp.up_proj.weight"] = (2 * width, width)
        shapes[f"model.layers.{i}.input_layernorm.weight"] = (width,)
    return shapes | {"model.norm.weight": (width,), "lm_head.weight": (32, width)}


def read(text: str) -> Recipe:
    """Read a recipe for the made-up methods."""
    return load_recipe(text, TABLE)


def expand_text(
    text: str, shapes: Shapes | Mapping[str, Shapes], *, strict: bool = False, allow_partial: bool = False
) -> Expansion:
    """Expand a recipe whose checkpoints all have the same tensors, or those given by the checkpoints' names."""
    recipe = read(text)
    by_name = all(isinstance(value, Mapping) for value in shapes.values())
    catalogues = {ref: shapes[str(ref)] if by_name else shapes for ref in recipe.references()}
    method = TABLE[recipe.merge_method]
    return expand(recipe, method, catalogues, strict=strict, allow_partial=allow_partial)  # type: ignore[arg-type]


def names(expansion: Expansion) -> list[str]:
    """Names of the output's tensors in order."""
    return [spec.name for spec in expansion.tensors]
