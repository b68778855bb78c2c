"""
What a program can find out of modules without calling them, as JSON: `attributes.py MODULE [NAME...]`. Names of the
module itself are written as `MODULE`, to compare two of different names.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import pickle
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

NAMES = ("__name__", "__qualname__", "__module__", "__text_signature__")
COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
}


def outcome(call: Callable[[Any], Any], value: Any) -> str:
    try:
        text = str(call(value))
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    return without_address(text)


def without_address(text: str) -> str:
    return re.sub(" at 0x[0-9a-f]+", "", text)


def is_itself(call: Callable[[Any], Any], value: Any) -> bool:
    return call(value) is value


def describe(value: Any) -> dict[str, Any]:
    of = {name: str(getattr(value, name, "none")) for name in NAMES}
    of["type"] = type(value).__name__
    of["repr"] = without_address(repr(value))
    of["has documentation"] = str(bool(value.__doc__))
    of["signature"] = outcome(inspect.signature, value)
    for name, call in COPIES.items():
        of[name] = outcome(partial(is_itself, call), value)
    if isinstance(value, type):
        of["bases"] = str([base.__name__ for base in value.__mro__])
    return of


def describe_module(module: str, names: list[str]) -> dict[str, Any]:
    loaded = importlib.import_module(module)
    found: dict[str, Any] = {}
    for name in names or sorted(name for name in dir(loaded) if not name.startswith("_")):
        value = getattr(loaded, name)
        if inspect.ismodule(value):
            found[name] = value.__name__
            continue
        found[name] = describe(value)
        if isinstance(value, type):
            for attribute in dir(value):
                # Those of every object are not of interest, nor text.
                own = getattr(value, attribute)
                if own is not getattr(object, attribute, None) and not isinstance(own, (str, type)):
                    found[f"{name}.{attribute}"] = describe(own)
    return found


if __name__ == "__main__":
    described = json.dumps(describe_module(sys.argv[1], sys.argv[2:]))
    print(described.replace(sys.argv[1].partition(".wireguard")[0], "MODULE"))
