"""Extracted modules compute what their parents compute masked, and are written like every output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dovetail.engine import RunOptions, verify
from dovetail.engine.actions.recompute import recompute
from dovetail.engine.errors import ArchitectureError, InterruptedMergeError, OutputError, RecipeError, VerificationError
from dovetail.engine.modular import extract_module, load_module, masked_layers, trace
from dovetail.engine.modular.extraction.document import read_module
from dovetail.engine.modular.network.counts import Counts, kernels_of, write_counts
from dovetail.engine.modular.network.parent import read_parent
from dovetail.engine.planning import grid
from dovetail.io.errors import CheckpointError, TensorMismatchError
from tests.checkpoints import folder_bytes
from tests.engine.interrupt import Interrupter, commit_often
from tests.engine.modular.masked import generator_tensors, masked_outputs
from tests.engine.modular.networks import NETWORKS, images, make
from tests.engine.modular.parents import make_parent, random_counts


def naive_kernels(counts: Counts, numbers: list[int], threshold_percent: int) -> dict[str, np.ndarray]:
    """Find the kernels of classes one by one, in whole percents."""
    kept = {layer: np.zeros(each.shape[1], bool) for layer, each in counts.counts.items()}
    for layer, each in counts.counts.items():
        for number in numbers:
            percent, found = threshold_percent, []
            while not found:
                found = [k for k, used in enumerate(each[number]) if 100 * used >= percent * counts.samples[number]]
                percent -= 5
            kept[layer][found] = True
    return kept


@pytest.mark.parametrize("masks", ["hard", "folded", "generators"])
@pytest.mark.parametrize("name", NETWORKS)
def test_module_computes_what_its_parent_computes_masked(tmp_path: Path, name: str, masks: str) -> None:
    """Whatever a module has of soft masks, its logits are the masked parent's for its classes, in its order."""
    folder = make_parent(tmp_path / "parent", name)
    manifest = extract_module(folder, tmp_path / "module", ["dog", "bee"], masks=masks)
    network = make(name)
    architecture = trace(network, images())
    counts = random_counts(architecture, 0, soft=True)
    kept = naive_kernels(counts, [3, 1], 90)
    factors = {layer: torch.from_numpy(mask).float() for layer, mask in kept.items()}
    if masks == "folded":
        means = {layer: torch.from_numpy(counts.soft[layer][[3, 1]].mean(0)).float() for layer in kept}
        factors = {layer: factor * means[layer] for layer, factor in factors.items()}
    generators = generator_tensors(architecture) if masks == "generators" else None
    wanted = masked_outputs(network, architecture, factors, images(), generators)[:, [3, 1]]
    found = load_module(tmp_path / "module")(images())
    assert torch.allclose(wanted, found, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    assert ["dog", "bee"] == manifest["module"]["classes"]
    assert not verify(tmp_path / "module").damage


def test_same_command_has_nothing_to_do(tmp_path: Path) -> None:
    """A module is known again, another one in its place is refused, and other counts of equal shapes are noticed."""
    folder, output = make_parent(tmp_path / "parent"), tmp_path / "module"
    extract_module(folder, output, ["ant"])
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in output.iterdir()}
    extract_module(folder, output, ["ant"])
    assert before == {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in output.iterdir()}
    with pytest.raises(OutputError, match=r"classes.0 of the module was 'ant' and is 'bee'"):
        extract_module(folder, output, ["bee"])
    extract_module(folder, output, ["bee"], run=RunOptions(overwrite=True))
    assert ("bee",) == read_module(output).description.classes


def test_memory_limit_changes_no_byte(tmp_path: Path) -> None:
    """Workers decide nothing: the folder is the same, byte for byte."""
    folder = make_parent(tmp_path / "parent", "resnet")
    for name, workers in (("one", 1), ("two", 2)):
        extract_module(folder, tmp_path / name, run=RunOptions(workers=workers))
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def test_interrupted_extraction_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done is not done again, the bytes are the same, and work on another module is not taken for this one."""
    folder, quick = make_parent(tmp_path / "parent"), RunOptions(workers=1)
    monkeypatch.setattr(grid, "CHUNK_STEP", 64)
    commit_often(monkeypatch)
    chosen = {"classes": ["ant", "bee"], "masks": "hard", "run": quick}
    extract_module(folder, tmp_path / "whole", **chosen)
    with pytest.raises(InterruptedMergeError, match="extraction interrupted"):
        extract_module(folder, tmp_path / "module", listen=Interrupter(2), **chosen)
    with pytest.raises(OutputError, match="unfinished"):
        extract_module(folder, tmp_path / "module", **{**chosen, "classes": ["bee", "ant"]})
    told: list[Any] = []
    extract_module(folder, tmp_path / "module", listen=told.append, **chosen)
    assert any("Continuing an unfinished extraction" in getattr(event, "text", "") for event in told)
    assert folder_bytes(tmp_path / "whole") == folder_bytes(tmp_path / "module")


def test_sharded_parents_give_the_same_module(tmp_path: Path) -> None:
    """A parent in shards has the same digest, and its modules the same tensors and the same description."""
    from safetensors.torch import load_file, save_file

    whole = make_parent(tmp_path / "a" / "parent", "inception")
    parts = make_parent(tmp_path / "b" / "parent", "inception")
    tensors = list(load_file(parts / "model.safetensors").items())
    (parts / "model.safetensors").unlink()
    names = {}
    for number, chosen in enumerate((tensors[::2], tensors[1::2])):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        save_file(dict(chosen), parts / file, {"format": "pt"})
        names |= dict.fromkeys(dict(chosen), file)
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    for folder in (whole, parts):
        extract_module(folder, folder.parent / "module", ["cat"], masks="folded")
    for file in ("modules.json", "model.safetensors"):
        assert (whole.parent / "module" / file).read_bytes() == (parts.parent / "module" / file).read_bytes()


def test_description_says_what_was_taken(tmp_path: Path) -> None:
    """The tensors of a module are just the rows and columns of the parent's tensors that its description names."""
    from safetensors.torch import load_file

    folder = make_parent(tmp_path / "parent", "mobilenet")
    extract_module(folder, tmp_path / "module", ["cat", "ant"], threshold=0.95)
    said = read_module(tmp_path / "module").description
    parent, module = load_file(folder / "model.safetensors"), load_file(tmp_path / "module" / "model.safetensors")
    assert set(module) == set(said.tensors)
    for name, taken in said.tensors.items():
        wanted = parent[taken.part.tensor]
        wanted = wanted if taken.part.rows is None else wanted[torch.from_numpy(taken.part.rows)]
        wanted = wanted if taken.part.columns is None else wanted[:, torch.from_numpy(taken.part.columns)]
        assert torch.equal(wanted, module[name])
    share = said.parents[0].classes["cat"]
    assert 20 == share.samples
    assert set(masked_layers(read_parent(folder).architecture)) == set(share.thresholds) == set(share.kernels)


def test_threshold_falls_only_where_a_layer_would_be_empty() -> None:
    """Shares are exact, a threshold falls in steps of 0.05, and of a layer without any use one kernel is left."""
    architecture = trace(make("vgg"), images())
    used = np.array([[0, 5, 11, 11, 10, 0, 1, 0, 0], [9] * 9, [0] * 9, [1] * 9])
    counts = Counts(np.array([20, 10, 20, 30]), {"3": used, "7": used[:, :8]}, {})
    found = [kernels_of(counts, number, "x", 0.9, architecture) for number in range(4)]
    assert [2, 3] == np.flatnonzero(found[0].kept["3"]).tolist()
    assert [0.55, 0.9, 0.0, 0.0] == [each.thresholds["3"] for each in found]
    assert [9, 1, 1] == [int(each.kept["3"].sum()) for each in found[1:]]
    with pytest.raises(RecipeError, match="no sample of class 'x' was counted"):
        kernels_of(Counts(np.zeros(4, int), counts.counts, {}), 0, "x", 0.9, architecture)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "class": ({"classes": ["eel"]}, "there is no class 'eel'; expected some of ant, bee, cat, dog"),
    "twice": ({"classes": ["ant", "ant"]}, "class 'ant' is chosen twice"),
    "none": ({"classes": []}, "no class is chosen"),
    "threshold": ({"threshold": 1.5}, "the threshold is 1.5"),
    "masks": ({"masks": "soft"}, "masks are 'soft'; expected one of generators, folded, hard"),
    "generators": ({"masks": "generators"}, "has no mask generators to keep"),
    "folded": ({"masks": "folded"}, "have no soft masks to fold"),
}


@pytest.mark.parametrize(("options", "text"), REFUSED.values(), ids=REFUSED)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    """What a parent does not have is an error that says what there is, and leaves nothing behind."""
    folder = make_parent(tmp_path / "parent", generators=False)
    with pytest.raises(RecipeError) as caught:
        extract_module(folder, tmp_path / "module", **options)
    assert text in str(caught.value)
    assert [folder] == list(tmp_path.iterdir())


def _without_counts(folder: Path) -> None:
    (folder / "counts.safetensors").unlink()


def _other_counts(folder: Path) -> None:
    write_counts(folder, random_counts(trace(make("resnet"), images()), 0, soft=False))


def _too_many_counts(folder: Path) -> None:
    counts = random_counts(read_parent(folder).architecture, 0, soft=False)
    write_counts(folder, Counts(counts.samples - 15, counts.counts, {}))


def _other_weights(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(make("resnet").state_dict(), folder / "model.safetensors")


def _whole_numbers(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["3.weight"] = tensors["3.weight"].to(torch.int32)
    save_file(tensors, folder / "model.safetensors")


def _cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _no_json(folder: Path) -> None:
    (folder / "modular.json").write_text("{")


def _changed(key: str, value: Any) -> Any:
    def change(folder: Path) -> None:
        document = json.loads((folder / "modular.json").read_text())
        document[key] = value
        (folder / "modular.json").write_text(json.dumps(document))

    return change


BAD_PARENTS = {
    "no counts": (_without_counts, "has no counts.safetensors"),
    "counts of another": (_other_counts, "tensor 'counts.3' is missing"),
    "more than there are": (_too_many_counts, "counts more samples than there are"),
    "weights of another": (_other_weights, "has no tensor '0.weight'"),
    "whole numbers": (_whole_numbers, "tensor '3.weight' of"),
    "cut short": (_cut_short, "model.safetensors"),
    "no json": (_no_json, "is not JSON"),
    "classes": (_changed("classes", ["a"]), "1 class for a network that gives [4] values"),
    "same class": (_changed("classes", ["a", "b", "a", "c"]), "two classes are called 'a'"),
    "format": (_changed("format", "x"), "the format is 'x'"),
    "version": (_changed("format_version", 2), "version 2"),
    "threshold": (_changed("threshold", 0.0), "the threshold is 0.0"),
    "generators": (_changed("generators", 1), "generators of the file is 1; expected true or false"),
    "key": (_changed("code", "x"), "the file has 'code'"),
}


@pytest.mark.parametrize(("damage", "text"), BAD_PARENTS.values(), ids=BAD_PARENTS)
def test_bad_parents_are_refused(tmp_path: Path, damage: Any, text: str) -> None:
    """A parent that is damaged, or of parts that do not belong together, is an error of a checkpoint, in one line."""
    folder = make_parent(tmp_path / "parent")
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        extract_module(folder, tmp_path / "module")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, (ArchitectureError, TensorMismatchError, CheckpointError))


def test_unused_tensors_are_told(tmp_path: Path) -> None:
    """A tensor of the parent that its network does not use is named in a warning, as no module has it."""
    from safetensors.torch import load_file, save_file

    folder = make_parent(tmp_path / "parent")
    save_file({**load_file(folder / "model.safetensors"), "ema": torch.zeros(2)}, folder / "model.safetensors")
    told: list[Any] = []
    extract_module(folder, tmp_path / "module", listen=told.append)
    assert any("has tensor 'ema'" in getattr(event, "text", "") for event in told)


def test_recomputing_is_refused(tmp_path: Path) -> None:
    """A module is no merge of a recipe: verification compares checksums, and says so where more is asked for."""
    folder = make_parent(tmp_path / "parent")
    extract_module(folder, tmp_path / "module")
    with pytest.raises(VerificationError, match="an extracted adapter, a mixture of experts or a module"):
        recompute(tmp_path / "module", 1.0)
