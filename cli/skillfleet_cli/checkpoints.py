"""Work of the checkpoint commands: on folders of this machine, with the adapter of the settings."""

import asyncio
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from skillfleet.errors import SettingsError
from skillfleet.ports.checkpoint import CHECKPOINT, Checkpoint, CheckpointClient
from skillfleet.ports.loading import load
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet_cli.exits import CommandError
from skillfleet_cli.output import Listing, clock, console, print_json, size, styled, write_text

_MARKS: Final = {"added": "+", "removed": "-", "changed": "M"}


def _client() -> CheckpointClient:
    variables = dict(os.environ)  # noqa: TID251 - adapters read their settings from it
    name = variables.get(CHECKPOINT.variable) or "archive"
    provider = load(CHECKPOINT, name, AdapterEnvironment(variables=variables))
    if provider is None:
        raise SettingsError(
            f"{CHECKPOINT.variable}: the adapter {name!r} is off: what it needs is not installed"
        )
    return provider.client()


def list_checkpoints(folder: Path, *, as_json: bool) -> None:
    """Print a folder's checkpoints."""
    found = asyncio.run(_client().list(folder))
    if as_json:
        print_json([_fields(each) for each in found])
        return
    if not found:
        console(stderr=True).print("no checkpoints")
        return
    listed = Listing("CHECKPOINT", "CREATED", "SIZE", "RUN", "POSITION", "MESSAGE")
    for each in found:
        listed.add(
            each.id,
            clock(each.created_at),
            "" if each.size_bytes is None else size(each.size_bytes),
            each.run_id or "",
            "" if each.position is None else str(each.position),
            each.message,
        )
    listed.print()


def create_checkpoint(folder: Path, message: str, position: int | None, *, as_json: bool) -> None:
    """Make a checkpoint and print its id, or all of it as JSON."""
    made = asyncio.run(_client().create(folder, message=message, position=position))
    for path in made.skipped:
        console(stderr=True).print(styled(f"not stored, as it is a socket or device: {path}"))
    if as_json:
        print_json(_fields(made))
    else:
        write_text(f"{made.id}\n")


def print_diff(folder: Path, checkpoint: str, other: str | None, *, as_json: bool) -> None:
    """Print the changed paths."""
    found = asyncio.run(_client().diff(folder, checkpoint, other))
    if as_json:
        print_json([asdict(each) for each in found])
        return
    for each in found:
        console().print(styled(f"{_MARKS[each.kind]} {each.path}"))


def restore_checkpoint(folder: Path, checkpoint: str, into: Path | None, *, force: bool) -> None:
    """Restore a checkpoint; raises CommandError rather than replace files without `force`."""
    target = into or folder
    if not force and target.is_dir() and any(target.iterdir()):
        raise CommandError(f"{target} is not empty: name another one with --into, or add --force")
    asyncio.run(_client().restore(folder, checkpoint, into=into))
    console(stderr=True).print(styled(f"restored {target}"))


def delete_checkpoint(folder: Path, checkpoint: str) -> None:
    """Delete a checkpoint."""
    asyncio.run(_client().delete(folder, checkpoint))


def _fields(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        **asdict(checkpoint),
        "created_at": checkpoint.created_at.isoformat(),
        "skipped": list(checkpoint.skipped),
    }
