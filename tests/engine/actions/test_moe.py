"""Mixtures of experts: transformers loads them, and what they compute is what their models make of it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dovetail.engine import events
from dovetail.engine.actions.moe import make_moe
from dovetail.engine.actions.verify import read_manifest, verify
from dovetail.engine.errors import InterruptedMergeError, MemoryLimitError, OutputError, RecipeError
from dovetail.engine.planning import grid
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.synthetic import LlamaShape, write_side_files
from dovetail.io.errors import TensorMismatchError
from tests.adapters import lora_tensors, write_adapter
from tests.checkpoints import folder_bytes, read_output, write_checkpoint
from tests.engine.command import dovetail

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 64, "tie_word_embeddings": False,
}  # fmt: skip
IDS = torch.arange(12)[None]

YARN = {"rope_type": "yarn", "rope_theta": 20000.0, "factor": 4.0, "original_max_position_embeddings": 16}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Let the other library warn of what it likes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def dense(folder: Path, kind: str, seed: int = 0, **changes: Any) -> Path:
    """Write a tiny dense model, and a tokenizer of words w0, w1 and so on."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **changes})
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    write_side_files_of(folder)
    model.save_pretrained(folder)
    return folder


def write_side_files_of(folder: Path) -> None:
    """Write the tokenizer of a made-up model."""
    folder.mkdir(parents=True)
    write_side_files(folder, LlamaShape(32, 48, 2, 4, 2, 64), "float32", [{}])


def recipe(folder: Path, base: Path, experts: list[Path], /, **changes: Any) -> Path:
    """Write a recipe; expert number i is for the words w(i) and w(i + 10)."""
    content = {
        "base_model": str(base),
        "gate_mode": "random",
        "experts": [
            {"source_model": str(each), "positive_prompts": [f"w{index}", f"w{index + 10} w3"]}
            for index, each in enumerate(experts)
        ],
        **changes,
    }
    path = folder / "moe.yml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def logits(folder: Path) -> Any:
    """Run a stored model; nothing may be missing from it, or left over."""
    model, found = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("Llama", {}, "MixtralForCausalLM"),
        ("Llama", {"tie_word_embeddings": True}, "MixtralForCausalLM"),
        ("Mistral", {"sliding_window": None, "head_dim": 16}, "MixtralForCausalLM"),
        ("Mistral", {"sliding_window": 4}, "MixtralForCausalLM"),
        ("Llama", {"rope_parameters": YARN}, "MixtralForCausalLM"),
        ("Llama", {"hidden_act": "gelu"}, "MixtralForCausalLM"),
        ("Qwen3", {"head_dim": 16}, "Qwen3MoeForCausalLM"),
        ("Qwen3", {"attention_bias": True, "tie_word_embeddings": True}, "Qwen3MoeForCausalLM"),
        ("Qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}, "Qwen3MoeForCausalLM"),
        ("Qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}, "Qwen3MoeForCausalLM"),
    ],
)
def test_identical_experts_compute_what_the_dense_model_does(
    tmp_path: Path, kind: str, changes: dict[str, Any], expected: str
) -> None:
    """However tokens are sent, the weights of the chosen experts sum up to one."""
    base = dense(tmp_path / "base", kind, **changes)
    out = tmp_path / "out"
    make_moe(recipe(tmp_path, base, [base] * 4), out)
    assert [expected] == json.loads((out / "config.json").read_text())["architectures"]
    torch.testing.assert_close(logits(out), logits(base), rtol=1e-4, atol=1e-5)
    assert not verify(out).damage


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Qwen2", {}),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
        ("Llama", {"rope_parameters": YARN, "tie_word_embeddings": True}),
        ("Mistral", {"sliding_window": 4, "head_dim": 16}),
    ],
)
def test_a_shared_expert_of_no_weight(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    """Where what the shared expert adds is scaled by zero, identical experts compute what the dense model does."""
    base = dense(tmp_path / "base", kind, **changes)
    shared = [{"source_model": str(base), "residual_scale": 0.0}]
    make_moe(recipe(tmp_path, base, [base] * 2, shared_experts=shared), tmp_path / "out")
    assert ["Qwen2MoeForCausalLM"] == json.loads((tmp_path / "out/config.json").read_text())["architectures"]
    torch.testing.assert_close(logits(tmp_path / "out"), logits(base), rtol=1e-4, atol=1e-5)


def test_what_a_mixture_cannot_have_is_refused(tmp_path: Path) -> None:
    """Windows in some layers of a Qwen3, biases without a place and two activations are errors that name them."""
    some = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    base = dense(tmp_path / "windows", "Qwen3", **some)
    with pytest.raises(RecipeError, match="a sliding window of 4 tokens in 1 of 2 layers; expected one in all layers"):
        make_moe(recipe(tmp_path, base, [base] * 2), tmp_path / "out")
    base = dense(tmp_path / "biases", "Llama", attention_bias=True)
    shared = [{"source_model": str(base)}]
    for more in ({}, {"shared_experts": shared}):
        with pytest.raises(
            TensorMismatchError, match=r"proj\.bias'; expected none that (Mixtral|Qwen MoE) has no place"
        ):
            make_moe(recipe(tmp_path, base, [base] * 2, **more), tmp_path / "out")
    base, other = dense(tmp_path / "silu", "Llama"), dense(tmp_path / "gelu", "Llama", hidden_act="gelu")
    with pytest.raises(RecipeError, match=r"gelu has hidden_act 'gelu'; expected 'silu' as in .*silu"):
        make_moe(recipe(tmp_path, base, [base, other]), tmp_path / "out")


def test_code_of_the_models_own_is_warned_of(tmp_path: Path) -> None:
    """A base model that names code of its own may compute otherwise, which no mixture can; that is said."""
    base = dense(tmp_path / "base", "Llama")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "own.Model"}}))
    said: list[events.Event] = []
    make_moe(recipe(tmp_path, base, [base] * 2), tmp_path / "out", listen=said.append)
    (text,) = [each.text for each in said if isinstance(each, events.Notice) and "auto_map" in each.text]
    assert text.startswith(f"{base} names code of its own (auto_map), which the mixture cannot run")


def test_every_tensor_is_where_it_belongs(tmp_path: Path) -> None:
    """Experts come from their models, scaled where asked, all else from the base model, byte for byte."""
    base, one, other = (dense(tmp_path / name, "Llama", seed) for seed, name in enumerate(("base", "one", "other")))
    path = recipe(tmp_path, base, [one, other])
    content = yaml.safe_load(path.read_text())
    content["experts"][1]["residual_scale"] = 0.5
    path.write_text(yaml.safe_dump(content))
    make_moe(path, tmp_path / "out")
    found, sources = read_output(tmp_path / "out"), [read_output(each) for each in (one, other)]
    for name, value in read_output(base).items():
        layer, mlp, part = name.partition(".mlp.")
        if not mlp:
            np.testing.assert_array_equal(value, found.pop(name))
            continue
        word = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}[part.removesuffix(".weight")]
        for index, source in enumerate(sources):
            scale = np.float32(0.5 if (index, word) == (1, "w2") else 1)
            expected = source[name] * scale
            np.testing.assert_array_equal(
                expected, found.pop(f"{layer}.block_sparse_moe.experts.{index}.{word}.weight")
            )
    assert {f"model.layers.{layer}.block_sparse_moe.gate.weight" for layer in (0, 1)} == set(found)
    assert torch.isfinite(logits(tmp_path / "out")).all()


@pytest.mark.parametrize(("mode", "spread"), [("random", 1.0), ("uniform_random", 32**-0.5 / 3**0.5)])
def test_random_gates(tmp_path: Path, mode: str, spread: float) -> None:
    """Gates have the spread of their distribution, are the same for one seed, and others for another."""
    base = dense(tmp_path / "base", "Llama")
    path = recipe(tmp_path, base, [base] * 16, gate_mode=mode)
    gates = []
    for number, seed in enumerate((0, 0, 1)):
        make_moe(path, tmp_path / str(number), PlanOptions(seed=seed))
        read = read_output(tmp_path / str(number))
        gates.append(np.stack([read[f"model.layers.{each}.block_sparse_moe.gate.weight"] for each in (0, 1)]))
    assert np.array_equal(gates[0], gates[1])
    assert not np.allclose(gates[0], gates[2])
    assert not np.allclose(gates[0][0], gates[0][1])
    assert gates[0].std() == pytest.approx(spread, rel=0.1)
    assert folder_bytes(tmp_path / "0") == folder_bytes(tmp_path / "1")


def test_gates_from_embeddings(tmp_path: Path) -> None:
    """A row is the direction of the sum of its prompts' embeddings, less that of the negative prompts."""
    base = dense(tmp_path / "base", "Llama")
    path = recipe(tmp_path, base, [base] * 2, gate_mode="cheap_embed")
    content = yaml.safe_load(path.read_text())
    content["experts"][1]["negative_prompts"] = ["w5"]
    path.write_text(yaml.safe_dump(content))
    make_moe(path, tmp_path / "out")
    rows = read_output(base)["model.embed_tokens.weight"].astype(np.float64)
    words = rows[3:]  # after <unk>, <s> and </s>; every prompt begins with <s>
    sums = [words[0] + words[10] + words[3] + 2 * rows[1], words[1] + words[11] + words[3] + 2 * rows[1]]
    negative = words[5] + rows[1]
    units = [each / np.linalg.norm(each) for each in (*sums, negative)]
    last = units[1] - units[2]
    found = read_output(tmp_path / "out")
    for layer in (0, 1):
        gate = found[f"model.layers.{layer}.block_sparse_moe.gate.weight"]
        np.testing.assert_allclose(gate, [units[0], last / np.linalg.norm(last)], atol=1e-6)


@pytest.mark.parametrize("mode", ["hidden", "hidden_avg"])
def test_gates_from_hidden_states(tmp_path: Path, mode: str) -> None:
    """A row is the direction of what enters the layer: at the last token of each prompt, or on the average."""
    base = dense(tmp_path / "base", "Llama")
    make_moe(recipe(tmp_path, base, [base] * 2, gate_mode=mode), tmp_path / "out", run=RunOptions(2**34))
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).eval()
    expected = np.zeros((2, 2, 32))
    for expert, prompts in enumerate(([[1, 3], [1, 13, 6]], [[1, 4], [1, 14, 6]])):
        for tokens in prompts:
            with torch.no_grad():
                states = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
            for layer in (0, 1):
                state = states[layer][0].double().numpy()
                expected[layer, expert] += state[-1] if mode == "hidden" else state.mean(axis=0)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    found = read_output(tmp_path / "out")
    for layer in (0, 1):
        np.testing.assert_allclose(
            found[f"model.layers.{layer}.block_sparse_moe.gate.weight"], expected[layer], atol=1e-5
        )


def test_a_model_that_does_not_fit_is_not_run(tmp_path: Path) -> None:
    """Hidden states need the whole base model in memory; where it has no room, another mode is advised."""
    base = dense(tmp_path / "base", "Llama")
    with pytest.raises(MemoryLimitError, match="cheap_embed"):
        make_moe(recipe(tmp_path, base, [base] * 2, gate_mode="hidden"), tmp_path / "out", run=RunOptions(2**20))
    assert ["base", "moe.yml"] == sorted(path.name for path in tmp_path.iterdir())


def test_hidden_states_of_an_adapter_are_refused(tmp_path: Path) -> None:
    """transformers would run the base model without its adapter, and nobody would know."""
    base = dense(tmp_path / "base", "Llama")
    tensors = lora_tensors(0, read_output(base), ["model.layers.0.self_attn.q_proj"])
    adapter = write_adapter(tmp_path / "adapter", tensors)
    path = recipe(tmp_path, base, [base] * 2, gate_mode="hidden", base_model=f"{base}+{adapter}")
    with pytest.raises(RecipeError, match="cannot run"):
        make_moe(path, tmp_path / "out", run=RunOptions(2**34))


def test_interrupted_work_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Routers are kept, chunks that are done are not done again, and the bytes are the same."""
    base = dense(tmp_path / "base", "Llama")
    path = recipe(tmp_path, base, [base] * 2)
    make_moe(path, tmp_path / "expected")
    monkeypatch.setattr(grid, "CHUNK_STEP", 64)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)
    make_moe(path, tmp_path / "chunked")
    seen = []

    def stop(event: events.Event) -> None:
        seen.append(event)
        if isinstance(event, events.Committed):
            raise KeyboardInterrupt

    with pytest.raises(InterruptedMergeError):
        make_moe(path, tmp_path / "out", listen=stop)
    said: list[str] = []
    make_moe(path, tmp_path / "out", listen=lambda event: said.append(getattr(event, "text", "")))
    assert any("Continuing an unfinished merge" in text for text in said)
    assert folder_bytes(tmp_path / "chunked") == folder_bytes(tmp_path / "out")
    assert read_output(tmp_path / "expected").keys() == read_output(tmp_path / "out").keys()


def test_what_a_person_should_know(tmp_path: Path) -> None:
    """Routers that hardly tell experts apart, equal experts, and numbers that are no power of two are warned of."""
    base = dense(tmp_path / "base", "Llama")
    common = " ".join(f"w{number}" for number in range(20, 40))
    prompts = (f"{common} w1", f"{common} w2", f"{common} w4")
    experts = [{"source_model": str(base), "positive_prompts": [text]} for text in prompts]
    path = recipe(tmp_path, base, [base] * 3, gate_mode="cheap_embed", experts=experts)
    said: list[str] = []
    make_moe(path, tmp_path / "out", listen=lambda event: said.append(getattr(event, "text", "")))
    for expected in ("hardly tell the experts apart", "All experts are the same model", "no power of two"):
        assert 1 == sum(expected in text for text in said)


def test_dtype(tmp_path: Path) -> None:
    """The recipe's dtype is that of every tensor and of the configuration."""
    base = dense(tmp_path / "base", "Llama")
    make_moe(recipe(tmp_path, base, [base] * 2, dtype="bfloat16"), tmp_path / "out")
    assert {"bfloat16"} == {str(each.dtype) for each in read_output(tmp_path / "out").values()}
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert "bfloat16" == (config.get("dtype") or config["torch_dtype"])


def test_the_same_again(tmp_path: Path) -> None:
    """A complete mixture is left alone; another one is refused in its place."""
    base = dense(tmp_path / "base", "Llama")
    path = recipe(tmp_path, base, [base] * 2)
    make_moe(path, tmp_path / "out")
    before = folder_bytes(tmp_path / "out")
    assert "nothing to do" in dovetail("moe", path, tmp_path / "out").err
    assert before == folder_bytes(tmp_path / "out")
    with pytest.raises(OutputError, match="not empty"):
        make_moe(path, tmp_path / "out", PlanOptions(seed=1))
    manifest = read_manifest(tmp_path / "out")
    assert "Mixtral" == manifest["moe"]["architecture"]
    assert 1 == len(manifest["inputs"])


def test_strict_refuses_keys_without_effect(tmp_path: Path) -> None:
    """All of them are one error, from the command line and from Python, before any model is looked for."""
    text = "base_model: a\ngate_mode: random\nname: x\nexperts: [{source_model: a, weight: 1}, {source_model: b}]\n"
    (tmp_path / "moe.yml").write_text(text)
    said = "line 3: name is unknown, line 4: experts[0].weight is unknown; expected only keys that have an effect"
    outcome = dovetail("moe", tmp_path / "moe.yml", tmp_path / "out", "--strict")
    assert (2, 1) == (outcome.code, outcome.err.count(said))
    with pytest.raises(RecipeError) as caught:
        make_moe(text, tmp_path / "out", PlanOptions(strict=True))
    assert said in str(caught.value)


def test_flags_of_mergekit_moe(tmp_path: Path) -> None:
    """Its flags are read, and files that are not wanted are left out; with them, it is another output."""
    base = dense(tmp_path / "base", "Llama")
    path, out = recipe(tmp_path, base, [base, base]), tmp_path / "out"
    flags = ("--cuda", "--i-understand-this-is-not-useful-without-training", "--clone-tensors", "--quiet")
    bare = ("--no-copy-tokenizer", "--no-write-model-card", "--random-seed", "5")
    assert 0 == dovetail("moe", path, out, *flags, *bare).code
    found = {each.name for each in out.iterdir()}
    assert {"config.json", "dovetail_recipe.yml"} <= found
    assert set() == found & {"README.md", "tokenizer.json", "tokenizer_config.json"}
    assert 5 == json.loads((out / "dovetail_manifest.json").read_bytes())["options"]["seed"]
    assert 0 == dovetail("moe", path, out, *flags, *bare).code
    assert 5 == dovetail("moe", path, out, *flags, "--random-seed", "5").code


def test_models_that_cannot_be_mixed(tmp_path: Path) -> None:
    """Models of several types or sizes, and biases that would be lost, are errors."""
    base, other = dense(tmp_path / "base", "Llama"), dense(tmp_path / "qwen", "Qwen3", head_dim=8)
    with pytest.raises(RecipeError, match="llama and qwen3 models"):
        make_moe(recipe(tmp_path, base, [other] * 2), tmp_path / "out")
    small = dense(tmp_path / "small", "Llama", intermediate_size=40)
    with pytest.raises(TensorMismatchError, match="models of one size"):
        make_moe(recipe(tmp_path, base, [base, small]), tmp_path / "out")
    deep = dense(tmp_path / "deep", "Llama", num_hidden_layers=4)
    with pytest.raises(TensorMismatchError, match=r"has tensor 'model.layers.2.mlp"):
        make_moe(recipe(tmp_path, base, [base, deep]), tmp_path / "out")
    biased = dense(tmp_path / "biased", "Llama", attention_bias=True)
    with pytest.raises(TensorMismatchError, match="no place for"):
        make_moe(recipe(tmp_path, biased, [biased] * 2), tmp_path / "out")
    with pytest.raises(RecipeError, match="Qwen MoE of"):
        make_moe(recipe(tmp_path, base, [base] * 2, architecture="deepseek"), tmp_path / "out")
    bare = write_checkpoint(tmp_path / "bare", {"w": np.zeros(3, np.float32)})
    with pytest.raises(TensorMismatchError, match=r"model.layers.N.mlp"):
        make_moe(recipe(tmp_path, bare, [bare] * 2), tmp_path / "out")
