"""The Lua scripts of this package."""

import hashlib
from functools import cache
from importlib import resources


@cache
def source(name: str) -> str:
    """Return the source of the script `name`."""
    return (resources.files("skillfleet_engine.transport") / f"{name}.lua").read_text()


@cache
def digest(name: str) -> str:
    """Return the SHA-1 under which a server caches the script `name` once it has executed it."""
    return hashlib.sha1(source(name).encode(), usedforsecurity=False).hexdigest()
