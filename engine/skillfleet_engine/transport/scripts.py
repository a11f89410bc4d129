"""The Lua scripts of this package."""

import hashlib
from functools import cache
from importlib import resources


@cache
def source(name: str) -> str:
    """The text of the script `name`."""
    return (resources.files("skillfleet_engine.transport") / f"{name}.lua").read_text()


@cache
def digest(name: str) -> str:
    """By which a server that has executed the script once knows it."""
    return hashlib.sha1(source(name).encode(), usedforsecurity=False).hexdigest()
