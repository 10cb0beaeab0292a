"""Conversions: every byte where the dtype stays, one rounding where not, resumable, verified, several at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from zarr import open_group

from dovetail.engine import events
from dovetail.engine.actions.convert import convert, convert_all, outputs, parse_source, source_name
from dovetail.engine.actions.recompute import recompute
from dovetail.engine.actions.verify import read_manifest, verify
from dovetail.engine.errors import ConversionsFailedError, InterruptedMergeError, OutputError, RecipeError
from dovetail.engine.planning import grid
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.errors import MissingFileError
from dovetail.io.formats.header import read_header
from dovetail.io.output import SafetensorsFormat, ZarrFormat
from tests.checkpoints import folder_bytes, llama_tensors, read_output, write_checkpoint
from tests.engine.awkward import DTYPES, base_tensors, same_bits
from tests.engine.command import dovetail
from tests.engine.interrupt import Interrupter, commit_often


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a sharded checkpoint of every dtype, with NaN, infinities and empty tensors."""
    tensors: dict[str, Any] = {}
    for number, dtype in enumerate(DTYPES):
        tensors |= {f"{dtype}.{name}": values for name, values in base_tensors(dtype, number).items()}
    tensors["special"] = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3e38], np.float32)
    tensors["payload"] = np.array([0x7FC1, 0xFF81, 0x8000], np.uint16).view(ml_dtypes.bfloat16)
    tensors |= {"ids": np.arange(-5, 2000), "mask": np.array([True, False])}
    for kind in "iu":
        for size in (1, 2, 4, 8):
            tensors[f"{kind}{size}"] = np.arange(-20, 20).astype(f"{kind}{size}")
    return write_checkpoint(tmp_path / "source", tensors, shards=3, config={"torch_dtype": "float32"})


def assert_same(source: Path, output: Path) -> None:
    """Check by the official library that two checkpoints hold the same tensors, bit for bit."""
    expected, actual = read_output(source), read_output(output)
    assert set(expected) == set(actual)
    for name in expected:
        assert same_bits(expected[name], actual[name]), name


def test_every_bit_is_kept(source: Path, tmp_path: Path) -> None:
    """Without a dtype, every tensor of any dtype is the same bit for bit: NaN payloads, -0.0, integers, empty ones."""
    convert(source, tmp_path / "out", PlanOptions(SafetensorsFormat(3000)))
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 3
    assert_same(source, tmp_path / "out")
    convert(tmp_path / "out", tmp_path / "back")
    assert ["model.safetensors"] == [path.name for path in (tmp_path / "back").glob("*.safetensors")]
    assert_same(source, tmp_path / "back")


@pytest.mark.parametrize("zarr", [ZarrFormat(), ZarrFormat("blosc", 2000), ZarrFormat("none")], ids=str)
def test_there_and_back(source: Path, tmp_path: Path, zarr: ZarrFormat) -> None:
    """To Zarr and back every tensor of any dtype is the same bit for bit, by the official libraries of both formats."""
    convert(source, tmp_path / "zarr", PlanOptions(zarr))
    group = open_group(tmp_path / "zarr", mode="r")
    expected = read_output(source)
    assert set(expected) == set(group.array_keys())
    for name, values in expected.items():
        assert same_bits(values, np.asarray(group[name][...])), name
    convert(tmp_path / "zarr", tmp_path / "back")
    assert_same(source, tmp_path / "back")
    assert 0 == dovetail("compare", source, tmp_path / "zarr").code
    assert 0 == dovetail("verify", tmp_path / "zarr", "--recompute", "1").code


@pytest.mark.parametrize("dtype", DTYPES)
def test_another_dtype(source: Path, tmp_path: Path, dtype: str) -> None:
    """Floats are rounded as ml_dtypes rounds them, integers stay, and the configuration names the dtype."""
    convert(source, tmp_path / "out", PlanOptions(dtype=dtype, round_float32=True))
    for name, values in read_output(source).items():
        found = read_output(tmp_path / "out")[name]
        if values.dtype.kind in "iub":
            assert same_bits(values, found)
            continue
        with np.errstate(all="ignore"):
            expected = values.astype(DTYPES[dtype])
            np.testing.assert_array_equal(expected.astype(np.float64), found.astype(np.float64))
        assert DTYPES[dtype] == found.dtype
        if values.dtype == found.dtype:
            assert same_bits(values, found)
    assert dtype == json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"]
    assert () == verify(tmp_path / "out").damage


def test_the_folder_is_complete(source: Path, tmp_path: Path) -> None:
    """Side files, the header's metadata and the source's card are in the output, and no word of a merge."""
    (source / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n")
    convert(source, tmp_path / "out")
    made = {"dovetail_inputs.json", "dovetail_manifest.json", "model.safetensors"}
    assert {"README.md", "config.json", "tokenizer.json", *made} == {path.name for path in (tmp_path / "out").iterdir()}
    assert json.loads((source / "config.json").read_text()) == json.loads(
        (tmp_path / "out" / "config.json").read_text()
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n---\n\n# Mine\n")
    assert "Converted with Dovetail from `source`" in card
    manifest = read_manifest(tmp_path / "out")
    assert "convert" == manifest["recipe"]["merge_method"]
    assert {"format": "pt"} == read_header(tmp_path / "out" / "model.safetensors")[0].metadata
    for text in (card, dovetail("convert", source, tmp_path / "again").out):
        assert "merge" not in text.lower()


def test_metadata_is_kept(tmp_path: Path) -> None:
    """The metadata of the source's header is in the output's header."""
    from safetensors.numpy import save_file

    save_file({"w": np.ones(3, np.float32)}, tmp_path / "one.safetensors", {"format": "np", "author": "me"})
    convert(tmp_path / "one.safetensors", tmp_path / "out")
    assert {"format": "np", "author": "me"} == read_header(tmp_path / "out" / "model.safetensors")[0].metadata


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_nothing_but_the_source_decides(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str | None
) -> None:
    """Chunks and workers change no byte of any tensor."""
    convert(source, tmp_path / "whole", PlanOptions(dtype=dtype), RunOptions(workers=1))
    monkeypatch.setattr(grid, "CHUNK_STEP", 100)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)
    convert(source, tmp_path / "cut", PlanOptions(dtype=dtype), RunOptions(workers=3))
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        tmp_path / "cut" / "model.safetensors"
    ).read_bytes()


def test_interrupted_and_continued(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same call continues an interrupted conversion, writes the same bytes, and says what it continues."""
    options = PlanOptions(SafetensorsFormat(3000), "float16")
    commit_often(monkeypatch)
    convert(source, tmp_path / "expected", options)
    with pytest.raises(InterruptedMergeError, match=r"^conversion interrupted; "):
        convert(source, tmp_path / "out", options, RunOptions(workers=1), Interrupter(3))
    assert not (tmp_path / "out").exists()
    heard: list[events.Event] = []
    convert(source, tmp_path / "out", options, listen=heard.append)
    assert any(isinstance(e, events.Notice) and "Continuing an unfinished conversion" in e.text for e in heard)
    assert folder_bytes(tmp_path / "expected") == folder_bytes(tmp_path / "out")


def test_a_finished_conversion_is_left_alone(source: Path, tmp_path: Path) -> None:
    """The same call again does nothing; one with another dtype is refused without --overwrite."""
    out = tmp_path / "out"
    first = convert(source, out)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert first == convert(source, out)
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.raises(OutputError, match="is not empty"):
        convert(source, out, PlanOptions(dtype="float16"))
    options = PlanOptions(dtype="float16", round_float32=True)
    convert(source, out, options, RunOptions(overwrite=True))
    assert "F16" == read_manifest(out)["tensors"]["special"]["dtype"]


def test_a_flipped_bit_is_found(source: Path, tmp_path: Path) -> None:
    """Verification names a damaged tensor; recomputing finds a changed source, which checksums cannot show."""
    out = tmp_path / "out"
    convert(source, out, PlanOptions(dtype="bfloat16"))
    assert recompute(out, 1.0) > 0
    path = out / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (damage,) = verify(out).damage
    assert "is damaged between elements" in damage
    outcome = dovetail("verify", out)
    assert (5, True) == (outcome.code, "make the output again" in outcome.err)


def test_recomputing_reads_the_source_again(source: Path, tmp_path: Path) -> None:
    """Recomputing refuses a source with other headers than the source that was converted."""
    convert(source, tmp_path / "out")
    shutil.rmtree(source)
    write_checkpoint(source, llama_tensors(0))
    outcome = dovetail("verify", tmp_path / "out", "--recompute", "1")
    assert 5 == outcome.code
    assert "has changed since it was read" in outcome.err


def test_overflow_is_a_warning(tmp_path: Path) -> None:
    """Warnings count the values that are too large for the dtype, and the NaN that pass through."""
    source = write_checkpoint(tmp_path / "source", {"w": np.array([1e30, 1.0, np.nan, -1e30])})
    outcome = dovetail("convert", source, tmp_path / "out", "--dtype", "float16")
    assert 0 == outcome.code
    assert (
        "warning: 2 values in 1 tensor too large for float16, and infinite or NaN now: 'w' (2)\n"
        "warning: 1 NaN or infinite input value passed through.\n"
    ) == outcome.err
    assert 2 == read_manifest(tmp_path / "out")["tensors"]["w"]["statistics"]["overflowed"]


def test_several_at_once(source: Path, tmp_path: Path) -> None:
    """Each checkpoint gets a folder named after it, and a failure does not stop the others, as a second call shows."""
    other = write_checkpoint(tmp_path / "other", llama_tensors(0))
    outcome = dovetail("convert", source, tmp_path / "absent", other, tmp_path / "all", "--json")
    assert 3 == outcome.code
    failed = [event for event in outcome.events if event["event"] == "failed"]
    assert [(str(tmp_path / "absent"), 3)] == [(event["source"], event["exit_code"]) for event in failed]
    assert f"there is no checkpoint at {tmp_path / 'absent'}" in failed[0]["text"]
    assert "1 of 3 checkpoints could not be converted" in outcome.err
    for path in (source, other):
        assert_same(path, tmp_path / "all" / path.name)
    again = dovetail("convert", source, tmp_path / "absent", other, tmp_path / "all")
    assert again.err.splitlines()[1].startswith(f"failed: {tmp_path / 'absent'}: there is no checkpoint at ")
    write_checkpoint(tmp_path / "absent", llama_tensors(1))
    heard: list[events.Event] = []
    convert_all([str(source), str(tmp_path / "absent"), str(other)], tmp_path / "all", listen=heard.append)
    assert [str(tmp_path / "all" / "absent")] == [
        e.output for e in heard if isinstance(e, events.Done) and not e.already
    ]


def test_failures_of_several_are_one_error(tmp_path: Path) -> None:
    """The error for several conversions has the first one's exit code; a single conversion's error stays itself."""
    with pytest.raises(ConversionsFailedError) as caught:
        convert_all([str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "all")
    assert (3, (str(tmp_path / "a"), str(tmp_path / "b"))) == (caught.value.exit_code, caught.value.failed)
    with pytest.raises(MissingFileError, match="there is no checkpoint at"):
        convert_all([str(tmp_path / "a")], tmp_path / "all")


def test_names_of_several(tmp_path: Path) -> None:
    """The name is the last part of the path, without a file's suffix; two of one name are refused."""
    assert {"x/a": tmp_path / "out"} == outputs(["x/a"], tmp_path / "out")
    assert ["a", "b"] == [path.name for path in outputs(["x/a/", "y/b.safetensors"], tmp_path).values()]
    with pytest.raises(RecipeError, match=r"x/a and y/a would both be converted to .*a; expected sources of different"):
        outputs(["x/a", "y/a"], tmp_path)
    assert "base+lora" == source_name(parse_source("org/base+path/lora"))
    (tmp_path / "c+d@e").mkdir()
    assert "c+d@e" == source_name(parse_source(str(tmp_path / "c+d@e")))


def test_an_output_inside_the_source_is_refused(source: Path) -> None:
    """A conversion never writes into what it reads."""
    for target in (source, source / "out", source.parent):
        with pytest.raises(OutputError):
            convert(source, target, run=RunOptions(overwrite=True))
    assert read_output(source)


@pytest.mark.parametrize(
    ("words", "code"), [(["a"], 2), (["a", "b", "--dtype", "int8"], 2), (["a", "b", "--dtype", "x"], 2)]
)
def test_wrong_usage(tmp_path: Path, words: list[str], code: int) -> None:
    """A missing target and a dtype that cannot hold floating-point numbers are errors of usage."""
    write_checkpoint(tmp_path / "a", llama_tensors(0))
    arguments = [tmp_path / word if len(word) == 1 and word in "ab" else word for word in words]
    outcome = dovetail("convert", *arguments)
    assert code == outcome.code
    assert outcome.err


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * (2**20 + 1)])
def test_a_card_that_cannot_be_taken_along(source: Path, tmp_path: Path, content: bytes) -> None:
    """A card that is not a text, or is too long, is replaced by a short one."""
    (source / "README.md").write_bytes(content)
    convert(source, tmp_path / "out")
    assert "# source" in (tmp_path / "out" / "README.md").read_text().splitlines()


def test_a_card_from_elsewhere_is_not_read(source: Path, tmp_path: Path) -> None:
    """A card that is a link out of the checkpoint is not read, because it could be a private file."""
    (tmp_path / "secret").write_text("the password")
    (source / "README.md").symlink_to(tmp_path / "secret")
    convert(source, tmp_path / "out")
    assert "password" not in (tmp_path / "out" / "README.md").read_text()
