"""What a merge has written, described so that two programs' outputs can be compared without keeping either.

Values are kept as one number for each tensor: the sum of all elements, each times a coefficient of its own. An element
that is wrong by more than `tolerances` changes that number, wherever it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from tests.checkpoints import read_output
from tests.switching.corpus import Entry
from tests.switching.families import EMBEDDINGS, shapes_of

Tensors = Mapping[str, NDArray[Any]]

_random = np.random.default_rng(12)
COEFFICIENTS = _random.uniform(1, 2, 2048) * _random.choice([-1.0, 1.0], 2048)
"""Coefficients of the elements of a tensor, none of them near 0."""
MESSAGES = (
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
)
"""A conversation, from which chat templates make a prompt."""
_SAME = {"torch_dtype": "dtype"}
"""Keys of ``config.json`` that have a newer name."""
_OF_LIBRARY = frozenset({"transformers_version", "_name_or_path"})
"""Keys that say which program wrote the file."""


def described(entry: Entry, out: Path, base: Path) -> dict[str, Any]:
    """Describe what a merge has written: shapes, dtypes, and what differs from the base model beside the weights.

    Parameters
    ----------
    entry
        The recipe.
    out
        The folder of the output.
    base
        The folder of the model whose configuration the output's is compared with.

    Returns
    -------
    dict
        ``layers`` and ``rows``, or ``tensors`` if the tensors are not those of the family with so many layers and rows;
        ``dtypes``; ``config``, the keys of ``config.json`` that the base model has with other values;
        ``tokens`` by their numbers; ``prompt``, what the chat template makes of a conversation; ``files``, those beside
        the weights.

    """
    tensors = read_output(out)
    config, original = (_config(folder) for folder in (out, base))
    embedding = tensors[EMBEDDINGS.get(entry.family, "model.embed_tokens.weight")]
    layers, rows = config.get("num_hidden_layers", config.get("n_layer")), len(embedding)
    shapes = {name: each.shape for name, each in tensors.items()}
    made: dict[str, Any] = {"layers": layers, "rows": rows}
    if shapes != shapes_of(entry.family, layers, rows):
        made = {"tensors": {name: list(shape) for name, shape in sorted(shapes.items())}}
    dtypes = {str(each.dtype) for each in tensors.values()}
    made["dtypes"] = sorted(dtypes)
    made["config"] = {key: config.get(key) for key, value in original.items() if config.get(key) != value}
    made["tokens"] = tokens_of(out)
    made["prompt"] = prompt_of(out)
    made["files"] = sorted(path.name for path in out.iterdir() if not path.name.startswith("model"))
    return made


def _config(folder: Path) -> dict[str, Any]:
    read = json.loads((folder / "config.json").read_text())
    return {_SAME.get(key, key): value for key, value in read.items() if key not in _OF_LIBRARY}


def tokens_of(folder: Path) -> list[str]:
    """Give the tokens of an output's tokenizer, in the order of their numbers."""
    read = json.loads((folder / "tokenizer.json").read_text())
    numbers = dict(read["model"]["vocab"]) | {each["content"]: each["id"] for each in read["added_tokens"]}
    return sorted(numbers, key=lambda token: int(numbers[token]))


def prompt_of(folder: Path) -> str | None:
    """Give what an output's chat template makes of `MESSAGES`; None without a template."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    beside = folder / "chat_template.jinja"
    template = beside.read_text() if beside.exists() else settings.get("chat_template")
    return None if template is None else rendered(template)


def rendered(template: str) -> str:
    """Give what a chat template makes of `MESSAGES`."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = str
    return environment.from_string(template).render(
        messages=list(MESSAGES), add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
    )


def projections(tensors: Tensors, tokens: list[str]) -> NDArray[np.float64]:
    """Give one number for each tensor, in the order of their names.

    Rows that belong to tokens are taken in the order of the tokens' texts, because a union numbers its new tokens in
    another order each time with mergekit.

    Parameters
    ----------
    tensors
        Arrays of any shape, of at most 2,048 elements.
    tokens
        The output's tokens in the order of their numbers, from `tokens_of`.

    """
    return np.array([_projection(name, tensors[name], tokens) for name in sorted(tensors)])


def _projection(name: str, tensor: NDArray[Any], tokens: list[str]) -> float:
    if is_by_token(name):
        order = sorted(range(len(tokens)), key=lambda number: tokens[number])
        tensor = tensor[[*order, *range(len(tokens), len(tensor))]]
    flat = tensor.astype(np.float64).reshape(-1)
    return float(flat @ COEFFICIENTS[: flat.size])


def is_by_token(name: str) -> bool:
    """Whether a tensor has a row for every token."""
    return name.startswith("lm_head.") or name in ("model.embed_tokens.weight", *EMBEDDINGS.values())


def tolerances(tensors: Tensors, units: float) -> NDArray[np.float64]:
    """Give how far the `projections` of two float32 results may lie apart, tensor by tensor.

    Roundings of different elements are independent, so that their sum grows with the square root of their number.

    Parameters
    ----------
    tensors
        One of the results.
    units
        Units in the last place by which each element may differ, counted at a quarter at least: the operands of an
        element can be larger than it is.

    """
    found = []
    for name in sorted(tensors):
        magnitudes = np.maximum(np.abs(tensors[name].astype(np.float32)).reshape(-1), np.float32(0.25))
        found.append(units * float(np.linalg.norm(np.spacing(magnitudes) * COEFFICIENTS[: magnitudes.size])))
    return np.array(found)
