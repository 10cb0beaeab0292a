"""What mergekit makes of small tokenizers, row by row: see ``tests/golden/make_vocab.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from dovetail.engine import merge

GOLDEN = Path(__file__).parents[3] / "golden" / "vocab"
CASES = sorted(path.stem for path in GOLDEN.glob("*.json"))
TENSORS = ("model.embed_tokens.weight", "lm_head.weight")
NOWHERE = {"<pad>"}
"""The base model's pad token, which has no embedding in any model. mergekit removes it from the vocabulary, but not
from the tokenizer's settings, so that loading brings it back: in a union with a row of zeros, else without any row."""


def with_places(value: Any) -> Any:
    """Put the golden models' folders in the place of their names."""
    if isinstance(value, dict):
        named = {"source", "base_model", "model", "tokenizer_source"}
        return {
            key: str(GOLDEN / "models" / item)
            if key in named and item in MODELS and (key, item) not in SOURCES
            else with_places(item)
            for key, item in value.items()
        }
    return [with_places(item) for item in value] if isinstance(value, list) else value


MODELS = ("base", "math", "code", "verse")
SOURCES = {("source", "base"), ("tokenizer_source", "base")}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of all outputs."""
    return tmp_path_factory.mktemp("golden")


def merged(case: str, home: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]], Path]:
    """Merge as a golden recipe says, once."""
    said = json.loads((GOLDEN / f"{case}.json").read_text())
    recipe = with_places(said["recipe"])
    for token in recipe.get("tokenizer", {}).get("tokens", {}).values():
        if token.get("source") == "base":
            token["source"] = str(GOLDEN / "models" / "base")
    out = home / case
    if not out.exists():
        (home / f"{case}.yml").write_text(yaml.safe_dump(recipe))
        merge(home / f"{case}.yml", out)
    return said, load_file(out / "model.safetensors"), out


@pytest.mark.parametrize("case", CASES)
def test_every_row_is_mergekits(case: str, home: Path) -> None:
    """The same tokens, each with the same row in embeddings and output layer; the same padding; the same size."""
    said, tensors, out = merged(case, home)
    golden = load_file(GOLDEN / f"{case}.safetensors")
    numbers = Tokenizer.from_file(str(out / "tokenizer.json")).get_vocab()
    expected = [token for token in said["tokens"] if token not in NOWHERE]
    assert expected == sorted(numbers)
    for name in TENSORS:
        for position, token in enumerate(said["tokens"]):
            if token not in NOWHERE:
                want, have = golden[name][position], tensors[name][numbers[token]]
                np.testing.assert_allclose(want, have, rtol=2e-6, atol=1e-6, err_msg=f"{name}: {token!r}")
    size = json.loads((out / "config.json").read_text())["vocab_size"]
    assert size == len(tensors[TENSORS[0]]) == len(tensors[TENSORS[1]])
    if not NOWHERE & set(said["tokens"]):
        assert said["vocab_size"] == size
        for name in TENSORS:
            padding = tensors[name][len(numbers) :]
            np.testing.assert_allclose(golden[f"{name}.padding"], padding, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_the_donors(case: str, home: Path) -> None:
    """Tokens of the model that the vocabulary comes from keep their numbers, as with mergekit."""
    said, _, out = merged(case, home)
    numbers = Tokenizer.from_file(str(out / "tokenizer.json")).get_vocab()
    recipe = said["recipe"]
    donor = recipe.get("tokenizer_source", recipe.get("tokenizer", {}).get("source"))
    if donor in ("union", "base"):
        donor = recipe.get("base_model", recipe["models"][0]["model"])
    for token in Tokenizer.from_file(str(GOLDEN / "models" / donor / "tokenizer.json")).get_vocab():
        if token not in NOWHERE:
            assert said["numbers"][said["tokens"].index(token)] == numbers[token]


@pytest.mark.parametrize("case", CASES)
def test_text_becomes_the_same_tokens(case: str, home: Path) -> None:
    """Ordinary text and added tokens are read as by mergekit's tokenizer."""
    said, _, out = merged(case, home)
    made = Tokenizer.from_file(str(out / "tokenizer.json"))
    assert said["encoded"] == {text: made.encode(text).tokens for text in said["encoded"]}


@pytest.mark.parametrize("case", CASES)
def test_added_tokens_keep_their_settings(case: str, home: Path) -> None:
    """The same tokens are added tokens, and the same ones special."""
    said, _, out = merged(case, home)
    made = Tokenizer.from_file(str(out / "tokenizer.json")).get_added_tokens_decoder().values()
    expected = {token: special for token, special in said["added"].items() if token not in NOWHERE}
    assert expected == {token.content: token.special for token in made}
