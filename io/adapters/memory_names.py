"""Models of which transformers gives some tensors other names in memory than their files do, and peft with it.

An adapter has the names in memory. The table follows the conversions of transformers 5 when it loads a checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from dovetail.io.adapters.names import AdapterTensors
from dovetail.io.checkpoint import TensorInfo

_Names = tuple[tuple[str, str], ...]

_GRANITE: Final[_Names] = (
    ("block_sparse_moe.input_linear.weight", "block_sparse_moe.experts.gate_up_proj"),
    ("block_sparse_moe.output_linear.weight", "block_sparse_moe.experts.down_proj"),
    ("block_sparse_moe.router.layer.weight", "block_sparse_moe.router.weight"),
)
_MIXTRAL: Final[_Names] = (("block_sparse_moe.gate.weight", "mlp.gate.weight"),)

_MINIMAX: Final[_Names] = (
    *_MIXTRAL,
    ("block_sparse_moe.e_score_correction_bias", "mlp.e_score_correction_bias"),
)

_TABLE: Final[Mapping[str, _Names]] = {
    "ernie4_5_moe": (("mlp.moe_statics.e_score_correction_bias", "mlp.gate.moe_statics.e_score_correction_bias"),),
    "exaone_moe": (("mlp.e_score_correction_bias", "mlp.gate.e_score_correction_bias"),),
    "gpt_neox": (("embed_out.weight", "lm_head.weight"),),
    "granitemoe": _GRANITE,
    "granitemoehybrid": _GRANITE,
    "granitemoeshared": _GRANITE,
    "minimax": _MIXTRAL,
    "minimax_m2": _MINIMAX,
    "mixtral": _MIXTRAL,
    "phimoe": (("block_sparse_moe.gate.weight", "mlp.router.weight"),),
}
"""Endings of names in the file and in memory, by ``model_type``.

Experts that are stored one by one are not here: peft itself renames their factors.
"""


_OTHERS: Final = frozenset(
    (
        "altclip", "apertus1p5_text", "aria", "aria_text", "audioflamingo3", "axk1", "axk2", "aya_vision",
        "bailing_hybrid", "beam", "cohere_asr", "colqwen2", "cosmos3_edge", "cosmos3_omni", "d_fine", "deepseek_ocr2",
        "deepseek_v32", "deepseek_v4", "deformable_detr", "dinov3_convnext", "dinov3_vit", "dory",
        "dots3_note_audio_encoder", "dots3_note_vision_encoder", "emu3", "ernie4_5_vl_moe", "esm", "exaone", "flint",
        "fuyu", "gemma3", "gemma3n_text", "gemma4_unified", "glm4v_moe", "glm5_next", "glm5_next_text", "glm_moe_dsa",
        "glmasr", "got_ocr2", "gradium_phonon_tts", "granite_speech", "granite_speech_plus", "gte", "hrm_text",
        "hunyuan_vl", "hy_v3", "hy_v4", "hy_v4_vl", "hy_v4_vl_text", "hyperclovax_vision_v2", "inkling2",
        "inkling2_loop", "inkling2_loop_text", "inkling2_text", "inkling_mm_model", "internvl", "jev",
        "jina_embeddings_v3", "kimi_k25", "kimi_linear", "kolibri1", "laguna", "lara_mini", "lfm3", "lfm3_vl_vision",
        "llava", "llava_next", "llava_next_video", "llava_onevision", "lw_detr", "maskformer", "mellum",
        "mimo_v2_flash", "minimax_m3_vl", "mistral3", "mistral_large4", "mistral_large4_text", "mlcd", "mllama",
        "molmo2", "musicflamingo", "nemo_speechlm", "nemotron_h", "nomic_bert", "olmo_hybrid", "paddleocr_vl",
        "paligemma", "pi0", "pixio", "pp_chart2table", "pp_doclayout_v2", "pp_doclayout_v3", "pp_doclayout_v4",
        "qianfan_ocr", "qwen2_5_omni_thinker", "qwen2_audio", "qwen3_5_text", "qwen3_omni_moe", "qwen3_omni_moe_text",
        "qwen3_omni_moe_thinker", "qwen3_vl_moe", "qwen4_exp_text", "radio", "rt_detr", "rt_detr_v2", "sam3_tracker",
        "sam3_tracker_video", "sapiens2", "sarvam_mla", "sarvam_moe", "shieldgemma2", "step3p5_vision", "step3p7",
        "swin", "t5gemma2_encoder", "timesfm2_5", "timm_wrapper", "tipsv2", "tipsv2_dpt", "unlimited_ocr",
        "vibevoice_asr", "video_llava", "videomae", "vipllava", "voxtral", "voxtral_realtime", "yolos",
    )
)  # fmt: skip
"""Further models (``model_type``) that transformers renames, splits or joins tensors of when it loads them."""


def names_differ(config: Mapping[str, Any] | None) -> bool:
    """Whether tensors of a model have other names in memory, and this module does not know which."""
    kind = (config or {}).get("model_type")
    return isinstance(kind, str) and kind in _OTHERS


def memory_name(tensor: str, config: Mapping[str, Any] | None) -> str:
    """Give the name in memory of a tensor of a model's file.

    Parameters
    ----------
    tensor
        Its name in the file.
    config
        The model's config.json, if it has one.

    """
    for stored, loaded in _names_of(config):
        if f".{tensor}".endswith(f".{stored}"):
            return tensor.removesuffix(stored) + loaded
    return tensor


def with_file_names(
    parts: AdapterTensors, config: Mapping[str, Any] | None, tensors: Collection[str]
) -> AdapterTensors:
    """Give an adapter whose tensors and modules have the names of the model's files instead of those in memory.

    Parameters
    ----------
    parts
        The adapter's tensors.
    config
        The model's config.json, if it has one.
    tensors
        The names in the model's files.

    """
    names = [(stored, loaded) for stored, loaded in _names_of(config) if _has(tensors, stored)]

    def file_name(tensor: str) -> str:
        for stored, loaded in names:
            if f".{tensor}".endswith(f".{loaded}"):
                return tensor.removesuffix(loaded) + stored
        return tensor

    if not names:
        return parts
    modules = {file_name(f"{module}.weight").removesuffix(".weight"): each for module, each in parts.modules.items()}
    whole: dict[str, TensorInfo] = {}
    for name, info in parts.whole.items():
        whole[file_name(name)] = info._replace(name=file_name(name))
    return replace(parts, modules=modules, whole=whole)


def _names_of(config: Mapping[str, Any] | None) -> _Names:
    kind = (config or {}).get("model_type")
    return _TABLE.get(kind, ()) if isinstance(kind, str) else ()


def _has(tensors: Collection[str], ending: str) -> bool:
    return any(f".{name}".endswith(f".{ending}") for name in tensors)
