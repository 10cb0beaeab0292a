"""Reading untrusted shard indexes (``model.safetensors.index.json``) strictly."""

from __future__ import annotations

import errno
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn

from dovetail.io.errors import IndexFileError, MissingFileError
from dovetail.io.files.kinds import stays_inside
from dovetail.io.files.smallfile import read_at_most
from dovetail.io.files.strict_json import JsonDefectError, brief, decode_json
from dovetail.io.formats.header import MAX_NAME_LENGTH
from dovetail.io.formats.parsed import parsed_once

MAX_INDEX_BYTES: Final = 100_000_000
"""Longest index that is read, in bytes, which is the length of the longest header."""

_PLAIN_FILE_NAME: Final = re.compile(r"[^/\\\x00-\x1f\x7f\ud800-\udfff]{1,255}")
_PART: Final = re.compile(r"[-_.]0*[0-9]{1,6}-of-0*([0-9]{1,6})(?=\.)")
"""What names of files say that are one of several."""
_REDOWNLOAD: Final = "download or export the checkpoint again"


def read_index(path: Path, suffix: str = ".safetensors") -> dict[str, str]:
    """Read and check a shard index.

    Parameters
    ----------
    path
        The index file.
    suffix
        Suffix that the name of every shard must have.

    Returns
    -------
    dict
        For each tensor, the name of the file in the index's folder that holds it.

    Raises
    ------
    IndexFileError
        If the index breaks its rules, or names a file that could lie outside its folder.
    MissingFileError
        If the index cannot be opened.

    """
    try:
        raw = read_at_most(path, MAX_INDEX_BYTES + 1)
    except OSError as error:
        raise MissingFileError(f"cannot open {path} ({error.strerror})", "a shard index") from error
    return parsed_once((raw, suffix), lambda: parse_index(raw, str(path), suffix))


def parse_index(raw: bytes, path: str, suffix: str = ".safetensors") -> dict[str, str]:
    """Check and decode the bytes of an index; returns and raises as `read_index` does.

    Parameters
    ----------
    raw
        The file's bytes; if there are more than `MAX_INDEX_BYTES`, one byte more is enough.
    path
        The file's path or address, for error messages.
    suffix
        Suffix that the name of every shard must have.

    """
    if len(raw) > MAX_INDEX_BYTES:
        _fail(f"the index {path} is too large", f"at most {MAX_INDEX_BYTES} bytes")
    try:
        document = decode_json(raw)
    except JsonDefectError as error:
        _fail(f"the index {path} {error}", "a JSON object with a weight_map")
    weight_map = document.get("weight_map")
    if type(weight_map) is not dict or not weight_map:
        _fail(f"weight_map in {path} is {brief(weight_map)}", "an object of file names by tensor name")
    plain: set[str] = set()
    for tensor, file_name in weight_map.items():
        if len(tensor) > MAX_NAME_LENGTH:
            _fail(f"the index {path} has a tensor name of {len(tensor)} characters", f"at most {MAX_NAME_LENGTH}")
        if type(file_name) is str and (file_name in plain or _is_plain(file_name, suffix)):
            plain.add(file_name)
            continue
        _fail(
            f"the index {path} places tensor {tensor!r} in {brief(file_name)}",
            f"the name of a {suffix} file in the same folder",
        )
    return weight_map


def _is_plain(file_name: str, suffix: str) -> bool:
    """Whether a text is a file name with the suffix and something before it, and not a path."""
    return file_name.endswith(suffix) and len(file_name) > len(suffix) and bool(_PLAIN_FILE_NAME.fullmatch(file_name))


def resolve_in_folder(folder: Path, file_name: str, named_by: str) -> Path:
    """Find a file of a checkpoint, and make sure that it is not a link to a file outside the checkpoint.

    A symbolic link may lead to another file in the folder. It may also lead from ``snapshots/REVISION/`` to the
    ``blobs`` folder beside ``snapshots``, because the cache of the Hugging Face hub consists of such links.

    Parameters
    ----------
    folder
        The folder of the checkpoint.
    file_name
        Name of the file, without folders.
    named_by
        Where the name was found, for the error message.

    Raises
    ------
    IndexFileError
        If the file is a link that leads elsewhere.
    MissingFileError
        If the file is missing.

    """
    path = folder / file_name
    try:
        if "/" not in file_name and not stat.S_ISLNK(path.lstat().st_mode):
            return path  # to follow all folders above hundreds of files takes thousands of calls
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise MissingFileError(
                f"cannot read {path} ({error.strerror})", "a readable file", "check its permissions and the disk"
            ) from error
        raise MissingFileError(
            f"{file_name}, named by {named_by}, is not in {folder}",
            "every file of the checkpoint in its folder",
            "finish the download, or copy the file there",
        ) from error
    if not stays_inside(folder, target):
        _fail(
            f"{path} is a link that leads outside its folder, to {target}",
            "a file in the folder, or a link into the blobs of a hub cache",
            "copy the file into the folder",
        )
    return path


def refuse_part(folder: Path | str, file_name: str) -> None:
    """Refuse the only file of a folder without index, if its name says that it is one of several.

    Raises
    ------
    MissingFileError
        The file is ``model-00001-of-00002.safetensors`` or named alike: a download is not complete.

    """
    match = _PART.search(file_name)
    if match is not None and int(match[1]) > 1:
        raise MissingFileError(
            f"{folder} has no files of weights but {file_name}, and no index",
            f"all {int(match[1])} files, with an index",
            "finish the download, or give the path of the file if its tensors are all that you mean",
        )


def check_index(path: Path | str, weight_map: Mapping[str, str], found_in: Mapping[str, str]) -> None:
    """Check that every tensor is in the file in which the index says it is.

    Tensors that only the files have are no error, because other libraries load them too.

    Parameters
    ----------
    path
        The index, for error messages.
    weight_map
        File name of each tensor, by the index.
    found_in
        File name of each tensor, by the files' headers.

    Raises
    ------
    IndexFileError
        If a tensor is in another file, or in none.

    """
    if weight_map.items() <= found_in.items():
        return
    for tensor, file_name in weight_map.items():
        actual = found_in.get(tensor)
        if actual != file_name:
            where = f"it is in {actual}" if actual else "it is in none of the files"
            _fail(f"tensor {tensor!r} is not in {file_name} ({where})", f"it in that file, as {path} says")


def _fail(what: str, expected: str, action: str = _REDOWNLOAD) -> NoReturn:
    raise IndexFileError(what, expected, action)
