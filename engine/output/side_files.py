"""The side files: the small files beside the weights, without which other libraries could not load the output folder.

Configuration, tokenizer and generation files are copied from the base model. The dtype and the number of layers in the
configuration are set to those of the output. A model card and the recipe are added. No code of a checkpoint is run.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dovetail.engine.output.inputs import INPUTS_NAME
from dovetail.engine.output.manifest import MANIFEST_NAME
from dovetail.engine.output.pictures import PICTURE_NAMES, Picture
from dovetail.engine.planning.layer_config import restack
from dovetail.engine.planning.model_config import set_tie
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.planning.vocabulary.files import FILES
from dovetail.engine.run.journal import JOURNAL_NAME
from dovetail.engine.run.lock import LOCK_NAME
from dovetail.io.checkpoint import Checkpoint, only_inputs
from dovetail.io.files.checksum import hex_checksum
from dovetail.io.files.durable import write_durably
from dovetail.io.formats.config import CONFIG_NAME, config_of
from dovetail.io.formats.quantised import SETTINGS_FILES, drop_settings
from dovetail.io.formats.side_files import find_side_files, read_side_file
from dovetail.io.output import FORMATS

RECIPE_NAME = "dovetail_recipe.yml"
"""File name of the recipe's copy in the output folder."""

_REPLACED = {
    "readme.md", CONFIG_NAME, RECIPE_NAME, MANIFEST_NAME, INPUTS_NAME, JOURNAL_NAME, LOCK_NAME, "mergekit_config.yml",
    "checkpoint", *SETTINGS_FILES,
}  # fmt: skip


def copied_files(folder: Path) -> list[Path]:
    """List the side files of a checkpoint folder that an output takes over, sorted by name.

    Links that lead out of the folder are left out, because a checkpoint must not bring a private file into the output.

    Raises
    ------
    CheckpointError
        The system cannot tell what a file is.

    """
    replaced = _REPLACED.union(*[each.document_names for each in FORMATS.values()])
    return find_side_files(folder, replaced)


@only_inputs()
def side_bytes(plan: Plan) -> int:
    """Count the bytes of the files that are copied from the base model, and of those that are made in their place."""
    made = sum(len(data) for data in _changed_files(plan).values() if data is not None)
    return made + sum(path.stat().st_size for path in _taken_over(plan))


def _taken_over(plan: Plan) -> list[Path]:
    """List the base model's side files that the output has as they are."""
    folder = plan.side_checkpoint.side_folder
    if folder is None:
        return []
    leave = _names_left(plan)
    return [path for path in copied_files(folder) if path.name not in leave]


def side_files_left(options: PlanOptions) -> Collection[str]:
    """Name the side files that an output does not take over from a model; pictures show what that model was made of."""
    return PICTURE_NAMES if options.copy_tokenizer else (*FILES, *PICTURE_NAMES)


def _names_left(plan: Plan) -> Collection[str]:
    """Name the side files that an output does not take over, because they are not wanted or made anew."""
    left = side_files_left(plan.options if plan.vocabulary is None else PlanOptions())
    shown = PICTURE_NAMES if plan.is_conversion else ()  # by the card, which is the model's own
    return [*_changed_files(plan), *(name for name in left if name not in shown)]


def _changed_files(plan: Plan) -> Mapping[str, bytes | None]:
    return {} if plan.vocabulary is None else plan.vocabulary.side_files


def output_config(plan: Plan) -> dict[str, Any] | None:
    """Make the output's config.json from the base model's, with the output's dtype and layers, and not quantised.

    Returns
    -------
    dict or None
        The configuration as a JSON object; None if the base model has none.

    Raises
    ------
    CheckpointError
        The base model's config.json has changed since the merge was planned, and cannot be read any more.

    """
    config = config_of(plan.side_checkpoint)
    if config is None:
        return None
    dtype = output_dtype(plan)
    drop_settings(config)
    kept = plan.is_conversion and plan.options.dtype is None and not plan.side_checkpoint.dequantised
    if dtype is not None and not kept:
        # Newer configurations have the key "dtype", older ones "torch_dtype", which every version of the library reads.
        for key in [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]:
            config[key] = dtype
    if plan.stacks:
        restack(config, plan.stacks, [config_of(each) for each in plan.checkpoints], plan.side_index)
    if plan.tie is not None:
        set_tie(config, plan.tie)
    if plan.vocabulary is not None:
        plan.vocabulary.update_config(config)
    return config


def output_dtype(plan: Plan) -> str | None:
    """Give PyTorch's name of the dtype that most floating-point elements of the output have; None if there are none."""
    elements: dict[str, int] = {}
    for tensor in plan.tensors:
        if tensor.dtype.mergeable:
            elements[tensor.dtype.torch_name] = elements.get(tensor.dtype.torch_name, 0) + tensor.length
    return max(elements, key=lambda name: elements[name], default=None)


def write_side_files(
    plan: Plan,
    folder: Path,
    card: str,
    config: Mapping[str, Any] | None = None,
    pictures: Iterable[Picture] = (),
) -> dict[str, dict[str, Any]]:
    """Write every side file into `folder`, durably.

    Parameters
    ----------
    plan
        The plan that was carried out.
    folder
        The staging folder.
    card
        Text of the model card.
    config
        The configuration of the output; None for that of `output_config`.
    pictures
        What the card shows.

    Returns
    -------
    dict
        The size in bytes and the checksum of each side file, by name. The shard index or the group's metadata, which
        the sink has written, is among them.

    """
    written: dict[str, dict[str, Any]] = {}

    def note(name: str, data: bytes) -> None:
        written[name] = {"size_bytes": len(data), "checksum": hex_checksum(data)}

    def write(name: str, data: bytes) -> None:
        write_durably(folder / name, data)
        note(name, data)

    for name, data in _files_beside(plan):
        write(name, data)
    config = output_config(plan) if config is None else config
    if config is not None:
        write(CONFIG_NAME, _config_text(config))
    if plan.options.model_card:
        write("README.md", card.encode())
        for picture in pictures:
            write(picture.name, picture.data)
    if plan.recipe.text:
        write(RECIPE_NAME, plan.recipe.text.encode())
    for name, content in plan.layout.documents.items():
        note(name, content)
    return written


def inherited_files(source: Checkpoint, leave: Collection[str] = ()) -> Iterator[tuple[str, bytes]]:
    """Give name and content of each side file of a checkpoint that an output takes over, but for those to leave.

    One file at a time: together they may be too large for the memory limit.
    """
    if (home := source.side_folder) is not None:
        yield from ((path.name, read_side_file(path)) for path in copied_files(home) if path.name not in leave)


def _files_beside(plan: Plan) -> Iterator[tuple[str, bytes]]:
    """Give name and content of each side file that is taken over, and of each that is made in the place of one."""
    yield from inherited_files(plan.side_checkpoint, _names_left(plan))
    yield from ((name, data) for name, data in _changed_files(plan).items() if data is not None)


def expected_side_files(plan: Plan) -> dict[str, str]:
    """Give the checksum of each side file that `write_side_files` would make of the inputs, by name.

    The model card and the recipe's copy are left out: these say how the merge was asked for and what it found.
    """
    found = {name: hex_checksum(data) for name, data in _files_beside(plan)}
    config = output_config(plan)
    return found if config is None else {**found, CONFIG_NAME: hex_checksum(_config_text(config))}


def _config_text(config: Mapping[str, Any]) -> bytes:
    # Letters outside ASCII are escaped, because JSON strings can hold lone surrogates, which UTF-8 cannot.
    return (json.dumps(config, indent=2) + "\n").encode()
