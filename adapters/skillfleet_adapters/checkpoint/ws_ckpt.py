"""Checkpoints by the command `ws-ckpt`, which keeps folders in btrfs subvolumes.

The command's exit status says little: 0 may mean that nothing was done. A checkpoint counts as made
when its id is in the output or in the list. Every call has a deadline, as the command has none.
"""

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import Field

from skillfleet.errors import (
    CapabilityUnavailableError,
    CheckpointError,
    UnknownCheckpointError,
)
from skillfleet.ports.checkpoint import (
    Change,
    ChangeKind,
    Checkpoint,
    CheckpointClient,
    CheckpointProvider,
)
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.settings import AdapterSettings

_ANSI: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_TRIES: Final = 3
_RETRY_SECONDS: Final = 0.2
_KILLED_SECONDS: Final = 2.0
_BAD_ARGUMENTS: Final = 2
_KINDS: Final[dict[str, ChangeKind]] = {
    "+": "added",
    "-": "removed",
    "M": "changed",
    "R": "changed",
}
_NO_DAEMON: Final = ("Daemon is not running", "Daemon is starting up")


class WsCkptSettings(AdapterSettings):
    """The command `ws-ckpt`, read by workers and the command line."""

    ws_ckpt_command: str = "ws-ckpt"
    """Name or path of the command; where there is none, the adapter is off."""
    ws_ckpt_timeout_seconds: float = Field(30.0, gt=0, le=3600)
    """How long one call of the command may take."""


class _Answer(NamedTuple):
    """The end of a call: its status (None after the deadline), and its output without colours."""

    status: int | None
    output: str
    errors: str


class WsCkptClient(CheckpointClient):
    """Checkpoints by `ws-ckpt`. It moves a folder to its own volume and leaves a symlink."""

    def __init__(self, command: str, timeout: float) -> None:
        self._command = command
        self._timeout = timeout

    async def create(
        self,
        folder: Path,
        *,
        message: str = "",
        position: int | None = None,
        run_id: str | None = None,
        step: str | None = None,
    ) -> Checkpoint:
        """Make a checkpoint under an id of its own; its size is not measured."""
        moment = datetime.now(UTC)
        name = f"sf-{moment.strftime('%Y%m%dT%H%M%S%f')}-{secrets.token_hex(4)}"
        # The command would read a message that begins with a dash as an option.
        text = f" {message}" if message.startswith("-") else message or "checkpoint"
        origin = {"position": position, "run_id": run_id, "step": step}
        metadata = json.dumps({"message": message, **origin})
        for number in range(_TRIES):
            if number:
                await asyncio.sleep(_RETRY_SECONDS)
            answer = await self._call(
                "checkpoint", folder, "-i", name, "-m", text, "--metadata", metadata
            )
            if _names(answer.output, "Checkpoint created:", name):
                return Checkpoint(name, moment, message, position, run_id, step)
            if "WriteLockConflict" not in answer.errors:
                break
        for found in await self.list(folder):
            if found.id == name:
                return found
        if answer.status == 0 and "no snapshot created" in answer.errors:
            raise CheckpointError(f"ws-ckpt skipped {folder}, which is empty: there is nothing")
        raise self._failed("make a checkpoint", answer)

    async def list(self, folder: Path) -> Sequence[Checkpoint]:
        """Return the folder's checkpoints; a folder that the daemon does not know has none."""
        answer = await self._call("list", folder, "--format", "json")
        if answer.status != 0 and "WorkspaceNotFound" in answer.errors:
            return []
        try:
            listed = json.loads(answer.output)
            items = listed["snapshots"] if isinstance(listed, dict) else listed
            found = [_checkpoint(item) for item in items]
        except (ValueError, KeyError, TypeError):
            raise self._failed("list the checkpoints", answer) from None
        return sorted(found, key=lambda each: (each.created_at, each.id), reverse=True)

    async def diff(
        self, folder: Path, checkpoint: str, other: str | None = None
    ) -> Sequence[Change]:
        """Return the changed paths; a comparison with the folder needs a newer version."""
        await self._known(folder, checkpoint, *([other] if other else []))
        to = ("-t", other) if other else ()
        answer = await self._call("diff", folder, "-f", checkpoint, *to)
        if answer.status == _BAD_ARGUMENTS and other is None:
            raise CapabilityUnavailableError(
                "this version of ws-ckpt compares checkpoints only: make one, and compare with it"
            )
        if answer.status != 0:
            raise self._failed("compare", answer)
        found = []
        for line in answer.output.splitlines():
            mark, _, path = line.strip().partition(" ")
            if mark in _KINDS and path:
                found.append(Change(path.strip(), _KINDS[mark]))
        return sorted(found, key=lambda change: change.path)

    async def restore(self, folder: Path, checkpoint: str, *, into: Path | None = None) -> None:
        """Roll the folder back, in place only."""
        if into is not None and into != folder:
            raise CapabilityUnavailableError("ws-ckpt restores in place only: name no other folder")
        await self._known(folder, checkpoint)
        answer = await self._call("rollback", folder, "-s", checkpoint)
        if not _names(answer.output, "Rolled back", checkpoint):
            raise self._failed("roll back", answer)

    async def delete(self, folder: Path, checkpoint: str) -> None:
        """Delete a checkpoint; confirmed by the list."""
        await self._known(folder, checkpoint)
        answer = await self._call("delete", folder, "-s", checkpoint, "--force")
        if any(found.id == checkpoint for found in await self.list(folder)):
            raise self._failed("delete the checkpoint", answer)

    async def _known(self, folder: Path, *checkpoints: str) -> None:
        """Raise UnknownCheckpointError unless the full ids exist: the command takes prefixes."""
        known = {found.id for found in await self.list(folder)}
        for checkpoint in checkpoints:
            if checkpoint not in known:
                raise UnknownCheckpointError(
                    f"the folder has no checkpoint {checkpoint!r}; list its checkpoints"
                )

    async def _call(self, action: str, folder: Path, *arguments: str) -> _Answer:
        path = os.path.abspath(folder)  # noqa: PTH100, ASYNC240 - reads only the current folder
        try:
            process = await asyncio.create_subprocess_exec(
                self._command,
                action,
                "-w",
                path,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                # A process in the folder would keep it from being rolled back.
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise CheckpointError(f"cannot run {self._command}: {error.strerror}") from error
        try:
            async with asyncio.timeout(self._timeout):
                output, errors = await process.communicate()
        except TimeoutError:
            return _Answer(None, "", "")
        finally:
            await _end(process)
        return _Answer(process.returncode, _plain(output), _plain(errors))

    def _failed(self, action: str, answer: _Answer) -> CheckpointError:
        """Return the error of a call, with what to do."""
        if answer.status is None:
            return CheckpointError(
                f"ws-ckpt did not {action} within {self._timeout:g} s and was killed"
                " (SKILLFLEET_WS_CKPT_TIMEOUT_SECONDS)",
                retryable=True,
            )
        text = " ".join((answer.errors or answer.output).split()) or "it printed nothing"
        if any(sign in answer.errors for sign in _NO_DAEMON):
            return CheckpointError(
                f"ws-ckpt did not {action}: start its daemon (ws-ckpt daemon): {text}",
                retryable=True,
            )
        if "CwdOccupied" in answer.errors:
            return CheckpointError(
                f"ws-ckpt did not {action}: a process has its current folder inside; end it: {text}"
            )
        return CheckpointError(
            f"ws-ckpt did not {action}: {text}", retryable="WriteLockConflict" in answer.errors
        )


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of the process's group, and wait for the process."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(_KILLED_SECONDS):
            await process.wait()


def _plain(output: bytes) -> str:
    return _ANSI.sub("", output.decode(errors="replace"))


def _names(output: str, text: str, checkpoint: str) -> bool:
    """Return whether a line has the text and ends with the id."""
    lines = (line.split() for line in output.splitlines() if text in line)
    return any(words and words[-1] == checkpoint for words in lines)


def _checkpoint(item: Any) -> Checkpoint:
    meta = item.get("meta") or {}
    kept = meta.get("metadata") or {}
    if isinstance(kept, str):
        with suppress(ValueError):
            kept = json.loads(kept)
    kept = kept if isinstance(kept, dict) else {}
    return Checkpoint(
        id=str(item["id"]),
        created_at=_moment(meta.get("created_at")),
        message=str(kept.get("message", meta.get("message") or "")),
        position=kept.get("position"),
        run_id=kept.get("run_id"),
        step=kept.get("step"),
        parent=meta.get("parent_id"),
    )


def _moment(value: Any) -> datetime:
    """Return a time of the list: ISO 8601, or seconds since 1970."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


class WsCkptProvider(CheckpointProvider):
    """Makes clients of one command."""

    def __init__(self, command: str, timeout: float) -> None:
        self._client = WsCkptClient(command, timeout)

    def client(self) -> CheckpointClient:
        """Return the client, which all runs of a process share."""
        return self._client


def create(environment: AdapterEnvironment) -> CheckpointProvider | None:
    """Return the provider; None where the command is not installed."""
    settings = WsCkptSettings.load(environment.variables)
    command = shutil.which(settings.ws_ckpt_command, path=environment.variables.get("PATH"))
    return WsCkptProvider(command, settings.ws_ckpt_timeout_seconds) if command else None
