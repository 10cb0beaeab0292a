"""Chat templates: by name, as text, or the one that most models have. They are only copied, never run."""

from __future__ import annotations

import importlib.resources
from collections import Counter
from collections.abc import Sequence

from dovetail.engine.errors import RecipeError
from dovetail.engine.planning.vocabulary.files import (
    CHAT_TEMPLATE,
    TOKENIZER_CONFIG,
    is_text,
    read_json,
    read_side_file,
)
from dovetail.engine.recipe.places import nearest, one_of, shown
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import CheckpointError

NAMES = ("alpaca", "chatml", "exaone", "llama3", "mistral")
"""Templates that are known by name: those that mergekit knows, written from the formats' descriptions."""


def choose_template(wanted: str, checkpoints: Sequence[Checkpoint]) -> str | None:
    """Find the template that a recipe asks for.

    Parameters
    ----------
    wanted
        ``auto``, a name, or a template: anything with a brace in it.
    checkpoints
        The models, of whose templates ``auto`` takes the most frequent one, and the first of equally frequent ones.

    Returns
    -------
    str or None
        None if no model has one to choose.

    Raises
    ------
    RecipeError
        It is neither a name nor a template.

    """
    if wanted == "auto":
        found = [template for checkpoint in checkpoints if (template := model_template(checkpoint))]
        return Counter(found).most_common(1)[0][0] if found else None
    if "{" in wanted:
        return wanted
    if wanted not in NAMES:
        raise RecipeError(
            f"chat_template is {shown(wanted)}",
            f"auto, {one_of(NAMES)}, or the text of a Jinja template",
            nearest(wanted, ("auto", *NAMES)) or "correct the name",
        )
    folder = importlib.resources.files("dovetail.engine.planning.vocabulary") / "chat_templates"
    return (folder / f"{wanted}.jinja").read_text("utf-8").strip()


def model_template(checkpoint: Checkpoint) -> str | None:
    """Read a model's chat template, without the white space around it; None if it has none."""
    if (raw := read_side_file(checkpoint, CHAT_TEMPLATE)) is not None:
        try:
            return raw.decode().strip() or None
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{checkpoint.path}/{CHAT_TEMPLATE} is not UTF-8 ({error.reason})", "a text", "copy the file again"
            ) from error
    found = read_json(checkpoint, TOKENIZER_CONFIG).get("chat_template")
    if isinstance(found, list):  # several by name
        pairs = (item for item in found if isinstance(item, dict) and item.get("name") == "default")
        found = next(pairs, {}).get("template")
    elif isinstance(found, dict):
        found = found.get("default")
    return found.strip() or None if is_text(found) else None
