"""Reading tokenizers: tokens that stand beside them, and tokens without embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from dovetail.engine.planning.vocabulary.building import add_missing, add_union
from dovetail.engine.planning.vocabulary.reading import open_tokenizer, parse, without
from dovetail.engine.planning.vocabulary.table import TokenTable
from dovetail.io.opening import read_checkpoint
from tests.engine.planning.vocabulary.samples import word_level, write_model


def added(number: int, content: str, **flags: bool) -> dict[str, Any]:
    """Write an added token as tokenizer.json does."""
    defaults = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": number, "content": content} | defaults | flags


def bpe(vocab: list[str], merges: list[tuple[str, str]], **model: Any) -> Tokenizer:
    """Make a byte-pair tokenizer."""
    numbers = {token: number for number, token in enumerate(vocab)}
    content = {"version": "1.0", "added_tokens": [added(len(vocab), "<x>", special=True)]}
    return parse(json.dumps(content | {"model": {"type": "BPE", "vocab": numbers, "merges": merges} | model}), "test")


def test_tokens_beside_the_tokenizer_are_added(tmp_path: Path) -> None:
    """As when transformers loads it: listed ones in the order of their numbers, then special ones; none twice."""
    folder = write_model(tmp_path / "one", ["?", "a"])
    listed = {"10": {"content": "<late>", "special": True}, "9": {"content": "<early>", "lstrip": True}}
    settings = {
        "added_tokens_decoder": listed,
        "bos_token": "<s>",
        "pad_token": {"content": "<early>"},
        "x_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "added_tokens.json").write_text(json.dumps({"<older>": 2, "<late>": 10}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": ["a", "<s>"]}))
    read = open_tokenizer(read_checkpoint(folder))
    assert {"?": 0, "a": 1, "<older>": 2, "<early>": 3, "<late>": 4, "<s>": 5} == read.get_vocab()
    special = {token.content: token.special for token in read.get_added_tokens_decoder().values()}
    assert {"a": True, "<older>": False, "<early>": False, "<late>": True, "<s>": True} == special


def test_merges_go_with_their_tokens() -> None:
    """A merge goes if one of its parts or its result is removed, so that what is left is a sound tokenizer."""
    whole = bpe(["a", "b", "c", "ab", "abc", "bc"], [("a", "b"), ("b", "c"), ("ab", "c")])
    left, removed = without(whole, 4, "test")
    assert ("<x>", "abc", "bc") == removed
    assert {"a": 0, "b": 1, "c": 2, "ab": 3} == left.get_vocab()
    assert ["ab", "c"] == left.encode("abc").tokens
    assert [["a", "b"]] == json.loads(left.to_str())["model"]["merges"]
    assert (whole, ()) == without(whole, 7, "test")


def test_merges_of_continued_words() -> None:
    """With a prefix for the parts of a word, the result of a merge has it just once."""
    whole = bpe(["a", "##b", "##c", "ab", "##bc"], [("a", "##b"), ("##b", "##c")], continuing_subword_prefix="##")
    left, _ = without(whole, 4, "test")
    assert [["a", "##b"]] == json.loads(left.to_str())["model"]["merges"]


@pytest.mark.parametrize("kind", ["Unigram", "WordLevel"])
def test_other_kinds_lose_tokens_too(kind: str) -> None:
    """Lists are cut short, mappings filtered."""
    if kind == "Unigram":
        vocab = [["?", 0.0], ["a", -1.0], ["b", -2.0]]
        content = {"version": "1.0", "added_tokens": [], "model": {"type": kind, "unk_id": 0, "vocab": vocab}}
        whole = parse(json.dumps(content), "test")
    else:
        whole = parse(word_level(["?", "a", "b"]), "test")
    left, removed = without(whole, 2, "test")
    assert ({"?": 0, "a": 1}, ("b",)) == (left.get_vocab(), removed)


def test_a_union_is_in_order() -> None:
    """Plain tokens by model and number, then added ones; the first model's settings; what is plain in one model and
    added in another is added."""
    texts = [
        word_level(["?", "a"]),
        word_level(["?", "c", "b", "<y>"], added_tokens=[added(4, "<z>", special=True), added(1, "c", lstrip=True)]),
        word_level(["?", "b", "d"], added_tokens=[added(3, "<y>", special=True), added(4, "<z>")]),
    ]
    table, read = TokenTable(), [parse(text, "test") for text in texts]
    models = [(table.add(tokenizer), 5) for tokenizer in read]
    assert ["<z>"] == add_union(read[0], table, models)
    add_missing(read[0], ["<new>", "a"])
    order = sorted(read[0].get_vocab().items(), key=lambda item: item[1])
    assert ["?", "a", "b", "d", "c", "<z>", "<y>", "<new>"] == [token for token, _ in order]
    settings = {token.content: token for token in read[0].get_added_tokens_decoder().values()}
    assert settings["c"].lstrip
    assert settings["<z>"].special
    assert settings["<y>"].special
    assert not settings["b"].special
