"""Byte sizes as people write them, for the parts of an output."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dovetail.engine import PlanOptions, RunOptions, SafetensorsFormat, ZarrFormat
from dovetail.engine.errors import RecipeError
from dovetail.io import OutputFormatError
from dovetail.io.sizes import size_bytes_of


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("512MiB", 2**29), ("2GB", 2 * 10**9), (" 1.5g ", 3 * 2**29), ("7", 7), (7, 7), ("0", None), ("-1", None)],
)  # fmt: skip
def test_sizes(text: str | int, size_bytes: int | None) -> None:
    """Units of 1000 and of 1024, in any case; what is no positive size is none."""
    assert size_bytes == size_bytes_of(text)


def test_formats_take_sizes_as_text() -> None:
    """Where Python takes bytes it takes the text that the command line takes, and both are the same format."""
    assert SafetensorsFormat(5 * 10**9) == SafetensorsFormat(shard_size="5GB")
    assert ZarrFormat("zstd", 2**28) == ZarrFormat("zstd", shards="256MiB")
    assert "single" == replace(SafetensorsFormat(shard_size="5GB"), single_name="single").single_name
    assert 2 * 10**6 == PlanOptions(format=SafetensorsFormat(shard_size="2MB")).format.shard_size_bytes
    for make in (lambda: SafetensorsFormat(shard_size="many"), lambda: ZarrFormat(shards="0")):
        with pytest.raises(OutputFormatError, match=r"size of shards is '.*'; expected a positive size"):
            make()


def test_text_of_a_few_bytes_is_a_slip() -> None:
    """Text such as 5B, which means five bytes, is refused below 1 MiB, as on the command line; a number is meant."""
    for make in (lambda: SafetensorsFormat(shard_size="5B"), lambda: ZarrFormat(shards="1MB")):
        with pytest.raises(
            OutputFormatError, match=r"size of shards '\w+' is [\d,]+ bytes; expected at least 1 MiB; wri"
        ):
            make()
    assert 2**20 == SafetensorsFormat(shard_size="1MiB").shard_size_bytes
    assert 5 == SafetensorsFormat(shard_size=5).shard_size_bytes


def test_memory_is_a_size_as_text() -> None:
    """A memory limit is text or bytes, by either name, but not by both."""
    limit = RunOptions(memory_bytes=2**29)
    assert [limit] * 3 == [RunOptions(memory="512MiB"), RunOptions(memory=2**29), RunOptions(memory_bytes="512MiB")]
    assert (2**29, 3) == (replace(limit, workers=3).memory_bytes, replace(limit, workers=3).workers)
    with pytest.raises(RecipeError, match="size 'much' is not understood"):
        RunOptions(memory="much")
    with pytest.raises(RecipeError, match="both memory and memory_bytes are given"):
        RunOptions(memory="1GB", memory_bytes=1)
