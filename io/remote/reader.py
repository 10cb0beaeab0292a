"""Reading the headers and the index of remote safetensors checkpoints, with tensors that are fetched later."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import xxhash

from dovetail.io.checkpoint import Checkpoint, FileFingerprint, TensorInfo
from dovetail.io.errors import IndexFileError, MissingFileError, RemoteError, UnsupportedError
from dovetail.io.files.collector import collector_paused
from dovetail.io.files.threads import Threads
from dovetail.io.formats.header import LENGTH_BYTES, Header, check_length, parse_header
from dovetail.io.formats.index import MAX_INDEX_BYTES, check_index, parse_index, refuse_part
from dovetail.io.formats.safetensors_layout import INDEX_NAME, SINGLE_NAME
from dovetail.io.remote.addresses import check_address, hub_parts, join, last_name
from dovetail.io.remote.file import RemoteFile
from dovetail.io.remote.side_files import RemoteSideFiles
from dovetail.io.remote.source import RemoteSource
from dovetail.io.remote.transports import transport_of

HEAD_BYTES: Final = 2**17
"""Bytes of a file that are requested first; most headers are shorter."""

_CONNECTIONS: Final = 4
_SUFFIX: Final = ".safetensors"


def pin(address: str) -> str:
    """Check an address, and replace a revision of a hub by its commit, because branches move on.

    Raises
    ------
    UnsupportedError
        As `dovetail.io.remote.addresses.check_address` raises it.
    MissingFileError, RemoteError
        The hub does not have the model, or does not answer.

    """
    checked = check_address(address)
    if not checked.startswith("hf://"):
        return checked
    from dovetail.io.remote import hub

    name, revision, _ = hub_parts(checked)
    return f"hf://{name}@{hub.look_up(name, revision).commit}"


def read_remote(address: str) -> Checkpoint:
    """Read and check the headers of a remote checkpoint, and no tensor data.

    Parameters
    ----------
    address
        An address of a form that `dovetail.io.remote.addresses` lists.

    Raises
    ------
    CheckpointError
        The checkpoint cannot be read; see `dovetail.io.opening.read_checkpoint`.

    """
    address = pin(address)
    if address.startswith("hf://") or not address.endswith(_SUFFIX):
        return _read_folder(address)
    return _read_files(address, [address], None)


def _read_folder(folder: str) -> Checkpoint:
    """Read a folder in the Hugging Face layout."""
    side_files = RemoteSideFiles(folder)
    listed = transport_of(folder).list_files(folder)
    if listed is not None and SINGLE_NAME not in listed and INDEX_NAME not in listed:
        return _read_files(folder, [join(folder, _only_file(folder, listed))], side_files)
    if listed is None or SINGLE_NAME in listed:
        try:
            return _read_files(folder, [join(folder, SINGLE_NAME)], side_files)
        except MissingFileError:
            if listed is not None:
                raise
    index = join(folder, INDEX_NAME)
    raw = transport_of(folder).read_small(index, MAX_INDEX_BYTES)
    if raw is None:
        raise MissingFileError(
            f"there is no checkpoint at {folder}",
            f"a file named *{_SUFFIX}, or a folder with {SINGLE_NAME}, or with {INDEX_NAME} and its shards",
            "check the address, and that it may be read",
        )
    weight_map = parse_index(raw, index)
    names = sorted(set(weight_map.values()))
    checkpoint = _read_files(folder, [join(folder, name) for name in names], side_files)
    by_address = {join(folder, name): name for name in names}
    found_in = {
        name: by_address[info.source.file.address]
        for name, info in checkpoint.tensors.items()
        if isinstance(info.source, RemoteSource)
    }
    check_index(index, weight_map, found_in)
    return checkpoint


def _only_file(folder: str, listed: Iterable[str]) -> str:
    names = sorted(name for name in listed if name.endswith(_SUFFIX))
    if len(names) == 1:
        refuse_part(folder, names[0])
        return names[0]
    others = any(name.endswith((".bin", ".pt", ".pth")) for name in listed)
    if others and not names:
        raise UnsupportedError(
            f"{folder} has PyTorch files only, which cannot be read without a download",
            "safetensors files",
            f"write {folder.removeprefix('hf://')} instead, which downloads the model" if folder[:2] == "hf" else "",
        )
    raise MissingFileError(
        f"{folder} has {len(names)} safetensors files and no index",
        f"{SINGLE_NAME}, or {INDEX_NAME} with its shards, or exactly one {_SUFFIX} file",
        "check the address",
    )


@collector_paused()
def _read_files(address: str, files: Sequence[str], side_files: RemoteSideFiles | None) -> Checkpoint:
    """Read the headers of a checkpoint's files into one catalogue."""
    tensors: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    fingerprints = []
    with Threads(_CONNECTIONS, thread_name_prefix="dovetail-headers") as pool:
        for file, header in pool.map(_read_header, files):
            name = last_name(file.address)
            header_hash = xxhash.xxh3_128_hexdigest(header.raw)
            fingerprints.append(FileFingerprint(name, file.size_bytes, 0, header_hash, file.etag))
            metadata = {**header.metadata, **metadata}
            for entry in header.entries:
                if entry.name in tensors:
                    raise IndexFileError(
                        f"tensor {entry.name!r} is in {name} and in an earlier file of {address}",
                        "each tensor in one file",
                        "export the checkpoint again",
                    )
                length = (entry.end_bytes - entry.begin_bytes) // entry.dtype.itemsize
                offset = header.data_start_bytes + entry.begin_bytes
                source = RemoteSource(file, offset, length, entry.dtype.itemsize)
                tensors[entry.name] = TensorInfo(entry.name, entry.dtype, entry.shape, source)
    return Checkpoint(address, None, tensors, metadata, tuple(fingerprints), side_files=side_files)


def _read_header(address: str) -> tuple[RemoteFile, Header]:
    """Read a header by one request, or by two if it is longer than `HEAD_BYTES`."""
    transport = transport_of(address)
    file, raw = transport.open_file(address, HEAD_BYTES)
    end = LENGTH_BYTES + check_length(raw[:LENGTH_BYTES], file.size_bytes, address)
    if end > len(raw):
        parts = [raw]
        transport.fetch(file, len(raw), end, lambda _, data: parts.append(data))
        raw = b"".join(parts)
    if len(raw) < end:
        raise RemoteError(f"{address} ended after {len(raw)} of {end} header bytes", "the whole header")
    return file, parse_header(raw[:end], file.size_bytes, address)
