"""Token numbers in configurations."""

from __future__ import annotations

from typing import Any

from dovetail.engine.planning.vocabulary.files import vocabulary_size
from dovetail.engine.planning.vocabulary.token_ids import Renumbering, set_values

NUMBERS = {0: 5, 1: 6}
"""The output's numbers of the base model's tokens 0, 1; it lacks token 2."""


def renumbered(config: dict[str, Any], donor: dict[str, Any] | None = None) -> tuple[dict[str, Any], list[str]]:
    """Apply the changes of a configuration to it."""
    changes, lost = Renumbering(NUMBERS, frozenset((0, 1, 2)), donor).changes(config)
    set_values(config, changes)
    return config, lost


def test_numbers_follow_their_tokens() -> None:
    """Single numbers and lists are renumbered, here and in the part about the language model; others stay."""
    config = {
        "eos_token_id": [0, 1],
        "pad_token_id": None,
        "image_token_index": 1,
        "hidden_size": 1,
        "use_token_ids": True,
        "text_config": {"bos_token_id": 0, "vocab_size": 1},
    }
    expected = {
        "eos_token_id": [5, 6],
        "pad_token_id": None,
        "image_token_index": 6,
        "hidden_size": 1,
        "use_token_ids": True,
        "text_config": {"bos_token_id": 5, "vocab_size": 1},
    }
    assert (expected, []) == renumbered(config)


def test_a_token_that_is_gone() -> None:
    """Its setting becomes empty and is told; a number that is no token's stays as it is."""
    config = {"pad_token_id": 2, "eos_token_id": [2, 1], "x_token_id": 99, "bad_token_ids": [2]}
    expected = {"pad_token_id": None, "eos_token_id": [6], "x_token_id": 99, "bad_token_ids": None}
    assert (expected, ["pad_token_id", "bad_token_ids"]) == renumbered(config)


def test_the_donors_own_numbers_are_right() -> None:
    """Where the model that the vocabulary comes from has a setting, wherever it keeps it, it counts."""
    donor = {"eos_token_id": 7, "text_config": {"pad_token_id": 8}}
    config = {"eos_token_id": 0, "pad_token_id": 1, "bos_token_id": 1}
    assert ({"eos_token_id": 7, "pad_token_id": 8, "bos_token_id": 6}, []) == renumbered(config, donor)


def test_where_the_vocabularys_size_stands() -> None:
    """At the top, or in the part about the language model; anything but a positive whole number is no size."""
    assert 9 == vocabulary_size({"vocab_size": 9, "text_config": {"vocab_size": 8}})
    assert 8 == vocabulary_size({"text_config": {"vocab_size": 8}})
    assert None is vocabulary_size({"vocab_size": True, "llm_config": {"vocab_size": 0}, "text_config": 3})
    assert None is vocabulary_size(None)
