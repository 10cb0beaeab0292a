"""Extractions interrupted, repeated, limited and refused; heads, vocabularies and patterns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.engine.actions.extract_lora import extract_lora
from dovetail.engine.actions.verify import read_manifest
from dovetail.engine.errors import InterruptedMergeError, MemoryLimitError, OutputError, RecipeError
from dovetail.engine.output import staging
from dovetail.engine.planning.extraction.options import ExtractionOptions
from dovetail.engine.planning.extraction.pairing import TensorPair
from dovetail.engine.run.factoring import Factoring, Factors
from dovetail.engine.run.journal import JOURNAL_NAME
from dovetail.engine.run.prepare import RunOptions
from dovetail.io import read_checkpoint
from dovetail.io.errors import TensorMismatchError
from tests.adapters import as_read
from tests.checkpoints import folder_bytes, llama_tensors, read_output, write_checkpoint
from tests.engine.command import dovetail, dovetail_process, snapshot

F32 = np.dtype(np.float32)
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
MATRICES = 6
"""Matrices of the small models: embedding, head, and two a layer."""


def small_family(folder: Path, **config: Any) -> tuple[Path, Path]:
    """Write a tiny Llama and a fine-tune of it; with tied heads, neither stores one."""
    base = llama_tensors(0, dtype=F32)
    tuned = llama_tensors(1, base)
    if config.get("tie_word_embeddings"):
        del base[HEAD], tuned[HEAD]
    return (
        write_checkpoint(folder / "tuned", tuned, config=config),
        write_checkpoint(folder / "base", base, config=config),
    )


def rank(number: int, **others: Any) -> ExtractionOptions:
    """Ask for factors of some rank in float32."""
    return ExtractionOptions(rank=number, dtype="float32", **others)


class Stop(Exception):  # an end as of a crash
    """Ends an extraction."""


@pytest.mark.parametrize("after", [1, 3, 5])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, Stop])
def test_an_interrupted_extraction_continues(
    tmp_path: Path, after: int, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was factored is not factored again, nothing looks finished before its time, and the bytes are the same."""
    tuned, base = small_family(tmp_path)
    out, done, factor, stops_at = tmp_path / "out", [], Factoring.factor, after
    extract_lora(tuned, base, tmp_path / "expected", rank(4))
    expected = folder_bytes(tmp_path / "expected")

    def noted(self: Factoring, pair: TensorPair) -> Factors | None:
        if len(done) == stops_at:
            raise kind
        done.append(pair.name)
        return factor(self, pair)

    monkeypatch.setattr(Factoring, "factor", noted)
    with pytest.raises(InterruptedMergeError if kind is KeyboardInterrupt else Stop):
        extract_lora(tuned, base, out, rank(4))
    assert not out.exists()
    with pytest.raises(OutputError, match="--restart"):
        extract_lora(tuned, base, out, rank(5))
    stops_at = MATRICES
    extract_lora(tuned, base, out, rank(4))
    assert MATRICES == len(done) == len(set(done))
    assert expected == folder_bytes(out)
    assert {"tuned", "base", "out", "expected"} == {path.name for path in tmp_path.iterdir()}


def test_killed_after_publishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that died between the renaming of its output and the end is ended well by the same command."""
    tuned, base = small_family(tmp_path)
    out = tmp_path / "out"

    def die(*_: object) -> None:
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(staging, "_tidy", die)
        with pytest.raises(Stop):
            extract_lora(tuned, base, out, rank(4))
    assert (out / JOURNAL_NAME).exists()
    extract_lora(tuned, base, out, rank(4))
    extract_lora(tuned, base, tmp_path / "expected", rank(4))
    assert folder_bytes(tmp_path / "expected") == folder_bytes(out)
    assert {"tuned", "base", "out", "expected"} == {path.name for path in tmp_path.iterdir()}


def test_a_restart_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --restart, an unfinished extraction is thrown away; one without factors leaves nothing."""
    tuned, base = small_family(tmp_path)
    factor, first = Factoring.factor, next(name for name in read_checkpoint(base).tensors if "norm" not in name)

    def stop(self: Factoring, pair: TensorPair) -> Factors | None:
        if pair.name == stops_at:
            raise Stop
        return factor(self, pair)

    for stops_at in (first, EMBEDDING if first != EMBEDDING else HEAD):
        with monkeypatch.context() as patched:
            patched.setattr(Factoring, "factor", stop)
            with pytest.raises(Stop):
                extract_lora(tuned, base, tmp_path / "out", rank(4))
        assert [".out.dovetail-stages"] * (stops_at != first) == [each.name for each in tmp_path.glob(".*")]
    extract_lora(tuned, base, tmp_path / "out", rank(5), RunOptions(restart=True))
    assert 5 == json.loads((tmp_path / "out/adapter_config.json").read_text())["r"]


def test_the_same_again(tmp_path: Path) -> None:
    """A complete adapter is left alone; other options need another folder, or --overwrite."""
    tuned, base = small_family(tmp_path)
    out = tmp_path / "out"
    first = extract_lora(tuned, base, out, rank(4))
    before = snapshot(out)
    assert json.loads(json.dumps(first)) == json.loads(json.dumps(extract_lora(tuned, base, out, rank(4))))
    assert before == snapshot(out)
    with pytest.raises(OutputError, match="not empty"):
        extract_lora(tuned, base, out, rank(3))
    extract_lora(tuned, base, out, rank(3), RunOptions(overwrite=True))
    assert 3 == json.loads((out / "adapter_config.json").read_text())["r"]


def test_a_model_without_some_layers(tmp_path: Path) -> None:
    """A fine-tune that lacks whole layers is refused: the adapter would leave them in. What is excluded may lack."""
    layers = {f"model.layers.{number}.mlp.up_proj.weight": np.ones((8, 4), np.float32) for number in range(2)}
    base = write_checkpoint(tmp_path / "base", layers)
    tuned = write_checkpoint(tmp_path / "tuned", {name: 2 * each for name, each in layers.items() if ".0." in name})
    with pytest.raises(TensorMismatchError, match="lacks layer 1 of"):
        extract_lora(tuned, base, tmp_path / "out", rank(2))
    extract_lora(tuned, base, tmp_path / "out", ExtractionOptions(rank=2, exclude=("model.layers.1.*",)))


def test_inputs_are_never_written_into(tmp_path: Path) -> None:
    """An output inside or around a model is refused."""
    tuned, base = small_family(tmp_path)
    for target in (base, base / "out", tuned, tmp_path):
        with pytest.raises(OutputError):
            extract_lora(tuned, base, target, rank(4), RunOptions(overwrite=True))
    assert read_output(base)


def test_workers_change_no_bit(tmp_path: Path) -> None:
    """One worker or three: the same folder."""
    tuned, base = small_family(tmp_path)
    for workers in (1, 3):
        extract_lora(tuned, base, tmp_path / str(workers), rank(4), RunOptions(workers=workers))
    assert folder_bytes(tmp_path / "1") == folder_bytes(tmp_path / "3")


def test_a_vocabulary_of_another_size(tmp_path: Path) -> None:
    """Embedding and head with other rows are kept whole, and a note says what to call before peft loads them."""
    tuned, base = small_family(tmp_path)
    tensors = read_output(tuned)
    grown = {name: np.concatenate((tensors[name], tensors[name][:4])) for name in (EMBEDDING, HEAD)}
    write_checkpoint(tmp_path / "grown", {**tensors, **grown})
    manifest = extract_lora(tmp_path / "grown", base, tmp_path / "out", rank(4))
    assert 2 == sum("resize_token_embeddings(101)" in note for note in manifest["extraction"]["notes"])
    read = as_read(read_checkpoint(base, tmp_path / "out").tensors)
    for name, expected in grown.items():
        np.testing.assert_array_equal(expected, read[name])


def test_a_head_that_the_base_model_ties(tmp_path: Path) -> None:
    """A fine-tune may store a copy of its embedding as its head; one that differs cannot be brought by an adapter."""
    tuned, base = small_family(tmp_path, tie_word_embeddings=True)
    tensors = read_output(tuned)
    write_checkpoint(tmp_path / "copy", {**tensors, HEAD: tensors[EMBEDDING].copy()})
    extract_lora(tmp_path / "copy", base, tmp_path / "out", rank(4))
    found = read_output(tmp_path / "out")
    np.testing.assert_array_equal(tensors[EMBEDDING], found[f"base_model.model.{EMBEDDING}"])
    assert not [name for name in found if "lm_head" in name]
    write_checkpoint(tmp_path / "untied", {**tensors, HEAD: tensors[EMBEDDING] + 1})
    with pytest.raises(RecipeError, match="ties both"):
        extract_lora(tmp_path / "untied", base, tmp_path / "out2")
    extract_lora(tmp_path / "untied", base, tmp_path / "out2", rank(4, exclude=("lm_head",)))


def test_a_head_that_only_the_base_model_stores(tmp_path: Path) -> None:
    """Where the fine-tuned model ties its head, what is extracted is its embedding less the base model's head."""
    tuned, base = small_family(tmp_path)
    tensors = read_output(tuned)
    del tensors[HEAD]
    tied = write_checkpoint(tmp_path / "tied", tensors, config={"tie_word_embeddings": True})
    extract_lora(tied, base, tmp_path / "out", rank(64))
    read = as_read(read_checkpoint(base, tmp_path / "out").tensors)
    np.testing.assert_allclose(read[HEAD], tensors[EMBEDDING], rtol=0, atol=1e-6)


def test_tensors_that_are_no_modules(tmp_path: Path) -> None:
    """Parameters, integer buffers and routers that changed are kept whole; those that did not are left out."""
    tuned, base = small_family(tmp_path)
    extra = {
        "model.layers.0.A_log": np.ones((3, 4), np.float32),
        "model.steps": np.arange(3),
        "model.still": np.ones(2),
    }
    extra["model.layers.0.mlp.gate.weight"] = np.ones((4, 64), np.float32)
    write_checkpoint(base, {**read_output(base), **extra})
    changed = {name: each + (name != "model.still") for name, each in extra.items()}
    write_checkpoint(tuned, {**read_output(tuned), **changed})
    extract_lora(tuned, base, tmp_path / "out", rank(4))
    found = read_output(tmp_path / "out")
    for name in set(extra) - {"model.still"}:
        np.testing.assert_array_equal(changed[name], found[f"base_model.model.{name}"])
    assert "base_model.model.model.still" not in found


def test_what_is_looked_at(tmp_path: Path) -> None:
    """Patterns choose by tensor, by module and by its last part; what is left out is listed."""
    tuned, base = small_family(tmp_path)
    options = rank(4, include=("q_proj", "model.layers.0.*"), exclude=("*.mlp.up_proj.weight",))
    found = extract_lora(tuned, base, tmp_path / "out", options)["extraction"]
    assert {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)} == set(found["matrices"])
    assert ["base_model.model.model.layers.0.input_layernorm.weight"] == found["whole"]
    assert {HEAD, "model.layers.0.mlp.up_proj.weight", "model.norm.weight"} <= set(found["left_out"])


def test_models_that_do_not_fit(tmp_path: Path) -> None:
    """Tensors that the base model lacks, and other shapes, are errors that say how to leave them out."""
    tuned, base = small_family(tmp_path)
    tensors = read_output(tuned)
    write_checkpoint(tmp_path / "more", {**tensors, "score.weight": np.zeros((2, 64), np.float32)})
    with pytest.raises(TensorMismatchError, match=r"lacks, such as 'score.weight'.*--exclude 'score.weight'"):
        extract_lora(tmp_path / "more", base, tmp_path / "out")
    extract_lora(tmp_path / "more", base, tmp_path / "out", rank(2, exclude=("score",)))
    name = "model.layers.0.mlp.up_proj.weight"
    write_checkpoint(tmp_path / "other", {**tensors, name: np.zeros((50, 64), np.float32)})
    with pytest.raises(TensorMismatchError, match=r"up_proj.weight.*\[130, 64\]"):
        extract_lora(tmp_path / "other", base, tmp_path / "out2")
    with pytest.raises(RecipeError, match="nothing that differs"):
        extract_lora(base, base, tmp_path / "out3")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "wrong", [{"rank": 0}, {"energy": 0.0}, {"energy": 1.5}, {"alpha": -1.0}, {"iterations": 0}, {"dtype": "float64"}]
)
def test_options_that_cannot_be(wrong: dict[str, Any]) -> None:
    """Values out of range are errors that name the option."""
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        ExtractionOptions(**wrong)


def test_a_limit_that_would_do(tmp_path: Path) -> None:
    """A limit that is too small is refused with one that is not."""
    tuned, base = small_family(tmp_path)
    with pytest.raises(MemoryLimitError, match=r"at least \d+ MiB") as refused:
        extract_lora(tuned, base, tmp_path / "out", rank(4), RunOptions(memory_bytes=10 * 2**20))
    needed = int(str(refused.value).split("at least ")[1].split()[0])
    extract_lora(tuned, base, tmp_path / "out", rank(4), RunOptions(memory_bytes=(needed + 32) * 2**20))


def test_the_peak_stays_under_the_limit(tmp_path: Path) -> None:
    """Two models of 96 MB with one wide matrix each are factored by a process that may hold 256 MiB."""
    random = np.random.default_rng(0)
    old = random.standard_normal((1200, 20000), np.float32)
    new = old + np.float32(1e-3) * random.standard_normal((1200, 20000), np.float32)
    for name, each in (("base", old), ("tuned", new)):
        write_checkpoint(tmp_path / name, {"w.weight": each})
    arguments = ("--rank", "16", "--iterations", "1", "--memory", "256MiB", "--json")
    run = dovetail_process("extract-lora", tmp_path / "tuned", tmp_path / "base", tmp_path / "out", *arguments)
    assert 0 == run.code, run.err
    assert run.events[-1]["peak_resident_bytes"] <= 256 * 2**20


def test_verification(tmp_path: Path) -> None:
    """A changed byte is found in its tensor; computing chunks again is refused, as an adapter has no recipe."""
    tuned, base = small_family(tmp_path)
    extract_lora(tuned, base, tmp_path / "out", rank(4))
    assert "extract_lora" == read_manifest(tmp_path / "out")["recipe"]["merge_method"]
    assert 0 == dovetail("verify", tmp_path / "out").code
    assert "without --recompute" in dovetail("verify", tmp_path / "out", "--recompute", "1").err
    path = tmp_path / "out/adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    outcome = dovetail("verify", tmp_path / "out")
    assert 5 == outcome.code
    assert "is damaged between elements" in outcome.out + outcome.err


def test_the_command(tmp_path: Path) -> None:
    """It prints how much is kept; the same again says that there is nothing to do; wrong options are the user's."""
    tuned, base = small_family(tmp_path)
    run = dovetail("extract-lora", tuned, base, tmp_path / "out", "--rank", "2")
    assert 0 == run.code, run.err
    assert f"{MATRICES} matrices are low-rank (ranks 2 to 2)" in run.out
    again = dovetail("extract-lora", tuned, base, tmp_path / "out", "--rank", "2", "--json")
    assert ["notice", "done"] == [event["event"] for event in again.events]
    assert 2 == dovetail("extract-lora", tuned, base, tmp_path / "other", "--energy", "1.5").code


def test_more_positions_than_tokens(tmp_path: Path) -> None:
    """The head of a fine-tune that ties it is its embedding of tokens, though there are more positions than tokens."""
    random = np.random.default_rng(0)
    shapes = {"transformer.wpe.weight": (30, 4), "transformer.wte.weight": (10, 4), "transformer.h.0.ln_1.weight": (4,)}
    base = {name: random.standard_normal(shape).astype(F32) for name, shape in shapes.items()}
    tuned = {name: random.standard_normal(shape).astype(F32) for name, shape in shapes.items()}
    base[HEAD] = random.standard_normal((10, 4)).astype(F32)
    write_checkpoint(tmp_path / "base", base, config={"tie_word_embeddings": False})
    write_checkpoint(tmp_path / "tuned", tuned, config={"tie_word_embeddings": True})
    extract_lora(tmp_path / "tuned", tmp_path / "base", tmp_path / "adapter", rank(4))
    found = as_read(read_checkpoint(tmp_path / "base", tmp_path / "adapter").tensors)
    assert np.allclose(tuned["transformer.wte.weight"], found[HEAD], atol=1e-5)
    assert np.allclose(tuned["transformer.wpe.weight"], found["transformer.wpe.weight"], atol=1e-5)
