"""Which tensors have a row for every token."""

from __future__ import annotations

import pytest

from dovetail.engine.planning.vocabulary.axis import find_axis
from dovetail.io.errors import TensorMismatchError

LLAMA = {"model.embed_tokens.weight": (100, 8), "model.layers.0.w": (8, 8), "lm_head.weight": (100, 8)}

FAMILIES = {
    "gpt2": ({"wte.weight": (50, 8), "wpe.weight": (64, 8), "h.0.ln_1.weight": (8,)}, ["wte.weight"]),
    "neox": ({"gpt_neox.embed_in.weight": (50, 8), "embed_out.weight": (64, 8)}, None),
    "bert": (
        {
            "bert.embeddings.word_embeddings.weight": (50, 8),
            "bert.embeddings.position_embeddings.weight": (512, 8),
            "bert.embeddings.token_type_embeddings.weight": (2, 8),
            "bert.encoder.layer.0.attention.output.dense.weight": (80, 80),
            "cls.predictions.bias": (50,),
            "cls.predictions.decoder.weight": (50, 8),
            "cls.predictions.transform.dense.bias": (80,),
        },
        ["bert.embeddings.word_embeddings.weight", "cls.predictions.bias", "cls.predictions.decoder.weight"],
    ),
    "t5": (
        {
            "shared.weight": (50, 8),
            "encoder.embed_tokens.weight": (50, 8),
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 8),
            "lm_head.weight": (50, 8),
        },
        ["shared.weight", "encoder.embed_tokens.weight", "lm_head.weight"],
    ),
    "chatglm": (
        {"transformer.embedding.word_embeddings.weight": (50, 8), "transformer.output_layer.weight": (50, 8)},
        None,
    ),
    "internlm": ({"model.tok_embeddings.weight": (50, 8), "output.weight": (50, 8)}, None),
    "mamba": ({"backbone.embeddings.weight": (50, 8), "backbone.norm_f.weight": (80,)}, ["backbone.embeddings.weight"]),
    "whisper": (
        {
            "model.decoder.embed_tokens.weight": (50, 8),
            "model.decoder.embed_positions.weight": (448, 8),
            "model.encoder.embed_positions.weight": (1500, 8),
            "proj_out.weight": (50, 8),
        },
        ["model.decoder.embed_tokens.weight", "proj_out.weight"],
    ),
    "phi": ({"lm_head.linear.bias": (50,), "lm_head.linear.weight": (50, 8), "layers.0.wte.weight": (50, 8)}, None),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_usual_names(family: str) -> None:
    """Embeddings and output layers are found by the names that architectures give them; positions are not."""
    shapes, expected = FAMILIES[family]
    assert sorted(expected or shapes) == sorted(find_axis([shapes], [50], ["model"]).tensors)


def test_padding_is_allowed_and_fewer_rows_are_not() -> None:
    """More rows than tokens are padding; a tensor with fewer is something else, or a mistake if it is all there is."""
    found = find_axis([LLAMA | {"aux.embeddings.weight": (30, 8)}], [97], ["model"])
    assert ("model.embed_tokens.weight", "lm_head.weight") == found.tensors
    assert (97,) == found.sizes
    with pytest.raises(TensorMismatchError, match="the embeddings of model have 100 rows; expected at least 101"):
        find_axis([LLAMA], [101], ["model"])


def test_without_a_size_the_embeddings_rows_are_taken() -> None:
    """A config.json that does not say the size is made up for; a model without embeddings has none."""
    assert (100, 0) == find_axis([LLAMA, {"x": (3,)}], [None, None], ["one", "two"]).sizes


def test_unusual_names_are_known_by_how_they_change() -> None:
    """A tensor whose rows differ between models just as the embeddings' do has the axis; its like in equal models is
    named as doubtful."""
    one, two = LLAMA | {"odd.weight": (100, 4)}, {name: (60, *shape[1:]) for name, shape in LLAMA.items()}
    two |= {"model.layers.0.w": (8, 8), "odd.weight": (60, 4)}
    assert "odd.weight" in find_axis([one, two], [100, 60], ["one", "two"]).tensors
    alike = find_axis([one, one], [100, 100], ["one", "two"])
    assert ("odd.weight",) == alike.unsure
    assert "odd.weight" not in alike.tensors
    two["odd.weight"] = (60, 5)
    assert "odd.weight" not in find_axis([one, two], [100, 60], ["one", "two"]).tensors


def test_a_tensor_must_be_alike_in_all_models() -> None:
    """Rows of another width cannot be gathered together."""
    other = LLAMA | {"lm_head.weight": (100, 9)}
    with pytest.raises(TensorMismatchError, match=r"'lm_head.weight' of checkpoint two has shape \[100, 9\]; expected"):
        find_axis([LLAMA, other], [100, 100], ["one", "two"])
    small = LLAMA | {"lm_head.weight": (50, 8)}
    with pytest.raises(TensorMismatchError, match=r"two has shape \[50, 8\]; expected at least 100 rows"):
        find_axis([LLAMA, small], [100, 100], ["one", "two"])
