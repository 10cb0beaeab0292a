"""Tokenizer files that break one rule of safe reading each, and what must be said about them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.engine.planning.vocabulary.samples import word_level


@dataclass(frozen=True, slots=True)
class TokenizerAttack:
    """One hostile file of a tokenizer."""

    id: str
    """What is wrong with it, in a word or two."""
    build: Callable[[Path], object]
    """Makes it in a model's folder."""
    text: str
    """Part of the error's text."""


def _file(name: str, content: str | bytes) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def _huge(folder: Path) -> None:
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate(64 * 2**20 + 1)


def _pipe(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


def _link(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(folder.parent / "secret.json")


_TOKENIZER, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_BPE = '{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}'
_PANIC = word_level(["?"], normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w=="})
TOKENIZER_ATTACKS = (
    TokenizerAttack("too large", _huge, "is too large; expected at most 67,108,864 bytes"),
    TokenizerAttack("pipe", _pipe, "tokenizer.json"),
    TokenizerAttack("link", _link, "is a link that leads outside its folder"),
    TokenizerAttack("empty", _file(_TOKENIZER, ""), "tokenizer.json is no tokenizer"),
    TokenizerAttack("not JSON", _file(_TOKENIZER, "hello"), "tokenizer.json is no tokenizer"),
    TokenizerAttack("not UTF-8", _file(_TOKENIZER, b'{"version": "\xff"}'), "tokenizer.json is no tokenizer"),
    TokenizerAttack("deep", _file(_TOKENIZER, "[" * 10**6), "tokenizer.json is no tokenizer"),
    TokenizerAttack("deep inside", _file(_TOKENIZER, '{"model":' * 10**5), "tokenizer.json is no tokenizer"),
    TokenizerAttack("no model", _file(_TOKENIZER, "{}"), "tokenizer.json is no tokenizer"),
    TokenizerAttack("unknown merge", _file(_TOKENIZER, _BPE), "tokenizer.json is no tokenizer"),
    TokenizerAttack("negative number", _file(_TOKENIZER, word_level([]).replace("{}", '{"a": -1}')), "no tokenizer"),
    TokenizerAttack("bad table", _file(_TOKENIZER, _PANIC), "tokenizer.json is no tokenizer"),
    TokenizerAttack("deep settings", _file(_CONFIG, '{"a":' * 10**5), "is nested too deeply"),
    TokenizerAttack("settings twice", _file(_CONFIG, '{"a": 1, "a": 2}'), "has the name 'a' twice"),
    TokenizerAttack("settings are a list", _file(_CONFIG, "[]"), "is a JSON array; expected a JSON object"),
    TokenizerAttack("deep specials", _file("special_tokens_map.json", '{"a":' * 10**5), "is nested too deeply"),
    TokenizerAttack("added tokens", _file("added_tokens.json", "7"), "is a JSON number; expected a JSON object"),
    TokenizerAttack("generation", _file("generation_config.json", "{"), "generation_config.json is not JSON"),
)

ODD_FILES = {
    "numbers beyond all rows": (_TOKENIZER, word_level(["?", "a", "b"]).replace('"b": 2', '"b": 4294967295')),
    "one number twice": (_TOKENIZER, word_level(["?", "a", "b"]).replace('"b": 2', '"b": 1')),
    "odd added tokens": (
        _CONFIG,
        json.dumps({"added_tokens_decoder": {"x": 7, "1": {"content": ""}, "2": {"content": "c", "special": 3}}}),
    ),
    "a list of added tokens": (_CONFIG, '{"added_tokens_decoder": [1], "pad_token": 3, "extra_special_tokens": 4}'),
    "ten thousand added tokens": (
        _CONFIG,
        json.dumps({"added_tokens_decoder": {str(number): {"content": f"t{number}"} for number in range(10_000)}}),
    ),
    "half a character": (_CONFIG, '{"pad_token": "\\ud800", "chat_template": "\\ud800"}'),
    "odd numbers": ("generation_config.json", '{"eos_token_id": [99, -1], "pad_token_id": 1e400, "bos_token_id": []}'),
}
"""Files that are strange and can be used: name and content."""
