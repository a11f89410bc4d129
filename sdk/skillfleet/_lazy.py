"""Public names of a package, loaded from their modules at their first use (PEP 562).

Importing one module of a package so does not load all the others: a process that only reads
contracts needs no agents, one that serves probes no Celery.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def exported(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a `__getattr__` for `package`; `homes` maps each public name to its module."""

    def getattribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        # From now on, it is found without asking here.
        setattr(import_module(package), name, value)
        return value

    return getattribute
