"""Strict reading of an untrusted ``adapter_config.json``, and refusal of adapters that cannot be applied."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import xxhash

from dovetail.io.adapters.config import CONFIG_NAME, MERGE_FIRST, AdapterConfig, patterns_error
from dovetail.io.adapters.patterns import PatternError, PatternTable
from dovetail.io.checkpoint import FileFingerprint
from dovetail.io.errors import AdapterError, CheckpointError, MissingFileError, UnsupportedError
from dovetail.io.files.smallfile import read_at_most
from dovetail.io.files.strict_json import JsonDefectError, brief, decode_json
from dovetail.io.formats.index import resolve_in_folder

_MAX_BYTES: Final = 16 * 2**20  # most have a kilobyte, and those that name every module some hundreds

_MAX_RANK: Final = 2**20

_KINDS: Final = ("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "TRAINABLE_TOKENS")

_NO_WEIGHTS: Final = frozenset(
    ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "CARTRIDGE")
)  # these kinds add tokens or layers, and so have nothing to merge

_CHANGES_BASE: Final = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
"""Initialisations that also change the model's weights, so that the adapter fits only the changed weights."""

_HARMLESS: Final = frozenset(
    (
        "peft_type", "base_model_name_or_path", "auto_mapping", "task_type", "inference_mode", "revision",
        "peft_version", "r", "alpha", "lora_alpha", "lora_dropout", "rank_dropout", "module_dropout", "fan_in_fan_out",
        "bias", "use_rslora", "use_dora", "lora_bias", "target_modules", "exclude_modules", "feedforward_modules",
        "modules_to_save", "init_lora_weights", "init_ia3_weights", "init_weights", "layers_to_transform",
        "layers_pattern", "rank_pattern", "alpha_pattern", "trainable_token_indices", "token_indices", "loftq_config",
        "eva_config", "corda_config", "lora_ga_config", "runtime_config", "qalora_group_size", "ensure_weight_tying",
        "target_modules_to_tie", "use_effective_conv2d", "megatron_core", "decompose_both", "rank_dropout_scale",
    )
)  # fmt: skip
"""Settings that are either read here or matter only to training."""


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read and check the configuration of an adapter.

    Raises
    ------
    MissingFileError
        The folder has no configuration.
    AdapterError
        The configuration is damaged, or a setting has an impossible value.
    UnsupportedError
        The adapter is of a kind that cannot be applied, or has settings that cannot.

    """
    path = folder / CONFIG_NAME
    resolve_in_folder(folder, CONFIG_NAME, "its folder")
    try:
        status = path.stat()
        raw = read_at_most(path, _MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise JsonDefectError(f"is larger than {_MAX_BYTES} bytes")
        settings = decode_json(raw)
    except OSError as error:
        raise MissingFileError(f"cannot read {path} ({error.strerror})", "the adapter's configuration") from error
    except JsonDefectError as error:
        raise AdapterError(f"{path} {error}", "a JSON object", "download the adapter again") from error
    fingerprint = FileFingerprint(CONFIG_NAME, len(raw), status.st_mtime_ns, xxhash.xxh3_128_hexdigest(raw))
    return _Reader(path, settings).config(fingerprint)


def named_as_model(folder: Path) -> UnsupportedError:
    """Make the error for a recipe that names an adapter where a model should be."""
    try:
        base = read_adapter_config(folder).base_name
    except CheckpointError:
        base = ""
    return UnsupportedError(
        f"{folder} is an adapter (LoRA), not a model" + (f"; it was trained on {base}" if base else ""),
        "a whole model, or a model and its adapter",
        f"write MODEL+{folder.name} in the recipe, with the path of {base or 'its model'} for MODEL",
    )


class _Reader:
    """Takes the settings out of a JSON object, and checks each of them."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path, self._settings = path, settings

    def config(self, fingerprint: FileFingerprint) -> AdapterConfig:
        kind = self._kind()
        lora = kind in ("LORA", "ADALORA")
        if lora:
            self._refuse_initialisation()
        self._refuse_unknown(kind)
        rank = self._rank("init_r", self._settings.get("init_r", 12)) if kind == "ADALORA" else None
        rank = self._rank("r", self._settings.get("r", 8)) if rank is None else rank
        alpha_key = "lora_alpha" if lora else "alpha"
        alphas = self._numbers("alpha_pattern")
        ranks = self._kept_ranks() if kind == "ADALORA" else self._pattern_ranks()
        return AdapterConfig(
            path=self._path,
            fingerprint=fingerprint,
            kind=kind,
            base_name=self._text("base_model_name_or_path"),
            task=self._text("task_type"),
            saved=frozenset(self._names("modules_to_save")),
            ranks=frozenset((rank, *ranks.values())),
            rank=rank,
            rank_patterns=self._patterns("rank_pattern", () if kind == "ADALORA" else ranks),
            pattern_ranks=ranks,
            alpha=self._number(alpha_key, self._settings.get(alpha_key, 8)),
            alphas=alphas,
            patterns=self._patterns("alpha_pattern", alphas),
            root=self._flag("use_rslora"),
            dora=self._flag("use_dora"),
            fan_in_fan_out=self._flag("fan_in_fan_out"),
            tokens=self._tokens("token_indices" if kind == "TRAINABLE_TOKENS" else "trainable_token_indices"),
            parameters=tuple(self._names("target_parameters")),
            version=self._text("peft_version"),
            unsloth=self._is_unsloth(),
        )

    def _patterns(self, key: str, patterns: Iterable[str]) -> PatternTable:
        try:
            return PatternTable(patterns)
        except PatternError as error:
            raise patterns_error(self._path, key, error) from None

    def _pattern_ranks(self) -> dict[str, int]:
        return {name: self._rank("rank_pattern", value) for name, value in self._numbers("rank_pattern").items()}

    def _kept_ranks(self) -> dict[str, int]:
        """Read how many singular values AdaLoRA has kept of each module."""
        value = self._settings.get("rank_pattern")
        if value is not None and type(value) is not dict:
            raise self._wrong("rank_pattern", value, "an object of lists of true and false by module name")
        kept: dict[str, int] = {}
        for name, flags in (value or {}).items():
            if type(flags) is not list or any(type(flag) is not bool for flag in flags):
                raise self._wrong("rank_pattern", flags, "a list of true and false for each module")
            module = name.removeprefix("base_model.model.").partition(".lora_E")[0]
            kept[module] = sum(flags)
        return kept

    def _is_unsloth(self) -> bool:
        mapping = self._settings.get("auto_mapping")
        return type(mapping) is dict and mapping.get("unsloth_fixed") is True

    def _kind(self) -> str:
        kind = self._settings.get("peft_type")
        if kind in _KINDS:
            return str(kind)
        if type(kind) is not str:
            raise self._wrong("peft_type", kind, "the name of a kind of adapter, such as 'LORA'")
        if kind in _NO_WEIGHTS:
            raise UnsupportedError(
                f"{self._path.parent} is an adapter of kind {kind}, which changes no weights",
                f"one of {', '.join(_KINDS)}",
                "leave it out of the recipe: there is nothing of it to merge",
            )
        raise UnsupportedError(
            f"{self._path.parent} is an adapter of kind {brief(kind)}", f"one of {', '.join(_KINDS)}", MERGE_FIRST
        )

    def _refuse_initialisation(self) -> None:
        found = self._settings.get("init_lora_weights", True)
        if type(found) not in (bool, str, type(None)):
            raise self._wrong("init_lora_weights", found, "true, false or a name")
        if type(found) is str and found.lower().startswith(_CHANGES_BASE):
            raise UnsupportedError(
                f"{self._path} has init_lora_weights {brief(found)}: the model's own weights were changed as well",
                "an adapter that was converted to a plain LoRA when it was saved",
                "save it with path_initial_model_for_weight_conversion of peft, or " + MERGE_FIRST,
            )

    def _refuse_unknown(self, kind: str) -> None:
        """Refuse unknown settings that are switched on, because only these tell which variant of an adapter it is."""
        harmless = _HARMLESS | {"target_parameters"} if kind == "LORA" else _HARMLESS
        for key, value in self._settings.items():
            if key not in harmless and (value is True or (type(value) in (dict, list) and value)):
                raise UnsupportedError(
                    f"{self._path} sets {brief(key)} to {brief(value)}, which is not understood here",
                    "a plain adapter",
                    MERGE_FIRST,
                )

    def _wrong(self, key: str, value: object, expected: str) -> AdapterError:
        return AdapterError(f"{key} in {self._path} is {brief(value)}", expected, "repair the adapter")

    def _flag(self, key: str) -> bool:
        value = self._settings.get(key)
        if value is not None and type(value) is not bool:
            raise self._wrong(key, value, "true or false")
        return bool(value)

    def _text(self, key: str) -> str:
        value = self._settings.get(key)
        if value is not None and type(value) is not str:
            raise self._wrong(key, value, "a text")
        return value or ""

    def _number(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e30:
            raise self._wrong(key, value, "a number")
        return float(value)

    def _rank(self, key: str, value: object) -> int:
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not 1 <= value <= _MAX_RANK:
            raise self._wrong(key, value, f"a rank from 1 to {_MAX_RANK}")
        return value

    def _numbers(self, key: str) -> dict[str, float]:
        value = self._settings.get(key)
        if value is not None and type(value) is not dict:
            raise self._wrong(key, value, "an object of numbers by module name")
        return {name: self._number(key, each) for name, each in (value or {}).items()}

    def _names(self, key: str) -> list[str]:
        value = self._settings.get(key)
        if value is not None and (type(value) is not list or any(type(name) is not str for name in value)):
            raise self._wrong(key, value, "a list of names of modules")
        return value or []

    def _tokens(self, key: str) -> tuple[int, ...] | dict[str, tuple[int, ...]] | None:
        value = self._settings.get(key)
        if value is None or type(value) is list:
            return None if value is None else self._rows(key, value)
        if type(value) is not dict:
            raise self._wrong(key, value, "a list of row numbers, or an object of such lists")
        return {name: self._rows(key, rows) for name, rows in value.items()}

    def _rows(self, key: str, value: object) -> tuple[int, ...]:
        if type(value) is not list or any(type(row) is not int or row < 0 for row in value):
            raise self._wrong(key, value, "a list of row numbers")
        if len(set(value)) != len(value):
            raise self._wrong(key, value, "every row once")
        return tuple(value)
