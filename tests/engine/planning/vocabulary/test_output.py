"""What a merge with a vocabulary writes: it loads in transformers and tokenises as asked."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from dovetail.engine import merge, plan
from dovetail.engine.actions.recompute import recompute
from dovetail.engine.actions.verify import verify
from dovetail.engine.errors import InterruptedMergeError, OutputError, RecipeError, VerificationError
from dovetail.engine.planning import grid
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.errors import CheckpointError
from tests.checkpoints import folder_bytes, write_recipe
from tests.engine.interrupt import Interrupter, commit_often
from tests.engine.planning.vocabulary.samples import copy_models, recipe, write_model

TENSORS = ("model.embed_tokens.weight", "lm_head.weight")


def transformers() -> Any:
    """Import transformers, which warns of things that are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers as found
    return found


@pytest.mark.parametrize("source", ["union", "base", "math"])
def test_the_result_loads_in_transformers(tmp_path: Path, source: str) -> None:
    """The model computes; its tokenizer reads ordinary text as the donor does, and special tokens as one token each."""
    models = copy_models(tmp_path, ml_dtypes.bfloat16)
    named = str(models["math"]) if source == "math" else source
    write_recipe(tmp_path / "recipe.yml", **recipe(list(models.values()), tokenizer_source=named))
    merge(tmp_path / "recipe.yml", tmp_path / "out")
    tokenizer = transformers().AutoTokenizer.from_pretrained(tmp_path / "out")
    model = transformers().LlamaForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).get_vocab() == tokenizer.get_vocab()
    assert len(tokenizer) == model.config.vocab_size == model.get_input_embeddings().num_embeddings
    donor = Tokenizer.from_file(str(models["math" if source == "math" else "base"] / "tokenizer.json"))
    text = "the cat sat on the mat" if source != "math" else "the sum of the squares"
    if source != "union":  # where other models' tokens are found before the base model's merges, as with mergekit
        assert donor.encode(text).ids == tokenizer(text)["input_ids"]
    assert text == tokenizer.decode(tokenizer(text)["input_ids"])
    if source != "base":
        assert 1 == len(tokenizer("<|im_start|>")["input_ids"])
    if source == "union":
        assert 1 == len(tokenizer("<tool>")["input_ids"])
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer(text)["input_ids"]])).logits
    assert model.config.vocab_size == logits.shape[-1]
    assert torch.bfloat16 == logits.dtype


def test_a_models_vocabulary_brings_its_token_numbers(tmp_path: Path) -> None:
    """End of text and the like are numbered as in the model that the vocabulary comes from."""
    models = copy_models(tmp_path)
    generation = {"eos_token_id": [1, 2], "pad_token_id": 2, "temperature": 0.5, "transformers_version": "5"}
    (models["base"] / "generation_config.json").write_text(json.dumps(generation))
    shutil.copy(models["math"] / "tokenizer_config.json", models["math"] / "special_tokens_map.json")
    (models["base"] / "merges.txt").write_text("a b")
    write_recipe(tmp_path / "recipe.yml", **recipe(list(models.values()), tokenizer_source=str(models["math"])))
    merge(tmp_path / "recipe.yml", tmp_path / "out")
    numbers = Tokenizer.from_file(str(models["math"] / "tokenizer.json")).get_vocab()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (numbers["<s>"], numbers["<|im_end|>"]) == (config["bos_token_id"], config["eos_token_id"])
    assert len(numbers) == config["vocab_size"]
    made = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation | {"eos_token_id": numbers["<|im_end|>"], "pad_token_id": numbers["<unk>"]} == made
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (models["math"] / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert not (tmp_path / "out" / "merges.txt").exists()


def test_tokens_without_embeddings_leave_the_settings_too(tmp_path: Path) -> None:
    """A pad token beyond the embeddings is removed from tokenizer, settings and configurations, with a warning."""
    models = copy_models(tmp_path)
    number = Tokenizer.from_file(str(models["base"] / "tokenizer.json")).token_to_id("<pad>")
    config = json.loads((models["base"] / "config.json").read_text())
    (models["base"] / "config.json").write_text(json.dumps(config | {"pad_token_id": number}))
    listed = {str(number): {"content": "<pad>", "special": True}, "0": {"content": "<s>", "special": True}}
    settings = json.loads((models["base"] / "tokenizer_config.json").read_text())
    settings |= {"added_tokens_decoder": listed, "additional_special_tokens": ["<pad>", "<s>"]}
    (models["base"] / "tokenizer_config.json").write_text(json.dumps(settings))
    write_recipe(tmp_path / "recipe.yml", **recipe(list(models.values()), tokenizer_source="base"))
    made = plan(tmp_path / "recipe.yml")
    assert any("1 token of" in text and "removed: '<pad>'" in text for text in made.warnings)
    assert any("become empty: pad_token_id" in text for text in made.warnings)
    merge(tmp_path / "recipe.yml", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert "pad_token" not in written
    assert ["<s>"] == written["additional_special_tokens"]
    assert {"<s>", "</s>", "<unk>"} == {entry["content"] for entry in written["added_tokens_decoder"].values()}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pad_token_id"] is None
    assert number == len(transformers().AutoTokenizer.from_pretrained(tmp_path / "out"))


def test_alike_models_are_left_alone(tmp_path: Path) -> None:
    """Where all models have the vocabulary already, nothing is gathered and tokenizer files are copied as they are."""
    folders = [write_model(tmp_path / name, ["?", "a", "b"], seed) for seed, name in enumerate(("one", "two"))]
    write_recipe(tmp_path / "recipe.yml", **recipe(folders, tokenizer_source="union"))
    made = plan(tmp_path / "recipe.yml")
    assert () == made.warnings
    assert not any(item.source.copies for tensor in made.tensors for item in tensor.inputs)
    merge(tmp_path / "recipe.yml", tmp_path / "out")
    assert (folders[0] / "tokenizer.json").read_bytes() == (tmp_path / "out" / "tokenizer.json").read_bytes()


def test_tied_embeddings_and_the_output_dtype(tmp_path: Path) -> None:
    """Without an output layer there is but one tensor; averaged rows do not change the output's dtype."""
    random = np.random.default_rng(0)
    folders = []
    for name, words in (("one", "?ab"), ("two", "?bac"), ("three", "?ca")):
        tied = {"model.embed_tokens.weight": random.standard_normal((len(words), 4)).astype(ml_dtypes.bfloat16)}
        folders.append(write_model(tmp_path / name, list(words), tensors=tied))
    write_recipe(tmp_path / "recipe.yml", **recipe(folders, tokenizer_source="union"))
    merge(tmp_path / "recipe.yml", tmp_path / "out")
    made = load_file(tmp_path / "out" / "model.safetensors")
    assert [TENSORS[0]] == list(made)
    assert ml_dtypes.bfloat16 == made[TENSORS[0]].dtype
    two, three = (load_file(item / "model.safetensors")[TENSORS[0]].astype(np.float32) for item in folders[1:])
    average = (two[3] + three[1]) / np.float32(2)
    expected = (average + two[3] + three[1]) / np.float32(3)
    np.testing.assert_allclose(expected, made[TENSORS[0]][3].astype(np.float32), rtol=2**-8)
    assert (4, 4) == made[TENSORS[0]].shape


def test_slices_merge_what_their_own_models_have(tmp_path: Path) -> None:
    """A stack takes embeddings from its first slice alone, and rows from its models alone, as with mergekit."""
    models = copy_models(tmp_path)
    slices = [{"sources": [{"model": str(models[name]), "layer_range": [0, 1]}]} for name in ("base", "math")]
    content = {"merge_method": "passthrough", "slices": slices, "tokenizer_source": "union"}
    if "passthrough" not in _methods():
        content["merge_method"], content["parameters"] = "linear", {"weight": 1}
    write_recipe(tmp_path / "recipe.yml", **content)
    made = plan(tmp_path / "recipe.yml")
    assert any("with an embedding in no model have rows of zeros" in text for text in made.warnings)
    merge(tmp_path / "recipe.yml", tmp_path / "out")
    vocab = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    number = vocab.token_to_id("<|im_start|>")
    assert not tensors[TENSORS[0]][number].any()
    math = load_file(models["math"] / "model.safetensors")[TENSORS[1]]
    at = Tokenizer.from_file(str(models["math"] / "tokenizer.json")).token_to_id("<|im_start|>")
    np.testing.assert_array_equal(math[at], tensors[TENSORS[1]][number])


def _methods() -> set[str]:
    from dovetail.engine.methods.registry import METHODS

    return set(METHODS)


def test_older_files_are_converted(tmp_path: Path) -> None:
    """A model with merges.txt and vocab.json alone gets a tokenizer.json, and the old files go."""
    letters = [*map(chr, range(33, 127)), "Ġ"]
    words = {word: number for number, word in enumerate([*letters, "th", "the", "<|endoftext|>"])}
    folder = write_model(tmp_path / "old", list(words), config={"model_type": "gpt2"})
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    other = write_model(tmp_path / "other", ["?", "the", "new"])
    write_recipe(tmp_path / "recipe.yml", **recipe([folder, other], tokenizer_source="union"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merge(tmp_path / "recipe.yml", tmp_path / "out")
    made = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert [words["the"], len(words)] == made.encode("thenew").ids
    assert not (tmp_path / "out" / "merges.txt").exists()


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    """It is assumed to have the base model's, with a warning; the base model must have one."""
    folders = [write_model(tmp_path / name, ["?", "a", "b"], seed) for seed, name in enumerate(("one", "two"))]
    (folders[1] / "tokenizer.json").unlink()
    write_recipe(tmp_path / "recipe.yml", **recipe(folders, tokenizer_source="union"))
    assert f"{folders[1]} has no tokenizer; the base model's is assumed." in plan(tmp_path / "recipe.yml").warnings
    (folders[0] / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"one has no tokenizer; expected tokenizer\.json beside the weights"):
        plan(tmp_path / "recipe.yml")


def test_the_library_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says what to install."""
    folders = [write_model(tmp_path / "one", ["?", "a", "b"])]
    write_recipe(tmp_path / "recipe.yml", **recipe(folders, tokenizer_source="union"))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(RecipeError, match=r"'tokenizers' is missing; .*; pip install 'dovetail\[vocab\]'"):
        plan(tmp_path / "recipe.yml")


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ({"source": {"kind": "model_token", "model": "MODEL", "token": "zzz"}}, "'zzz' of .*, which lacks it"),
        ({"source": {"kind": "model_token", "model": "MODEL", "token_id": 3}}, "which has only 3 rows"),
        ({"source": {"kind": "model_token", "model": "MODEL", "token_id": -1}}, "token number -1"),
        ({"source": "MODEL"}, "token 'new' of .*, which lacks it"),
    ],
    ids=str,
)
def test_rows_that_are_not_there(tmp_path: Path, token: dict[str, Any], text: str) -> None:
    """A recipe that takes a row which no model has is refused."""
    folder = write_model(tmp_path / "one", ["?", "a", "b"])
    token = json.loads(json.dumps(token).replace("MODEL", str(folder)))
    write_recipe(tmp_path / "recipe.yml", **recipe([folder], tokenizer={"source": "base", "tokens": {"new": token}}))
    with pytest.raises(RecipeError, match=text):
        plan(tmp_path / "recipe.yml")


def test_a_token_from_a_model_that_is_not_merged(tmp_path: Path) -> None:
    """Single rows, and the whole vocabulary, may come from a model that takes no other part."""
    one = write_model(tmp_path / "one", ["?", "a", "b"], 1)
    two = write_model(tmp_path / "two", ["?", "b", "new"], 2)
    tokens = {"new": {"source": str(two)}}
    write_recipe(tmp_path / "recipe.yml", **recipe([one], tokenizer={"source": str(two), "tokens": tokens}))
    merge(tmp_path / "recipe.yml", tmp_path / "out")
    made, first, second = (
        load_file(folder / "model.safetensors")[TENSORS[0]] for folder in (tmp_path / "out", one, two)
    )
    np.testing.assert_array_equal(np.stack([first[0], first[2], second[2]]), made)


def test_resuming_and_recomputing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted merge goes on to the same bytes; other tokenizer files are noticed then, and by verify."""
    commit_often(monkeypatch)
    monkeypatch.setattr(grid, "CHUNK_STEP", 500)
    models = copy_models(tmp_path)
    settings = {"source": "union", "pad_to_multiple_of": 64}
    path = write_recipe(tmp_path / "recipe.yml", **recipe(list(models.values()), tokenizer=settings))
    merge(path, tmp_path / "whole")
    with pytest.raises(InterruptedMergeError):
        merge(path, tmp_path / "out", PlanOptions(), RunOptions(workers=1), Interrupter(3))
    file = models["code"] / "tokenizer.json"
    before = file.read_text()
    file.write_text(before + " ")
    with pytest.raises(OutputError, match=r"the input .*code/tokenizer.json has changed since"):
        merge(path, tmp_path / "out")
    file.write_text(before)
    config = json.loads((models["math"] / "config.json").read_text())
    (models["math"] / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] - 6}))
    with pytest.raises(OutputError, match=r"the input .*math/config.json has changed since"):
        merge(path, tmp_path / "out")
    (models["math"] / "config.json").write_text(json.dumps(config))
    merge(path, tmp_path / "out")
    assert folder_bytes(tmp_path / "whole") == folder_bytes(tmp_path / "out")
    assert () == verify(tmp_path / "out").damage
    assert recompute(tmp_path / "out", 1.0) > 0
    file.write_text(before + " ")
    with pytest.raises(VerificationError, match="tokenizer files have changed since the merge"):
        recompute(tmp_path / "out", 1.0)
