"""Networks as JSON: written in one way, and read strictly, as files are not trusted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dovetail.engine.errors import ArchitectureError
from dovetail.engine.modular.network.architecture import MOST_NODES, Architecture
from dovetail.engine.modular.network.node import Attribute, Node
from dovetail.io.errors import MissingFileError
from dovetail.io.files.home import expand_home
from dovetail.io.files.strict_json import brief
from dovetail.io.formats.config import read_config

_NODE_KEYS = {"name": str, "kind": str, "inputs": list, "attributes": dict, "tensors": dict}
_KEYS = {"input_shape": list, "nodes": list, "output": str}


def read_document(folder: str | Path, name: str, what: str, made_by: str) -> tuple[Path, dict[str, Any]]:
    """Read the document that makes a folder what it is.

    Parameters
    ----------
    folder
        The folder, as the user named it.
    name
        File name of the document.
    what, made_by
        What the folder should be, and which command writes such folders, for the error.

    Raises
    ------
    MissingFileError
        There is no such folder, or it has no such document.

    """
    place = Path(expand_home(folder))
    document = read_config(place, name) if place.is_dir() else None
    if document is None:
        raise MissingFileError(
            f"there is no {what} at {folder}: it has no {name}",
            f"a folder that dovetail modules {made_by} has written",
            "check the path",
        )
    return place, document


def architecture_to_json(architecture: Architecture) -> dict[str, Any]:
    """Describe a network as a JSON object, which `architecture_from_json` reads."""
    return {
        "input_shape": list(architecture.input_shape),
        "nodes": [_node_to_json(node) for node in architecture.nodes],
        "output": architecture.output,
    }


def _node_to_json(node: Node) -> dict[str, Any]:
    attributes = {name: list(value) if isinstance(value, tuple) else value for name, value in node.attributes.items()}
    described = {
        "name": node.name,
        "kind": node.kind,
        "inputs": list(node.inputs),
        "attributes": attributes,
        "tensors": dict(node.tensors),
    }
    return {key: value for key, value in described.items() if value not in ({}, [])}


def architecture_from_json(document: object) -> Architecture:
    """Read a network that `architecture_to_json` described.

    Parameters
    ----------
    document
        A value from a JSON file that may be damaged or hostile.

    Raises
    ------
    ArchitectureError
        A key is missing, unknown or of the wrong type, or the network is not as `Architecture` demands.

    """
    values = checked_object("the architecture", document, _KEYS)
    if len(values["nodes"]) > MOST_NODES:
        raise wrong(f"the architecture has {len(values['nodes']):,} nodes", f"at most {MOST_NODES:,}")
    shape = tuple(values["input_shape"])
    if not all(type(size) is int for size in shape):
        raise wrong(f"input_shape is {brief(values['input_shape'])}", "whole numbers")
    nodes = tuple(_node_from_json(index, item) for index, item in enumerate(values["nodes"]))
    return Architecture(shape, nodes, values["output"])


def _node_from_json(index: int, document: object) -> Node:
    title = f"node {index} of the architecture"
    given: dict[str, Any] = {"inputs": [], "attributes": {}, "tensors": {}}
    values = checked_object(title, {**given, **document} if type(document) is dict else document, _NODE_KEYS)
    for name in values["inputs"]:
        if type(name) is not str:
            raise wrong(f"{title} takes the value of {brief(name)}", "names of nodes")
    attributes: dict[str, Attribute] = {
        name: tuple(value) if type(value) is list else value for name, value in values["attributes"].items()
    }
    return Node(values["name"], values["kind"], tuple(values["inputs"]), attributes, values["tensors"])


def checked_object(what: str, document: object, keys: Mapping[str, type]) -> dict[str, Any]:
    """Check that a JSON value is an object with just these keys, and values of these types.

    Raises
    ------
    ArchitectureError
        It is not.

    """
    if type(document) is not dict:
        raise wrong(f"{what} is {brief(document)}", f"an object with {', '.join(keys)}")
    for name, kind in keys.items():
        if name not in document:
            raise wrong(f"{what} lacks {name}", f"an object with {', '.join(keys)}")
        if type(document[name]) is not kind:
            raise wrong(f"{name} of {what} is {brief(document[name])}", _WORDS[kind])
    if unknown := [name for name in document if name not in keys]:
        raise wrong(f"{what} has {brief(unknown[0])}", f"only {', '.join(keys)}")
    return document


_WORDS = {
    str: "a text",
    list: "an array",
    dict: "an object",
    int: "a whole number",
    float: "a number with a decimal point",
    bool: "true or false",
}


def wrong(what: str, expected: str) -> ArchitectureError:
    """Make the error for a document that is not as it must be."""
    return ArchitectureError(what, expected, "trace the network again, or correct the file")
