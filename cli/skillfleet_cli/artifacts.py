"""List and download of artifacts: in chunks, verified, and never under an unsafe name."""

import hashlib
import sys
from collections.abc import AsyncIterator
from typing import BinaryIO

from skillfleet.contracts import ArtifactInfo
from skillfleet.errors import UnknownArtifactError
from skillfleet_cli.downloads import TerminalWriter, replacing, target_file
from skillfleet_cli.exits import CommandError, ExitCode
from skillfleet_cli.output import Listing, clock, console, print_json, size, styled, write_text
from skillfleet_producer import AsyncRunHandle

_SHORT_DIGEST = 12
"""Hex digits of a checksum in the list; --json has all."""


async def list_artifacts(run: AsyncRunHandle, *, as_json: bool) -> None:
    """Print the artifacts that the run has written so far."""
    infos = await run.artifacts()
    if as_json:
        print_json(infos)
        return
    if not infos:
        console(stderr=True).print("no artifacts")
        return
    listed = Listing("NAME", "SIZE", "TYPE", "WRITTEN", "SHA-256")
    for info in infos:
        listed.add(
            info.name,
            size(info.size_bytes),
            info.mime_type,
            clock(info.created_at),
            info.sha256[:_SHORT_DIGEST],
        )
    listed.print()


async def fetch_artifact(
    run: AsyncRunHandle, name: str, output: str | None, *, as_json: bool
) -> None:
    """Write an artifact to `output` ('-': stdout) and verify its checksum."""
    info = await _find(run, name)
    if output == "-":
        terminal = sys.stdout.isatty()
        file = TerminalWriter() if terminal else sys.stdout.buffer
        await _copy(run.stream_artifact(name), file, info)
        return
    target = target_file(name, output)
    with replacing(target) as file:
        await _copy(run.stream_artifact(name), file, info)
    if as_json:
        print_json(info.model_dump(mode="json") | {"path": str(target)})
    else:
        console(stderr=True).print(styled(f"{target} ({size(info.size_bytes)}, {info.mime_type})"))


async def print_url(run: AsyncRunHandle, name: str) -> None:
    """Print a URL that reads the artifact for an hour."""
    write_text(f"{await run.artifact_url(name)}\n")


async def _find(run: AsyncRunHandle, name: str) -> ArtifactInfo:
    infos = {info.name: info for info in await run.artifacts()}
    if name not in infos:
        known = ", ".join(infos) or "none"
        raise UnknownArtifactError(f"run {run.id!r} has no artifact {name!r}; it has: {known}")
    return infos[name]


async def _copy(
    chunks: AsyncIterator[bytes], file: BinaryIO | TerminalWriter, info: ArtifactInfo
) -> None:
    digest = hashlib.sha256()
    async for chunk in chunks:
        digest.update(chunk)
        file.write(chunk)
    file.flush()
    if digest.hexdigest() != info.sha256:
        message = f"artifact {info.name!r} changed while it was read: fetch it again"
        raise CommandError(message, ExitCode.FAILED)
