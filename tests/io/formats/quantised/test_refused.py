"""Formats that are not read: known by how tensors are stored, refused by name, with what to do."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from dovetail.io.errors import UnsupportedError
from dovetail.io.opening import read_checkpoint
from tests.naive_dequantise import FP8, Stored, write_raw, zeros

REFUSED: dict[str, tuple[dict[str, Stored], str]] = {
    "GPTQ": ({"l.qweight": zeros("I32", 4, 8), "l.scales": zeros("F16", 1, 8)}, "'l.qweight' (GPTQ or AWQ)"),
    "AWQ": ({"l.qzeros": zeros("I32", 4, 8)}, "'l.qzeros' (GPTQ or AWQ)"),
    "bitsandbytes int8": (
        {"l.weight": zeros("I8", 4, 4), "l.SCB": zeros("F32", 4)},
        "'l.SCB' scales 'l.weight' of int8 (bitsandbytes int8)",
    ),
    "bitsandbytes nf4": ({"l.weight.quant_state.bitsandbytes__nf4": zeros("U8", 4)}, "(bitsandbytes)"),
    "bitsandbytes maps": ({"l.weight.quant_map": zeros("F32", 4)}, "(bitsandbytes)"),
    "MLX": (
        {"l.weight": zeros("U32", 4, 4), "l.scales": zeros("F16", 4, 1), "l.biases": zeros("F16", 4, 1)},
        "'l.scales' scales 'l.weight' of uint32",
    ),
    "scale below float8": (
        {"l.weight": zeros("F8_E4M3", 4, 4), "l.weight.scale": zeros("F32", 1)},
        "'l.weight.scale' scales 'l.weight' of float8",
    ),
    "quantiser beside float8": (
        {"l.weight": zeros("F8_E4M3", 4, 4), "l.weight_quantizer._scale": zeros("F32", 1)},
        "'l.weight_quantizer._scale' scales 'l.weight' of float8",
    ),
    "scale beside the module": (
        {"m.l.weight": zeros("F8_E4M3", 4, 4), "m.l_scale_inv": zeros("F32", 1)},
        "'m.l_scale_inv' scales 'm.l.weight' of float8",
    ),
    "scale below integers": (
        {"l.weight": zeros("I8", 4, 4), "l.weight.scale": zeros("F32", 4)},
        "'l.weight.scale' scales 'l.weight' of int8",
    ),
    "another name of scales": (
        {"l.weight": zeros("I8", 4, 4), "l.w_scale": zeros("F32", 4)},
        "'l.w_scale' scales 'l.weight' of int8",
    ),
    "packed integers": (
        {"l.qweight_packed": zeros("U8", 4, 4), "l.delta": zeros("F32", 4)},
        "'l.qweight_packed' is of uint8, and 'l.delta' beside it has the shape of scales",
    ),
    "AQLM": (
        {"l.codes": zeros("I8", 4, 4, 1), "l.codebooks": zeros("F16", 1, 256, 1, 8), "l.scales": zeros("F16", 4, 1)},
        "'l.codebooks' scales 'l.codes' of int8 (AQLM)",
    ),
    "EETQ": ({"l.weight": zeros("I8", 4, 4), "l.weight_scales": zeros("F16", 4)}, "'l.weight_scales' scales"),
    "HQQ": (
        {"l.W_q": zeros("U8", 4, 4), "l.scale": zeros("F16", 4, 1), "l.zero": zeros("F16", 4, 1)},
        "scales 'l.W_q' of uint8 (HQQ)",
    ),
    "quanto int8": (
        {"l.weight._data": zeros("I8", 4, 4), "l.weight._scale": zeros("F32", 4, 1)},
        "scales 'l.weight._data' of int8 (quanto)",
    ),
    "HIGGS": (
        {"l.weight": zeros("I16", 4, 4), "l.scales": zeros("F16", 4), "l.tables": zeros("F16", 16, 2)},
        "scales 'l.weight' of int16",
    ),
    "VPTQ": (
        {"l.indices": zeros("U16", 1, 4, 4), "l.centroids.weight": zeros("F16", 1, 64)},
        "tensor 'l.indices' (VPTQ)",
    ),
    "SpQR": ({"l.dense_weights": zeros("I64", 16), "l.row_offsets": zeros("I32", 5)}, "'l.dense_weights' (SpQR)"),
    "EXL2": ({"l.q_weight": zeros("I32", 4, 4), "l.q_scale": zeros("I32", 1, 1)}, "'l.q_weight' (EXL2)"),
    "EXL3": (
        {"l.trellis": zeros("I16", 1, 1, 16), "l.suh": zeros("F16", 16), "l.svh": zeros("F16", 16)},
        "'l.trellis' (EXL3)",
    ),
    "Marlin": ({"l.B": zeros("I32", 4, 8), "l.s": zeros("F16", 1, 8)}, "'l.s' scales 'l.B' of int32 (Marlin)"),
    "QuIP#": ({"l.Qidxs": zeros("I64", 4, 4), "l.SU": zeros("F16", 4)}, "'l.Qidxs' (QuIP#)"),
    "torchao int8": (
        {"l._weight_qdata": zeros("I8", 4, 4), "l._weight_scale": zeros("F32", 4, 1)},
        "'l._weight_scale' scales 'l._weight_qdata' of int8",
    ),
    "torchao float8 alone": (
        {"l._weight_qdata": zeros("F8_E4M3", 4, 4), "l._weight_scale": zeros("F32", 4, 1)},
        "'l._weight_scale' scales 'l._weight_qdata' of float8_e4m3fn",
    ),
    "compressed-tensors int8": (
        {"l.weight": zeros("I8", 4, 4), "l.weight_scale": zeros("BF16", 4, 1)},
        "'l.weight_scale' scales 'l.weight' of int8",
    ),
    "compressed-tensors int4": (
        {"l.weight_packed": zeros("I32", 4, 4), "l.weight_scale": zeros("BF16", 4, 1)},
        "'l.weight_packed' (compressed-tensors)",
    ),
    "compressed-tensors MXFP6": (
        {"l.weight_packed": zeros("U8", 4, 24), "l.weight_scale": zeros("U8", 4, 1)},
        "'l.weight_packed' (compressed-tensors)",
    ),
    "sparse": ({"l.bitmask": zeros("U8", 4, 1), "l.compressed": zeros("BF16", 16)}, "(sparse compressed-tensors)"),
    "NVFP4 without the scale of the tensor": (
        {"l.weight": zeros("U8", 4, 8), "l.weight_scale": zeros("F8_E4M3", 4, 1)},
        "'l.weight_scale' scales 'l.weight' of uint8",
    ),
    "NVFP4 with scales of another number": (
        {"l.weight": zeros("U8", 4, 16), "l.weight_scale": zeros("F8_E4M3", 4, 1), "l.weight_scale_2": zeros("F32")},
        "scales 'l.weight' of uint8",
    ),
    "NVFP4 with scales of experts": (
        {
            "l.weight_packed": zeros("U8", 2, 4, 8),
            "l.weight_scale": zeros("F8_E4M3", 2, 4, 1),
            "l.weight_global_scale": zeros("F32", 2),
        },
        "'l.weight_packed' (compressed-tensors)",
    ),
    "NVFP4 as F4": ({"l.weight": zeros("F4", 4, 16), "l.weight_scale": zeros("F8_E4M3", 4, 1)}, "of F4 is part of no"),
    "BitNet": ({"l.weight": zeros("U8", 4, 4), "l.weight_scale": zeros("BF16", 1)}, "scales 'l.weight' of uint8"),
    "integer experts": (
        {"e.gate_up_proj": zeros("I8", 2, 4, 4), "e.gate_up_proj_scale": zeros("F32", 2, 4, 1)},
        "'e.gate_up_proj_scale' scales 'e.gate_up_proj' of int8",
    ),
    "MXFP4 alone": (
        {"e.down_proj_blocks": zeros("U8", 2, 4, 1, 16), "e.down_proj_scales": zeros("U8", 2, 4, 1)},
        "'e.down_proj_scales' scales 'e.down_proj_blocks' of uint8",
    ),
    "MXFP4 of the original release alone": (
        {"m.mlp1_weight.blocks": zeros("U8", 2, 4, 1, 16), "m.mlp1_weight.scales": zeros("U8", 2, 4, 1)},
        "'m.mlp1_weight.scales' scales 'm.mlp1_weight.blocks' of uint8",
    ),
    "scale of nothing": (
        {"l.weight": zeros("BF16", 4, 4), "l.weight_scale_inv": zeros("F32", 1, 1)},
        "(scaled float8)",
    ),
    "scale of another shape": (
        {"l.weight": zeros("F8_E4M3", 4, 4), "l.weight_scale": zeros("F32", 3, 3)},
        "of shape [3, 3] scales 'l.weight' of shape [4, 4], and no usual size of blocks makes 3 of 4 elements",
    ),
    "scale for every element": (
        {"l.weight": zeros("F8_E4M3", 4, 4), "l.weight_scale": zeros("F32", 4, 4)},
        "there is a scale for every element",
    ),
    "a scale got lost": (
        {"a.weight": zeros("F8_E4M3", 4, 4), "a.weight_scale": zeros("F32"), "b.weight": zeros("F8_E4M3", 4, 4)},
        "tensor 'b.weight' of float8_e4m3fn has no scale",
    ),
    "float8 scales of float8": (
        {"l.weight": zeros("F8_E4M3", 4, 4), "l.weight_scale": zeros("F8_E4M3", 4, 1)},
        "'l.weight_scale' scales 'l.weight' of float8_e4m3fn",
    ),
    "TensorRT-LLM": (
        {"l.weight": zeros("F8_E4M3", 4, 4), "l.weights_scaling_factor": zeros("F32", 1)},
        "'l.weights_scaling_factor' scales 'l.weight' of float8_e4m3fn",
    ),
    "quanto float8": (
        {"l.weight._data": zeros("F8_E4M3", 4, 4), "l.weight._scale": zeros("F32", 4, 1)},
        "'l.weight._scale' scales 'l.weight._data' of float8_e4m3fn (quanto)",
    ),
    "exponents alone": ({"l.exponents": zeros("F8_E8M0", 4, 4)}, "'l.exponents' of F8_E8M0 is part of no format"),
    "six bits": ({"l.weight": zeros("F6_E2M3", 4, 32), "l.scale": zeros("F8_E8M0", 4, 1)}, "of F6_E2M3 is part of no"),
    "two of one name": (
        {
            "l.weight": zeros("BF16", 4, 32),
            "l.weight_packed": zeros("U8", 4, 16),
            "l.weight_scale": zeros("F8_E8M0", 4, 1),
        },
        "it has two tensors for the weight 'l.weight'",
    ),
}


REFUSED |= {
    "reordered columns": (
        {"l.weight": zeros("F8_E4M3", 4, 64), "l.weight_scale": zeros("F32", 4, 2), "l.weight_g_idx": zeros("I32", 64)},
        "'l.weight_g_idx' (compressed-tensors, with columns in another order)",
    ),
    **{
        f"{codes[0]} {list(codes[1])} beside {list(scales[1])}": (
            {"m.l.payload": codes, "m.l.delta": scales},
            "'m.l.delta' beside it has the shape of scales",
        )
        for codes, scales in (
            (zeros("I8", 6, 4), zeros("F32", 6)),  # a scale for every row
            (zeros("U8", 6, 8), zeros("BF16", 1, 8)),  # for every column
            (zeros("U8", 3, 8), zeros("F16", 6, 1)),  # for every row, two codes a byte along columns
            (zeros("I32", 4, 6), zeros("F16", 2, 6)),  # groups of 16 inputs, eight codes an integer
            (zeros("I32", 8, 2), zeros("F16", 1, 16)),  # the same along the other side
            (zeros("U8", 6, 4, 16), zeros("F32", 6, 4)),  # groups as a dimension of their own
            (zeros("I8", 2, 6, 4), zeros("F32", 2, 6, 1)),  # stacked experts
            (zeros("U8", 192), zeros("F32", 6)),  # flat: blocks of 64, two a byte
            (zeros("I8", 192, 1), zeros("F32", 3)),  # blocks of 64
        )
    },
    "scalar beside integers": (
        {"l.weight": zeros("I8", 4, 4), "l.step_size": zeros("F32")},
        "'l.step_size' beside it has the shape of scales",
    ),
    "below integers": (
        {"l.weight": zeros("I8", 4, 6), "l.weight.delta": zeros("F32", 4)},
        "'l.weight.delta' beside it has the shape of scales",
    ),
    "beside the module": (
        {"m.l.weight": zeros("I8", 4, 6), "m.l_delta": zeros("F32", 4)},
        "'m.l_delta' beside it has the shape of scales",
    ),
    "flat integers": (
        {"l.weight": zeros("U8", 64), "l.absmax": zeros("F32", 2)},
        "'l.absmax' scales 'l.weight' of uint8",
    ),
    "flat integers with one scale": (
        {"l.weight": zeros("I8", 64), "l.scale": zeros("F32")},
        "'l.scale' scales 'l.weight' of int8",
    ),
    "flat integers by their name": (
        {"l.w": zeros("I8", 7), "l.w_scale": zeros("F32", 7)},
        "'l.w_scale' scales 'l.w' of int8",
    ),
    "float8 with another name of scales": (
        {"l.weight": zeros("F8_E4M3", 6, 4), "l.delta": zeros("F32", 6, 1)},
        "'l.delta' beside it has the shape of scales",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_formats_are_refused_by_how_they_are_stored(kind: str, tmp_path: Path) -> None:
    """Without any configuration, each format is known by its tensors, and the error says what to do."""
    tensors, text = REFUSED[kind]
    write_raw(tmp_path, {**tensors, "norm.weight": zeros("BF16", 4)}, {"model_type": "llama"})
    with pytest.raises(UnsupportedError) as caught:
        read_checkpoint(tmp_path)
    assert f"{tmp_path} is quantised: " in str(caught.value)
    assert text in str(caught.value)
    assert "use the unquantised original, or convert this one to bfloat16 first" in str(caught.value)


@pytest.mark.parametrize(
    "method",
    [
        "gptq",
        "awq",
        "bitsandbytes",
        "hqq",
        "quanto",
        "aqlm",
        "vptq",
        "eetq",
        "higgs",
        "spqr",
        "quark",
        "bitnet",
        "nvfp4",
    ],
)
@pytest.mark.parametrize(
    "place",
    [(), ("text_config",), ("vision_config",), ("language_config",), ("thinker_config", "text_config")],
    ids=".".join,
)
def test_formats_are_refused_by_name_wherever_the_configuration_lies(
    method: str, place: tuple[str, ...], tmp_path: Path
) -> None:
    """Where tensors are codes and the configuration names a method that is not read, the error names it."""
    config: dict[str, Any] = {"quantization_config": {"quant_method": method}}
    for key in reversed(place):
        config = {key: config}
    write_raw(tmp_path, {"l.weight": zeros("F8_E4M3", 4, 4), "l.weight_scale": zeros("F32", 4, 1)}, config)
    where = ".".join((*place, "quantization_config"))
    with pytest.raises(UnsupportedError, match=rf"is quantised: config.json has a {where} \({method}\)"):
        read_checkpoint(tmp_path)


def test_what_could_be_told_is_asked_for(tmp_path: Path) -> None:
    """Where a line in config.json would make a checkpoint readable, the error gives the line."""
    write_raw(tmp_path / "a", REFUSED["MXFP4 alone"][0], {})
    with pytest.raises(
        UnsupportedError, match=r'add "quantization_config": {"quant_method": "mxfp4"} to its config\.json'
    ):
        read_checkpoint(tmp_path / "a")
    both = {"l.weight": zeros("F8_E4M3", 192, 128), "l.weight_scale_inv": zeros("F32", 2, 1)}
    write_raw(tmp_path / "b", both, {})
    with pytest.raises(
        UnsupportedError, match=r"2 blocks of 96 or 128 elements along a side of 192.*weight_block_size"
    ):
        read_checkpoint(tmp_path / "b")
    write_raw(tmp_path / "b", both, FP8)
    assert "one scale for every 128 x 128" in str(read_checkpoint(tmp_path / "b").tensors["l.weight"].stored)


def test_rotated_weights_are_refused(tmp_path: Path) -> None:
    """Weights that were multiplied by matrices, which only the quantised model undoes, are no plain weights."""
    config = {"quantization_config": {"quant_method": "compressed-tensors", "transform_config": {"u": {}}}}
    write_raw(tmp_path, {"l.weight": zeros("F8_E4M3", 4, 4), "l.weight_scale": zeros("F32", 4, 1)}, config)
    with pytest.raises(UnsupportedError, match="transform_config, so its weights are rotated"):
        read_checkpoint(tmp_path)


ODD_SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((), ()), ((0,), (0,)), ((2,), ()), ((), (2,)), ((2, 0), (2, 1)), ((2, 3, 0, 16), (2, 3, 0))
]  # fmt: skip


@pytest.mark.parametrize("codes", ["I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "I32"])
@pytest.mark.parametrize("scales", ["F8_E8M0", "U8", "F32"])
@pytest.mark.parametrize("shapes", ODD_SHAPES, ids=str)
def test_odd_shapes_are_read_or_refused(codes: str, scales: str, shapes: Any, tmp_path: Path) -> None:
    """Scalars and empty tensors called like codes and scales lead to a checkpoint, or to the one error there is."""
    section = {"quant_method": "mxfp4"}
    for names in (("l.weight", "l.scale"), ("e_blocks", "e_scales"), ("l.weight_packed", "l.weight_scale")):
        tensors = {names[0]: zeros(codes, *shapes[0]), names[1]: zeros(scales, *shapes[1])}
        write_raw(tmp_path, tensors, {"quantization_config": section})
        with contextlib.suppress(UnsupportedError):
            for info in read_checkpoint(tmp_path).tensors.values():
                assert info.length * info.source.itemsize == info.source.read(0, info.length).size
