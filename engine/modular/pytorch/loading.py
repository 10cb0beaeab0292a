"""Modules, and whole modular networks, as networks of torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dovetail.engine.modular.extraction.document import MODULE_NAME, read_module
from dovetail.engine.modular.network.parent import PARENT_NAME, read_parent
from dovetail.io.errors import MissingFileError
from dovetail.io.extras import require
from dovetail.io.files.home import expand_home
from dovetail.io.files.smallfile import is_named

if TYPE_CHECKING:
    import torch


def load_module(folder: str | os.PathLike[str]) -> torch.nn.Module:
    """Build the network that a folder describes, and load its weights, which are mapped rather than read.

    The network is a `torch.fx.GraphModule` of torch's own layers: nothing of Dovetail is in it, so that
    ``torch.export`` and ``torch.onnx`` take it, and ``print(module.code)`` shows what it computes. Its ``state_dict``
    has the names of the tensors in the folder. It is in evaluation; ``module.train()`` makes it ready for fine-tuning.

    Parameters
    ----------
    folder
        A module, or a modular network, which is built with its mask generators if it has any.

    Returns
    -------
    torch.nn.Module
        Takes float[batch, channels, height, width] and gives float[batch, classes].

    Raises
    ------
    CheckpointError
        The folder is none of these, or is damaged.
    UnsupportedError
        torch is not installed.

    """
    require("torch", "modular", "networks of torch")
    from dovetail.engine.modular.pytorch.torch_network import build_network
    from dovetail.io.state_dict import load_tensors

    place = Path(expand_home(os.fspath(folder)))
    if is_named(place / MODULE_NAME):
        module = read_module(place)
        architecture, checkpoint = module.description.architecture, module.checkpoint
    elif is_named(place / PARENT_NAME):
        parent = read_parent(place)
        architecture, checkpoint = parent.whole, parent.checkpoint
    else:
        raise MissingFileError(
            f"{folder} has neither {MODULE_NAME} nor {PARENT_NAME}",
            "a module or a modular network",
            "check the path",
        )
    return build_network(architecture, load_tensors(checkpoint))
