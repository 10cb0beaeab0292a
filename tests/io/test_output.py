"""Output formats: the table, their options in every form, and what each format must do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.io.dtypes import DTYPES
from dovetail.io.errors import OutputFormatError
from dovetail.io.files.checksum import hex_checksum
from dovetail.io.output import FORMATS, SafetensorsFormat, ZarrFormat, choose_format, format_of, written_format
from dovetail.io.output_format import OutputFormat, OutputTensor
from tests.npy_format import NpyFormat

TENSORS = [
    OutputTensor("model.norm", DTYPES["F32"], (70,), 64),
    OutputTensor("experts", DTYPES["BF16"], (3, 10, 16), 48),
    OutputTensor("scales", DTYPES["F8_E4M3"], (5, 20), 30),
    OutputTensor("step", DTYPES["I64"], (), 16),
]
"""Of several sizes of elements, in chunks that do not divide them."""


def stored_bytes(random: np.random.Generator, tensor: OutputTensor) -> bytes:
    """Make the bytes of a tensor."""
    return random.integers(1, 100, math.prod(tensor.shape) * tensor.dtype.itemsize, np.uint8).tobytes()


VALUES = [stored_bytes(np.random.default_rng(number), tensor) for number, tensor in enumerate(TENSORS)]

EVERY = [SafetensorsFormat(), SafetensorsFormat(200), ZarrFormat(), ZarrFormat("none", 400), NpyFormat("x")]


def written(output: OutputFormat[Any], folder: Path) -> dict[str, Any]:
    """Write the tensors by chunks, last ones first, half of them after reopening; give the format's entries."""
    layout, chunkings = output.lay_out(TENSORS, {"format": "pt", "by": "hand"})
    output.create_sink(layout, folder).close()
    pieces = []
    for index, (tensor, chunking) in enumerate(zip(TENSORS, chunkings, strict=True)):
        length = math.prod(tensor.shape)
        period = chunking.chunk_period or length
        for turn in range(0, length, period):
            stop = min(length, turn + period)
            starts = range(turn, stop, chunking.chunk_elements)
            pieces += [(index, start, min(stop, start + chunking.chunk_elements)) for start in starts]
    for some in (pieces[1::2], pieces[::2]):
        sink = output.reopen_sink(layout, folder)
        for index, start, stop in reversed(some):
            size = TENSORS[index].dtype.itemsize
            data = np.frombuffer(VALUES[index][start * size : stop * size], np.uint8)
            sink.slot(index).write(start, data)
        sink.commit(some)
        sink.close()
    for name, content in layout.documents.items():
        assert content == (folder / name).read_bytes()
        assert name in output.document_names
    return {
        "shards": output.shard_entries(layout),
        "tensors": {
            tensor.name: {
                "file": layout.shards[layout.tensors[index].shard].file_name,
                "dtype": tensor.dtype.name,
                "shape": list(tensor.shape),
                **output.tensor_entry(layout, index, chunkings[index]),
            }
            for index, tensor in enumerate(TENSORS)
        },
    }


@pytest.mark.parametrize("output", EVERY, ids=str)
def test_what_is_written_is_read(output: OutputFormat[Any], tmp_path: Path) -> None:
    """Chunks written in any order, with the sink closed and opened in between, are read to the byte."""
    written(output, tmp_path)
    found = output.open(tmp_path).tensors
    expected = {each.name: (each.dtype, each.shape, data) for each, data in zip(TENSORS, VALUES, strict=True)}
    assert expected == {
        name: (info.dtype, info.shape, info.source.read(0, info.length).tobytes()) for name, info in found.items()
    }


@pytest.mark.parametrize("output", EVERY, ids=str)
def test_a_check_knows_every_file(output: OutputFormat[Any], tmp_path: Path) -> None:
    """A whole output has no damage, the check names every file but the documents, and a missing file is damage."""
    manifest = written(output, tmp_path)
    check = output.check(tmp_path, manifest)
    layout, _ = output.lay_out(TENSORS, {"format": "pt", "by": "hand"})
    assert {path.name for path in tmp_path.iterdir()} == {*check.file_names, *layout.documents}
    assert [] == check.check_metadata()[0]
    assert check.size_bytes >= sum(map(len, VALUES))
    for name, info in output.open(tmp_path).tensors.items():
        assert [] == check.check_objects(name, info.source)
        assert [] == check.check_tensor(name, info.source)
    path = tmp_path / check.file_names[0]
    path = path / "zarr.json" if path.is_dir() else path
    path.write_bytes(path.read_bytes()[1:])
    assert 1 == len(check.check_metadata()[0])
    path.unlink()
    (damage,) = check.check_metadata()[0]
    assert damage.endswith(f"{path.relative_to(tmp_path)} is missing")


@pytest.mark.parametrize("output", EVERY, ids=str)
def test_files_are_made_once(output: OutputFormat[Any], tmp_path: Path) -> None:
    """Output files that exist already are never opened as new ones."""
    layout, _ = output.lay_out(TENSORS)
    output.create_sink(layout, tmp_path).close()
    with pytest.raises(FileExistsError):
        output.create_sink(layout, tmp_path)


@pytest.mark.parametrize("output", EVERY, ids=str)
def test_options_survive_the_manifest(
    output: OutputFormat[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Format and options are read back from the manifest, whatever other options it has."""
    monkeypatch.setitem(FORMATS, NpyFormat.name, NpyFormat)
    manifest = {"output_format": output.name, "options": {"seed": 0, **output.to_json()}}
    assert output == written_format(manifest)
    assert type(output) is format_of(manifest)


def test_manifests_are_those_of_earlier_versions() -> None:
    """The options in manifests and in hashes of plans are as in the first version that had Zarr, and older manifests,
    which name no format, are read as safetensors.
    """
    assert {"shard_size_bytes": 7} == SafetensorsFormat(7).to_json()
    assert {"shard_size_bytes": 7, "zarr": None} == SafetensorsFormat(7).identity()
    zarr = {"shard_size_bytes": 5 * 10**9, "zarr": {"codec": "blosc", "shard_bytes": 6000}}
    assert zarr == ZarrFormat("blosc", 6000).to_json() == ZarrFormat("blosc", 6000).identity()
    old = {"options": {"dtype": None, "seed": 0, "nonfinite": "error", "shard_size_bytes": 7}}
    assert SafetensorsFormat(7) == written_format(old)
    assert ZarrFormat("blosc", 6000) == written_format({"output_format": "zarr", "options": zarr | {"seed": 0}})


def test_hashes_of_a_zarr_document_are_of_its_text(tmp_path: Path) -> None:
    """The manifest's checksum of an array's metadata is that of the file's bytes."""
    manifest = written(ZarrFormat(), tmp_path)
    entry = manifest["tensors"]["experts"]
    assert hex_checksum((tmp_path / "experts" / "zarr.json").read_bytes()) == entry["document_checksum"]


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("safetensors", {}, SafetensorsFormat()),
        ("safetensors", {"--shard-size": 7, "--codec": None}, SafetensorsFormat(7)),
        ("zarr", {"--shard-size": None}, ZarrFormat()),
        ("zarr", {"--codec": "blosc", "--zarr-shards": 9}, ZarrFormat("blosc", 9)),
    ],
)
def test_words_of_the_command(name: str, given: dict[str, Any], expected: OutputFormat[Any]) -> None:
    """Options of the command become options of the format, and others have the format's defaults."""
    assert expected == choose_format(name, given)


@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        (
            "zarr",
            {"--shard-size": 7},
            "--shard-size is for safetensors files, and the output is zarr; expected --zarr-shards for larger "
            "objects, or neither; pass --zarr-shards instead",
        ),
        (
            "safetensors",
            {"--codec": "zstd"},
            "--codec is for zarr output, and the output is safetensors; expected --format zarr; add it, or leave "
            "--codec",
        ),
        ("zarr", {"--codec": "lzma"}, "codec is 'lzma'; expected one of zstd, blosc, none; choose one of these"),
        ("zarr", {"--zarr-shards": 0}, "size of shards is 0; expected a positive size; give one, or none"),
        ("npz", {}, "output format is 'npz'; expected one of safetensors, zarr; choose one of these"),
    ],
)
def test_words_that_do_not_go_together(name: str, given: dict[str, Any], text: str) -> None:
    """Options of another format and impossible values are refused, and the error says what to do."""
    with pytest.raises(OutputFormatError) as caught:
        choose_format(name, given)
    assert text == str(caught.value)
    assert 2 == caught.value.exit_code


def test_an_unknown_format_in_a_manifest() -> None:
    """An output in the format of a later version is refused."""
    with pytest.raises(OutputFormatError) as caught:
        format_of({"output_format": "npz"})
    assert (
        "the output is in the format 'npz'; expected one of safetensors, zarr, vectors; use the version that wrote it"
    ) == str(caught.value)
