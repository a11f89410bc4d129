"""The Lua scripts of this package."""

from functools import cache
from importlib import resources


@cache
def source(name: str) -> str:
    """The text of the script `name`."""
    return (resources.files("skillfleet_engine.transport") / f"{name}.lua").read_text()
