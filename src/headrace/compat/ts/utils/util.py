"""What TorchServe's handlers take from `ts.utils.util`."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import os
import re
import warnings
from typing import Any

from _headrace_shared import load

PredictionException = load("context").PredictionException
CLEANUP_REGEX = re.compile(r"<[^>]*>|&(?:[a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});")
"""The tags and entities of HTML."""
_log = logging.getLogger(__name__)


def list_classes_from_module(module: Any, parent_class: Any = None) -> list[Any]:
    """The classes that are defined in a module, not those it imports; of `parent_class` alone, if it is given."""
    own = [each for _, each in inspect.getmembers(module, inspect.isclass) if each.__module__ == module.__name__]
    own = list(dict.fromkeys(own))  # one that has two names is one
    return own if parent_class is None else [each for each in own if issubclass(each, parent_class)]


def load_label_mapping(mapping_file_path: Any) -> dict[str, str] | None:
    """What `index_to_name.json` says: `{"0": "cat"}`, `{"0": ["n02123045", "cat"]}` or `{"object_type_names": [...]}`.
    None without that file."""
    if not os.path.isfile(mapping_file_path):
        _log.info("there is no %s: classes are called by their numbers", mapping_file_path)
        return None
    with open(mapping_file_path, encoding="utf-8") as file:
        found = json.load(file)
    if not isinstance(found, dict):
        raise ValueError(f"{mapping_file_path} must be an object of class numbers and their names")
    if isinstance(found.get("object_type_names"), list):
        return {str(index): name for index, name in enumerate(found["object_type_names"])}
    labels = {key: value[-1] if isinstance(value, list) and value else value for key, value in found.items()}
    for key, value in labels.items():
        if not isinstance(value, str):
            raise ValueError(
                f"{mapping_file_path}: the name of class {key!r} must be text, it is a {type(value).__name__}"
            )
    return labels


def map_class_to_label(
    probs: Any, mapping: dict[str, str] | None = None, lbl_classes: Any = None
) -> list[dict[str, float]]:
    """`{name of the class: its probability}` for each row. `lbl_classes`: the classes of each row; all without it."""
    if not isinstance(probs, list):
        raise TypeError(f"probabilities are a list of lists, not {type(probs).__name__}")
    if mapping is not None and not isinstance(mapping, dict):
        raise TypeError(f"a mapping is a dict, not {type(mapping).__name__}")
    rows = lbl_classes if lbl_classes is not None else [range(len(row)) for row in probs]
    return [
        {(str(each) if mapping is None else mapping[str(each)]): value for each, value in zip(classes, row)}
        for classes, row in zip(rows, probs)
    ]


def check_valid_pt2_backend(backend: str) -> bool:
    """torch itself says which backends it has, when it compiles."""
    return isinstance(backend, str)


def get_yaml_config(yaml_file_path: Any) -> Any:
    import yaml

    with open(yaml_file_path, encoding="utf-8") as file:
        return yaml.safe_load(file)


def deprecated(version: str, replacement: str = "", klass: Any = PendingDeprecationWarning) -> Any:
    """A decorator: whoever calls the function is warned, with `klass`, that it goes with that version."""

    def decorator(function: Any) -> Any:
        @functools.wraps(function)
        def warns(*args: Any, **kwargs: Any) -> Any:
            instead = f": use {replacement}" if replacement else ""
            warnings.warn(f"{function.__name__} goes with version {version}{instead}", klass, stacklevel=2)
            return function(*args, **kwargs)

        return warns

    return decorator
