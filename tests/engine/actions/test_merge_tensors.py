"""Merging in memory gives what merging files gives, bit for bit, and says as clearly what is wrong."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine import PlanOptions, events, merge, merge_tensors
from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.registry import METHODS
from dovetail.engine.planning import grid
from dovetail.io.dtypes import MERGEABLE, to_numpy
from dovetail.io.errors import NonFiniteError, TensorMismatchError, UnsupportedError
from tests.checkpoints import read_output, write_checkpoint
from tests.oracles.values import BASELESS, COUNTS, DENSITY, EITHER, PER_MODEL, VALUES, WEIGHT

Tensors = dict[str, NDArray[Any]]

BLOCKS = {"n": st.integers(1, 4), "m": st.just(8), "weight": WEIGHT}
DRAWN = {
    **VALUES,
    "cabs": {**BLOCKS, "overlap": st.sampled_from(["forbid", "minimize"])},
    "nm_pruning": BLOCKS,
    "magnitude": {"weight": WEIGHT, "density": DENSITY},
}
"""Parameters of every method."""
OWN = {**PER_MODEL, "cabs": ("weight", "n"), "nm_pruning": ("weight",), "magnitude": ("weight", "density")}
"""Those that each model has its own value of."""
SHAPES = {
    "model.embed_tokens.weight": (130, 64),
    "model.layers.0.mlp.up_proj.weight": (9, 16),
    "model.norm.weight": (16,),
    "model.scale": (),
    "model.nothing": (0, 3),
}
GRID = {"CHUNK_STEP": 4096, "TASK_BYTES": 1}
"""Cuts the first tensor into several chunks."""


def make(seed: int, dtype: np.dtype[Any], base: Tensors | None = None) -> Tensors:
    """Make a model, which lies near a base model if there is one, and has a tensor of integers."""
    random = np.random.default_rng(seed)
    found: Tensors = {}
    for name, shape in SHAPES.items():
        values = random.standard_normal(shape) * 0.2 + (0 if base is None else base[name].astype(np.float64))
        found[name] = np.asarray(values).astype(dtype)
    found["model.positions"] = np.arange(7)
    return found


def on_disk(folder: Path, recipe: dict[str, Any], options: PlanOptions, models: dict[str, Tensors]) -> Tensors:
    """Merge the same models as files."""
    for name, tensors in models.items():
        write_checkpoint(folder / name, tensors)

    def place(name: str) -> str:
        return str(folder / name)

    recipe = {**recipe, "models": [{**each, "model": place(each["model"])} for each in recipe["models"]]}
    if "base_model" in recipe:
        recipe["base_model"] = place(recipe["base_model"])
    merge(recipe, folder / "merged", options)
    return read_output(folder / "merged")


def bits(tensors: Any) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Describe arrays to the last bit."""
    return {name: (str(each.dtype), each.shape, each.tobytes()) for name, each in tensors.items()}


def silent(event: events.Event) -> None:
    """Take warnings of values that are too large for a dtype, which files have too."""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut tensors that are small into chunks."""
    for name, value in GRID.items():
        monkeypatch.setattr(grid, name, value)


@pytest.mark.parametrize("method", METHODS)
@settings(derandomize=True, max_examples=2)
@given(data=st.data())
def test_gives_the_bits_of_files(method: str, data: st.DataObject) -> None:
    """Whatever the method, parameters, dtypes and seed, each tensor has a file's name, dtype, shape and bytes."""
    low, high = COUNTS.get(method, (1, 3))
    count = data.draw(st.integers(low, min(high, 3)))
    dtypes = [to_numpy(dtype) for dtype in data.draw(st.lists(st.sampled_from(MERGEABLE), min_size=4, max_size=4))]
    with_base = method not in BASELESS and (method not in EITHER or data.draw(st.booleans()))
    base = make(0, dtypes[0])
    models = [make(1 + place, dtypes[1 + place], base) for place in range(count)]
    values, own = DRAWN[method], OWN[method]
    for_all = {key: data.draw(value) for key, value in values.items() if key not in own}
    each = {key: [data.draw(values[key].filter(lambda value: value is not None)) for _ in models] for key in own}
    out = data.draw(st.sampled_from([None, *(dtype.torch_name for dtype in MERGEABLE)]))
    options = PlanOptions(dtype=out, seed=data.draw(st.integers(0, 9)))
    recipe: dict[str, Any] = {"merge_method": method, "parameters": for_all, "models": []}
    for place in range(count):
        recipe["models"].append(
            {"model": f"model-{place}", "parameters": {key: found[place] for key, found in each.items()}}
        )
    stored = {f"model-{place}": model for place, model in enumerate(models)}
    if with_base:
        recipe["base_model"] = "base"
        stored["base"] = base
    before = [bits(tensors) for tensors in (base, *models)]
    with tempfile.TemporaryDirectory() as folder:
        expected = on_disk(Path(folder), recipe, options, stored)
    found = merge_tensors(
        method, models, base if with_base else None, options=options, listen=silent, **for_all, **each
    )
    assert bits(expected) == bits(found)
    assert before == [bits(tensors) for tensors in (base, *models)]


BASE = {"layer.weight": np.float32([[1, 2], [3, 4]]), "norm.weight": np.float32([1, 1])}
TUNED = {"layer.weight": np.float32([[2, 2], [3, 0]]), "norm.weight": np.float32([1, 3])}


def test_single_arrays_are_merged() -> None:
    """Arrays alone give an array, which is that of a state dict with one tensor."""
    merged = merge_tensors("linear", [BASE["layer.weight"], TUNED["layer.weight"]], weight=[0.75, 0.25])
    assert [[1.25, 2.0], [3.0, 3.0]] == merged.tolist()
    assert 3.0 == float(merge_tensors("linear", [np.float32(2), np.float32(4)], weight=1))


def test_torch_tensors_give_torch_tensors() -> None:
    """State dicts and modules of torch give torch tensors of the same bits as arrays do, and keep no gradients."""
    base = {name: torch.from_numpy(value).to(torch.bfloat16) for name, value in BASE.items()}
    module = torch.nn.Linear(2, 2, bias=False, dtype=torch.bfloat16)
    found = merge_tensors("task_arithmetic", [module], {"weight": base["layer.weight"]}, weight=0.5)
    expected = merge_tensors(
        "task_arithmetic",
        [{"weight": module.weight.detach().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)}],
        {"weight": base["layer.weight"].view(torch.uint16).numpy().view(ml_dtypes.bfloat16)},
        weight=0.5,
    )
    assert (torch.bfloat16, False) == (found["weight"].dtype, found["weight"].requires_grad)
    assert expected["weight"].tobytes() == found["weight"].view(torch.uint8).numpy().tobytes()
    single = merge_tensors("linear", [base["norm.weight"], base["norm.weight"] * 3], weight=0.5)
    assert (torch.bfloat16, [2.0, 2.0]) == (single.dtype, single.tolist())


def test_what_the_first_model_lacks_is_torch_too() -> None:
    """A head that only the second model stores comes out as a torch tensor, as everything else does."""
    embedding = torch.arange(12.0).reshape(4, 3)
    tied, untied = (
        {"embed_tokens.weight": embedding},
        {"embed_tokens.weight": embedding, "lm_head.weight": embedding + 1},
    )
    found = merge_tensors("linear", [tied, untied], weight=0.5, listen=events.ignore)
    assert dict.fromkeys(untied, torch.Tensor) == {name: type(each) for name, each in found.items()}


def test_copies_are_known_in_memory_too(tmp_path: Path) -> None:
    """Tensors that one model stores under several names and another once stay copies, as in files."""
    first, second = np.float32([[1, 2], [3, 5]]), np.float32([[2, 2], [4, 4]])
    names = ("shared.weight", "encoder.embed_tokens.weight")
    models = {"a": dict.fromkeys(names, first), "b": {names[0]: second}}
    recipe = {"merge_method": "linear", "models": [{"model": name, "parameters": {"weight": 0.5}} for name in models]}
    expected = on_disk(tmp_path, recipe, PlanOptions(), models)
    actual = merge_tensors("linear", models, weight=0.5, listen=events.ignore)
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        assert tensor.tobytes() == actual[name].tobytes()


def test_results_are_on_the_device_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that are elsewhere are fetched, and the result is sent to where the model's tensor is."""
    moved: list[str] = []

    class Elsewhere(torch.Tensor):
        """A tensor that says to be on another device."""

        device = torch.device("cuda:1")

        def cpu(self) -> torch.Tensor:  # type: ignore[override]
            moved.append("fetched")
            return self.as_subclass(torch.Tensor)

        def detach(self) -> torch.Tensor:
            return self

    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: moved.append(f"sent to {device}") or tensor)
    merge_tensors("linear", [torch.ones(2).as_subclass(Elsewhere), torch.ones(2)], weight=1)
    assert ["fetched", "sent to cuda:1"] == moved


def test_arrays_of_any_layout_are_read() -> None:
    """Transposed, strided, big-endian, read-only and unaligned arrays count by their values, and stay as they are."""
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    frozen = matrix.copy()
    frozen.flags.writeable = False
    wide = np.zeros((3, 8), np.float32)
    wide[:, ::2] = matrix
    unaligned = np.frombuffer(b"\0" + matrix.tobytes(), np.uint8)[1:].view(np.float32).reshape(3, 4)
    alike = [np.asfortranarray(matrix), wide[:, ::2], matrix.astype(">f4"), frozen, unaligned]
    for each in alike:
        assert matrix.tolist() == merge_tensors("linear", [each, matrix], weight=0.5).tolist()
        assert (
            matrix.tolist()
            == merge_tensors("linear", [torch.from_numpy(matrix.copy()).T.contiguous().T], weight=1).tolist()
        )
    assert [True, True, True, False] == [each.flags.writeable for each in alike[:4]]
    assert not np.shares_memory(matrix, merge_tensors("passthrough", [matrix]))


def test_names_give_each_model_its_value() -> None:
    """A mapping of names to models takes values by these names, and orders of models by name or place."""
    models = {"math": BASE, "code": TUNED}
    by_name = merge_tensors("linear", models, weight={"code": 1, "math": 3})
    assert bits(merge_tensors("linear", [BASE, TUNED], weight=np.float32([3, 1]))) == bits(by_name)
    blocks = {"n": 1, "m": 2, "weight": 1}
    orders: list[Any] = [["code", "math"], [1, 0]]
    base = {name: value * 0.5 for name, value in BASE.items()}
    first, second = (merge_tensors("cabs", models, base, pruning_order=order, **blocks) for order in orders)
    assert bits(first) == bits(second)


def test_filters_and_reserved_words() -> None:
    """A model's value can be a list of filters, as in a recipe; names that Python reserves end in an underscore."""
    weight = [[{"filter": "norm", "value": 0.0}, {"value": 0.5}]]
    merged = merge_tensors("task_arithmetic", [TUNED], BASE, weight=weight, lambda_=2.0)
    assert bits({"layer.weight": TUNED["layer.weight"], "norm.weight": BASE["norm.weight"]}) == bits(merged)
    given = merge_tensors("task_arithmetic", [TUNED], BASE, parameters={"weight": weight, "lambda": 2.0})
    assert bits(merged) == bits(given)


def test_base_among_the_models() -> None:
    """A base model that is one of the models counts as the same, as where a recipe names it twice."""
    apart = merge_tensors("slerp", [TUNED], BASE, t=0.25)
    assert bits(apart) == bits(merge_tensors("slerp", [BASE, TUNED], BASE, t=0.25))


@pytest.mark.parametrize(
    ("arguments", "parameters", "kind", "text"),
    [
        (("tise", [BASE]), {}, RecipeError, "merge_method is 'tise'.*did you mean 'ties'"),
        (([BASE], "ties"), {}, RecipeError, "the method is of type list; expected its name"),
        (("ties", BASE), {"weight": 1}, RecipeError, "models is a mapping of arrays; expected a list"),
        (("ties", BASE["norm.weight"]), {"weight": 1}, RecipeError, "models is of type ndarray; expected a list"),
        (("ties", [BASE]), {"weight": 1}, RecipeError, "^ties has no base model to compare with; .*; pass it as base$"),
        (("ties", [TUNED], BASE), {}, RecipeError, "weight is missing for model models\\[0\\]"),
        (("ties", [TUNED], BASE), {"weigth": 1}, RecipeError, "weigth .*did you mean 'weight'"),
        (("ties", [TUNED], BASE), {"weight": [1, 2]}, RecipeError, "weight has 2 values; expected one for each of 1 m"),
        (("linear", {"a": BASE}), {"weight": {"b": 1}}, RecipeError, "weight has values for \\['b'\\]; expected one f"),
        (("ties", [TUNED], BASE), {"weight": 1, "density": "much"}, RecipeError, "density is 'much'; expected a"),
        (("linear", [BASE, 3]), {"weight": 1}, RecipeError, "a model is of type int; expected a state dict"),
        (("linear", [BASE, BASE["norm.weight"]]), {"weight": 1}, RecipeError, "some models are arrays and others are"),
        (("linear", {1: BASE}), {"weight": 1}, RecipeError, "the name of a model is 1, of type int; expected text"),
        (("linear", []), {}, RecipeError, "no models to merge"),
        (("linear", [{"a": np.zeros(2, complex)}]), {"weight": 1}, UnsupportedError, "'a' is complex128; expected"),
        (("linear", [{"a": 3}]), {"weight": 1}, UnsupportedError, "models\\[0\\]: entry 'a' is of type int; expected"),
        (("linear", [{"a": torch.zeros(2, device="meta")}]), {"weight": 1}, UnsupportedError, "is without data; exp"),
        (("linear", [BASE, {"a": BASE["norm.weight"]}]), {"weight": 1}, TensorMismatchError, "models\\[1\\] has no"),
        (("linear", [np.float32([1, np.nan])]), {"weight": 1}, NonFiniteError, "holds nan at element 1"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(arguments: Any, parameters: Any, kind: type[Exception], text: str) -> None:
    """What a recipe of files may not say is an error here too, of the same kind."""
    with pytest.raises(kind, match=text):
        merge_tensors(*arguments, **parameters)


def test_warnings_are_python_s_own() -> None:
    """Warnings are shown where the call stands, unless a listener takes them."""
    models = [{"weight": np.float64([1, 2])}] * 2
    with pytest.warns(UserWarning, match="float64") as caught:
        merge_tensors("linear", models, weight=1)
    assert {__file__} == {each.filename for each in caught}
    heard: list[events.Event] = []
    merge_tensors("linear", models, weight=1, listen=heard.append)
    assert ["notice"] == [event.name for event in heard if isinstance(event, events.Notice)]
    (*_, last) = (event for event in heard if isinstance(event, events.Progress))
    assert last.done_bytes == last.total_bytes > 0


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is made: neither here nor where temporary files go."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    merge_tensors("ties", [TUNED], BASE, weight=1, density=0.5)
    assert [] == list(tmp_path.iterdir())


def test_no_parameter_is_an_argument() -> None:
    """No method has a parameter by the name of an argument of the function, which would hide it."""
    arguments = {"method", "models", "base", "parameters", "options", "workers", "listen", "progress"}
    assert set() == arguments & {row.name.rstrip("_") for method in METHODS.values() for row in method.parameters}
