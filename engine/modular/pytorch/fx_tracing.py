"""Reading the graph that torch.fx records of a network, node by node."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from dovetail.engine.errors import ArchitectureError
from dovetail.engine.modular.network.architecture import Architecture
from dovetail.engine.modular.network.node import INPUT, Attribute, Node
from dovetail.engine.modular.network.operations import OPERATIONS
from dovetail.engine.modular.network.settings import check_node
from dovetail.engine.modular.pytorch.torch_functions import Call, Value, function_named, supported_functions
from dovetail.engine.modular.pytorch.torch_layers import describe, unsupported
from dovetail.engine.modular.pytorch.torch_network import build_network

_TOLERANCE = 1e-4  # of the largest output: the order of sums may differ with the layout of values in memory


def trace_network(model: nn.Module, example_input: torch.Tensor) -> Architecture:
    """Trace a network as `dovetail.engine.modular.trace` says."""
    if example_input.dim() not in (2, 4):
        raise ArchitectureError(
            f"the example input has shape {list(example_input.shape)}",
            "[batch, channels, height, width], or [batch, features]",
            "give a batch of images",
        )
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        architecture = _Reader(model, tuple(example_input.shape[1:])).read()
        if example_input.device.type != "meta":
            _check_same(model, architecture, example_input)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return architecture


class _Tracer(fx.Tracer):
    """Sees only the layers of torch as wholes."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith("torch.nn") and not isinstance(m, nn.Sequential)


def _record(model: nn.Module) -> fx.Graph:
    try:
        graph = _Tracer().trace(model)
    except ArchitectureError:
        raise
    except Exception as error:  # whatever the network's own code does with a value that it only pretends to have
        raise ArchitectureError(
            f"the network cannot be traced ({type(error).__name__}: {error})",
            "a forward method whose course does not depend on values",
            "write that part without conditions, loops or conversions that look at values",
        ) from error
    for node in reversed(graph.nodes):  # values that nobody uses; torch's own clean-up needs a whole module
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)
    return graph


class _Reader:
    """Turns the nodes of one recorded graph into those of an architecture."""

    def __init__(self, model: nn.Module, input_shape: tuple[int, ...]) -> None:
        self.model, self.input_shape = model, input_shape
        self.nodes: dict[str, Node] = {}
        self.found: dict[fx.Node, Any] = {}
        self.paths = {name for name, _ in model.named_modules()}

    def read(self) -> Architecture:
        """Read the whole graph."""
        _check_hooks(self.model)
        graph = _record(self.model)
        placeholders = [node.name for node in graph.nodes if node.op == "placeholder"]
        if len(placeholders) != 1:
            raise unsupported(f"the network takes {len(placeholders)} inputs: {', '.join(placeholders)}", "one")
        output = ""
        for node in graph.nodes:
            if node.op == "output":
                result = self._given(node.args[0])
                if not isinstance(result, Value) or result.node == INPUT:
                    raise unsupported("the network does not return one value that it computed", "the logits alone")
                output = result.node
            else:
                self.found[node] = self._read(node)
        _check_shared(self.model, self.nodes)
        return Architecture(self.input_shape, tuple(self.nodes.values()), output)

    def _read(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return Value(INPUT, self.input_shape)
        if node.op == "call_module":
            return self._read_layer(node)
        if node.op == "get_attr":
            raise unsupported(f"the network uses {node.target!r} by itself", "weights within layers only")
        return self._read_call(node)

    def _read_layer(self, node: fx.Node) -> Value:
        path = str(node.target)
        module = self.model.get_submodule(path)
        kind, attributes = describe(path, module)
        inputs = [self._given(item) for item in (*node.args, *node.kwargs.values())]
        operation = OPERATIONS[kind]
        tensors = {
            role: f"{path}.{role}"
            for role in (*operation.required, *operation.optional)
            if getattr(module, role, None) is not None
        }
        if not tensors:
            path = path if path not in self.nodes else self._free_name(node.name)
        elif path in self.nodes:
            raise unsupported(
                f"layer {path!r} is used more than once", "a layer of its own, with weights, for each use"
            )
        return self._add(path, kind, tuple(inputs), attributes, tensors)

    def _read_call(self, node: fx.Node) -> Any:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        if (meaning := function_named(node.target)) is None:
            raise unsupported(
                f"{node.name!r} uses {name}, which is not supported",
                f"layers, or one of {supported_functions()}",
            )
        args, kwargs = self._given(node.args), self._given(node.kwargs)
        try:
            meant = meaning(*args, **kwargs)
        except (TypeError, AttributeError, ValueError) as error:
            raise unsupported(
                f"{node.name!r} uses {name} in a way that is not supported ({error})", "tensors"
            ) from error
        except ArchitectureError as error:
            raise ArchitectureError(f"at {node.name!r} {error.what}", error.expected, error.action) from None
        if not isinstance(meant, Call):
            return meant
        return self._add(self._free_name(node.name), meant.kind, meant.inputs, meant.attributes, {})

    def _add(
        self, name: str, kind: str, inputs: tuple[Any, ...], attributes: dict[str, Attribute], tensors: dict[str, str]
    ) -> Value:
        for value in inputs:
            if not isinstance(value, Value):
                raise unsupported(f"{name!r} ({kind}) takes {value!r}", "values that the network computes")
        node = Node(name, kind, tuple(value.node for value in inputs), attributes, tensors)
        check_node(node)
        shape = OPERATIONS[kind].shape(node, [value.shape for value in inputs])
        self.nodes[name] = node
        return Value(name, shape)

    def _free_name(self, name: str) -> str:
        """Give a name that neither a node nor a module has."""
        free, number = name, 1
        while free in self.nodes or free in self.paths:
            free, number = f"{name}_{number}", number + 1
        return free

    def _given(self, value: Any) -> Any:
        return fx.node.map_arg(value, lambda node: self.found[node])


def _check_hooks(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            raise unsupported(f"layer {path!r} has hooks, which may change what it computes", "no hooks")


def _check_shared(model: nn.Module, nodes: dict[str, Node]) -> None:
    """Refuse layers that have the same weights: a layer of its own is cut for each."""
    owners: dict[int, str] = {}
    for node in nodes.values():
        for role in node.tensors:
            tensor = getattr(model.get_submodule(node.name), role)
            first = owners.setdefault(id(tensor), node.name)
            if first != node.name:
                raise unsupported(
                    f"layers {first!r} and {node.name!r} share their {role}", "weights of its own for each"
                )


def _check_same(model: nn.Module, architecture: Architecture, example: torch.Tensor) -> None:
    """Refuse an architecture that does not compute what its model computes."""
    state = model.state_dict()
    rebuilt = build_network(architecture, {name: state[name] for name in architecture.tensor_shapes()})
    with torch.no_grad():
        wanted, found = model(example), rebuilt(example)
    same = wanted.shape == found.shape and wanted.dtype == found.dtype
    if not same or not torch.allclose(
        wanted, found, rtol=_TOLERANCE, atol=_TOLERANCE * float(wanted.abs().max()), equal_nan=True
    ):
        raise unsupported("the traced network gives something else than the model", "the same outputs")
