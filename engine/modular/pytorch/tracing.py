"""From a network of torch to its architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dovetail.io.extras import require

if TYPE_CHECKING:
    import torch

    from dovetail.engine.modular.network.architecture import Architecture


def trace(model: torch.nn.Module, example_input: torch.Tensor) -> Architecture:
    """Describe a network as data, so that it can be cut and rebuilt without the class that defined it.

    Supported are convolutions (strided, padded, dilated, grouped, depthwise), linear layers, BatchNorm, activations,
    pools, dropout, additions, multiplications, concatenations, flattening and means over space, as modules and as
    functions: VGG, ResNet, DenseNet, Inception and MobileNet are made of these. The network is traced in evaluation.
    What was traced is then computed for the example, and compared with what the network gives.

    Parameters
    ----------
    model
        The network; it is left as it is.
    example_input : float[batch, channels, height, width]
        A batch of any size, on the device of the network. With a network on the device ``meta``, nothing is computed,
        and so nothing is compared.

    Returns
    -------
    Architecture
        The graph; its tensors have the names that they have in the network's ``state_dict``.

    Raises
    ------
    ArchitectureError
        A layer or a use of one is not supported, weights are used twice, the control flow depends on the data, or the
        traced network gives something else than the model.
    UnsupportedError
        torch is not installed.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    >>> trace(net, torch.zeros(1, 3, 8, 8)).output
    '2'

    """
    require("torch", "modular", "traced networks")
    from dovetail.engine.modular.pytorch.fx_tracing import trace_network

    return trace_network(model, example_input)
