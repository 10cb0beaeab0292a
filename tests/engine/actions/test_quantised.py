"""Merging and converting quantised models: as their weights are, never as their codes are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.engine import events
from dovetail.engine.actions.convert import convert
from dovetail.engine.actions.merge import merge
from dovetail.engine.planning import grid
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.plan import PlanOptions
from tests.adapters import write_adapter
from tests.checkpoints import BF16, cabs_recipe, llama_tensors, read_output, write_checkpoint, write_recipe
from tests.engine.command import dovetail, dovetail_process
from tests.io.zarr_files import write_arrays
from tests.naive_dequantise import (
    FP8,
    MXFP4,
    Stored,
    exponents8,
    quantise8,
    stored,
    unpack4,
    values8,
    weights,
    write_raw,
)
from tests.server import serve

Weights = dict[str, NDArray[Any]]


def float8_model(tensors: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Stored], Weights]:
    """Store every projection as float8 with a scale for 128 x 128; give the tensors stored, and the weights."""
    kept, plain = {}, {}
    for name, weight in tensors.items():
        if not name.endswith("_proj.weight"):
            kept[name], plain[name] = stored(weight), weight
            continue
        codes, scales = quantise8(weight.astype(np.float32), (128, 128))
        kept[name], kept[f"{name}_scale_inv"] = stored(codes, "F8_E4M3"), stored(scales)
        plain[name] = weights(values8(codes), scales.astype(np.float64), (128, 128))
    return kept, plain


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Make a float8 base model, its weights as float32 and bfloat16 as they are merged, and two fine-tunes."""
    base = llama_tensors(0)
    kept, plain = float8_model(base)
    config = {"model_type": "llama", "torch_dtype": "bfloat16", "num_hidden_layers": 2}
    write_raw(tmp_path / "quantised", kept, {**config, **FP8})
    (tmp_path / "quantised" / "tokenizer.json").write_text("{}")
    (tmp_path / "quantised" / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8_PB_WO"}}')
    write_checkpoint(tmp_path / "plain", plain)
    for seed, name in enumerate(("math", "code"), 1):
        write_checkpoint(tmp_path / name, llama_tensors(seed, base))
    return tmp_path


METHODS: dict[str, dict[str, Any]] = {
    "linear": {"merge_method": "linear"},
    "cabs": {"merge_method": "cabs", "parameters": {"n": 4, "m": 16}},
    "ties": {"merge_method": "ties", "parameters": {"density": 0.5}},
    "slerp": {"merge_method": "slerp", "parameters": {"t": 0.3}},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_float8_base_is_merged_as_its_weights(models: Path, method: str, dtype: str) -> None:
    """The output has the bytes of a merge whose base holds the dequantised weights as float32."""
    outputs = []
    for base in ("quantised", "plain"):
        first, *rest = [models / base, models / "math", models / "code"]
        content = dict(METHODS[method])
        if method == "linear":
            content["models"] = [{"model": str(each), "parameters": {"weight": 0.25}} for each in (first, *rest)]
        else:
            content["base_model"] = str(first)
            used = rest[:1] if method == "slerp" else rest
            content["models"] = [{"model": str(each), "parameters": {"weight": 0.5}} for each in used]
            if method == "slerp":
                content["models"] = [{"model": str(first)}, {"model": str(rest[0])}]
        recipe = write_recipe(models / f"{base}.yml", dtype=dtype, **content)
        merge(recipe, models / f"out-{base}")
        outputs.append(read_output(models / f"out-{base}"))
    expected, actual = outputs[1], outputs[0]
    assert set(expected) == set(actual)
    for name, weight in expected.items():
        assert weight.dtype == actual[name].dtype, name
        assert weight.tobytes() == actual[name].tobytes(), name


def test_the_output_is_not_quantised(models: Path) -> None:
    """By default weights are bfloat16; configuration and side files no longer speak of codes; a notice tells of it."""
    recipe = cabs_recipe(models / "r.yml", models / "quantised", [models / "math"], dtype=None)
    done = dovetail("merge", recipe, models / "out")
    assert 0 == done.code
    assert "weights are stored as float8_e4m3fn with one scale for every 128 x 64" in done.err
    assert {BF16} == {each.dtype for each in read_output(models / "out").values()}
    config = json.loads((models / "out" / "config.json").read_text())
    assert ("bfloat16", False) == (config["torch_dtype"], "quantization_config" in config)
    assert not (models / "out" / "hf_quant_config.json").exists()
    assert 0 == dovetail("verify", models / "out", "--recompute", "1.0").code


def test_what_is_read_is_counted_as_it_is_stored(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan counts bytes of codes and scales, and so do progress and the end, chunk by chunk."""
    monkeypatch.setattr(grid, "CHUNK_STEP", 1024)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)
    recipe = cabs_recipe(models / "r.yml", models / "quantised", [models / "math"], dtype=None)
    expected = sum(
        (models / name / "model.safetensors").stat().st_size - 8 - header_bytes(models / name)
        for name in ("quantised", "math")
    )
    said: list[events.Event] = []
    merge(recipe, models / "out", listen=said.append)
    planned = make_plan(recipe)
    assert 1 < max(tensor.chunk_count for tensor in planned.tensors)
    (done,) = (each for each in said if isinstance(each, events.Done))
    last = [each for each in said if isinstance(each, events.Progress)][-1]
    assert (last.total_bytes, last.total_bytes) == (last.done_bytes, done.read_bytes + done.written_bytes)
    assert planned.read_bytes == done.read_bytes
    assert expected == sum(tensor.input_bytes for tensor in planned.tensors)


def header_bytes(folder: Path) -> int:
    """Give the size of the header of the only file of a checkpoint."""
    return int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little")


def test_a_conversion_dequantises(models: Path) -> None:
    """Converted to no dtype in particular, weights are bfloat16, rounded once; as float32, they are exact."""
    plain = read_output(models / "plain")
    convert(models / "quantised", models / "bf16")
    convert(models / "quantised", models / "f32", PlanOptions(dtype="float32"))
    for name, weight in plain.items():
        assert weight.astype(BF16).tobytes() == read_output(models / "bf16")[name].tobytes(), name
        assert weight.astype(np.float32).tobytes() == read_output(models / "f32")[name].tobytes(), name
    for name, dtype in (("bf16", "bfloat16"), ("f32", "float32")):
        config = json.loads((models / name / "config.json").read_text())
        assert (dtype, False) == (config["torch_dtype"], "quantization_config" in config)
    assert "dequantised while they are read" in dovetail("convert", models / "quantised", models / "again").err


def test_a_left_over_configuration_is_dropped_with_a_notice(models: Path) -> None:
    """A model of plain weights whose configuration says bitsandbytes merges and converts, and loses the key."""
    config = {"quantization_config": {"load_in_4bit": True}, "text_config": {"quantization_config": {"bits": 4}}}
    write_checkpoint(models / "qlora", llama_tensors(0), config=config)
    recipe = cabs_recipe(models / "r.yml", models / "qlora", [models / "math"])
    for done in (dovetail("merge", recipe, models / "out"), dovetail("convert", models / "qlora", models / "copy")):
        assert 0 == done.code
        assert "quantization_config (bitsandbytes), but no tensor is quantised" in done.err
    for name in ("out", "copy"):
        config = json.loads((models / name / "config.json").read_text())
        assert (False, {}) == ("quantization_config" in config, config["text_config"])


def test_inspect_shows_how_weights_are_stored(models: Path) -> None:
    """Names, shapes and dtypes are those of the weights, sizes those of codes and scales, with a notice."""
    shown = dovetail("inspect", models / "quantised")
    assert "float8_e4m3fn with one scale for every 128 x 64" in shown.out
    assert "weight_scale_inv" not in shown.out
    assert "dequantised while they are read" in shown.out
    listed = json.loads(dovetail("inspect", models / "quantised", "--json").out)
    entry = listed["tensors"]["model.layers.0.mlp.up_proj.weight"]
    assert ("BF16", [130, 64], 130 * 64 + 2 * 4) == (entry["dtype"], entry["shape"], entry["size_bytes"])
    assert "one scale for every 128 x 64" in entry["stored"]
    assert any("dequantised while they are read" in note for note in listed["notes"])


def test_a_plan_depends_on_the_blocks(models: Path) -> None:
    """The size of blocks comes from config.json, so two configurations that differ in it give two plans."""
    codes, scales = quantise8(np.ones((192, 64), np.float32), (128, 128))
    tensors = {"l.weight": stored(codes, "F8_E4M3"), "l.weight_scale_inv": stored(scales)}
    hashes = set()
    for side in (128, 96):
        section = {"quant_method": "fp8", "weight_block_size": [side, 64]}
        write_raw(models / "b", tensors, {"quantization_config": section})
        recipe = write_recipe(models / "r.yml", merge_method="passthrough", models=[{"model": str(models / "b")}])
        hashes.add(make_plan(recipe).hash)
    assert 2 == len(hashes)


def _served(models: Path, use: Callable[[str], None]) -> None:
    with serve(models) as site:
        use(f"{site.address}/quantised")


def _zarr(models: Path, use: Callable[[str], None]) -> None:
    """Store the float8 model as Zarr arrays, compressed, with chunks that cut blocks."""
    arrays: Weights = {}
    for name, (dtype, shape, data) in float8_model(llama_tensors(0))[0].items():
        kinds = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "BF16": ml_dtypes.bfloat16, "F32": np.float32}
        arrays[name] = np.frombuffer(data, kinds[dtype]).reshape(shape)
    write_arrays(models / "q.zarr", arrays, chunks=lambda shape: tuple(min(50, size) for size in shape))
    (models / "q.zarr" / "config.json").write_text(json.dumps(FP8))
    use(str(models / "q.zarr"))


def _torch(models: Path, use: Callable[[str], None]) -> None:
    """Store the float8 model by PyTorch, one projection transposed in its storage."""
    torch = pytest.importorskip("torch")
    kinds = {"F8_E4M3": torch.float8_e4m3fn, "BF16": torch.bfloat16, "F32": torch.float32}
    state = {
        name: torch.frombuffer(bytearray(data), dtype=kinds[dtype]).reshape(shape)
        for name, (dtype, shape, data) in float8_model(llama_tensors(0))[0].items()
    }
    up = "model.layers.0.mlp.up_proj.weight"
    state[up] = state[up].t().contiguous().t()
    (models / "torch").mkdir()
    torch.save(state, models / "torch" / "pytorch_model.bin")
    (models / "torch" / "config.json").write_text(json.dumps(FP8))
    use(str(models / "torch"))


@pytest.mark.parametrize("place", [_served, _zarr, _torch])
def test_places_and_formats(models: Path, place: Callable[[Path, Callable[[str], None]], None]) -> None:
    """A float8 model on a server, in Zarr or of PyTorch is merged to the bytes of the local safetensors one."""
    merge(cabs_recipe(models / "r.yml", models / "quantised", [models / "math"]), models / "out")

    def use(address: str) -> None:
        merge(cabs_recipe(models / "o.yml", Path("x"), [models / "math"], base_model=address), models / "other")

    place(models, use)
    expected, actual = read_output(models / "out"), read_output(models / "other")
    assert {name: each.tobytes() for name, each in expected.items()} == {
        name: each.tobytes() for name, each in actual.items()
    }


def test_an_adapter_on_a_float8_model(models: Path) -> None:
    """LoRA is added to the dequantised weights, as it is to the same weights stored as float32."""
    random = np.random.default_rng(0)
    tensors = {}
    for part, size in (("lora_A", (4, 64)), ("lora_B", (130, 4))):
        name = f"base_model.model.model.layers.0.mlp.up_proj.{part}.weight"
        tensors[name] = random.standard_normal(size).astype(np.float32)
    write_adapter(models / "lora", tensors, r=4)
    for base in ("quantised", "plain"):
        convert(f"{models / base}+{models / 'lora'}", models / f"{base}-out", PlanOptions(dtype="float32"))
    expected, actual = read_output(models / "plain-out"), read_output(models / "quantised-out")
    assert {name: each.tobytes() for name, each in expected.items()} == {
        name: each.tobytes() for name, each in actual.items()
    }


def _averaged(models: Path, first: Weights, second: Weights, load: Callable[[Path], Any]) -> None:
    """Average two models, and check bits and logits against a naive average that transformers loads."""
    import torch

    recipe = write_recipe(
        models / "average.yml",
        merge_method="linear",
        models=[{"model": str(models / name), "parameters": {"weight": 0.5}} for name in ("one", "two")],
    )
    done = dovetail_process("merge", recipe, models / "average", "--memory", "512MiB")  # PyTorch fills this process
    assert 0 == done.code, done.err
    merged = read_output(models / "average")
    assert set(first) == set(merged)
    naive: Weights = {}
    for name, weight in first.items():
        halves = np.float32(0.5) * weight.astype(np.float32) + np.float32(0.5) * second[name].astype(np.float32)
        naive[name] = halves.astype(BF16)
        assert naive[name].tobytes() == merged[name].tobytes(), name
    write_checkpoint(models / "naive", naive)
    (models / "naive" / "config.json").write_text((models / "two" / "config.json").read_text())
    tokens = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        logits = [load(models / name)(tokens).logits for name in ("average", "naive")]
    assert torch.isfinite(logits[0]).all()
    assert torch.equal(*logits)


def _loaded(folder: Path) -> Any:
    """Load a model by transformers, and check that nothing is missing or left over."""
    import transformers

    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert [] == [name for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[key]]
    return model.eval()


def _made(folder: Path, model: Any) -> tuple[Weights, dict[str, Any]]:
    """Save a model as transformers does; give its tensors and configuration."""
    import torch

    model.to(torch.bfloat16).save_pretrained(folder)
    return read_output(folder), json.loads((folder / "config.json").read_text())


def test_a_model_like_deepseek(tmp_path: Path) -> None:
    """A tiny DeepSeek-V3 in float8, its blocks cut by odd sides and scales in other shards, is averaged and loads."""
    torch = pytest.importorskip("torch")
    import transformers

    torch.manual_seed(0)
    config = transformers.DeepseekV3Config(
        vocab_size=64, hidden_size=96, intermediate_size=200, moe_intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1,
        n_group=1, topk_group=1, q_lora_rank=32, kv_lora_rank=32, qk_rope_head_dim=16, v_head_dim=16,
        qk_nope_head_dim=16, first_k_dense_replace=1, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    tensors, settings = _made(tmp_path / "made", transformers.DeepseekV3ForCausalLM(config))
    second, _ = _made(tmp_path / "two", transformers.DeepseekV3ForCausalLM(config))
    kept, plain = float8_model(tensors)
    scales = [name for name in kept if name.endswith("_scale_inv")]
    assert len(scales) > 20
    write_raw(tmp_path / "one", kept, {**settings, **FP8}, shards=[[n for n in kept if n not in scales], scales])
    _averaged(tmp_path, plain, second, _loaded)


def test_a_model_like_gpt_oss(tmp_path: Path) -> None:
    """A tiny gpt-oss with experts in MXFP4 is averaged with a bfloat16 one, and loads."""
    torch = pytest.importorskip("torch")
    import transformers

    torch.manual_seed(0)
    config = transformers.GptOssConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=64,
        tie_word_embeddings=False, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    tensors, settings = _made(tmp_path / "made", transformers.GptOssForCausalLM(config))
    second, _ = _made(tmp_path / "two", transformers.GptOssForCausalLM(config))
    random = np.random.default_rng(0)
    kept, plain = {}, {}
    for name, weight in tensors.items():
        if weight.ndim < 3:
            kept[name], plain[name] = stored(weight), weight
            continue
        experts, inner, outer = weight.shape
        blocks = random.integers(0, 256, (experts, outer, inner // 32, 16), np.uint8)
        exponents = random.integers(119, 123, blocks.shape[:-1], np.uint8)
        kept[f"{name}_blocks"], kept[f"{name}_scales"] = stored(blocks), stored(exponents)
        rows = weights(unpack4(blocks.reshape(experts, outer, -1)), exponents8(exponents), (1, 1, 32))
        plain[name] = rows.transpose(0, 2, 1)
    write_raw(tmp_path / "one", kept, {**settings, **MXFP4})
    _averaged(tmp_path, plain, second, _loaded)
