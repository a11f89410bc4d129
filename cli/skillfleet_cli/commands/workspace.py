"""The commands `workspace list`, `put`, `get`, `delete`, `upload` and `download`."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from typing import Annotated

import typer

from skillfleet_cli.options import Json, SessionOwner, SessionTenant

_Session = Annotated[
    str, typer.Argument(metavar="SESSION", help="Id of the session.", show_default=False)
]
_Path = Annotated[
    str,
    typer.Argument(metavar="PATH", help="Path in the workspace, such as a/b.txt."),
]


def list_(
    session: _Session,
    *,
    subject: SessionOwner = None,
    tenant: SessionTenant = None,
    as_json: Json = False,
) -> None:
    """List the files of a session's workspace.

    Where the fleet requires authentication, each caller has sessions of its own: --subject and
    --tenant name the caller.

    Example:
      $ skillfleet workspace list chat-42
    """
    from skillfleet_cli.workspace import list_files, with_workspace

    with_workspace(session, subject, tenant, lambda files: list_files(files, as_json=as_json))


def put(
    session: _Session,
    path: _Path,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The local file; - reads stdin.")
    ] = "-",
    *,
    subject: SessionOwner = None,
    tenant: SessionTenant = None,
) -> None:
    """Put a file into a session's workspace; one that is there is replaced.

    Example:
      $ skillfleet workspace put chat-42 data/prices.csv prices.csv
    """
    from skillfleet_cli.workspace import put_file, with_workspace

    with_workspace(session, subject, tenant, lambda files: put_file(files, path, file))


def get(
    session: _Session,
    path: _Path,
    *,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="FILE", help="A file, a folder, or - for stdout."),
    ] = None,
    subject: SessionOwner = None,
    tenant: SessionTenant = None,
) -> None:
    """Take a file out of a session's workspace.

    Without -o, it is written to the current folder under the last part of its path; an existing
    file is never replaced.

    Example:
      $ skillfleet workspace get chat-42 data/report.md -o - | less
    """
    from skillfleet_cli.workspace import get_file, with_workspace

    with_workspace(session, subject, tenant, lambda files: get_file(files, path, output))


def delete(
    session: _Session,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Paths in the workspace.")],
    *,
    subject: SessionOwner = None,
    tenant: SessionTenant = None,
) -> None:
    """Delete files of a session's workspace.

    Example:
      $ skillfleet workspace delete chat-42 data/prices.csv
    """
    from skillfleet_cli.workspace import delete_files, with_workspace

    with_workspace(session, subject, tenant, lambda files: delete_files(files, paths))


def upload(
    session: _Session,
    archive: Annotated[
        str, typer.Argument(metavar="ARCHIVE", help="A tar file, also gzipped; - reads stdin.")
    ] = "-",
    *,
    subject: SessionOwner = None,
    tenant: SessionTenant = None,
    as_json: Json = False,
) -> None:
    """Put all files of a tar archive into a session's workspace, or none.

    Links, devices and unsafe paths in it are refused. Files that it does not name stay.

    Example:
      $ skillfleet workspace upload chat-42 docs.tar.gz
    """
    from skillfleet_cli.workspace import upload_archive, with_workspace

    with_workspace(
        session, subject, tenant, lambda files: upload_archive(files, archive, as_json=as_json)
    )


def download(
    session: _Session,
    archive: Annotated[
        str, typer.Argument(metavar="ARCHIVE", help="The tar file to write; - writes stdout.")
    ] = "-",
    *,
    subject: SessionOwner = None,
    tenant: SessionTenant = None,
) -> None:
    """Write all files of a session's workspace into a tar archive.

    Example:
      $ skillfleet workspace download chat-42 | tar -x -C result
    """
    from skillfleet_cli.workspace import download_archive, with_workspace

    with_workspace(session, subject, tenant, lambda files: download_archive(files, archive))
