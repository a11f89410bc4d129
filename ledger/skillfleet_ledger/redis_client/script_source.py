"""The texts of the Lua scripts, read from their files once per process."""

import hashlib
from functools import cache
from importlib import resources

_BATCHED = {"submit", "claim", "settle"}
"""Scripts that are called often in one turn of the event loop, and take little time."""

_names: dict[str, str] = {}


@cache
def source(name: str, *, batch: bool = False) -> tuple[str, str]:
    """Return the text of the script `name` with the common part in front, and its SHA-1.

    `batch` gives the text that executes several calls of it (batch.lua).
    """
    folder = resources.files("skillfleet_ledger") / "scripts"
    common, text = ((folder / f"{part}.lua").read_text() for part in ("common", name))
    if batch:
        loop = (folder / "batch.lua").read_text()
        text = f"local function execute(KEYS, ARGV)\n{text}\nend\n{loop}"
    text = f"{common}\n{text}"
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    if name in _BATCHED and not batch:
        _names[digest] = name
    return text, digest


def batched_script(digest: str) -> str | None:
    """Return the name of the script with this SHA-1 if its calls may be put into batches."""
    return _names.get(digest)
