"""What models of pydantic say, as values that JSON has."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError


def dump(model: BaseModel, *, defaults: bool = False) -> Any:
    """Write a model as values that JSON has.

    Parameters
    ----------
    model
        The model.
    defaults
        Whether what has its default is written too.

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C came while a part of ours was written, of which pydantic makes an error of its own.

    """
    try:
        return model.model_dump(mode="json", exclude_defaults=not defaults)
    except PydanticSerializationError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise error.__cause__ from None
        raise
