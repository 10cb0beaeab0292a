"""Bad checkpoints through the command line: the whole text, the exit code, and nothing lost.

The tests of `dovetail.io` cover every defect of a header. Here, each kind of defect that a user meets goes through a
whole command.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.checkpoints import BF16, llama_tensors, write_checkpoint
from tests.engine.command import dovetail, dovetail_process, snapshot
from tests.engine.conftest import Family

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
NAMES = sorted(llama_tensors(0))
"""Tensor names in the order in which the official library stores tensors of one dtype."""


def edit_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the header of a file, and leave its data alone."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def edit_tensor(name: str, **fields: Any) -> Callable[[Family], None]:
    """Make a damage: other fields in the header entry of one tensor of the fine-tune."""
    return lambda family: edit_header(family.math / FILE, lambda header: header[name].update(fields))


def edit_index(change: Callable[[dict[str, str]], None]) -> Callable[[Family], None]:
    """Make a damage: another weight map in the sharded fine-tune's index."""

    def damage(family: Family) -> None:
        document = json.loads((family.code / INDEX).read_text())
        change(document["weight_map"])
        (family.code / INDEX).write_text(json.dumps(document))

    return damage


def edit_tensors(change: Callable[[dict[str, Any]], None]) -> Callable[[Family], None]:
    """Make a damage: other tensors in the fine-tune."""

    def damage(family: Family) -> None:
        tensors = load_file(family.math / FILE)
        change(tensors)
        save_file(tensors, family.math / FILE)

    return damage


def rewrite(change: Callable[[bytes], bytes], file: str = FILE) -> Callable[[Family], None]:
    """Make a damage: other bytes in a file of the fine-tune."""

    def damage(family: Family) -> None:
        path = family.math / file
        path.write_bytes(change(path.read_bytes()))

    return damage


def _lead_outside(family: Family) -> None:
    (family.home / "elsewhere.safetensors").write_bytes((family.math / FILE).read_bytes())
    edit_index(lambda weight_map: weight_map.update(dict.fromkeys(weight_map, "../elsewhere.safetensors")))(family)


def _link_outside(family: Family) -> None:
    (family.home / "elsewhere.safetensors").write_bytes((family.math / FILE).read_bytes())
    (family.math / FILE).unlink()
    (family.math / FILE).symlink_to(family.home / "elsewhere.safetensors")


def _move_shard(family: Family) -> None:
    (family.code / "model-00002-of-00003.safetensors").unlink()


def _quantise(family: Family) -> None:
    config = {"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}
    (family.math / "config.json").write_text(json.dumps(config))
    edit_tensors(lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.qweight": np.zeros(8, np.int32)}))(family)


@dataclass(frozen=True)
class Damage:
    """One way in which a checkpoint can be bad."""

    id: str
    """What is wrong."""
    inflict: Callable[[Family], None]
    """Makes it so."""
    text: str
    """The whole error; ``{math}``, ``{code}`` and ``{home}`` are folders."""


_UP_PROJ = "model.layers.0.mlp.up_proj.weight"
_NORM = "model.norm.weight"
_AGAIN = "download or export the file again"
_INDEX_AGAIN = "download or export the checkpoint again"
_DTYPES = "one of BOOL, U8, I8, I16, U16, I32, U32, I64, U64, F16, BF16, F32, F64, F8_E4M3, F8_E5M2"

DAMAGES = (
    Damage(
        "truncated",
        rewrite(lambda raw: raw[:-100]),
        f"tensor '{_NORM}' in {{math}}/{FILE} ends at byte 74880, outside the file; expected at most 74780 bytes of "
        "tensor data; the file is probably truncated: download it again",
    ),
    Damage(
        "truncated in the header",
        rewrite(lambda raw: struct.pack("<Q", 848) + raw[8:300]),
        f"{{math}}/{FILE} is truncated: it has 300 bytes; expected a header of 848 bytes after the 8 bytes of its "
        f"length; {_AGAIN}",
    ),
    Damage(
        "empty",
        rewrite(lambda raw: b""),
        f"{{math}}/{FILE} is 0 bytes long; expected at least the 8 bytes of a safetensors length field; {_AGAIN}",
    ),
    Damage(
        "header not JSON",
        rewrite(lambda raw: raw[:8] + b"<" + raw[9:]),
        f"the header of {{math}}/{FILE} is not JSON (Expecting value: line 1 column 1 (char 0)); expected a JSON "
        f"object with each name once; {_AGAIN}",
    ),
    Damage(
        "header too large",
        rewrite(lambda raw: struct.pack("<Q", 100_000_001) + raw[8:]),
        f"{{math}}/{FILE} says its header is 100000001 bytes long; expected at most 100000000; check that this is a "
        "safetensors file, or download it again",
    ),
    Damage(
        "offsets outside",
        edit_tensor(_NORM, shape=[128], data_offsets=[74752, 75008]),
        f"tensor '{_NORM}' in {{math}}/{FILE} ends at byte 75008, outside the file; expected at most 74880 bytes of "
        "tensor data; the file is probably truncated: download it again",
    ),
    Damage(
        "overlapping",
        edit_tensor(_NORM, shape=[128], data_offsets=[74624, 74880]),
        f"tensor '{_NORM}' in {{math}}/{FILE} begins at byte 74624 and overlaps tensor "
        f"'model.layers.1.self_attn.q_proj.weight'; expected byte 74752; {_AGAIN}",
    ),
    Damage(
        "gap",
        edit_tensor(_NORM, shape=[32], data_offsets=[74816, 74880]),
        f"tensor '{_NORM}' in {{math}}/{FILE} begins at byte 74816 and leaves a gap after tensor "
        f"'model.layers.1.self_attn.q_proj.weight'; expected byte 74752; {_AGAIN}",
    ),
    Damage(
        "wrong size",
        edit_tensor(_NORM, shape=[65]),
        f"tensor '{_NORM}' in {{math}}/{FILE} has 128 bytes; expected 130 for shape [65] of BF16; {_AGAIN}",
    ),
    Damage(
        "unknown dtype",
        edit_tensor(_NORM, dtype="BF17"),
        f"tensor '{_NORM}' in {{math}}/{FILE} has the unknown dtype 'BF17'; expected {_DTYPES}; {_AGAIN}",
    ),
    Damage(
        "unsupported dtype",
        edit_tensor(_NORM, dtype="F8_E4M3FNUZ", shape=[128]),
        f"tensor '{_NORM}' in {{math}}/{FILE} has dtype F8_E4M3FNUZ (float8 in a layout that only some accelerators "
        f"use); expected {_DTYPES}; convert the checkpoint to bfloat16 or float32 first",
    ),
    Damage(
        "index names a missing file",
        _move_shard,
        f"model-00002-of-00003.safetensors, named by {INDEX}, is not in {{code}}; expected every file of the "
        "checkpoint in its folder; finish the download, or copy the file there",
    ),
    Damage(
        "index leads outside",
        _lead_outside,
        f"the index {{code}}/{INDEX} places tensor 'model.embed_tokens.weight' in '../elsewhere.safetensors'; expected "
        f"the name of a .safetensors file in the same folder; {_INDEX_AGAIN}",
    ),
    Damage(
        "link leads outside",
        _link_outside,
        f"{{math}}/{FILE} is a link that leads outside its folder, to {{home}}/elsewhere.safetensors; expected a file "
        "in the folder, or a link into the blobs of a hub cache; copy the file into the folder",
    ),
    Damage(
        "index is wrong about a tensor",
        edit_index(lambda weight_map: weight_map.update({_NORM: "model-00001-of-00003.safetensors"})),
        f"tensor '{_NORM}' is not in model-00001-of-00003.safetensors (it is in model-00002-of-00003.safetensors); "
        f"expected it in that file, as {{code}}/{INDEX} says; {_INDEX_AGAIN}",
    ),
    Damage(
        "tensor missing",
        edit_tensors(lambda tensors: tensors.pop(_UP_PROJ)),
        f"tensor '{_UP_PROJ}' is missing in checkpoint {{math}}; expected shape [130, 64], as in {{base}}; merge "
        "checkpoints of one architecture and vocabulary, or merge without --strict",
    ),
    Damage(
        "shapes differ",
        edit_tensors(lambda tensors: tensors.update({_UP_PROJ: np.zeros((64, 130), BF16)})),
        f"tensor '{_UP_PROJ}' of checkpoint {{math}} has shape [64, 130]; expected [130, 64], as in {{base}}; merge "
        "checkpoints of one architecture and vocabulary, or merge without --strict",
    ),
    Damage(
        "integers for weights",
        edit_tensors(lambda tensors: tensors.update({_NORM: np.zeros(64, np.int32)})),
        f"tensor '{_NORM}' of checkpoint {{math}} has dtype int32; expected a floating-point dtype, as in the other "
        "checkpoints; merge checkpoints of one architecture",
    ),
    Damage(
        "quantised by its configuration",
        _quantise,
        "{math} is quantised: config.json has a quantization_config (gptq); expected a checkpoint in bfloat16, float16 "
        "or float32, or in scaled float8, MXFP4 or NVFP4; use the unquantised original, or convert this one to "
        "bfloat16 first",
    ),
    Damage(
        "quantised by its tensors",
        edit_tensors(lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.qweight": np.zeros(8, np.int32)})),
        "{math} is quantised: it has tensor 'model.layers.0.mlp.up_proj.qweight' (GPTQ or AWQ); expected a checkpoint "
        "in bfloat16, float16 or float32, or in scaled float8, MXFP4 or NVFP4; use the unquantised original, or "
        "convert this one to bfloat16 first",
    ),
    Damage(
        "configuration not JSON",
        rewrite(lambda raw: b"{", "config.json"),
        "{math}/config.json: is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char "
        "1)); expected a JSON object; repair the file or copy it again",
    ),
    Damage(
        "no weights",
        lambda family: (family.math / FILE).unlink(),
        f"{{math}} has no .safetensors file; expected {FILE}, {INDEX} with its shards, or exactly one .safetensors "
        "file, or a Zarr group or a tree of Zarr arrays; check the path",
    ),
)


def filled(text: str, family: Family) -> str:
    """Fill the family's folders into an expected text."""
    return text.format(base=family.base, math=family.math, code=family.code, home=family.home)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.id)
def test_a_bad_checkpoint_is_refused(family: Family, damage: Damage) -> None:
    """The error names file and tensor, the exit code is 3, and not a file is made or changed."""
    damage.inflict(family)
    before = snapshot(family.home)
    outcome = dovetail("merge", family.recipe_path, family.out, "--strict")
    assert f"error: {filled(damage.text, family)}\n" == outcome.err
    assert (3, "") == (outcome.code, outcome.out)
    assert before == snapshot(family.home)


@pytest.mark.parametrize("command", ["plan", "inspect"])
def test_other_commands_refuse_a_bad_checkpoint_too(family: Family, command: str) -> None:
    """Every command that reads checkpoints prints the same error as a merge."""
    (damage,) = (damage for damage in DAMAGES if damage.id == "overlapping")
    damage.inflict(family)
    outcome = dovetail(command, family.recipe_path if command == "plan" else family.math)
    assert (3, "", f"error: {filled(damage.text, family)}\n") == (outcome.code, outcome.out, outcome.err)


def test_a_process_fails_in_the_same_way(family: Family) -> None:
    """The installed command gives the same text and code as the function that it calls."""
    (damage,) = (damage for damage in DAMAGES if damage.id == "truncated")
    damage.inflict(family)
    before = snapshot(family.home)
    outcome = dovetail_process("merge", family.recipe_path, family.out)
    assert (3, "", f"error: {filled(damage.text, family)}\n") == (outcome.code, outcome.out, outcome.err)
    assert before == snapshot(family.home)


def test_a_model_that_is_not_there(family: Family) -> None:
    """The error names the missing model by the path in the recipe."""
    family.recipe(models=[{"model": "/nowhere/at/all"}])
    outcome = dovetail("merge", family.recipe_path, family.out)
    assert (
        "error: model '/nowhere/at/all' is not there; expected a checkpoint's folder or file, relative to the current "
        "folder or to the recipe's, or ORG/NAME on a hub; correct the path in the recipe\n"
    ) == outcome.err
    assert 3 == outcome.code


@pytest.mark.parametrize(
    ("model", "value", "shown"), [("base", np.nan, "nan"), ("math", np.inf, "inf"), ("code", -np.inf, "-inf")]
)
def test_nan_and_infinity_are_refused_by_place(family: Family, model: str, value: float, shown: str) -> None:
    """The error names checkpoint, tensor and flat index, the exit code is 3, and OUT does not appear."""
    tensors = {name: tensor.copy() for name, tensor in llama_tensors(0).items()}
    tensors[_UP_PROJ][77, 13] = value
    folder = family.home / model
    for file in folder.iterdir():
        file.unlink()
    write_checkpoint(folder, tensors)
    before = snapshot(family.home)
    outcome = dovetail("merge", family.recipe_path, family.out)
    assert (
        f"error: {folder}: tensor '{_UP_PROJ}' holds {shown} at element {77 * 64 + 13}; expected finite numbers; "
        "repair the checkpoint, or pass --nonfinite keep to let such values through\n"
    ) == outcome.err
    assert 3 == outcome.code
    after = snapshot(family.home)
    assert before == {name: after[name] for name in before}
    assert {".out.dovetail-partial"} == {name.split("/")[0] for name in after if name not in before}


def test_nan_passes_through_where_asked_for(family: Family) -> None:
    """With --nonfinite keep, NaN keeps its place, all other elements are as without it, and a warning counts it."""
    clean = family.home / "clean"
    assert 0 == dovetail("merge", family.recipe_path, clean).code
    path = family.base / "model-00002-of-00002.safetensors"
    tensors = load_file(path)
    tensors[_NORM][5] = np.nan
    save_file(tensors, path)
    outcome = dovetail("merge", family.recipe_path, family.out, "--nonfinite", "keep")
    assert (0, "warning: 1 NaN or infinite input value passed through.\n") == (outcome.code, outcome.err)
    manifest = json.loads((family.out / "dovetail_manifest.json").read_bytes(), parse_constant=pytest.fail)
    assert [None, None] == manifest["tensors"][_NORM]["statistics"]["task_vector_norm"]
    assert [None, None] == manifest["totals"]["task_vector_norm"]
    expected, actual = load_file(clean / FILE), load_file(family.out / FILE)
    assert np.isnan(actual[_NORM][5].astype(np.float32))
    block = slice(0, 16)  # the block of m elements in which NaN, as the largest, takes a place
    for name in NAMES:
        expected_bits, actual_bits = (each[name].reshape(-1).view(np.uint16) for each in (expected, actual))
        outside = np.ones(expected_bits.size, bool)
        outside[block] = name != _NORM
        assert np.array_equal(expected_bits[outside], actual_bits[outside])
