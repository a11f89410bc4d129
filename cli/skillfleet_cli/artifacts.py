"""List and download of artifacts: in chunks, verified, and never under an unsafe name."""

import codecs
import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

from skillfleet.contracts import ArtifactInfo
from skillfleet.errors import UnknownArtifactError
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
        file = _Terminal() if terminal else sys.stdout.buffer
        await _copy(run.stream_artifact(name), file, info)
        return
    target = _target(name, output)
    with _replacing(target) as file:
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


def _target(name: str, output: str | None) -> Path:
    """Return the file to write; an artifact's name never leads out of the chosen folder."""
    if output is not None and not Path(output).is_dir():
        return Path(output)
    base = Path(name.replace("\\", "/")).name
    if base in {"", ".", ".."} or not base.isprintable():
        raise CommandError(f"{name!r} is not a safe file name: choose one with -o FILE")
    target = Path(output or ".") / base
    if target.exists():
        raise CommandError(f"{target} already exists: choose a file with -o FILE")
    return target


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `target` only when it is complete."""
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as device:
                yield device
            return
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as file:
            try:
                yield file  # type: ignore[misc]
            except BaseException:
                Path(file.name).unlink()
                raise
        Path(file.name).chmod(0o666 & ~_umask())
        Path(file.name).replace(target)
    except OSError as error:
        if error.strerror is None:
            # The fleet's errors may be OSErrors, too.
            raise
        raise CommandError(f"cannot write {target}: {error.strerror}", ExitCode.FAILED) from error


class _Terminal:
    """A writer of bytes as text on a terminal; invalid UTF-8 is shown as escapes."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def write(self, data: bytes) -> None:
        """Write all complete characters."""
        write_text(self._decoder.decode(data))

    def flush(self) -> None:
        """Write the rest: an incomplete character."""
        write_text(self._decoder.decode(b"", final=True))


async def _copy(
    chunks: AsyncIterator[bytes], file: BinaryIO | _Terminal, info: ArtifactInfo
) -> None:
    digest = hashlib.sha256()
    async for chunk in chunks:
        digest.update(chunk)
        file.write(chunk)
    file.flush()
    if digest.hexdigest() != info.sha256:
        message = f"artifact {info.name!r} changed while it was read: fetch it again"
        raise CommandError(message, ExitCode.FAILED)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
