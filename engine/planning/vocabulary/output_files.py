"""Tokenizer files of the output: those of the model that the vocabulary comes from, with what changes in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dovetail.engine.planning.vocabulary.files import (
    ADDED_TOKENS,
    CHAT_TEMPLATE,
    FILES,
    SLOW_FILES,
    SPECIAL_TOKENS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    has_file,
    read_json,
    read_side_file,
)
from dovetail.io.checkpoint import Checkpoint

if TYPE_CHECKING:
    from tokenizers import AddedToken


def tokenizer_files(base: Checkpoint, donor: Checkpoint) -> dict[str, bytes | None]:
    """Give what replaces the base model's tokenizer files, so that they are another model's."""
    if donor is base:
        return {}
    found = {name: read_side_file(donor, name) for name in FILES}
    return {name: data for name, data in found.items() if data is not None or has_file(base, name)}


def changed_files(
    donor: Checkpoint, tokenizer: str, added: Mapping[int, AddedToken], removed: frozenset[str]
) -> dict[str, bytes | None]:
    """Give what replaces a model's tokenizer files where its vocabulary is changed.

    ``tokenizer.json`` has everything; files that hold the old vocabulary in another form are left out.

    Parameters
    ----------
    donor
        The model whose files they are.
    tokenizer
        Text of the new ``tokenizer.json``.
    added
        Its added tokens by number.
    removed
        Tokens that it has no longer.

    """
    files: dict[str, bytes | None] = {TOKENIZER: tokenizer.encode()}
    files |= {name: None for name in (*SLOW_FILES, ADDED_TOKENS) if has_file(donor, name)}
    for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS):
        if has_file(donor, name):
            settings = {key: _without(value, removed) for key, value in read_json(donor, name).items()}
            settings = {key: value for key, value in settings.items() if value is not None}
            if isinstance(settings.get("added_tokens_decoder"), dict):
                settings["added_tokens_decoder"] = {str(number): _fields(token) for number, token in added.items()}
            files[name] = as_json(settings)
    return files


def template_files(donor: Checkpoint, files: Mapping[str, bytes | None], template: str) -> dict[str, bytes | None]:
    """Give the files that set the chat template: a separate file, and for older readers the tokenizer's configuration.

    Parameters
    ----------
    donor
        The model whose tokenizer files the output has.
    files
        What is changed in them already.
    template
        The template.

    """
    made: dict[str, bytes | None] = {CHAT_TEMPLATE: (template + "\n").encode()}
    config = files.get(TOKENIZER_CONFIG)
    settings = json.loads(config) if config is not None else read_json(donor, TOKENIZER_CONFIG)
    if settings:
        made[TOKENIZER_CONFIG] = as_json(settings | {"chat_template": template + "\n"})
    if has_file(donor, "chat_template.json"):
        made["chat_template.json"] = None
    return made


def as_json(content: Mapping[str, Any]) -> bytes:
    """Write a JSON file as the base model's are written; escaped, as strings can hold what UTF-8 cannot."""
    return (json.dumps(content, indent=2) + "\n").encode()


def _without(value: Any, removed: frozenset[str]) -> Any:
    """Take removed tokens out of a setting; None where nothing is left."""
    if isinstance(value, list):
        return [item for item in value if _without(item, removed) is not None]
    text = value.get("content") if isinstance(value, dict) else value
    return None if isinstance(text, str) and text in removed else value


def _fields(token: AddedToken) -> dict[str, Any]:
    return {
        "content": token.content,
        "lstrip": token.lstrip,
        "normalized": token.normalized,
        "rstrip": token.rstrip,
        "single_word": token.single_word,
        "special": token.special,
    }
