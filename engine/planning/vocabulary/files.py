"""A model's tokenizer files: which there are, what they hold, and how to know them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import xxhash

from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import CheckpointError
from dovetail.io.files.smallfile import is_named, read_at_most
from dovetail.io.files.strict_json import JsonDefectError, decode_json
from dovetail.io.formats.index import resolve_in_folder
from dovetail.io.formats.side_names import LARGEST_BYTES

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
CHAT_TEMPLATE = "chat_template.jinja"
GENERATION_CONFIG = "generation_config.json"

SLOW_FILES = (
    "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "spm.model", "tiktoken.model",
    "vocab.json", "vocab.txt", "merges.txt", "encoder.json", "bpe.codes", "source.spm", "target.spm",
)  # fmt: skip
"""Files that hold a vocabulary in other ways than ``tokenizer.json``."""

FILES = (
    TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS, ADDED_TOKENS, CHAT_TEMPLATE, "chat_template.json", *SLOW_FILES,
)  # fmt: skip
"""Every file that belongs to a tokenizer."""


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """One tokenizer file as it was when the merge was planned."""

    name: str
    """File name."""
    size_bytes: int
    """Size."""
    content_hash: str
    """XXH3-128 of its content, in hexadecimal."""


def has_file(checkpoint: Checkpoint, name: str) -> bool:
    """Whether there is a file of that name beside a checkpoint's weights."""
    folder = checkpoint.side_folder
    return folder is not None and (folder / name).is_file()


def read_side_file(checkpoint: Checkpoint, name: str) -> bytes | None:
    """Read a small file beside a checkpoint's weights; None where there is none.

    Raises
    ------
    CheckpointError
        It is too large, no regular file, cannot be read, or a link that leads outside the folder.

    """
    folder = checkpoint.side_folder
    if folder is None:
        return None
    path = folder / name
    try:
        if not is_named(path):
            return None
        resolve_in_folder(folder, name, "its folder")
        data = read_at_most(path, LARGEST_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror})", "a readable file", "check it") from error
    if len(data) > LARGEST_BYTES:
        raise CheckpointError(f"{path} is too large", f"at most {LARGEST_BYTES:,} bytes", "copy the file again")
    return data


def read_json(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """Read a small JSON file beside a checkpoint's weights; empty where there is none.

    Raises
    ------
    CheckpointError
        It is not a JSON object, or cannot be read.

    """
    data = read_side_file(checkpoint, name)
    if data is None:
        return {}
    try:
        return decode_json(data, constants=True)
    except JsonDefectError as error:
        raise CheckpointError(f"{checkpoint.path}/{name} {error}", "a JSON object", "copy the file again") from error


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value out of JSON is text that can be written: JSON has halves of characters too."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def fingerprints(checkpoint: Checkpoint) -> tuple[TokenizerFile, ...]:
    """Give the tokenizer files that a checkpoint has."""
    found = []
    for name in FILES:
        data = read_side_file(checkpoint, name)
        if data is not None:
            found.append(TokenizerFile(name, len(data), xxhash.xxh3_128_hexdigest(data)))
    return tuple(found)


def vocabulary_size(config: Mapping[str, Any] | None) -> int | None:
    """Give the number of tokens that a configuration says the model knows; None where it does not say."""
    for settings in (config, *(text_settings(config))):
        size = (settings or {}).get("vocab_size")
        if type(size) is int and size > 0:
            return size
    return None


def text_settings(config: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Give the parts of a configuration that are about the language model, where it has others too."""
    found = [(config or {}).get(key) for key in ("text_config", "llm_config", "language_config")]
    return [item for item in found if isinstance(item, dict)]
