"""What configurations say of quantisation, wherever they say it.

A model that has several parts has a configuration for each, and ``quantization_config`` may stand in any of them:
in ``text_config``, ``vision_config``, ``thinker_config.text_config``. NVIDIA's tools
write a separate file beside ``config.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

MODELOPT_NAME: Final = "hf_quant_config.json"
"""The file in which NVIDIA's Model Optimizer describes its quantisation."""

SETTINGS_FILES: Final = frozenset((MODELOPT_NAME, "quantize_config.json", "quant_config.json", "quanto_qmap.json"))
"""Files that describe nothing but quantisation, which a folder of plain weights must not have."""

READ_METHODS: Final = frozenset(
    (
        "fp8",
        "mxfp8",
        "mxfp4",
        "fbgemm_fp8",
        "compressed-tensors",
        "modelopt",
        "modelopt_fp4",
        "modelopt_mixed",
        "torchao",
    )
)
"""Methods, by ``quant_method``, of which some formats are read; the tensors show whether a checkpoint has one."""

_KEYS: Final = ("quantization_config", "compression_config", "quantization")
_DEEPEST: Final = 6

_Place = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a checkpoint's configurations say of quantisation."""

    places: tuple[tuple[str, str], ...] = ()
    """Where something is said, and the method named there."""
    blocks: tuple[tuple[int, int], ...] = ()
    """The sizes of blocks that share a scale, rows and columns, each once."""
    formats: frozenset[str] = frozenset()
    """The formats within methods, in lower case: what compressed-tensors calls format, Model Optimizer algorithm."""
    rotated: bool = False
    """Whether weights were multiplied by matrices, which only the quantised model undoes."""

    @property
    def methods(self) -> frozenset[str]:
        """The methods named."""
        return frozenset(method for _, method in self.places)

    @property
    def evidence(self) -> str:
        """The first place and its method, for messages."""
        place, method = next((each for each in self.places if each[1] not in READ_METHODS), self.places[0])
        return f"{place} ({method})"


def find_settings(config: Mapping[str, Any] | None, modelopt: Mapping[str, Any] | None = None) -> Settings:
    """Collect what configurations say of quantisation.

    Parameters
    ----------
    config
        The checkpoint's ``config.json``, if it has one.
    modelopt
        Its ``hf_quant_config.json``, if it has one.

    """
    found = [(f"config.json has a {'.'.join(place)}", value) for place, value in _sections(config or {})]
    if modelopt is not None:
        inner = modelopt.get("quantization")
        found.append((f"it has a {MODELOPT_NAME}", {"quant_method": "modelopt", **_mapping(inner), **modelopt}))
    places, blocks, formats, rotated = [], [], set(), False
    for where, value in found:
        places.append((where, _method(value)))
        blocks += [block for block in _blocks(value) if block not in blocks]
        formats |= _formats(value)
        rotated = rotated or bool(value.get("transform_config"))
    return Settings(tuple(places), tuple(blocks), frozenset(formats), rotated)


def drop_settings(config: dict[str, Any]) -> None:
    """Remove everything about quantisation from a ``config.json``, because the output's weights are plain numbers."""
    for place, _ in list(_sections(config)):
        inner = config
        for key in place[:-1]:
            inner = inner[key]
        del inner[place[-1]]
    if config.get("expert_dtype") in ("fp4", "fp8"):
        del config["expert_dtype"]


def _sections(config: Mapping[str, Any], place: _Place = ()) -> Iterator[tuple[_Place, dict[str, Any]]]:
    """Give every object that describes quantisation, and the keys that lead there."""
    for key, value in config.items():
        if not isinstance(value, dict):
            continue
        # MLX has a key of that name with the number of bits; elsewhere it may mean anything.
        if key in _KEYS and (key != "quantization" or not {"bits", "quant_algo"}.isdisjoint(value)):
            yield (*place, key), value
        elif len(place) < _DEEPEST:
            yield from _sections(value, (*place, key))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _method(value: Mapping[str, Any]) -> str:
    """Give the method that a section names."""
    method = value.get("quant_method")
    if isinstance(method, str):
        return method.lower()
    if value.get("load_in_4bit") or value.get("load_in_8bit"):
        return "bitsandbytes"
    return "unknown method"


def _formats(value: Mapping[str, Any]) -> set[str]:
    """Give the formats that a section names, those of its groups too."""
    groups = _mapping(value.get("config_groups")).values()
    named = [section.get(key) for section in (value, *groups) if isinstance(section, dict) for key in _FORMAT_KEYS]
    return {name.lower() for name in named if isinstance(name, str)}


_FORMAT_KEYS: Final = ("format", "quant_algo", "scale_fmt")


def _blocks(value: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Give the sizes of blocks that a section names."""
    weights = [_mapping(_mapping(group).get("weights")) for group in _mapping(value.get("config_groups")).values()]
    named = [value.get("weight_block_size"), *(each.get("block_structure") for each in weights)]
    return [
        (size[0], size[1])
        for size in named
        if isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    ]
