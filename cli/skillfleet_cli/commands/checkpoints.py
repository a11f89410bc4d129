"""The commands `checkpoints list`, `create`, `diff`, `restore` and `delete`."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from pathlib import Path
from typing import Annotated

import typer

from skillfleet_cli.options import Json

_Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder.", show_default=False)]
_Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="Id of the checkpoint.", show_default=False)
]


def list_(folder: _Folder, *, as_json: Json = False) -> None:
    """List a folder's checkpoints, the newest first.

    Example:
      $ skillfleet checkpoints list work
    """
    from skillfleet_cli.checkpoints import list_checkpoints

    list_checkpoints(folder, as_json=as_json)


def create(
    folder: _Folder,
    *,
    message: Annotated[
        str, typer.Option("--message", "-m", metavar="TEXT", help="What the checkpoint is for.")
    ] = "",
    position: Annotated[
        int | None,
        typer.Option(min=0, metavar="NUMBER", help="Journal position to store with it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Store the state of a folder, and print the checkpoint's id.

    Sockets and devices are not stored; their paths are printed.

    Example:
      $ skillfleet checkpoints create work -m "before the migration"
    """
    from skillfleet_cli.checkpoints import create_checkpoint

    create_checkpoint(folder, message, position, as_json=as_json)


def diff(
    folder: _Folder,
    checkpoint: _Checkpoint,
    other: Annotated[
        str | None,
        typer.Argument(
            metavar="OTHER", help="A later checkpoint; without it, the folder as it is."
        ),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """List the paths that changed since a checkpoint: + added, - removed, M changed.

    Example:
      $ skillfleet checkpoints diff work 20261129T061500000000-5f0c0d7ab3e19a42
    """
    from skillfleet_cli.checkpoints import print_diff

    print_diff(folder, checkpoint, other, as_json=as_json)


def restore(
    folder: _Folder,
    checkpoint: _Checkpoint,
    *,
    into: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Restore into this one instead.", show_default=False),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a folder that exists and is not empty.")
    ] = False,
) -> None:
    """Replace a folder by a checkpoint's state, as a whole.

    What changed since the checkpoint is lost, so --force is needed unless the folder is empty or
    does not exist.

    Example:
      $ skillfleet checkpoints restore work 20261129T061500000000-5f0c0d7ab3e19a42 --into fork
    """
    from skillfleet_cli.checkpoints import restore_checkpoint

    restore_checkpoint(folder, checkpoint, into, force=force)


def delete(folder: _Folder, checkpoint: _Checkpoint) -> None:
    """Delete a checkpoint; the folder and the other checkpoints stay as they are.

    Example:
      $ skillfleet checkpoints delete work 20261129T061500000000-5f0c0d7ab3e19a42
    """
    from skillfleet_cli.checkpoints import delete_checkpoint

    delete_checkpoint(folder, checkpoint)
