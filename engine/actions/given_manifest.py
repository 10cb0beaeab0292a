"""What functions that make an output give to callers from Python: a manifest that can be looked at."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec

from dovetail.engine.actions.verify import read_manifest
from dovetail.engine.output.document import Manifest
from dovetail.io.files.home import expand_home

P = ParamSpec("P")


def gives_manifest(function: Callable[P, dict[str, Any]]) -> Callable[P, Manifest]:
    """Decorate a function that makes the output of its parameter ``output`` and gives the manifest."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Manifest:
        output = signature.bind(*args, **kwargs).arguments["output"]
        return Manifest(function(*args, **kwargs), expand_home(output), read_manifest)

    return call
