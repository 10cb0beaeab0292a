"""What models call the tensors that an adapter changes."""

from __future__ import annotations

import pytest

from dovetail.io.adapters.renaming import find_names
from dovetail.io.errors import AdapterError

LAYERS = [f"layers.{layer}.{part}.weight" for layer in range(11) for part in ("attn.q", "attn.k", "mlp.up")]


def prefixed(prefix: str, names: list[str] = LAYERS) -> list[str]:
    return [prefix + name for name in names]


@pytest.mark.parametrize(
    ("adapter", "model"),
    [
        ("model.", "model."),
        ("", "model."),
        ("model.", ""),
        ("transformer.", "model."),
        ("model.language_model.", "language_model.model."),
        ("model.layers.0.", "model.layers.0."),
        ("encoder.", "0.auto_model.encoder."),
    ],
)
def test_one_change_of_prefix(adapter: str, model: str) -> None:
    """Whatever stands before the layers, each is found under its own number."""
    needed = prefixed(adapter)[::2]
    found = find_names("a", "m", needed, [*prefixed(model), "head.weight"])
    assert {name: model + name.removeprefix(adapter) for name in needed} == found


def test_groups_change_by_themselves() -> None:
    """A language model and a vision model in one checkpoint each have their own prefix, with the same layers below."""
    available = [*prefixed("language_model.model."), *prefixed("vision_tower.")]
    needed = [*prefixed("model.language_model."), *prefixed("model.vision_tower.")]
    found = find_names("a", "m", needed, available)
    assert set(available) == set(found.values())
    assert "vision_tower.layers.3.attn.q.weight" == found["model.vision_tower.layers.3.attn.q.weight"]


def test_layers_are_never_renumbered() -> None:
    """A layer that the model lacks is not found in another one, though all else of the name is the same."""
    with pytest.raises(AdapterError, match=r"changes 'model\.layers\.11\.attn\.q\.weight', which m does not have"):
        find_names("a", "m", ["model.layers.11.attn.q.weight"], prefixed("model."))
    with pytest.raises(AdapterError, match="does not have"):
        find_names("a", "m", ["model.layers.11.attn.q.weight"], ["layers.0.attn.q.weight"])


def test_no_guessing() -> None:
    """Where two prefixes would do, neither is taken."""
    with pytest.raises(AdapterError, match="which could be"):
        find_names("a", "m", LAYERS, [*prefixed("llm."), *prefixed("model."), *prefixed("vision.")])
    with pytest.raises(AdapterError, match="which could be"):
        find_names("a", "m", LAYERS, [*prefixed("text."), *prefixed("vision.")])


@pytest.mark.parametrize("adapter", ["", "model."])
@pytest.mark.parametrize("other", ["vision_tower.", "model.visual.", "audio_tower.encoder.", "mtp.", "vision.model."])
def test_short_names_mean_the_language_model(adapter: str, other: str) -> None:
    """Names that fit both a language model and another part are the language model's, whichever is listed first."""
    needed, right, wrong = prefixed(adapter), prefixed("language_model.model."), prefixed(other)
    for available in (right + wrong, wrong + right):
        assert dict(zip(needed, right, strict=True)) == find_names("a", "m", needed, available)


def test_all_or_none() -> None:
    """A prefix that finds some layers but not all is not the right one."""
    with pytest.raises(AdapterError, match="does not have"):
        find_names("a", "m", [*LAYERS, "layers.0.attn.v.weight"], prefixed("model."))


def test_what_may_be_missing() -> None:
    """A head that the model need not have is left out; it is found where it is there."""
    needed = ["model.layers.0.attn.q.weight", "score.weight"]
    assert "score.weight" not in find_names("a", "m", needed, prefixed("model."), {"score.weight"})
    found = find_names("a", "m", needed, [*prefixed("model."), "score.weight"], {"score.weight"})
    assert "score.weight" == found["score.weight"]
    with pytest.raises(AdapterError, match="does not have"):
        find_names("a", "m", needed, prefixed("model."))


@pytest.mark.parametrize(
    ("adapter", "model"),
    [
        ("mtp.", "model."),
        ("model.", "mtp."),
        ("model.", "model.mtp."),
        ("model.vision_tower.encoder.", "model."),
        ("vision_tower.", ""),
        ("", "vision_tower."),
        ("model.visual.", "model.language_model."),
        ("encoder.", "decoder."),
        ("model.encoder.", "model.decoder."),
        ("talker.model.", "thinker.model."),
        ("model.audio_tower.", "language_model.model."),
        ("model.mtp_", "model."),
    ],
)
def test_no_part_is_taken_for_another(adapter: str, model: str) -> None:
    """Layers of a part that the model lacks are not found in another part, though all after the prefix agrees."""
    needed = prefixed(adapter)[::2]
    with pytest.raises(AdapterError, match="does not have") as caught:
        find_names("a", "m", needed, [*prefixed(model), "head.weight"])
    assert repr(needed[0]) in str(caught.value)


def test_a_part_without_layers() -> None:
    """Tensors of a part that stand outside its layers are no more taken for those of another part."""
    for name in ("mtp.norm.weight", "model.vision_tower.embed.weight", "visual.norm.weight"):
        with pytest.raises(AdapterError, match="does not have"):
            find_names("a", "m", [name], ["model.norm.weight", "model.embed.weight", *prefixed("model.")])


def test_the_right_modules_do_not_carry_the_others() -> None:
    """An adapter is refused for one part that the model lacks, although all its other modules are found."""
    with pytest.raises(AdapterError, match=r"changes 'mtp\.layers\.0\.attn\.q\.weight'"):
        find_names("a", "m", [*prefixed("model."), "mtp.layers.0.attn.q.weight"], prefixed("model."))


def test_two_lists_do_not_become_one() -> None:
    """Where two lists of layers of the adapter would land in one of the model, or one in two, that is refused."""
    two = ["model.layers.0.attn.q.weight", "language_model.layers.0.attn.k.weight"]
    with pytest.raises(AdapterError, match="under several names"):
        find_names("a", "m", two, prefixed("model."))
    with pytest.raises(AdapterError, match="under several names"):
        find_names(
            "a", "m", ["layers.0.attn.q.weight", "layers.1.attn.q.weight"],
            ["model.layers.0.attn.q.weight", "llm.layers.1.attn.q.weight"],
        )  # fmt: skip
