"""Reading a model's tokenizer by the `tokenizers` library, whatever files it is in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dovetail.engine.errors import RecipeError
from dovetail.engine.planning.vocabulary.files import (
    ADDED_TOKENS,
    SLOW_FILES,
    SPECIAL_TOKENS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    has_file,
    is_text,
    read_json,
    read_side_file,
)
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import CheckpointError
from dovetail.io.files.strict_json import brief

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer


def has_tokenizer(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint has the files of a tokenizer."""
    return any(has_file(checkpoint, name) for name in (TOKENIZER, *SLOW_FILES))


def open_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """Read a checkpoint's tokenizer, with every token that its configuration adds.

    It may take a hundred megabytes: use one after another, and `trim_heap` when it is gone.

    Raises
    ------
    RecipeError
        A library is missing that reads the files.
    CheckpointError
        The files are not there or broken.

    """
    return _complete(checkpoint, _read(checkpoint))


def parse(text: str | bytes, name: str) -> Tokenizer:
    """Read a tokenizer from the text of a ``tokenizer.json``.

    Raises
    ------
    CheckpointError
        It is not one.

    """
    tokenizers = library()
    try:
        data = text.encode() if isinstance(text, str) else text
        read: Tokenizer = tokenizers.Tokenizer.from_buffer(data)
    except BaseException as error:
        # Broken files make the library raise bare exceptions, and where it did not foresee them even panic.
        if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        raise CheckpointError(
            f"{name} is no tokenizer ({brief(str(error))})", "a file of the tokenizers library", "copy the file again"
        ) from error
    return read


def library() -> Any:
    """Import `tokenizers`.

    Raises
    ------
    RecipeError
        It is not installed.

    """
    try:
        import tokenizers
    except ImportError as error:
        raise RecipeError(
            "the recipe asks for a tokenizer to be made, for which the library 'tokenizers' is missing",
            "the extra 'vocab'",
            "pip install 'dovetail[vocab]'",
        ) from error
    return tokenizers


def added_token(fields: Any, **defaults: bool) -> AddedToken | None:
    """Read an added token as tokenizer files write it: its text, or a mapping; None for anything else."""
    given = {"content": fields} if isinstance(fields, str) else fields
    if not isinstance(given, dict) or not given.get("content") or not is_text(given["content"]):
        return None
    flags = {key: given[key] for key in ("single_word", "lstrip", "rstrip", "normalized", "special") if key in given}
    if not all(type(flag) is bool for flag in flags.values()):
        return None
    token: AddedToken = library().AddedToken(given["content"], **(defaults | flags))
    return token


def special_tokens(settings: Mapping[str, Any]) -> list[Any]:
    """List the special tokens that a tokenizer's configuration names, each as it writes it."""
    found = [value for key, value in settings.items() if key.endswith("_token") and isinstance(value, (str, dict))]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = settings.get(key)
        found += list(more.values()) if isinstance(more, dict) else more if isinstance(more, list) else []
    return found


def _read(checkpoint: Checkpoint) -> Tokenizer:
    data = read_side_file(checkpoint, TOKENIZER)
    if data is not None:
        return parse(data, f"{checkpoint.path}/{TOKENIZER}")
    if not has_tokenizer(checkpoint):
        raise CheckpointError(
            f"{checkpoint.path} has no tokenizer", f"{TOKENIZER} beside the weights", "copy it from the model's source"
        )
    return _convert(checkpoint)


def _convert(checkpoint: Checkpoint) -> Tokenizer:
    """Let `transformers` make a fast tokenizer of older files. It runs no code of theirs."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise RecipeError(
            f"{checkpoint.path} has its tokenizer in an older form only, without {TOKENIZER}",
            "the library 'transformers', which converts it",
            "pip install transformers sentencepiece, or save the tokenizer anew where they are",
        ) from error
    try:
        made = AutoTokenizer.from_pretrained(
            str(checkpoint.side_folder), use_fast=True, trust_remote_code=False, local_files_only=True
        )
        return parse(made.backend_tokenizer.to_str(), str(checkpoint.path))
    except Exception as error:  # whatever it meets in files of any make
        raise CheckpointError(
            f"transformers cannot make a fast tokenizer of {checkpoint.path} ({brief(str(error))})",
            f"a folder with {TOKENIZER}",
            "pip install sentencepiece protobuf, or save the tokenizer anew with save_pretrained()",
        ) from error


def _complete(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Tokenizer:
    """Add the tokens that stand in the configuration beside the tokenizer, as `transformers` does on loading."""
    config = read_json(checkpoint, TOKENIZER_CONFIG)
    listed = config.get("added_tokens_decoder")
    numbered = listed if isinstance(listed, dict) else {}
    older = {str(number): text for text, number in read_json(checkpoint, ADDED_TOKENS).items()}
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    order = sorted((older | numbered).items(), key=lambda item: (not item[0].isdecimal(), item[0].zfill(20)))
    wanted = [added_token(fields) for _, fields in order]
    specials = [*special_tokens(config), *special_tokens(read_json(checkpoint, SPECIAL_TOKENS))]
    wanted += [added_token(fields, special=True, normalized=False) for fields in specials]
    missing: dict[str, AddedToken] = {}
    for token in wanted:
        if token is not None and token.content not in known:
            missing.setdefault(token.content, token)
    tokenizer.add_tokens(list(missing.values()))  # all at once: each call costs as much as all tokens
    return tokenizer


def without(tokenizer: Tokenizer, size: int, name: str) -> tuple[Tokenizer, tuple[str, ...]]:
    """Remove the tokens whose number is `size` or more: the model has no embeddings for them.

    Returns
    -------
    Tokenizer
        The same one if it has none of them.
    tuple of str
        The tokens removed.

    """
    removed = {token for token, number in tokenizer.get_vocab(with_added_tokens=True).items() if number >= size}
    if not removed:
        return tokenizer, ()
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [entry for entry in content["added_tokens"] if entry["id"] < size]
    model = content["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {token: number for token, number in model["vocab"].items() if number < size}
    else:
        model["vocab"] = model["vocab"][:size]
    if "merges" in model:
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [
            (left, right)
            for left, right in model["merges"]
            if removed.isdisjoint((left, right, left + right.removeprefix(prefix)))
        ]
    return parse(json.dumps(content, ensure_ascii=False), name), tuple(sorted(removed))
