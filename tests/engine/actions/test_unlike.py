"""Merges of checkpoints with different tensors or shapes, compared with NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.engine import PlanOptions, events, merge, plan
from dovetail.io.errors import NonFiniteError, TensorMismatchError
from tests.checkpoints import BF16, read_output, write_checkpoint, write_recipe
from tests.engine.command import dovetail

Tensors = dict[str, NDArray[Any]]

EMBED, HEAD, PROJ, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.w", "model.norm.weight"


def tensors(seed: int, rows: int = 7, dtype: Any = np.float32) -> Tensors:
    """Make a model of one layer."""
    random = np.random.default_rng(seed)
    shapes = {EMBED: (rows, 4), PROJ: (5, 4), NORM: (4,), HEAD: (rows, 4)}
    return {name: random.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def without(found: Tensors, *names: str) -> Tensors:
    """Leave tensors out."""
    return {name: tensor for name, tensor in found.items() if name not in names}


def merged(home: Path, method: str, models: dict[str, Tensors], /, **changes: Any) -> tuple[Tensors, list[str], Path]:
    """Merge all models, the first being the base; give the output, the warnings, and its folder."""
    configs = changes.pop("configs", {})
    for name, found in models.items():
        write_checkpoint(home / name, found, config=configs.get(name))
    base, *others = models
    listed = list(models) if method == "linear" else others
    content: dict[str, Any] = {"merge_method": method, "base_model": str(home / base), "parameters": {"weight": 1}}
    content["models"] = [{"model": str(home / name)} for name in listed]
    options = changes.pop("options", None)
    recipe = write_recipe(home / "recipe.yml", **(content | changes))
    said: list[str] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Notice) and event.level == "warning":
            said.append(event.text)

    merge(recipe, home / "out", options, listen=listen)
    return read_output(home / "out"), said, home / "out"


def mean(*found: NDArray[Any]) -> NDArray[np.float32]:
    """Average in float32, in order."""
    total = found[0].astype(np.float32)
    for tensor in found[1:]:
        total = total + tensor.astype(np.float32)
    return total / np.float32(len(found))


def test_missing_tensor_is_merged_from_the_others(tmp_path: Path) -> None:
    """Only the weights of models with the tensor count; if no model has it, the base model's tensor is copied."""
    a, b, c = tensors(1), tensors(2), tensors(3)
    out, said, _ = merged(tmp_path, "linear", {"a": a, "b": without(b, PROJ, NORM), "c": without(c, NORM)})
    assert np.array_equal(mean(a[PROJ], c[PROJ]), out[PROJ])
    assert np.array_equal(a[NORM], out[NORM])
    assert np.array_equal(mean(a[EMBED], b[EMBED], c[EMBED]), out[EMBED])
    assert any(f": missing in {tmp_path / 'b'}" in text and text.startswith("2 tensors with ") for text in said)


def test_other_shape_is_left_out(tmp_path: Path) -> None:
    """A task vector of another shape is left out; if none is left, the base's tensor is copied, in the new dtype."""
    base, a, b = tensors(0), tensors(1), tensors(2)
    a[PROJ], a[NORM], b[NORM] = np.ones((4, 5), np.float32), np.ones(5, np.float32), np.ones(6, np.float32)
    models, options = {"base": base, "a": a, "b": b}, PlanOptions(allow_partial=True)
    out, said, folder = merged(tmp_path, "task_arithmetic", models, dtype="bfloat16", options=options)
    assert np.array_equal(((b[PROJ] - base[PROJ]) + base[PROJ]).astype(BF16), out[PROJ])
    assert base[NORM].astype(BF16).tobytes() == out[NORM].tobytes()
    assert any("not merged, as too few models have them" in text and NORM in text for text in said)
    entry = json.loads((folder / "dovetail_manifest.json").read_text())["tensors"][NORM]
    assert {"copied": True, "differing": False} == entry["statistics"]


def test_integer_weights_that_differ_are_named(tmp_path: Path) -> None:
    """Integers named as weights come from the base model; that models differ in them is said, and what it may mean."""
    base, a = tensors(0), tensors(1)
    for seed, each in enumerate((base, a)):
        each["codes.weight"] = np.arange(seed, seed + 6, dtype=np.int8).reshape(2, 3)
    out, said, _ = merged(tmp_path, "task_arithmetic", {"base": base, "a": a})
    assert base["codes.weight"].tobytes() == out["codes.weight"].tobytes()
    assert (
        "1 integer tensor not alike in all models, and taken from the base model, as integers are not merged: "
        "'codes.weight'; if these are weights of quantised models, merge the unquantised originals instead"
    ) in said


@pytest.mark.parametrize("integers", ["base", "a"])
def test_integers_are_never_merged_with_floats(tmp_path: Path, integers: str) -> None:
    """Where one model has integers and another floating-point numbers, the error names the tensor of integers."""
    models = {"base": tensors(0), "a": tensors(1)}
    models[integers][PROJ] = np.ones((5, 4), np.int8)
    with pytest.raises(TensorMismatchError, match=rf"'{PROJ}' of checkpoint .*/{integers} has dtype int8; expected a"):
        merged(tmp_path, "task_arithmetic", models)


def test_models_of_integers_are_refused(tmp_path: Path) -> None:
    """Models most of which is integers would come from the base almost whole; that needs --allow-partial."""
    models = {"base": tensors(0), "a": tensors(1)}
    for each in models.values():
        each["codes.weight"] = np.ones((20, 20), np.int8)
    with pytest.raises(TensorMismatchError, match=r"^83\.3% of the elements that would be merged are integers"):
        merged(tmp_path, "task_arithmetic", models)
    out, _, _ = merged(tmp_path, "task_arithmetic", models, options=PlanOptions(allow_partial=True))
    assert models["base"]["codes.weight"].tobytes() == out["codes.weight"].tobytes()


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.float64])
def test_taken_as_it_is(tmp_path: Path, dtype: Any) -> None:
    """A tensor that is not merged keeps every bit if its dtype stays, even as float64."""
    base = tensors(0, dtype=dtype)
    base[NORM][0] = -0.0
    out, _, _ = merged(tmp_path, "task_arithmetic", {"base": base, "a": without(tensors(1, dtype=dtype), NORM)})
    assert base[NORM].tobytes() == out[NORM].tobytes()


def test_not_finite_though_not_merged(tmp_path: Path) -> None:
    """NaN is found even in a tensor that is only copied."""
    base = tensors(0)
    base[NORM][2] = np.nan
    with pytest.raises(NonFiniteError, match=r"'model.norm.weight' holds nan at element 2"):
        merged(tmp_path, "task_arithmetic", {"base": base, "a": without(tensors(1), NORM)})


@pytest.mark.parametrize("rows", [5, 9])
def test_rows(tmp_path: Path, rows: int) -> None:
    """Rows beyond the base model's are cut, and for missing rows the base model's are taken."""
    base, a, b = tensors(0), tensors(1), tensors(2, rows)
    out, said, _ = merged(tmp_path, "linear", {"base": base, "a": a, "b": b}, parameters={"weight": 0.5})
    for name in (EMBED, HEAD):
        other = base[name].copy()
        other[: min(rows, 7)] = b[name][:7]
        weight = np.float32(0.5)
        expected = (base[name] * weight + a[name] * weight + other * weight) / np.float32(1.5)
        assert np.array_equal(expected, out[name])
    assert any(("cut to the rows of" if rows > 7 else "fewer rows than in") in text for text in said)


def test_rows_of_another_dtype(tmp_path: Path) -> None:
    """Rows can be taken from the base model only in the same dtype; otherwise the error says what to do."""
    with pytest.raises(TensorMismatchError, match="has 5 rows of bfloat16; expected 7 rows, or dtype float32"):
        merged(tmp_path, "task_arithmetic", {"base": tensors(0), "a": tensors(1, 5, BF16)})


def test_strict(tmp_path: Path) -> None:
    """--strict refuses models that differ, and does not change the plan of models that do not."""
    base = tensors(0)
    for unlike in (without(tensors(1), NORM), tensors(1, 8)):
        with pytest.raises(TensorMismatchError):
            merged(tmp_path, "task_arithmetic", {"base": base, "a": unlike}, options=PlanOptions(strict=True))
    assert not (tmp_path / "out").exists()
    write_checkpoint(tmp_path / "a", tensors(1))
    loose, strict = (plan(tmp_path / "recipe.yml", PlanOptions(strict=value)) for value in (False, True))
    assert loose.hash == strict.hash


def test_tied_head(tmp_path: Path) -> None:
    """The base's embedding takes the place of its missing head; the output has a head, and its config says so."""
    base, a = without(tensors(0), HEAD), tensors(1)
    configs = {"base": {"tie_word_embeddings": True}, "a": {"tie_word_embeddings": False}}
    out, _, folder = merged(tmp_path, "linear", {"base": base, "a": a}, configs=configs)
    assert np.array_equal(mean(base[EMBED], a[HEAD]), out[HEAD])
    assert np.array_equal(mean(base[EMBED], a[EMBED]), out[EMBED])
    assert False is json.loads((folder / "config.json").read_text())["tie_word_embeddings"]


@pytest.mark.parametrize("tied", [{"tie_word_embeddings": True}, {}])
def test_all_tied(tmp_path: Path, tied: dict[str, Any]) -> None:
    """Where all are tied, no head is made up; a stored copy of the embedding is left out, and the configuration stays.

    So it is where no configuration says anything, as Gemma's do not.
    """
    a = tensors(1)
    a[HEAD] = a[EMBED].copy()
    configs = {"base": tied, "a": tied}
    models = {"base": without(tensors(0), HEAD), "a": a}
    out, said, folder = merged(tmp_path, "linear", models, configs=configs)
    assert HEAD not in out
    assert [repr(HEAD)] == [text.split()[0] for text in said]
    assert tied.get("tie_word_embeddings") is json.loads((folder / "config.json").read_text()).get(
        "tie_word_embeddings"
    )


def test_head_trained_apart_from_a_tied_embedding(tmp_path: Path) -> None:
    """A stored head that differs from the embedding counts though its configuration ties it, and the output's do not.

    The base model's embedding stands in for its head; the flag is set at both levels, whichever a class reads.
    """
    base, a = without(tensors(0), HEAD), tensors(1)
    tied = {"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": True}}
    configs = {"base": tied, "a": tied}
    out, said, folder = merged(tmp_path, "linear", {"base": base, "a": a}, configs=configs)
    assert np.array_equal(mean(base[EMBED], a[HEAD]), out[HEAD])
    config = json.loads((folder / "config.json").read_text())
    assert (False, {"tie_word_embeddings": False}) == (config["tie_word_embeddings"], config["text_config"])
    assert [repr(HEAD)] == [text.split()[0] for text in said]


def test_head_that_differs_in_its_last_element(tmp_path: Path) -> None:
    """Copies are told to the last byte: a head of which one element was trained counts."""
    base, a = without(tensors(0, 300_000), HEAD), tensors(1, 300_000)
    a[HEAD] = a[EMBED].copy()
    a[HEAD][-1, -1] += 1
    out, _, _ = merged(tmp_path, "linear", {"base": base, "a": a})
    assert np.array_equal(mean(base[EMBED], a[HEAD]), out[HEAD])


def test_copies_that_the_base_model_stores(tmp_path: Path) -> None:
    """A head that is left out although the configuration says nothing of ties needs one that does."""
    base, a = tensors(0), without(tensors(1), HEAD)
    base[HEAD] = base[EMBED].copy()
    out, _, folder = merged(tmp_path, "linear", {"base": base, "a": a})
    assert HEAD not in out
    assert True is json.loads((folder / "config.json").read_text())["tie_word_embeddings"]


def test_tied_head_of_another_number_of_rows(tmp_path: Path) -> None:
    """An embedding that stands in for a head is cut like the head."""
    base, a = tensors(0), without(tensors(1, 9), HEAD)
    out, _, _ = merged(tmp_path, "linear", {"base": base, "a": a})
    assert np.array_equal(mean(base[HEAD], a[EMBED][:7]), out[HEAD])


def test_integers_that_are_missing(tmp_path: Path) -> None:
    """Integer tensors are the base model's, and compared with those of models that have them in the same shape."""
    ids = {"ids": np.arange(3)}
    models = {"base": tensors(0) | ids, "a": tensors(1), "b": tensors(2) | {"ids": np.arange(4)}}
    out, said, _ = merged(tmp_path, "task_arithmetic", models)
    assert [0, 1, 2] == list(out["ids"])
    assert any("missing in" in text and "'ids'" in text for text in said)


def test_frankenmerge_of_modules(tmp_path: Path) -> None:
    """Layers of an encoder are stacked, those of the decoder merged, the rest taken; the configuration counts both."""
    names = [f"encoder.block.{i}.w" for i in range(3)] + [f"decoder.block.{i}.w" for i in range(2)] + ["shared.weight"]
    random = np.random.default_rng(0)
    a, b = ({name: random.standard_normal((3, 4)).astype(np.float32) for name in names} for _ in range(2))
    for name, found in (("a", a), ("b", b)):
        write_checkpoint(tmp_path / name, found, config={"num_layers": 3, "num_decoder_layers": 2})
    sources = [{"model": str(tmp_path / name), "layer_range": [1, 3]} for name in ("a", "b")]
    recipe = write_recipe(
        tmp_path / "recipe.yml",
        merge_method="linear",
        modules={
            "encoder": {"slices": [{"sources": [sources[0]]}, {"sources": [sources[1]]}, {"sources": sources}]},
            "decoder": {"models": [{"model": str(tmp_path / name)} for name in ("a", "b")]},
        },
        parameters={"weight": 1},
    )
    merge(recipe, tmp_path / "out")
    out = read_output(tmp_path / "out")
    expected = [a["encoder.block.1.w"], a["encoder.block.2.w"], b["encoder.block.1.w"], b["encoder.block.2.w"]]
    expected += [mean(a[name], b[name]) for name in ("encoder.block.1.w", "encoder.block.2.w")]
    for i, tensor in enumerate(expected):
        assert np.array_equal(tensor, out[f"encoder.block.{i}.w"])
    for name in ("decoder.block.0.w", "decoder.block.1.w"):
        assert np.array_equal(mean(a[name], b[name]), out[name])
    assert np.array_equal(a["shared.weight"], out["shared.weight"])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (6, 2) == (config["num_layers"], config["num_decoder_layers"])


def test_a_model_of_another_size(tmp_path: Path) -> None:
    """The command refuses it with exit code 3; with --allow-partial what fits is merged, and can be recomputed."""
    large = {name: np.ones(tuple(2 * side for side in values.shape), np.float32) for name, values in tensors(1).items()}
    shared = {"model.layers.0.q_norm": np.full(3, 4, np.float32)}
    for name, found in (("a", tensors(0) | shared), ("b", large | {name: 2 * shared[name] for name in shared})):
        write_checkpoint(tmp_path / name, found)
    recipe = write_recipe(
        tmp_path / "recipe.yml",
        merge_method="linear",
        models=[{"model": str(tmp_path / name)} for name in "ab"],
        parameters={"weight": 1},
    )
    refused = dovetail("merge", recipe, tmp_path / "out")
    assert 3 == refused.code
    assert "of its elements (embeddings and heads not counted)" in refused.err
    assert 3 == dovetail("plan", recipe).code
    assert 0 == dovetail("plan", recipe, "--allow-partial").code
    assert 0 == dovetail("merge", recipe, tmp_path / "out", "--allow-partial").code
    out = read_output(tmp_path / "out")
    assert [6, 6, 6] == list(out["model.layers.0.q_norm"])
    assert np.array_equal(tensors(0)[PROJ], out[PROJ])
    assert 0 == dovetail("verify", tmp_path / "out", "--recompute", "1").code
