"""A third output format, as small as one can be: a NumPy file a tensor, and a document that says what is in each."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dovetail.io.checkpoint import Checkpoint, FileFingerprint, TensorInfo
from dovetail.io.dtypes import DTYPES
from dovetail.io.files.mapping import MappedSource
from dovetail.io.files.outfile import FileSlot, borrow, close_files, create_file, find_file
from dovetail.io.formats.shard_check import ShardCheck, shard_entries
from dovetail.io.output_format import Chunking, OutputFormat, OutputTensor
from dovetail.io.source import WrittenRange

DOCUMENT = "arrays.json"


@dataclass(frozen=True)
class NpyFile:
    """One file, and the tensor in it: the layout's shard and its placed tensor at once."""

    name: str
    file_name: str
    header: bytes
    length: int
    itemsize: int
    shard: int

    @property
    def size_bytes(self) -> int:
        return len(self.header) + self.length * self.itemsize


@dataclass(frozen=True)
class NpyLayout:
    """All files."""

    tensors: tuple[NpyFile, ...]
    documents: Mapping[str, bytes]

    @property
    def shards(self) -> tuple[NpyFile, ...]:
        return self.tensors


class NpySink:
    """The files, open for writing."""

    def __init__(self, layout: NpyLayout, folder: Path) -> None:
        self._layout = layout
        self._files = [find_file(folder.absolute() / each.file_name, each.size_bytes) for each in layout.tensors]

    def slot(self, tensor_index: int) -> FileSlot:
        each = self._layout.tensors[tensor_index]
        return FileSlot(self._files[tensor_index], len(each.header), each.length, each.itemsize)

    def commit(self, ranges: Iterable[WrittenRange]) -> None:
        for index in {index for index, _, _ in ranges}:
            with borrow(self._files[index]) as descriptor:
                os.fsync(descriptor)

    def close(self) -> None:
        close_files(self._files)


@dataclass(frozen=True)
class NpyFormat(OutputFormat[NpyLayout]):
    """Output as NumPy files, of unsigned integers as wide as the elements."""

    name: ClassVar[str] = "npy"
    part_noun: ClassVar[str] = "NumPy file"
    document_names: ClassVar[frozenset[str]] = frozenset({DOCUMENT})
    command_options: ClassVar[Mapping[str, str]] = {"--prefix": "prefix"}

    prefix: str = "tensor"

    def lay_out(
        self, tensors: Sequence[OutputTensor], metadata: Mapping[str, str] | None = None
    ) -> tuple[NpyLayout, Sequence[Chunking]]:
        files = []
        for number, each in enumerate(tensors):
            header = io.BytesIO()
            described = {"descr": f"<u{each.dtype.itemsize}", "fortran_order": False, "shape": each.shape}
            np.lib.format.write_array_header_1_0(header, described)
            file_name, length = f"{self.prefix}{number}.npy", math.prod(each.shape)
            files.append(NpyFile(each.name, file_name, header.getvalue(), length, each.dtype.itemsize, number))
        listed = {
            file.file_name: [each.name, each.dtype.name, list(each.shape), len(file.header)]
            for file, each in zip(files, tensors, strict=True)
        }
        document = json.dumps(listed).encode()
        return NpyLayout(tuple(files), {DOCUMENT: document}), [Chunking(each.chunk_elements) for each in tensors]

    def create_sink(self, layout: NpyLayout, folder: Path) -> NpySink:
        for each in layout.tensors:
            create_file(folder / each.file_name, each.header, each.size_bytes)
        for name, content in layout.documents.items():
            create_file(folder / name, content, len(content))
        return NpySink(layout, folder)

    def reopen_sink(self, layout: NpyLayout, folder: Path) -> NpySink:
        return NpySink(layout, folder)

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        tensors, files = {}, []
        for file_name, (name, dtype_name, shape, header_bytes) in json.loads((folder / DOCUMENT).read_bytes()).items():
            path, dtype = folder / file_name, DTYPES[dtype_name]
            status = path.stat()
            place = (str(path), header_bytes, math.prod(shape), dtype.itemsize, status.st_size, status.st_mtime_ns)
            tensors[name] = TensorInfo(name, dtype, tuple(shape), MappedSource(*place))
            files.append(FileFingerprint(file_name, status.st_size, status.st_mtime_ns, ""))
        return Checkpoint(folder, folder, tensors, {}, tuple(files))

    @classmethod
    def shard_entries(cls, layout: NpyLayout) -> list[dict[str, Any]]:
        return shard_entries(layout)

    @classmethod
    def check(cls, folder: Path, manifest: Mapping[str, Any]) -> ShardCheck:
        return ShardCheck(folder, manifest)
