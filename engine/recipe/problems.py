"""What is wrong with a recipe, on its way from pydantic's validators to a RecipeError."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe.origin import Origin
from dovetail.engine.recipe.places import Where, key_path, nearest, one_of, shown

_KIND = "dovetail_recipe"
_EXPECTED = {
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "string_type": "text",
    "too_short": "more items",
    "too_long": "fewer items",
    "string_too_short": "a name",
}
"""What pydantic expects, in a recipe's words."""


def problem(what: str, expected: str = "", action: str = "", path: Where = ()) -> PydanticCustomError:
    """Make the exception by which a validator says what is wrong.

    Parameters
    ----------
    what
        What is wrong, to follow the key path: "is 7".
    expected, action
        As in `DovetailError`.
    path
        Where, below the value being validated.

    """
    context = {"what": what, "expected": expected, "action": action, "path": path}
    return PydanticCustomError(_KIND, "{what}", context)


def recipe_error(error: ValidationError, data: Any, origin: Origin) -> RecipeError:
    """Turn the first problem that pydantic found in `data` into a RecipeError with its key path."""
    first = error.errors(include_url=False)[0]
    where = _where(first["loc"], data, keep_last=first["type"] == "missing")
    if first["type"] == _KIND:
        context = first["ctx"]
        where += context["path"]
        return origin.error(where, f"{key_path(where)} {context['what']}", context["expected"], context["action"])
    if first["type"] == "missing":
        return origin.error(where, f"{key_path(where)} is missing", "a value")
    # "Input should be a valid integer" -> "a valid integer"
    expected = _EXPECTED.get(first["type"]) or first["msg"].removeprefix("Input should be ")
    return origin.error(where, f"{key_path(where)} is {shown(first['input'])}", expected)


def _where(loc: tuple[str | int, ...], data: Any, *, keep_last: bool) -> Where:
    """Keep the parts of pydantic's location that are in the data: it also names the branches of unions."""
    where: list[str | int] = []
    for depth, part in enumerate(loc, 1):
        inside = dict(enumerate(data)) if isinstance(data, list) else data
        if isinstance(inside, dict) and part in inside:
            data = inside[part]
            where.append(part)
        elif keep_last and depth == len(loc):
            where.append(part)
    return tuple(where)


class Strict(BaseModel):
    """A mapping of which every key is known."""

    # Parts are described with the whole that has them, and not each for itself besides.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

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
