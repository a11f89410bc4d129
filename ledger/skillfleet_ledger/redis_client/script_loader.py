"""The Lua scripts: loaded from their files once per process, called by hash."""

import hashlib
from functools import cache
from importlib import resources
from typing import Any

from skillfleet_ledger.redis_client.connection import Connection, ReplyError


@cache
def source(name: str) -> tuple[str, str]:
    """Return the text of the script `name` with the common part in front, and its SHA-1."""
    folder = resources.files("skillfleet_ledger") / "scripts"
    text = (folder / "common.lua").read_text() + "\n" + (folder / f"{name}.lua").read_text()
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


async def run_script(
    connection: Connection,
    name: str,
    keys: tuple[str, ...],
    args: tuple[Any, ...],
    timeout: float | None = None,
) -> Any:
    """Call an idempotent script by its hash; send its source where the server lacks it.

    Raises FleetUnavailableError after `timeout` seconds, ReplyError for an error in the script.
    """
    text, digest = source(name)
    call = (len(keys), *keys, *args)
    try:
        return await connection.execute("EVALSHA", digest, *call, timeout=timeout)
    except ReplyError as error:
        if not str(error).startswith("NOSCRIPT"):
            raise
    # No SCRIPT LOAD: the server may drop the script again between two requests.
    return await connection.execute("EVAL", text, *call, timeout=timeout)
