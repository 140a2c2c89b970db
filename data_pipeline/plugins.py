"""Backends by name: built in ones, and factories of other packages as ``package.module:factory``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from imanim.errors import InputError


def backend_problem(name: str, known: Collection[str]) -> list[str]:
    """A configuration's problem with a backend's name, if it has one. Nothing is imported."""
    module, colon, factory = name.partition(":")
    if name in known or (colon and module and factory.isidentifier()):
        return []
    return [f"backend: `{name}` is not known; give one of {', '.join(known)} or package.module:factory"]


def build(config: Any, known: Mapping[str, Callable[[Any], Any]], kind: Any) -> Any:
    """What ``config.backend`` names, made with ``config``.

    Args:
        known: name to maker. kind: a runtime-checkable protocol that a plug-in's product must follow.

    Raises:
        InputError: the name is unknown, the plug-in cannot be imported, or makes something else.
    """
    name = config.backend
    if name in known:
        return known[name](config)
    for problem in backend_problem(name, known):
        raise InputError(problem)
    made = function(name)(config)
    if not isinstance(made, kind):
        members = {*kind.__annotations__, *(n for n in vars(kind) if not n.startswith("_"))}
        lacking = sorted(m for m in members if not hasattr(made, m))
        raise InputError(
            f"backend: {name} made a {type(made).__name__} without {', '.join(lacking)}; see {kind.__name__}"
        )
    return made


def function(name: str) -> Any:
    """The function that ``package.module:function`` names. Raises InputError when it cannot be imported."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"backend: {name} cannot be imported ({error}); check the name, that it is installed or on PYTHONPATH"
        ) from None
