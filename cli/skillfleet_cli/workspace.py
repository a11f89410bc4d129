"""The files of a session's workspace: listed, put in and taken out."""

import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from skillfleet.workspaces.archive import LARGEST_FILE
from skillfleet_cli.downloads import TerminalWriter, replacing, target_file
from skillfleet_cli.exits import CommandError, ExitCode
from skillfleet_cli.fleet import with_fleet
from skillfleet_cli.output import Listing, console, print_json, size, styled
from skillfleet_cli.sessions import owner_of
from skillfleet_producer import AsyncFleet
from skillfleet_producer.workspaces import WorkspaceFiles


def with_workspace(
    session: str,
    subject: str | None,
    tenant: str | None,
    work: Callable[[WorkspaceFiles], Coroutine[Any, Any, None]],
) -> None:
    """Run `work` with the workspace of the caller's session."""

    async def on_fleet(fleet: AsyncFleet) -> None:
        owner = owner_of(fleet, subject, tenant)
        await work(fleet.session(session, auth=owner).workspace)

    with_fleet(on_fleet)


async def list_files(files: WorkspaceFiles, *, as_json: bool) -> None:
    """Print the files by path."""
    found = await files.list()
    if as_json:
        print_json([{"path": each.path, "size_bytes": each.size_bytes} for each in found])
        return
    if not found:
        console(stderr=True).print("no files")
        return
    listed = Listing("SIZE", "PATH")
    for each in found:
        listed.add(size(each.size_bytes), each.path)
    listed.print()


async def put_file(files: WorkspaceFiles, path: str, file: str) -> None:
    """Put a local file, '-' for stdin, into the workspace."""
    with _source(file) as opened:
        data = opened.read(LARGEST_FILE + 1)
    await files.put(path, data)
    console(stderr=True).print(styled(f"{path} ({size(len(data))})"))


async def get_file(files: WorkspaceFiles, path: str, output: str | None) -> None:
    """Write a file of the workspace to `output`, '-' for stdout."""
    try:
        data = await files.get(path)
    except FileNotFoundError as error:
        raise CommandError(str(error)) from None
    if output == "-":
        _write_stdout(data)
        return
    target = target_file(path, output)
    with replacing(target) as file:
        file.write(data)
    console(stderr=True).print(styled(f"{target} ({size(len(data))})"))


async def delete_files(files: WorkspaceFiles, paths: Sequence[str]) -> None:
    """Delete files; the command fails when one of them is not there."""
    missing = [path for path in paths if not await files.delete(path)]
    if missing:
        raise CommandError(f"the workspace has no file {missing[0]!r}")


async def upload_archive(files: WorkspaceFiles, archive: str, *, as_json: bool) -> None:
    """Put the files of a tar archive, '-' for stdin, into the workspace."""
    with _source(archive) as opened:
        changed = await files.upload_tar(opened)
    if as_json:
        print_json({"changed": changed})
    else:
        console(stderr=True).print(f"files that changed: {len(changed)}")


async def download_archive(files: WorkspaceFiles, archive: str) -> None:
    """Write the files of the workspace into a tar archive, '-' for stdout."""
    if archive == "-":
        if sys.stdout.isatty():
            raise CommandError(
                "an archive is not written to a terminal: name a file, or use a pipe"
            )
        async for piece in files.download_tar():
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    with replacing(Path(archive)) as file:
        async for piece in files.download_tar():
            file.write(piece)


@contextmanager
def _source(file: str) -> Iterator[BinaryIO]:
    """Open a local file, or stdin."""
    if file == "-":
        yield sys.stdin.buffer
        return
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(Path(file).open("rb"))
        except OSError as error:
            raise CommandError(f"cannot read {file}: {error.strerror}", ExitCode.FAILED) from error
        yield opened


def _write_stdout(data: bytes) -> None:
    writer = TerminalWriter() if sys.stdout.isatty() else sys.stdout.buffer
    writer.write(data)
    writer.flush()
