"""Names in an adapter's configuration, as peft matches them."""

from __future__ import annotations

from typing import Any

import pytest

from dovetail.engine.planning.extraction.adapter import _shortened, _told_apart, task_of

MODULES = ["norm", "layers.0.norm", "layers.0.q", "layers.1.norm", "layers.1.q", "layers.1.pre_norm"]


def taken(names: list[str], before: str) -> set[str]:
    """Give the modules that peft takes for some names."""
    return {m for m in MODULES if any(m == name or m.endswith(before + name) for name in names)}


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (["layers.0.q", "layers.1.q"], ["q"]),
        (["layers.1.q"], ["layers.1.q"]),
        (["layers.0.norm", "layers.1.norm"], ["layers.0.norm", "layers.1.norm"]),
        ([], []),
    ],
)
def test_targets_are_named_as_briefly_as_peft_allows(chosen: list[str], expected: list[str]) -> None:
    """A last part names all modules that have it; where only some are meant, they are named in full."""
    found = _shortened(chosen, MODULES, ".")
    assert expected == found
    assert set(chosen) == taken(found, ".")


def test_modules_that_cannot_be_saved_alone() -> None:
    """peft would save every module whose name ends in ``norm`` together with the one of that name."""
    assert ["layers.0.norm"] == _told_apart(["norm", "layers.0.norm"], MODULES)
    everything = [module for module in MODULES if module.endswith("norm")]
    assert everything == _told_apart(everything, MODULES)
    assert set(everything) == taken(_shortened(everything, MODULES, ""), "")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "CAUSAL_LM"),
        ({"architectures": ["GPT2LMHeadModel"]}, "CAUSAL_LM"),
        ({"architectures": ["BertModel"]}, None),
        ({"architectures": [1]}, None),
        (None, None),
    ],
)
def test_tasks(config: dict[str, Any] | None, expected: str | None) -> None:
    """The architecture's name gives peft's name of the task."""
    assert expected == task_of(config)
