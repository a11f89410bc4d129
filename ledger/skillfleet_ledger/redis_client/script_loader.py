"""Calls of the Lua scripts by their hash."""

from typing import Any

from skillfleet_ledger.redis_client.connection import Connection, ReplyError
from skillfleet_ledger.redis_client.script_source import source


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
