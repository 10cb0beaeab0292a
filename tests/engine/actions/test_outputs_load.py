"""The output folder loads in transformers, describes itself, and has a complete and true manifest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from dovetail.engine.actions.merge import merge
from dovetail.engine.planning.plan import PlanOptions
from dovetail.io.output import SafetensorsFormat
from tests.checkpoints import cabs_recipe, read_output
from tests.engine.command import dovetail
from tests.engine.conftest import Family

TOKENIZER_FILES = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tiny Llama and two fine-tunes by transformers itself: sharded, in bfloat16, with a tokenizer."""
    import torch
    import transformers

    home = tmp_path_factory.mktemp("llamas")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=112, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    base = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    base.generation_config.do_sample, base.generation_config.temperature = True, 0.7
    for name in ("base", "math", "code"):
        if name != "base":
            with torch.no_grad():
                for parameter in base.parameters():
                    parameter += 0.003 * torch.randn_like(parameter)
        base.save_pretrained(home / name, max_shard_size="60KB")
    for name, content in {
        "tokenizer.json": {"version": "1.0"},
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
        "special_tokens_map.json": {"unk_token": "<unk>"},
    }.items():
        (home / "base" / name).write_text(json.dumps(content))
    # What a base model's folder often holds besides, and an output must not.
    (home / "base" / "pytorch_model.bin").write_bytes(bytes(100))
    (home / "base" / "pytorch_model.bin.index.json").write_text("{}")
    (home / "base" / "README.md").write_text("# The base model's own card")
    (home / "base" / ".gitattributes").write_text("*.safetensors filter=lfs")
    (home / "base" / "LICENSE").write_text("Do as you like.")
    assert len(list((home / "base").glob("*.safetensors"))) > 2
    return home


@pytest.mark.parametrize(("dtype", "shard_size"), [("bfloat16", "60kB"), ("float32", "5GB")])
def test_it_loads_in_transformers(llamas: Path, tmp_path: Path, dtype: str, shard_size: str) -> None:
    """Model class, dtype and weights are what was merged, logits are finite, generation settings are kept."""
    import torch
    import transformers

    recipe = cabs_recipe(tmp_path / "r.yml", llamas / "base", [llamas / "math", llamas / "code"], dtype=dtype)
    out = tmp_path / "out"
    assert 0 == dovetail("merge", recipe, out, "--shard-size", shard_size).code
    model, info = transformers.AutoModelForCausalLM.from_pretrained(out, dtype="auto", output_loading_info=True)
    assert "LlamaForCausalLM" == type(model).__name__
    assert getattr(torch, dtype) == model.dtype
    assert [] == [name for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[key]]
    merged = read_output(out)
    for name, parameter in model.state_dict().items():
        assert np.array_equal(merged[name].astype(np.float32), parameter.float().numpy()), name
    logits = model(torch.arange(20).reshape(2, 10)).logits
    assert torch.isfinite(logits).all()
    base = transformers.AutoModelForCausalLM.from_pretrained(llamas / "base", dtype=getattr(torch, dtype))
    assert not torch.equal(logits, base(torch.arange(20).reshape(2, 10)).logits)
    assert (True, 0.7) == (model.generation_config.do_sample, model.generation_config.temperature)


def test_the_small_files_of_the_base_model_come_along(llamas: Path, tmp_path: Path) -> None:
    """Tokenizer, generation settings and licence are copied; other weights, indexes, cards and hidden files are not."""
    recipe = cabs_recipe(tmp_path / "r.yml", llamas / "base", [llamas / "math", llamas / "code"])
    merge(recipe, tmp_path / "out")
    copied = TOKENIZER_FILES | {"generation_config.json", "LICENSE"}
    made = {"config.json", "README.md", "model.safetensors"}
    made |= {"dovetail_recipe.yml", "dovetail_manifest.json", "dovetail_inputs.json"}
    assert copied | made == {path.name for path in (tmp_path / "out").iterdir()}
    for name in copied:
        assert (llamas / "base" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_an_index_only_where_there_are_shards(family: Family) -> None:
    """A single file has no index; shards have one that places every tensor and gives their total size."""
    merge(family.recipe_path, family.out)
    assert not (family.out / "model.safetensors.index.json").exists()
    sharded = family.home / "sharded"
    merge(family.recipe_path, sharded, PlanOptions(SafetensorsFormat(20_000)))
    index = json.loads((sharded / "model.safetensors.index.json").read_bytes())
    sizes = {}
    for file in sorted(sharded.glob("*.safetensors")):
        raw = file.read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        assert {"format": "pt"} == header.pop("__metadata__")
        for name, entry in header.items():
            sizes[name] = entry["data_offsets"][1] - entry["data_offsets"][0]
            assert file.name == index["weight_map"][name]
    assert set(sizes) == set(index["weight_map"])
    assert sum(sizes.values()) == index["metadata"]["total_size"]
    count = len(set(index["weight_map"].values()))
    assert {f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)} == {
        path.name for path in sharded.glob("*.safetensors")
    }


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"torch_dtype": "float16"}, {"torch_dtype": "float32"}),
        ({"dtype": "float16"}, {"dtype": "float32"}),
        ({"dtype": "float16", "torch_dtype": "float16"}, {"dtype": "float32", "torch_dtype": "float32"}),
        ({}, {"torch_dtype": "float32"}),
    ],
)
def test_the_configurations_dtype(family: Family, config: dict[str, str], expected: dict[str, str]) -> None:
    """The key that the base model uses, old or new, gets the output's dtype; the rest of the file stays as it is."""
    rest = {"model_type": "llama", "num_hidden_layers": 2, "name": "Schöne Gewichte", "broken": "\ud800"}
    (family.base / "config.json").write_text(json.dumps(rest | config))
    family.recipe(dtype="float32")
    merge(family.recipe_path, family.out)
    assert rest | expected == json.loads((family.out / "config.json").read_text())


def test_a_base_model_without_configuration(family: Family) -> None:
    """If the base model has no config.json, the output has none."""
    (family.base / "config.json").unlink()
    merge(family.recipe_path, family.out)
    assert not (family.out / "config.json").exists()


def test_a_base_model_that_is_itself_an_output(family: Family) -> None:
    """Card, recipe and manifest of an earlier merge are replaced, and files of its journal are not taken over."""
    first = family.home / "first"
    merge(family.recipe_path, first)
    (first / "dovetail_journal").write_text("left behind by a crash")
    (first / "dovetail_lock").write_text("")
    cabs_recipe(family.recipe_path, first, [family.math, family.code])
    merge(family.recipe_path, family.out)
    names = {path.name for path in family.out.iterdir()}
    assert {"dovetail_journal", "dovetail_lock"}.isdisjoint(names)
    assert family.recipe_path.read_bytes() == (family.out / "dovetail_recipe.yml").read_bytes()
    assert 0 == dovetail("verify", family.out).code


def test_the_model_card(family: Family) -> None:
    """Its front matter is YAML with library and tags, and it shows models, figures and the recipe."""
    manifest = merge(family.recipe_path, family.out)
    text = (family.out / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert {"library_name": "transformers", "tags": ["dovetail", "merge"]} == yaml.safe_load(front)
    assert "by `cabs` ([paper](https://arxiv.org/abs/2503.01874))." in body
    assert "Base model: `base`." in body
    for index, name in enumerate(("math", "code")):
        assert f"| `{name}` | {manifest['totals']['density'][index]:.4f} | " in body
    assert "Overlap of `math` and `code`: 0.0000." in body
    assert f"```yaml\n{family.recipe_path.read_text()}```\n" in body


def test_the_recipe_is_copied_verbatim(family: Family) -> None:
    """The recipe is copied byte for byte, with comments, line ends and letters beyond ASCII."""
    text = "# für später\r\n" + family.recipe_path.read_text().replace("\n", "\r\n") + "\r\n\r\n"
    family.recipe_path.write_bytes(text.encode())
    merge(family.recipe_path, family.out)
    assert text.encode() == (family.out / "dovetail_recipe.yml").read_bytes()
