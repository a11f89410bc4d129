"""The Lua scripts: loaded from their files once a process, called by hash."""

import asyncio
import hashlib
from functools import cache
from importlib import resources
from typing import Any
from weakref import WeakKeyDictionary

from skillfleet_ledger.connection import PipelinedConnection, ReplyError

_loading: "WeakKeyDictionary[PipelinedConnection, dict[str, asyncio.Future[Any]]]" = (
    WeakKeyDictionary()
)


@cache
def source(name: str) -> tuple[str, str]:
    """The text of the script `name` with the common part in front, and its SHA-1."""
    folder = resources.files("skillfleet_ledger") / "scripts"
    text = (folder / "common.lua").read_text() + "\n" + (folder / f"{name}.lua").read_text()
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


async def run_script(
    connection: PipelinedConnection,
    name: str,
    keys: tuple[str, ...],
    args: tuple[Any, ...],
    timeout: float | None = None,
) -> Any:
    """Call a script that may be repeated without harm; loads it where the server lacks it.

    Raises FleetUnavailableError after `timeout` seconds, ReplyError for an error in the script.
    """
    _, digest = source(name)
    while True:
        try:
            return await connection.execute(
                "EVALSHA", digest, len(keys), *keys, *args, timeout=timeout
            )
        except ReplyError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        await _load(connection, name, timeout)


async def _load(connection: PipelinedConnection, name: str, timeout: float | None) -> None:
    """Send the script to the server; callers that need it at the same time share the sending."""
    loading = _loading.setdefault(connection, {})
    if name not in loading:
        text, _ = source(name)
        command = connection.execute("SCRIPT", "LOAD", text, timeout=timeout)
        loading[name] = asyncio.ensure_future(command)
        loading[name].add_done_callback(lambda _: loading.pop(name))
    await asyncio.shield(loading[name])
