"""The base of the recipe's pydantic models: frozen, and with no key that is not known."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from dovetail.engine.recipe.places import nearest, one_of, shown
from dovetail.engine.recipe.problems import problem


class Strict(BaseModel):
    """A mapping of which every key is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, data: Any) -> Any:
        keys = list(cls.model_fields)
        if isinstance(data, cls):
            return data
        if not isinstance(data, dict):
            raise problem(f"is {shown(data)}", f"a mapping with keys among {', '.join(keys)}")
        for key in data:
            if key not in keys:
                raise problem("is an unknown key", one_of(keys), nearest(str(key), keys), (str(key),))
        return data
